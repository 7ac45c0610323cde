"""Converges one server: its pods get the grant that they should carry, and the result is published for the verifier."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .. import logs
from ..model.grants import NO_GRANT, UNVERIFIED, EndedLease, block_in, label_of
from ..model.records import KnownServer, Pending, Reason, Record, Server
from ..settings import ReconcilerSettings
from ..store.errors import StoreUnavailable
from ..store.reconciler_counters import (
    ACCESS,
    ANNOUNCED_LATE,
    AT_READY_SECONDS,
    EXPIRIES,
    GRANTS,
    HINDERED,
    NOT_ISOLATED,
    PING,
    START_GUARD,
    START_GUARD_TIME,
    WITHOUT_RECORD,
    Tally,
)
from ..store.store import ReconcilerStore
from .cache import PodCache
from .launch_report import LaunchReport
from .stopping import Stopper
from .user_pods import Conflict, Pod, UserPods
from .wanted import Wanted, came_of, facts_of, grant_stops, is_announced, known_of, launch_of, promise_of, unlock_of, wanted

log = logging.getLogger("binder-egress")

MAX_ATTEMPTS = 5
"""How many patches of one pod may conflict before other pods have their turn. A starting pod changes several times a second."""


@dataclass
class Converger:
    """Brings the pods of one server at a time, and what is published about them, in line with the decisions.

    Attributes:
        settings: mode and tiers.
        user_pods: the Kubernetes API.
        cache: the known pods.
        store: Redis.
        tally: the counts for the next heartbeat.
        stopper: deletes the pods that must be stopped.
        clock: Unix time in seconds.
        opening_seconds: returns how long the network plugin takes to act on a label, where that is long; else 0.
        report: is told of what is published; None: nobody is.
        started: Unix time in seconds. Older pods were counted by an earlier process.
    """

    settings: ReconcilerSettings
    user_pods: UserPods
    cache: PodCache
    store: ReconcilerStore
    tally: Tally
    stopper: Stopper
    clock: Callable[[], float]
    opening_seconds: Callable[[], int] = lambda: 0
    report: LaunchReport | None = None
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def converge(self, server: Server, first: Pending | None, lost: StoreUnavailable | None) -> None:
        """Make the pods of a server carry the grant that they should, publish it, and stop the pods that must be stopped.

        Args:
            server: the server.
            first: the answer of Redis about it a moment ago, for its first pod; None: Redis is asked.
            lost: the error of Redis, if it did not answer a moment ago; it is then not asked.

        Raises:
            Conflict: a pod keeps changing; try again.
            ApiServerUnavailable: the API server does not answer, or refuses the request.
            StoreUnavailable: Redis does not answer. Labels follow annotations nevertheless.
        """
        pods = self.cache.of(server)
        for pod in pods:
            self._log_and_count_hindrance(pod)
        running = [pod for pod in pods if not pod.ended]
        if not running:
            for pod in pods:
                self._count_access(pod, "never")
            if first and first.stop in {pod.uid for pod in pods}:
                self.store.forget_stop(server, first.stop)
            # Before the first list the server may have a pod that is not known yet.
            if not pods and self.cache.is_listed:
                self.store.forget(server)
            return
        for pod in running:  # The youngest comes last, so that it is the one that stays published.
            pending, first = first, None
            if pending is None and lost is None:
                # Converging the first pod may have changed what Redis holds.
                try:
                    pending = self.store.pending(server, carried_grants([pod]))
                except StoreUnavailable as error:
                    lost = error
            pod, pending, why = self._converge_pod(pod, pending)
            if pending:
                self._end_waiting(pod, pending)
                self._log_and_count_start(pod, pending)
                self._publish(pod, pending, why)
                self.stopper.stop(pod, pending)
        if lost:
            raise lost

    def _converge_pod(self, pod: Pod, pending: Pending | None) -> tuple[Pod, Pending | None, Wanted]:
        """Patch a pod until it carries what it should.

        Each round asks what the pod should carry. If it carries that, the work is done. Otherwise it is patched; after a conflict
        the pod is read again, and after a patch Redis is asked again, because decisions may have come in between.

        Returns:
            The pod as it is now, the last answer of Redis, and why it carries what it does. None in place of the answer: Redis was
            not asked, or the pod is ending, and what Redis holds is for a later pod of this server.
        """
        for _ in range(MAX_ATTEMPTS):
            decided = self._wanted(pod, pending)
            if pending and decided.grant and decided.reason == Reason.ENDS:
                # A renewal may have come since Redis was asked.
                pending = self.store.pending(pod.server, {decided.grant.id})
                decided = self._wanted(pod, pending)
            grant = decided.grant
            if grant == pod.grant and pod.label == label_of(grant) and pod.annotated == bool(grant):
                return pod, pending, decided
            try:
                patched = self.user_pods.patch(pod, grant)
            except Conflict:
                fresh = self.user_pods.read_again(pod)
                if fresh is None:
                    return pod, None, decided
                # The cache may hold the pod as it was before a patch, from an event or a list that was on its way. Addresses are
                # published from the cache, so the egress proxy would give a blocked pod its tier again.
                self.cache.update(fresh)
                pod = fresh
                continue
            self.cache.update(patched)
            self._log_and_count(pod, decided)
            if pending is None:
                return patched, None, decided
            # A withdrawal or a block may have come after Redis was asked, and another reconciler may have taken its notification.
            pending = self.store.pending(pod.server, {grant.id} if grant else set())
            if (after := self._wanted(patched, pending)).grant == grant:
                return patched, pending, after
            pod = patched
        raise Conflict(f"pod {pod.name} keeps changing")

    def _end_waiting(self, pod: Pod, pending: Pending) -> None:
        """Withdraw what waits for a blocked pod: a decision from before the block must not come back when the block ends (D-061).

        Not only after the patch: Redis may have failed then, or the verifier was still about to write an unlock.
        """
        if block_in(pod.grant, self.clock()):
            grants = [record.grant.id for record in (launch_of(pod, pending), unlock_of(pod, pending)) if record]
            if waiting := set(grants) - pending.withdrawn:
                self.store.withdraw(waiting)

    def _wanted(self, pod: Pod, pending: Pending | None) -> Wanted:
        return wanted(pod, pending, self.settings, self.clock())

    def _log_and_count(self, before: Pod, decided: Wanted) -> None:
        """Log and count what a patch did.

        Args:
            before: the pod as it was before the patch.
            decided: what it carries now, and why.
        """
        grant = decided.grant
        fields: dict[str, object] = {"tier": UNVERIFIED, "rule": "withdrawn", "grant": ""}
        if grant:
            fields = {"tier": grant.tier, "rule": grant.rule, "grant": grant.id}
            fields |= {"by": grant.origin.text, "why": grant.why} if grant.origin.text else {}
        logs.decision("pod", user=before.server.user, server=before.server.name, pod=before.name, reason=decided.reason, **fields)
        if decided.reason == Reason.ENDS:
            self.tally.add({f"{EXPIRIES}{'stop' if grant_stops(before.grant, self.settings) else 'end'}": 1})
        if grant and decided.reason in (Reason.UNLOCK, Reason.LAUNCH, Reason.MODE_ALLOW):
            self.tally.add({f"{GRANTS}{grant.tier}:{grant.rule}": 1})
            self._count_access(before, self._when(before))

    def _when(self, pod: Pod) -> str:
        """When a pod has a tier, as `ACCESS_TIMES` says it."""
        if pod.ready_at is None:
            return "launch" if pod.starting else "start"
        return "ready" if self.clock() - pod.ready_at <= AT_READY_SECONDS else "later"

    def _count_access(self, pod: Pod, when: str) -> None:
        """Count once for each pod when it first had a tier."""
        if self.cache.note(pod.uid, "access") and pod.created >= self.started:
            self.tally.add({f"{ACCESS}{when}": 1})

    # -- published, logged, counted

    def _publish(self, pod: Pod, pending: Pending, why: Wanted) -> None:
        """Publish a pod, and settle its launch once it is ready, or has had its grant (D-004)."""
        facts = facts_of(pod, pending)
        known = KnownServer(
            pod.uid,
            pod.grant or NO_GRANT,
            facts.repository,
            client=facts.clients[0],
            pod=pod.name,
            label=pod.label or "",
            promise=promise_of(pod, pending),
            opens_at=self._opens_at(pod, pending.known),
            announced=is_announced(pod, pending),
            reason=str(why.reason),
            refused_by=str(why.refused_by or ""),
            node=pod.node,
            came=came_of(pod, pending),
        )
        if self.report:
            self.report.see(pod, known)
        if known != pending.known:
            self.store.publish(pod.server, known)
        launch = launch_of(pod, pending)
        if launch and (pod.ready or _had(pod, launch.grant.id, pending.known)):
            self.store.settle(pod.server, launch)

    def _opens_at(self, pod: Pod, before: KnownServer | None) -> int:
        """When the network plugin acts on a pod's label, as `KnownServer` has it. A label that stays the same keeps its time."""
        if before and before.uid == pod.uid and before.label == (pod.label or ""):
            return before.opens_at
        tier = self.settings.tiers.get(pod.label or "")
        # A tier that opens hosts behind the egress proxy alone waits for no label.
        seconds = self.opening_seconds() if pod.label and (tier is None or tier.direct) else 0
        return math.ceil(self.clock()) + seconds if seconds else 0

    def _log_and_count_start(self, pod: Pod, pending: Pending) -> None:
        """Log and count, once for each pod, a launch without a record, a way to ping and the outcome of the start guard."""
        if self.cache.note(pod.uid, "launch"):
            self._log_and_count_launch(pod, pending.launch)
            if pod.ping and pod.created >= self.started:
                self.tally.add({f"{PING}{pod.ping}": 1})
        known = known_of(pod, pending)
        if known and not known.announced and is_announced(pod, pending) and self._counts_as_launched(pod):
            self.tally.add({ANNOUNCED_LATE: 1})
        if pod.guard and self.cache.note(pod.uid, "start guard"):
            self._log_and_count_guard(pod, *pod.guard)

    def _log_and_count_hindrance(self, pod: Pod) -> None:
        """Log and count, once for each pod, that it cannot start because of us. JupyterHub soon deletes such a pod."""
        if pod.hindrance and self.cache.note(pod.uid, "hindrance") and pod.created >= self.started:
            self.tally.add({HINDERED: 1})
            fields = {"pod": pod.name, "user": pod.server.user, "server": pod.server.name, "reason": pod.hindrance}
            log.warning("pod cannot start because of what this chart adds to it", extra={"fields": fields})

    def _log_and_count_launch(self, pod: Pod, launch: Record | None) -> None:
        fields = {"pod": pod.name, "user": pod.server.user, "server": pod.server.name, "image": pod.image}
        if launch is None:
            if self._counts_as_launched(pod):
                self.tally.add({WITHOUT_RECORD: 1})
                log.warning("pod without launch record", extra={"fields": fields})
        elif launch.image != pod.image:
            log.warning("waiting grant is for another image", extra={"fields": {**fields, "granted_image": launch.image}})

    def _counts_as_launched(self, pod: Pod) -> bool:
        """Whether BinderHub started a pod, and not before the reconciler. JupyterHub alone gives a server no repository (D-575)."""
        return pod.created >= self.started and bool(pod.repository)

    def _log_and_count_guard(self, pod: Pod, outcome: str, seconds: float) -> None:
        if pod.created < self.started:
            return
        self.tally.add({f"{START_GUARD}{outcome}": 1, START_GUARD_TIME: round(seconds * 1000)})
        if outcome in NOT_ISOLATED:
            fields = {"pod": pod.name, "user": pod.server.user, "server": pod.server.name, "outcome": outcome, "seconds": seconds}
            log.warning("pod started without proof of its isolation", extra={"fields": fields})


def carried_grants(pods: Iterable[Pod]) -> set[str]:
    """The ids of the grants that pods carry."""
    return {pod.grant.id for pod in pods if pod.grant}


def _had(pod: Pod, launch: str, before: KnownServer | None) -> bool:
    """Whether a pod has already carried the grant of its launch, and that grant is over or was replaced. While the pod takes long
    to become ready, the record of its launch waits, and would give the pod a second lease after a later grant.

    Args:
        pod: the pod.
        launch: the id of that grant.
        before: what was published about its server last.
    """
    if pod.grant and pod.grant.id == launch:
        return isinstance(pod.grant, EndedLease)
    return before is not None and before.uid == pod.uid and before.grant.id == launch
