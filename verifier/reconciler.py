"""The reconciler: the only process that may patch pods. It makes each user pod carry the grant that was decided for it.

Three threads: one watches pods, one waits for Redis' wake list, and one works on the servers that the two name, one at a time. All
that it knows can be rebuilt from the pods alone, so it may die at any point and start again.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from . import logs
from .cluster import SILENCE, WATCH, Cluster, ClusterUnavailable, Conflict, Pod, WatchLost
from .metrics import START_GUARD, START_GUARD_TIME, WITHOUT_RECORD
from .rules import MODE_ALLOW
from .settings import UNVERIFIED, ReconcilerSettings
from .store import Grant, KnownServer, Pending, Record, Server, Store, StoreUnavailable

log = logging.getLogger("binder-egress")

ALIVE = Path("/tmp/alive")
"""Touched while the process goes round; the liveness probe looks at its age."""

READY = Path("/tmp/ready")
"""Touched while it also hears from the API server; the readiness probe looks at its age."""

DEAF = 2 * (WATCH + SILENCE)
"""Seconds without a successful list after which the reconciler does not count as alive. Each end of a watch brings a list."""

PAUSE = 1.0
"""Seconds between tries while the API server or Redis is away, and between signs of life."""

ATTEMPTS = 5
"""Patches of one pod that may conflict before other pods have their turn: a pod that starts changes several times a second."""


class Reconciler:
    """Keeps pods and Redis in step.

    Args:
        settings: mode and tiers.
        cluster: the user pods.
        store: Redis.
        clock: Unix time in seconds.
    """

    def __init__(self, settings: ReconcilerSettings, cluster: Cluster, store: Store, clock: Callable[[], float] = time.time):
        self._settings = settings
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self._pods: dict[str, Pod] = {}  # by uid
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Server | None] = queue.SimpleQueue()
        self._queued: set[Server] = set()
        self._stop = threading.Event()
        self._listed_at: float | None = None  # monotonic
        self._store_lost = True  # until the first heartbeat: what an earlier process published may be stale
        self._started = clock()
        self._judged: set[str] = set()  # uids whose launch record was looked for
        self._guarded: set[str] = set()  # uids whose start guard was counted

    # -- what happens to one server

    def reconcile(self, server: Server) -> None:
        """Make the pods of a server carry what was decided, and tell the verifier.

        Raises:
            Conflict: a pod keeps changing; try again.
            ClusterUnavailable: the API server does not answer.
            StoreUnavailable: Redis does not answer. Labels follow annotations all the same.
        """
        pods = self._pods_of(server)
        current = [pod for pod in pods if not pod.ended]
        if not current:
            if not pods:
                self._store.forget(server)
            return
        unavailable = None
        for pod in current:
            try:
                pending = self._store.pending(server, {pod.grant.id} if pod.grant else set())
            except StoreUnavailable as error:
                unavailable, pending = error, None
            pod = self._converge(pod, pending)
            if pending:
                self._publish(pod, pending)
        if unavailable:
            raise unavailable

    def _converge(self, pod: Pod, pending: Pending | None) -> Pod:
        for _ in range(ATTEMPTS):
            wanted = self._wanted(pod, pending)
            if wanted == pod.grant and pod.label == (wanted.tier if wanted else None) and pod.annotated == bool(wanted):
                return pod
            try:
                patched = self._cluster.patch(pod, wanted)
            except Conflict:
                fresh = self._cluster.read(pod.name)
                if fresh is None or fresh.uid != pod.uid or fresh.ended:
                    return pod
                pod = fresh
                continue
            logs.decision(
                "pod", user=pod.server.user, server=pod.server.name, pod=pod.name,
                tier=wanted.tier if wanted else UNVERIFIED, rule=wanted.rule if wanted else "withdrawn",
                grant=wanted.id if wanted else "",
            )  # fmt: skip
            with self._lock:
                if patched.uid in self._pods:
                    self._pods[patched.uid] = patched
            # A withdrawal may have come between our look and our patch, and its wake-up been taken by another reconciler.
            if wanted and pending and self._store.is_withdrawn(wanted.id):
                pending.withdrawn.add(wanted.id)
                pod = patched
                continue
            return patched
        raise Conflict(f"pod {pod.name} keeps changing")

    def _wanted(self, pod: Pod, pending: Pending | None) -> Grant | None:
        """The grant that a pod shall carry: an unlock, else what it has, else what waits for it, else what the mode gives all."""
        withdrawn = pending.withdrawn if pending else set()

        def usable(grant: Grant) -> bool:
            outdated = grant.rule == MODE_ALLOW and self._settings.mode != "allow"
            return grant.tier in self._settings.tiers and grant.id not in withdrawn and not outdated

        if pending and pending.unlock and pending.unlock.uid == pod.uid and usable(pending.unlock.grant):
            return pending.unlock.grant
        if pod.grant and usable(pod.grant):
            return pod.grant
        if pending and pending.launch and pending.launch.image == pod.image and usable(pending.launch.grant):
            return pending.launch.grant
        if self._settings.mode == "allow":
            return Grant.new(self._settings.allow_tier, MODE_ALLOW, self._clock())
        return None

    def _publish(self, pod: Pod, pending: Pending) -> None:
        known, launch = pending.known, pending.launch
        if pod.uid not in self._judged:
            self._judged.add(pod.uid)
            self._judge(pod, launch)
        if pod.guard and pod.uid not in self._guarded:
            self._guarded.add(pod.uid)
            self._count_guard(pod, *pod.guard)
        before = known if known and known.uid == pod.uid else None
        now = KnownServer(
            uid=pod.uid,
            tier=pod.grant.tier if pod.grant else UNVERIFIED,
            grant=pod.grant.id if pod.grant else "",
            repository=launch.repository if launch else (before.repository if before else ""),
        )
        if now != known:
            self._store.publish(pod.server, now)
        if pod.ready and launch and launch.image == pod.image:
            self._store.settle(pod.server, launch)

    def _judge(self, pod: Pod, launch: Record | None) -> None:
        """Notice, once for each pod, that its launch was not told to us, or was told of another image."""
        fields = {"pod": pod.name, "user": pod.server.user, "server": pod.server.name, "image": pod.image}
        if launch is None:
            if pod.created >= self._started:
                self._store.count(WITHOUT_RECORD)
                log.warning("pod without launch record", extra={"fields": fields})
        elif launch.image != pod.image:
            log.warning("waiting grant is for another image", extra={"fields": {**fields, "granted_image": launch.image}})

    def _count_guard(self, pod: Pod, outcome: str, seconds: float) -> None:
        """Count, once for each pod, what its start guard saw."""
        if pod.created < self._started:
            return  # An earlier process has.
        self._store.count(f"{START_GUARD}{outcome}")
        self._store.count(START_GUARD_TIME, round(seconds * 1000))
        if outcome in ("open", "unclear", "unable", "failed"):
            fields = {"pod": pod.name, "user": pod.server.user, "server": pod.server.name, "outcome": outcome, "seconds": seconds}
            log.warning("pod started without proof of its isolation", extra={"fields": fields})

    def _pods_of(self, server: Server) -> list[Pod]:
        with self._lock:
            # The oldest first, so that the youngest is published last.
            return sorted((pod for pod in self._pods.values() if pod.server == server), key=lambda pod: pod.created)

    def kinds(self) -> list[frozenset[tuple[str, str | None]]]:
        """The labels of the user pods that run, each kind once (`policies.kind_of`)."""
        with self._lock:
            return sorted({pod.kind for pod in self._pods.values() if pod.kind and not pod.ended}, key=str)

    # -- the three threads

    def run(self) -> None:
        """Work until `stop`."""
        self._started = self._clock()
        threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("watch", self._watch), ("wake", self._wake))
        ]
        for thread in threads:
            thread.start()
        while not self._stop.is_set():
            self._work_one()

    def stop(self) -> None:
        """End `run`. Nothing needs to be saved."""
        self._stop.set()
        self._work.put(None)

    def _enqueue(self, server: Server) -> None:
        with self._lock:
            if server in self._queued:
                return
            self._queued.add(server)
        self._work.put(server)

    def _later(self, server: Server) -> None:
        timer = threading.Timer(PAUSE, self._enqueue, [server])
        timer.daemon = True
        timer.start()

    def _work_one(self) -> None:
        server = self._work.get()
        if server is None:
            return
        with self._lock:
            self._queued.discard(server)
        try:
            self.reconcile(server)
        except (Conflict, ClusterUnavailable) as error:
            log.warning("will try again: %s", error, extra={"fields": {"user": server.user, "server": server.name}})
            self._later(server)
        except StoreUnavailable:
            # One try a second for each of thousands of pods would help nobody: the waking thread finds out when Redis is back.
            self._store_lost = True
        except Exception:
            # One server must not stop the others; what it has stays as it is.
            log.exception("fault", extra={"fields": {"user": server.user, "server": server.name}})
            self._later(server)

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                version = self._relist()
                for kind, pod in self._cluster.watch(version):
                    self._take(kind, pod)
            except WatchLost as error:
                log.debug("watch: %s", error)
                if str(error) != "renewed":
                    self._stop.wait(PAUSE)
            except (ClusterUnavailable, Conflict) as error:
                log.warning("list: %s", error)
                self._stop.wait(PAUSE)
            except Exception:
                log.exception("fault while watching")
                self._stop.wait(PAUSE)

    def _relist(self) -> str:
        pods, version = self._cluster.list()
        with self._lock:
            before = {pod.server for pod in self._pods.values()}
            self._pods = {pod.uid: pod for pod in pods}
            self._judged.intersection_update(self._pods)
            self._guarded.intersection_update(self._pods)
        self._listed_at = time.monotonic()
        for server in before | {pod.server for pod in pods}:
            self._enqueue(server)
        return version

    def _take(self, kind: str, pod: Pod) -> None:
        with self._lock:
            if kind == "DELETED":
                self._pods.pop(pod.uid, None)
                self._judged.discard(pod.uid)
                self._guarded.discard(pod.uid)
            else:
                self._pods[pod.uid] = pod
        self._enqueue(pod.server)

    def _wake(self) -> None:
        beat = 0.0
        while not self._stop.is_set():
            try:
                for server in self._store.woken(0.3):
                    self._enqueue(server)
                if time.monotonic() - beat >= PAUSE:
                    beat = time.monotonic()
                    if self._sign_of_life():
                        self._beat()
            except StoreUnavailable as error:
                if not self._store_lost:
                    log.warning("%s", error)
                self._store_lost = True
                self._sign_of_life()
                self._stop.wait(PAUSE)
            except Exception:
                log.exception("fault while waiting for work")
                self._stop.wait(PAUSE)

    def _sign_of_life(self) -> bool:
        """Touch the probes' files; whether we hear from the API server."""
        ALIVE.touch()
        hearing = self._listed_at is not None and time.monotonic() - self._listed_at <= DEAF
        if hearing:
            READY.touch()
        return hearing

    def _beat(self) -> None:
        """Tell Redis that we live. After it was away or wiped, publish everything again and look at every pod."""
        with self._lock:
            pods = list(self._pods.values())
        tiers = Counter(pod.grant.tier if pod.grant else UNVERIFIED for pod in pods if not pod.ended)
        if self._store.heartbeat(self._clock(), dict(tiers)) and not self._store_lost:
            return
        self._store_lost = False
        # Those without a pod are forgotten by the working thread too: a pod that appears meanwhile must stay published.
        for server in {pod.server for pod in pods} | self._store.published():
            self._enqueue(server)
