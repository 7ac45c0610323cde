"""The reconciler: the only process that may patch pods. It makes each user pod carry the grant that was decided for it.

Three threads:

- **list and watch** reads events of user pods, and publishes for the egress proxy that a pod has ended. It lists them at the start
  and after a watch that lost events; a watch that only ended continues where it was.
- **the listener** sends the heartbeat, and queues servers that are due: those whose lease is over, and at a resync once a minute,
  every server. It also reads notifications from Redis' lists `commands`, `wake` and `actions`, and the reports of detectors.
- **the worker** takes servers from the work queue and converges one at a time (`converge`, D-581).

The process has up to three more, which `cli.reconciler` starts: the gate check, the list of agents, and the variables of the egress
proxy. None of them keeps these three waiting.

All that the process remembers can be rebuilt from the pods, so it may die at any point and start again.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .. import logs
from ..kubernetes_api import REQUEST_TIMEOUT_SECONDS, ApiServerUnavailable
from ..model.grants import UNVERIFIED
from ..model.labels import LabelSet
from ..model.records import Measured, Pending, Server, Woken
from ..settings import ReconcilerSettings
from ..store.errors import StoreUnavailable
from ..store.reconciler_counters import FAILURES, NOT_COVERED, Tally, lag_counters
from ..store.store import ReconcilerStore
from .addresses import AddressBook
from .agents import Agents
from .cache import PodCache
from .changed_tiers import ChangedTiers
from .converge import Converger, carried_grants
from .launch_report import LaunchReport
from .responses import Responder
from .stopping import Stopper
from .user_pods import WATCH_SECONDS, Conflict, Pod, UserPods, WatchEnded
from .work_queue import WorkQueue

log = logging.getLogger("binder-egress")

ALIVE_FILE = Path("/tmp/alive")
"""The listener touches this file; the liveness probe checks its age."""

READY_FILE = Path("/tmp/ready")
"""The listener touches this file while the API server is heard from; the readiness probe checks its age."""

SILENT_AFTER_SECONDS = 2 * (WATCH_SECONDS + REQUEST_TIMEOUT_SECONDS)
"""Seconds without an answer from the API server after which the reconciler is not ready. A list counts as one, and a watch that
lasted."""

RETRY_PAUSE_SECONDS = 1.0
"""Seconds between attempts while the API server or Redis is down."""

HEARTBEAT_SECONDS = 1.0
"""Seconds between heartbeats, many of which fit into `HEARTBEAT_TTL_SECONDS` and into the time that the egress proxy waits for one.
They also carry the counts for the metrics (D-095)."""

DUE_CHECK_SECONDS = 1.0
"""Seconds between two checks for servers whose lease, block or grace is over. Such ends are whole seconds, so each check comes as a
second of the clock begins."""

SHORT_WATCH_SECONDS = 1.0
"""A watch that ends sooner is followed by a pause. Without an event it does not count as an answer of the API server (D-099)."""

LATE_SECONDS = 60.0
"""Seconds of failed attempts on a server after which the next one is an error in the log, and no longer a warning. A rollout or an
overload of the API server is over sooner."""

SAY_SECONDS = 60.0
"""Seconds between two lines about failed attempts, of each kind: while the API server is down, every server fails each second."""

NOTIFICATION_WAIT_SECONDS = 0.3
"""Seconds that the listener waits for notifications before it looks at the clock."""

LEAST_WAIT_SECONDS = 0.01
"""The shortest such wait: Redis takes none at all for one without an end."""

RESYNC_SECONDS = 60.0
"""Seconds between resyncs, which queue every server. If there are thousands, half of this time passes before the last one is
due (D-379)."""

MAX_NAMED = 10
"""The most pods that one line of the log names."""

SERVERS_AT_ONCE = 100
"""How many servers Redis is asked about together. One at a time, a start with thousands of pods would mostly wait for Redis."""


class Reconciler:
    """Keeps pods and Redis in step.

    Args:
        settings: mode and tiers.
        user_pods: the user pods.
        store: Redis.
        clock: Unix time in seconds.
        steady: monotonic time in seconds.
        agents: which address is on which node; None: there are no agents.
        opening_seconds: returns how long the network plugin takes to act on a label, where that is long; else 0.
        tiers: who is told of changed tiers; None: no node ends connections.
        soon: measures at once whether labels act on some nodes.
        labels: returns how labels act on a node.

    Attributes:
        queue: the servers to converge.
        heard_at: the time of the API server's last answer, in steady seconds; None before the first.
    """

    def __init__(
        self,
        settings: ReconcilerSettings,
        user_pods: UserPods,
        store: ReconcilerStore,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        agents: Agents | None = None,
        opening_seconds: Callable[[], int] = lambda: 0,
        tiers: ChangedTiers | None = None,
        soon: Callable[[Iterable[str]], None] = lambda nodes: None,
        labels: Callable[[str], Measured] = lambda node: Measured(),
    ):
        self._user_pods = user_pods
        self._store = store
        self._clock = clock
        self._steady = steady
        self.queue: WorkQueue[Server] = WorkQueue(RETRY_PAUSE_SECONDS, steady)
        self.heard_at: float | None = None
        self._soon = soon
        self._cache = PodCache(tiers)
        self._tally = Tally()
        self._stopper = Stopper(settings, user_pods, self._cache, store, clock, steady)
        self._report = None
        if settings.report_days and agents:
            self._report = LaunchReport(self._cache, store, agents, self._tally, settings.report_days, clock, steady)
        parts = (user_pods, self._cache, store, self._tally, self._stopper, clock, opening_seconds, self._report)
        self._converger = Converger(settings, *parts)
        self._addresses = AddressBook(self._cache, store, clock) if settings.proxy else None
        self._responder = (
            Responder(settings, self._cache, store, self._tally, agents, self.queue, clock, soon, labels)
            if settings.detections
            else None
        )
        self._said: dict[int | str, float] = {}  # when each kind of line about failed attempts was last logged, steady seconds
        # The listener's last turns, in steady seconds.
        self._beaten_at = self._checked_at = self._resynced_at = self._woken_at = -math.inf
        self._resync_is_due = False  # `wake` asked for a resync
        self._stopped = threading.Event()
        self._redis_is_lost = True  # until the first heartbeat, as an earlier process may have published outdated data

    def run(self) -> None:
        """Work until `stop`."""
        self._converger.started = self._clock()
        for target, name in ((self.list_and_watch, "list-and-watch"), (self.listen, "listener")):
            threading.Thread(target=target, name=name, daemon=True).start()
        while not self._stopped.is_set():
            self.run_once(wait=True)

    def stop(self) -> None:
        """End `run`. Nothing needs to be saved."""
        self._stopped.set()
        self.queue.close()

    def by_node(self) -> dict[str, Counter[str]]:
        """Node → its running user pods by the outcome of their start guards (`PodCache.by_node`)."""
        return self._cache.by_node()

    def label_sets(self) -> list[LabelSet]:
        """The labels of the running user pods, each set once (`labels.shared_labels`)."""
        return self._cache.label_sets()

    # -- the worker

    def run_once(self, wait: bool = False) -> bool:
        """Converge the servers that are due, `SERVERS_AT_ONCE` at most.

        Args:
            wait: whether to wait until one is due.

        Returns:
            Whether a server was due.
        """
        batch = self.queue.get(SERVERS_AT_ONCE, wait)
        if not batch:
            return False
        pending: Mapping[Server, Pending] = {}
        lost = None
        try:
            pending = self._store.pending_all({server: carried_grants(self._cache.of(server)) for server, _ in batch})
        except StoreUnavailable as error:
            lost = error
        except Exception:
            # What Redis holds about one of the servers cannot be read. It is then asked about each of them alone, so that the
            # others go on.
            if self._may_say("fault while asking Redis"):
                log.exception("fault while asking Redis")
        commanded: set[Server] = set()
        for server, due in batch:
            for other, since in self.queue.get(SERVERS_AT_ONCE, wait=False, only_first=True):
                self._work_on(other, None, None, since)
                commanded.add(other)
            if server not in commanded:
                self._work_on(server, pending.get(server), lost, due)
        return True

    def _work_on(self, server: Server, pending: Pending | None, lost: StoreUnavailable | None, due: float) -> None:
        try:
            self.reconcile(server, pending, lost)
            self._tally.add(lag_counters(self._steady() - due))
        except (Conflict, ApiServerUnavailable) as error:
            self._say_failed(server, error, due)
            if not isinstance(error, Conflict):
                self._tally.add({FAILURES: 1})
            self.queue.retry(server, due)
        except StoreUnavailable:
            # No retry: one a second for each of thousands of pods would not help. The next heartbeat that finds Redis queues them
            # all.
            self._lose_redis()
        except Exception:
            # One server must not stop the others. Its pod stays as it is.
            if self._may_say("fault"):
                log.exception("fault", extra={"fields": {"user": server.user, "server": server.name}})
            self._tally.add({FAILURES: 1})
            self.queue.retry(server, due)

    def _say_failed(self, server: Server, error: Exception, due: float) -> None:
        waits, fields = self._steady() - due, {"user": server.user, "server": server.name}
        level = logging.ERROR if waits >= LATE_SECONDS else logging.WARNING
        if not self._may_say(level):
            return
        if level == logging.ERROR:
            log.error("a server waits for %d s, as each attempt fails: %s", waits, error, extra={"fields": fields})
        else:
            log.warning("will try again: %s", error, extra={"fields": fields})

    def _may_say(self, kind: int | str) -> bool:
        """Whether a line of this kind may be logged, which is so once in `SAY_SECONDS`."""
        now = self._steady()
        if now - self._said.get(kind, -math.inf) < SAY_SECONDS:
            return False
        self._said[kind] = now
        return True

    def reconcile(self, server: Server, pending: Pending | None = None, lost: StoreUnavailable | None = None) -> None:
        """Converge one server, as `Converger.converge` does, and publish its addresses."""
        try:
            self._converger.converge(server, pending, lost)
        finally:
            if self._addresses and not lost:
                self._addresses.publish(server)

    # -- list and watch

    def list_and_watch(self) -> None:
        """Read lists and watches of user pods until `stop`."""
        version: str | None = None
        began = self._steady()
        while not self._stopped.is_set():
            try:
                version = version or self.list_pods()
                began = self._steady()
                for event, pod in self._user_pods.watch(version):
                    self.observe(event, pod)
            except WatchEnded as error:
                log.debug("watch: %s", error)
                lasted = self._steady() - began >= SHORT_WATCH_SECONDS
                # A watch that ends immediately and without an event may be a proxy's answer, so it does not count as one from the
                # API server.
                if error.version and (lasted or error.version != version):
                    self.heard_at = self._steady()
                version = error.version
                if not (version and lasted):
                    self._stopped.wait(RETRY_PAUSE_SECONDS)
            except (ApiServerUnavailable, Conflict) as error:
                log.warning("list: %s", error)
                version = None
                self._stopped.wait(RETRY_PAUSE_SECONDS)
            except Exception:
                log.exception("fault while watching")
                version = None
                self._stopped.wait(RETRY_PAUSE_SECONDS)

    def list_pods(self) -> str:
        """List the user pods, and queue the servers of the old and the new pods.

        Returns:
            The resourceVersion to watch from.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        self._cache.begin_list()
        pods, version = self._user_pods.list()
        servers = self._cache.replace(pods)
        if self._addresses:
            self._addresses.invalidate()
        self.heard_at = self._steady()
        self._enqueue(servers)
        return version

    def observe(self, event: str, pod: Pod) -> None:
        """Process an event of a watch: `ADDED`, `MODIFIED` or `DELETED`."""
        if event == "DELETED":
            self._cache.remove(pod.uid)
        else:
            self._cache.put(pod)
        if event == "DELETED" or pod.ended or pod.differing:
            self._withdraw_addresses(pod.server)
        self.queue.put(pod.server)

    def _withdraw_addresses(self, server: Server) -> None:
        """Publish at once that a pod has ended. Its address may soon be another pod's; the worker may be busy for longer than that,
        and heartbeats go on confirming what is published. If Redis is lost, the next heartbeat publishes everything before it
        confirms anything."""
        if self._addresses and not self._redis_is_lost:
            try:
                self._addresses.publish(server)
            except StoreUnavailable:
                self._addresses.invalidate()
                self._lose_redis()

    # -- the listener

    def listen(self) -> None:
        """Send heartbeats, queue what is due, read notifications and act on reports until `stop`."""
        self._resynced_at = self._steady()
        while not self._stopped.is_set():
            if not self.listen_once():
                self._stopped.wait(RETRY_PAUSE_SECONDS)

    def listen_once(self) -> bool:
        """One round of the listener. The heartbeat comes first, and each part has its turn, whatever happened to those before it
        (D-415). Returns whether all succeeded; failures are logged."""
        parts = (self._beat_in_time, self._queue_in_time, self._take_woken, self.respond, self.take_uses)
        return all([self._attempt(part) for part in parts])

    def _attempt(self, part: Callable[[], None]) -> bool:
        try:
            part()
            return True
        except StoreUnavailable as error:
            if not self._redis_is_lost:
                log.warning("%s", error)
            self._lose_redis()
        except Exception:
            if self._may_say("fault while waiting for work"):
                log.exception("fault while waiting for work")
        return False

    def _beat_in_time(self) -> None:
        if self._steady() - self._beaten_at >= HEARTBEAT_SECONDS and self.touch_probe_files():
            self._beaten_at = self._steady()
            self.heartbeat()

    def _queue_in_time(self) -> None:
        if self._steady() - self._checked_at >= DUE_CHECK_SECONDS:
            self._checked_at = self._steady() - self._clock() % DUE_CHECK_SECONDS
            self.enqueue_due()
        self._resync_if_due()
        if self._steady() - self._resynced_at >= RESYNC_SECONDS:
            self._resynced_at = self._steady()
            self.resync(RESYNC_SECONDS / 2)
            self.forget_blocks()

    def _resync_if_due(self) -> None:
        """Queue every server if `wake` asked for it, once in `DUE_CHECK_SECONDS`: a verifier that is taken over may ask all the
        time (D-516)."""
        if self._resync_is_due and self._steady() - self._woken_at >= DUE_CHECK_SECONDS:
            self._resync_is_due, self._woken_at = False, self._steady()
            self.resync()

    def _take_woken(self) -> None:
        left = self._checked_at + DUE_CHECK_SECONDS - self._steady()
        self.take(self._store.woken(max(LEAST_WAIT_SECONDS, min(left, NOTIFICATION_WAIT_SECONDS))))

    def take(self, notifications: Woken) -> None:
        """Queue the servers that notifications name, if they have a pod, measure on the named nodes, and log what operators did.
        Another server is queued by an event of its pod, or by the next list."""
        for action in notifications.actions:
            logs.decision(**action)
        for server in self._cache.servers() if notifications.everything_first else self._cache.named(notifications.commanded):
            self.queue.put(server, first=True)
        self._enqueue(self._cache.named(notifications.servers))
        self._soon(notifications.nodes)
        self._resync_is_due |= notifications.everything
        self._resync_if_due()

    def respond(self) -> None:
        """Act on the waiting reports of detectors."""
        if self._responder:
            self._responder.take()

    def take_uses(self) -> None:
        """Read what agents say of pods' use of the network."""
        if self._report:
            self._report.take()

    def resync(self, over_seconds: float = 0.0) -> None:
        """Queue every server that has a pod.

        Args:
            over_seconds: the time over which they become due, `SERVERS_AT_ONCE` after `SERVERS_AT_ONCE`. A launch waits for all
                that are due before it.
        """
        servers = self._cache.servers()
        for at, server in enumerate(servers):
            self.queue.put(server, at // SERVERS_AT_ONCE * SERVERS_AT_ONCE / len(servers) * over_seconds)

    def forget_blocks(self) -> None:
        """Forget the blocks that have ended, and the blocks of pods that are gone, because each launch reads all blocks."""
        pods = {pod.uid for pod in self._cache.all()} if self._cache.is_listed else None
        self._store.forget_ended_blocks(self._clock(), pods)

    def enqueue_due(self) -> None:
        """Queue the servers that are due without any event."""
        self._enqueue(self._stopper.due(self._redis_is_lost))

    def touch_probe_files(self) -> bool:
        """Touch the probes' files. Returns whether the API server is being heard from."""
        ALIVE_FILE.touch()
        hears = self.heard_at is not None and self._steady() - self.heard_at <= SILENT_AFTER_SECONDS
        if hears:
            READY_FILE.touch()
        return hears

    def heartbeat(self) -> None:
        """Write to Redis that the reconciler is alive, and its counts. After Redis was down or wiped, queue every server again.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        pods = self._cache.all()
        tiers = Counter(pod.grant.tier if pod.grant else UNVERIFIED for pod in pods if not pod.ended)
        if self._cache.is_listed:
            tiers[NOT_COVERED] = self._report_uncovered()
        counts = self._tally.take()
        try:
            knows = self._store.heartbeat(self._clock(), dict(tiers), counts) and not self._redis_is_lost
        except StoreUnavailable:
            self._tally.add(counts)
            raise
        if self._addresses:
            if not knows:
                self._addresses.invalidate()
            self._addresses.beat()
        if knows:
            return
        self._stopper.restart_grace()  # The wiped Redis may have held a renewal.
        self._redis_is_lost = False
        # Servers without a pod are queued, too, and the worker forgets them: a pod that appears meanwhile must stay published.
        self._enqueue({pod.server for pod in pods} | self._store.published())

    def _report_uncovered(self) -> int:
        """Log user pods that our policies do not select, and return how many there are."""
        uncovered = self._cache.uncovered()
        if uncovered and self._may_say(NOT_COVERED):
            pods = {pod.name: pod.differing for pod in uncovered[:MAX_NAMED]}
            log.error("our policies do not select %d user pods", len(uncovered), extra={"fields": {"pods": pods}})
        return len(uncovered)

    def _lose_redis(self) -> None:
        self._redis_is_lost = True
        self._stopper.restart_grace()

    def _enqueue(self, servers: Iterable[Server]) -> None:
        for server in servers:
            self.queue.put(server)
