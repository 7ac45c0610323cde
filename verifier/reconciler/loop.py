"""The reconciler: the only process that may patch pods. It makes each user pod carry the grant that was decided for it.

Three threads: one watches pods, one waits for Redis' wake list, and one works on the servers that the two name, one at a time. All
that it knows can be rebuilt from the pods alone, so it may die at any point and start again.

Pods are listed when it starts and after a watch was lost; a watch that only ends goes on from where it was. Once a minute every
server is looked at again, whatever the watch and the wake list said.
"""

import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from .. import logs
from ..decisions import leases
from ..decisions.refusals import Facts, applies, refusal
from ..records import UNVERIFIED, Grant, KnownServer, Pending, Record, Rule, Server, Woken
from ..settings import ReconcilerSettings
from ..store.counters import EXPIRIES, GRANTS, START_GUARD, START_GUARD_TIME, WITHOUT_RECORD, lag_counters
from ..store.errors import StoreUnavailable
from ..store.store import Store
from .pods import SILENCE, WATCH, Cluster, ClusterUnavailable, Conflict, Pod, WatchLost

log = logging.getLogger("binder-egress")

ALIVE = Path("/tmp/alive")
"""Touched while the process goes round; the liveness probe looks at its age."""

READY = Path("/tmp/ready")
"""Touched while it also hears from the API server; the readiness probe looks at its age."""

DEAF = 2 * (WATCH + SILENCE)
"""Seconds without a word from the API server after which the reconciler does not count as ready: a list, or a watch that lasted."""

PAUSE = 1.0
"""Seconds between tries while the API server or Redis is away, and between signs of life."""

BATCH = 100
"""Servers that Redis is asked about together. With one at a time, thousands of round trips would be most of a start."""

AROUND = 60.0
"""Seconds after which every server is looked at again."""

ATTEMPTS = 5
"""Patches of one pod that may conflict before other pods have their turn: a pod that starts changes several times a second."""


