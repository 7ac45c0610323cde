"""Which launches used the network: what agents say of pods, put together with what is known of their launches (docs/report.md)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..model.grants import Egress
from ..model.records import CAME, KnownServer, NetworkUse, ReportedLaunch, UseVerdict
from ..model.repositories import name
from ..store.reconciler_counters import Tally, reported_counter
from ..store.store import ReconcilerStore
from .agents import Agents
from .cache import PodCache
from .user_pods import Pod

ROUND_SECONDS = 1.0
"""Seconds between two looks at what agents say."""

USES_AT_ONCE = 1000
"""The number of rows that are read together."""

LAST_WORD_SECONDS = 60.0
"""Seconds after the end of a pod for which an agent's last word about it is awaited."""

QUIET_GUARDS = ("off", "absent")
"""The outcomes of a start guard that sent no packet. What another sent is in the pod's counters, too."""


@dataclass
class _Launch:
    """A launch whose server has not ended, or whose agent may still say something.

    Attributes:
        pod: its pod, as last seen.
        came, had_tier, repository: as in `ReportedLaunch`.
        use: what the agent on its node said last.
        gone_at: since when there is no such pod, in steady seconds; None: it is there.
    """

    pod: Pod
    came: str = ""
    had_tier: bool = False
    repository: str = ""
    use: NetworkUse | None = None
    gone_at: float | None = None

    def verdict(self) -> tuple[UseVerdict, str]:
        """Whether it used the network, and if that is not known, why."""
        if self.use is None:
            return "not known", "no agent"
        if self.use.used:
            return "used", ""
        if not self.use.ended:
            return "not known", "agent ended"
        if self.use.missed or self.use.datagrams:
            is_quiet = self.pod.guard is None or self.pod.guard[0] in QUIET_GUARDS
            return "not known", "between looks" if is_quiet else "start guard"
        return "not used", ""

    def reported(self) -> ReportedLaunch:
        """The launch, for the report."""
        use, why = self.verdict()
        known = self.use if self.use and use == "used" else None
        return ReportedLaunch(
            at=self.pod.created,
            came=self.came,
            had_tier=self.had_tier,
            repository=self.repository[:200],
            use=use,
            why=why,
            first=known.first if known else None,
            ports=known.ports if known else [],
            seen=known.seen if known else 0,
        )


class LaunchReport:
    """Keeps what is known of the launches whose servers run, and writes each down when it is over.

    All is in memory: a new process learns it again from the pods, and from agents within a minute. Launches that end while no
    reconciler runs are missing. The worker calls `see`, and the listener `take`.

    Args:
        cache: the known pods.
        store: Redis.
        agents: which address is on which node.
        tally: the counts for the next heartbeat.
        days: how long launches are kept.
        clock: Unix time in seconds.
        steady: monotonic time in seconds.
    """

    def __init__(
        self,
        cache: PodCache,
        store: ReconcilerStore,
        agents: Agents,
        tally: Tally,
        days: int,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ):
        self._cache, self._store, self._agents, self._tally = cache, store, agents, tally
        self._days, self._clock, self._steady = days, clock, steady
        self._launches: dict[str, _Launch | None] = {}  # by uid; None: it is written down, and its pod still there
        self._at = -math.inf

    def see(self, pod: Pod, known: KnownServer) -> None:
        """Note what was just published about a pod."""
        launch = self._launches.setdefault(pod.uid, _Launch(pod))
        if launch:
            by_key = known.grant.origin.kind == "key"
            launch.pod, launch.repository = pod, name(known.repository) or ""
            launch.had_tier |= isinstance(known.grant, Egress)
            came = "key" if by_key else known.came if known.announced else "hub"
            launch.came = launch.came if launch.came == "key" else came if came in CAME else "other"

    def take(self) -> None:
        """Read what agents say, and write down the launches that are over.

        Raises:
            StoreUnavailable: Redis does not answer. The launches wait.
        """
        now = self._steady()
        if now - self._at < ROUND_SECONDS or not self._cache.is_listed or not self._agents.is_listed:
            return
        self._at = now
        pods = {pod.uid: pod for pod in self._cache.all()}
        for uid, launch in list(self._launches.items()):
            if launch and uid in pods:
                launch.pod = pods[uid]
            elif launch:
                launch.gone_at = launch.gone_at or now
            elif uid not in pods:
                del self._launches[uid]
        for use in self._store.take_uses(USES_AT_ONCE):
            launch = self._launches.get(use.uid)
            # An agent is believed about its own node alone (D-335).
            if launch and launch.pod.node and self._agents.node_of(use.sender) == launch.pod.node:
                launch.use = use
        self._write_down(now)

    def _write_down(self, now: float) -> None:
        over = {
            uid: launch.reported()
            for uid, launch in self._launches.items()
            if launch and ((launch.use and launch.use.ended) or (launch.gone_at and now - launch.gone_at > LAST_WORD_SECONDS))
        }
        if not over:
            return
        self._store.keep_launches(over.values(), self._clock(), self._days)
        for uid, launch in over.items():
            self._launches[uid] = None
            self._tally.add({reported_counter(launch): 1})