class Reconciler:
    """Keeps pods and Redis in step.

    Args:
        settings: mode and tiers.
        cluster: the user pods.
        store: Redis.
        clock: Unix time in seconds.
        steady: seconds that no setting of a clock changes.
    """

    def __init__(
        self,
        settings: ReconcilerSettings,
        cluster: Cluster,
        store: Store,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ):
        self._settings = settings
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self._steady = steady
        self._pods: dict[str, Pod] = {}  # by uid
        self._uids: dict[Server, set[str]] = {}  # of the pods of a server: there are thousands, and each is asked for its own
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Server | None] = queue.SimpleQueue()
        self._queued: dict[Server, float] = {}  # when, monotonic
        self._counts: Counter[str] = Counter()  # what the next heartbeat adds to the counters
        self._stop = threading.Event()
        self._heard_at: float | None = None  # from the API server, monotonic
        self._store_lost = True  # until the first heartbeat: what an earlier process published may be stale
        self._started = clock()
        self._judged: set[str] = set()  # uids whose launch record was looked for
        self._guarded: set[str] = set()  # uids whose start guard was counted
        self._over: dict[str, float] = {}  # id of a grant whose lease is over → since when a renewal could have come (steady)

    # -- what happens to one server

    def reconcile(self, server: Server, asked: Pending | StoreUnavailable | None = None) -> None:
        """Make the pods of a server carry what was decided, and tell the verifier.

        Args:
            server: the server.
            asked: what Redis said of it a moment ago; None if it was not asked.

        Raises:
            Conflict: a pod keeps changing; try again.
            ClusterUnavailable: the API server does not answer.
            StoreUnavailable: Redis does not answer. Labels follow annotations all the same.
        """
        pods = self._pods_of(server)
        current = [pod for pod in pods if not pod.ended]
        if not current:
            # Before the first list there may be some that we have not seen.
            if not pods and self._heard_at is not None:
                self._store.forget(server)
            return
        unavailable = None
        for pod in current:
            try:
                if isinstance(asked, StoreUnavailable):
                    raise asked
                # The second pod of a server comes after what was done about the first.
                pending = asked if asked and pod is current[0] else self._store.pending(server, _grants([pod]))
            except StoreUnavailable as error:
                unavailable, pending = error, None
            pod, pending = self._converge(pod, pending)
            if pending:
                self._publish(pod, pending)
                if pending.stop == pod.uid:
                    self._end(pod)
                self._stop_expired(pod)
        if unavailable:
            raise unavailable

    def _converge(self, pod: Pod, pending: Pending | None) -> tuple[Pod, Pending | None]:
        """Patch a pod until it is as it should be: the pod, and what Redis said last."""
        for _ in range(ATTEMPTS):
            wanted = self._wanted(pod, pending)
            if pending and wanted and leases.ends_now(wanted, pod.grant):
                # A renewal may have come since Redis was asked.
                pending = self._store.pending(pod.server, {wanted.id})
                wanted = self._wanted(pod, pending)
            if wanted == pod.grant and pod.label == (wanted.label if wanted else None) and pod.annotated == bool(wanted):
                return pod, pending
            try:
                patched = self._cluster.patch(pod, wanted)
            except Conflict:
                fresh = self._cluster.read(pod.name)
                if fresh is None or fresh.uid != pod.uid or fresh.ended:
                    return pod, pending
                pod = fresh
                continue
            expired = wanted is not None and leases.ends_now(wanted, pod.grant)
            logs.decision(
                "pod", user=pod.server.user, server=pod.server.name, pod=pod.name,
                tier=wanted.tier if wanted else UNVERIFIED, rule=wanted.rule if wanted else "withdrawn",
                grant=wanted.id if wanted else "", **({"by": wanted.by, "why": wanted.why} if wanted and wanted.by else {}),
            )  # fmt: skip
            with self._lock:
                if patched.uid in self._pods:
                    self._keep(patched)
                if expired:
                    self._counts[f"{EXPIRIES}{'stop' if self._stops(pod.grant) else 'end'}"] += 1
                if wanted and wanted.label and not (pod.grant and pod.grant.id == wanted.id):
                    self._counts[f"{GRANTS}{wanted.tier}:{wanted.rule}"] += 1
            if pending is None:
                return patched, None
            if wanted and wanted.is_block(self._clock()):
                # What waits for this pod was decided before, and must not come back with the end of the block.
                self._store.withdraw(
                    record.grant.id for record in (self._launch(pod, pending), self._unlock(pod, pending)) if record
                )
            # A withdrawal or a block may have come since Redis was asked, and another reconciler may have taken its wake-up.
            pending = self._store.pending(pod.server, {wanted.id} if wanted else set())
            if self._wanted(patched, pending) == wanted:
                return patched, pending
            pod = patched
        raise Conflict(f"pod {pod.name} keeps changing")

    def _wanted(self, pod: Pod, pending: Pending | None) -> Grant | None:
        """The grant that a pod shall carry: a block, an unlock, what it has, what waits for it, or what the mode gives all."""
        withdrawn = pending.withdrawn if pending else set()
        now, facts = self._clock(), self._facts(pod, pending)

        blocks = [block.grant for block in pending.blocks if applies(block, facts, now)] if pending else []
        if pod.grant and pod.grant.is_block(now) and pod.grant.id not in withdrawn:
            blocks.insert(0, pod.grant)
        if blocks:
            # The one that ends last: what is on the pod outlives a wipe of Redis. Of equal ones that which it has.
            return max(blocks, key=lambda grant: math.inf if grant.until is None else grant.until)

        def given(grant: Grant) -> bool:
            outdated = grant.rule == Rule.MODE_ALLOW and self._settings.mode != "allow"
            return grant.tier in self._settings.tiers and grant.id not in withdrawn and not outdated

        has = pod.grant
        unlock, launch = (
            # What is on the pod already lasts as long as the pod says.
            record.grant if record and not (has and has.id == record.grant.id) else None
            for record in (self._unlock(pod, pending), self._launch(pod, pending))
        )
        keeps = has is not None and given(has) and not has.is_expired(now)
        if unlock and given(unlock) and not (keeps and self._is_less(unlock, has, now)):
            return leases.begin(unlock, self._settings.tiers[unlock.tier], now)
        if keeps:
            return leases.shorten(has, self._settings.tiers[has.tier], now)
        if launch and given(launch):
            return leases.begin(launch, self._settings.tiers[launch.tier], now)
        if self._settings.mode == "allow" and not refusal(facts, (), self._settings, now):
            return Grant.new(self._settings.allow_tier, Rule.MODE_ALLOW, now)
        if has and has.rule == Rule.EXPIRED and has.id not in withdrawn:
            return has
        if has and given(has):
            return leases.end(has, now, self._stops(has))
        return None

    def _is_less(self, unlock: Grant, has: Grant, now: float) -> bool:
        """Whether an unlock was decided before the pod got what it has, and is not larger. What an operator gives is meant."""
        if unlock.rule == Rule.OPERATOR or unlock.tier == has.tier:
            return False
        return unlock.tier not in leases.larger(KnownServer("", has.tier, until=has.until), self._settings, now)

    def _stops(self, grant: Grant | None) -> bool:
        tier = self._settings.tiers.get(grant.tier) if grant else None
        return tier is not None and leases.stops(tier, self._settings)

    @staticmethod
    def _unlock(pod: Pod, pending: Pending | None) -> Record | None:
        """The unlock that waits for a pod."""
        return pending.unlock if pending and pending.unlock and pending.unlock.uid == pod.uid else None

    @staticmethod
    def _launch(pod: Pod, pending: Pending | None) -> Record | None:
        """The launch that a pod follows from."""
        return pending.launch if pending and pending.launch and pending.launch.image == pod.image else None

    def _facts(self, pod: Pod, pending: Pending | None) -> Facts:
        """What is known of a pod's launch: what BinderHub told us of it, even if that is over, else what stands on the pod."""
        launch = self._launch(pod, pending)
        known = pending.known if pending and pending.known and pending.known.uid == pod.uid else None
        repository = launch.repository if launch else known.repository if known else ""
        client = launch.client if launch else known.client if known else ""
        return Facts(repository or pod.repository, (client or pod.client,), pod.uid)

    def _publish(self, pod: Pod, pending: Pending) -> None:
        known, launch = pending.known, pending.launch
        if pod.uid not in self._judged:
            self._judged.add(pod.uid)
            self._judge(pod, launch)
        if pod.guard and pod.uid not in self._guarded:
            self._guarded.add(pod.uid)
            self._count_guard(pod, *pod.guard)
        facts, grant = self._facts(pod, pending), pod.grant or Grant("", UNVERIFIED, "", 0)
        now = KnownServer(
            uid=pod.uid, tier=grant.tier, grant=grant.id, repository=facts.repository, client=facts.clients[0], pod=pod.name,
            label=pod.label or "", rule=grant.rule, at=grant.at, by=grant.by, why=grant.why, until=grant.until,
        )  # fmt: skip
        if now != known:
            self._store.publish(pod.server, now)
        if pod.ready and launch and launch.image == pod.image:
            self._store.settle(pod.server, launch)

    def _end(self, pod: Pod) -> None:
        """Delete a pod that an operator wants stopped, if we may."""
        if self._settings.may_stop_pods:
            self._cluster.delete(pod)
            logs.decision("stop", user=pod.server.user, server=pod.server.name, pod=pod.name)

    def _stop_expired(self, pod: Pod) -> None:
        """Delete a pod whose lease is over, if for `GRACE` seconds on end it could have been renewed, and was not.

        Only in mode `captcha`: in the others nothing is taken away, whatever an earlier mode left on the pod.
        The time is this process' own: neither a clock that is set forward nor a restart takes it from anybody. It begins again
        when Redis or all verifiers were away.
        """
        grant = pod.grant
        if grant is None or grant.rule != Rule.EXPIRED or grant.until is None:
            return
        now = self._steady()
        if now - self._over.setdefault(grant.id, now) < leases.STOP_GRACE_SECONDS:
            return
        self._over[grant.id] = now  # whatever comes, not again at once
        if self._settings.mode != "captcha" or not self._settings.may_stop_pods or not self._store.verifier_is_there():
            return
        # What the watch told may be old, and a renewal may be on its way.
        fresh = self._cluster.read(pod.name)
        if fresh is None or fresh.uid != pod.uid or fresh.ended or fresh.grant != grant:
            return
        renewal = self._unlock(fresh, self._store.pending(pod.server, set()))
        if renewal and renewal.grant.id != grant.id:
            return
        self._cluster.delete(fresh, unchanged=True)
        logs.decision("stop", user=pod.server.user, server=pod.server.name, pod=pod.name, rule=grant.rule, grant=grant.id)

    def _remind(self) -> None:
        """Look at the pods whose time has come. Nothing else happens at that moment."""
        now, steady = self._clock(), self._steady()
        with self._lock:
            ending = [pod for pod in self._pods.values() if pod.grant and pod.grant.until is not None and not pod.ended]
        grants = {pod.grant.id for pod in ending}
        self._over = {grant: since for grant, since in list(self._over.items()) if grant in grants}
        for pod in ending:
            if pod.grant.rule != Rule.EXPIRED:
                due = pod.grant.is_expired(now)
            else:
                due = (
                    not self._store_lost
                    and steady - self._over.get(pod.grant.id, -leases.STOP_GRACE_SECONDS) >= leases.STOP_GRACE_SECONDS
                )
            if due:
                self._enqueue(pod.server)

    def _lose_store(self) -> None:
        """Redis is away: nobody can renew."""
        self._store_lost = True
        self._over.clear()

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
            return sorted((self._pods[uid] for uid in self._uids.get(server, ())), key=lambda pod: pod.created)

    def _keep(self, pod: Pod) -> None:
        """Know a pod, with the lock held."""
        self._drop(pod.uid)
        self._pods[pod.uid] = pod
        self._uids.setdefault(pod.server, set()).add(pod.uid)

    def _drop(self, uid: str) -> None:
        """Know a pod no more, with the lock held."""
        if pod := self._pods.pop(uid, None):
            self._uids[pod.server].remove(uid)
            if not self._uids[pod.server]:
                del self._uids[pod.server]

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
            self._work_some()

    def stop(self) -> None:
        """End `run`. Nothing needs to be saved."""
        self._stop.set()
        self._work.put(None)

    def _enqueue(self, server: Server) -> None:
        with self._lock:
            if server in self._queued:
                return
            self._queued[server] = time.monotonic()
        self._work.put(server)

    def _later(self, server: Server) -> None:
        timer = threading.Timer(PAUSE, self._enqueue, [server])
        timer.daemon = True
        timer.start()

    def _work_some(self) -> None:
        """Work on what is queued, `BATCH` servers at most."""
        found = [self._work.get()]
        with suppress(queue.Empty):
            while len(found) < BATCH:
                found.append(self._work.get_nowait())
        servers = [server for server in found if server is not None]
        if len(servers) < len(found):
            return  # We are to stop.
        with self._lock:
            queued = [self._queued.pop(server) for server in servers]
        asked: Mapping[Server, Pending] | StoreUnavailable
        try:
            asked = self._store.pending_all({server: _grants(self._pods_of(server)) for server in servers})
        except StoreUnavailable as error:
            asked = error
        except Exception:
            # What one of them has there cannot be read. Each by itself, so that it does not stop the others.
            log.exception("fault while asking Redis")
            asked = {}
        for server, since in zip(servers, queued, strict=True):
            self._work_on(server, asked if isinstance(asked, StoreUnavailable) else asked.get(server), since)

    def _work_on(self, server: Server, asked: Pending | StoreUnavailable | None, queued: float) -> None:
        try:
            self.reconcile(server, asked)
            with self._lock:
                self._counts.update(lag_counters(time.monotonic() - queued))
        except (Conflict, ClusterUnavailable) as error:
            log.warning("will try again: %s", error, extra={"fields": {"user": server.user, "server": server.name}})
            self._later(server)
        except StoreUnavailable:
            # One try a second for each of thousands of pods would help nobody: the waking thread finds out when Redis is back.
            self._lose_store()
        except Exception:
            # One server must not stop the others; what it has stays as it is.
            log.exception("fault", extra={"fields": {"user": server.user, "server": server.name}})
            self._later(server)

    def _watch(self) -> None:
        version: str | None = None
        while not self._stop.is_set():
            try:
                version = version or self._relist()
                began = time.monotonic()
                for kind, pod in self._cluster.watch(version):
                    self._take(kind, pod)
            except WatchLost as error:
                log.debug("watch: %s", error)
                lasted = time.monotonic() - began >= PAUSE
                # One that ends at once and says nothing may be a proxy's, and not a word of the API server.
                if error.version and (lasted or error.version != version):
                    self._heard_at = time.monotonic()
                version = error.version
                if not (version and lasted):
                    self._stop.wait(PAUSE)
            except (ClusterUnavailable, Conflict) as error:
                log.warning("list: %s", error)
                version = None
                self._stop.wait(PAUSE)
            except Exception:
                log.exception("fault while watching")
                version = None
                self._stop.wait(PAUSE)

    def _look_at_all(self) -> None:
        with self._lock:
            servers = set(self._uids)
        for server in servers:
            self._enqueue(server)

    def _relist(self) -> str:
        pods, version = self._cluster.list()
        with self._lock:
            before = set(self._uids)
            self._pods, self._uids = {}, {}
            for pod in pods:
                self._keep(pod)
            self._judged.intersection_update(self._pods)
            self._guarded.intersection_update(self._pods)
        self._heard_at = time.monotonic()
        for server in before | {pod.server for pod in pods}:
            self._enqueue(server)
        return version

    def _take(self, kind: str, pod: Pod) -> None:
        with self._lock:
            if kind == "DELETED":
                self._drop(pod.uid)
                self._judged.discard(pod.uid)
                self._guarded.discard(pod.uid)
            else:
                self._keep(pod)
        self._enqueue(pod.server)

    def _wake(self) -> None:
        beat = reminded = 0.0
        around = time.monotonic()
        while not self._stop.is_set():
            try:
                if time.monotonic() - reminded >= PAUSE:
                    reminded = time.monotonic()
                    self._remind()
                if time.monotonic() - around >= AROUND:
                    around = time.monotonic()
                    self._look_at_all()
                self._serve(self._store.woken(0.3))
                if time.monotonic() - beat >= PAUSE:
                    beat = time.monotonic()
                    if self._sign_of_life():
                        self._beat()
            except StoreUnavailable as error:
                if not self._store_lost:
                    log.warning("%s", error)
                self._lose_store()
                self._sign_of_life()
                self._stop.wait(PAUSE)
            except Exception:
                log.exception("fault while waiting for work")
                self._stop.wait(PAUSE)

    def _serve(self, woken: Woken) -> None:
        for action in woken.actions:
            logs.decision(**action)
        for server in woken.servers:
            self._enqueue(server)
        if woken.everything:
            self._look_at_all()

    def _sign_of_life(self) -> bool:
        """Touch the probes' files; whether we hear from the API server."""
        ALIVE.touch()
        hearing = self._heard_at is not None and time.monotonic() - self._heard_at <= DEAF
        if hearing:
            READY.touch()
        return hearing

    def _beat(self) -> None:
        """Tell Redis that we live. After it was away or wiped, publish everything again and look at every pod."""
        with self._lock:
            pods = list(self._pods.values())
            counts, self._counts = self._counts, Counter()
        tiers = Counter(pod.grant.tier if pod.grant else UNVERIFIED for pod in pods if not pod.ended)
        if self._store.heartbeat(self._clock(), dict(tiers), counts) and not self._store_lost:
            return
        self._over.clear()  # What was wiped may have been a renewal.
        self._store_lost = False
        # Those without a pod are forgotten by the working thread too: a pod that appears meanwhile must stay published.
        for server in {pod.server for pod in pods} | self._store.published():
            self._enqueue(server)


def _grants(pods: Iterable[Pod]) -> set[str]:
    """The ids of the grants that pods carry."""
    return {pod.grant.id for pod in pods if pod.grant}
