"""What a pod should carry: a function of the pod, of what Redis holds about its server, of the settings and of the time."""

import math
from dataclasses import dataclass

from ..decisions import leases
from ..decisions.refusals import Facts, blocks_on, refusal
from ..model.grants import Carried, Egress, EndedLease, Grant, Rule
from ..model.records import KnownServer, Pending, Reason, Record
from ..settings import ReconcilerSettings
from .user_pods import Pod

LATE_POD_SECONDS = 60
"""A launch that was announced late decides only for a pod that was created at most this many seconds from its launch. BinderHub
asks JupyterHub for up to 28 s, KubeSpawner asks Kubernetes for 30 s, and their clocks may differ (D-520)."""


@dataclass(frozen=True)
class Wanted:
    """What a pod should carry, and why.

    Attributes:
        reason: the row that decides.
        grant: what it should carry; None: nothing.
        refused_by: the rule that refuses the pod egress by the settings, whether that decides or not; None: none does.
    """

    reason: Reason
    grant: Carried | None = None
    refused_by: Rule | None = None


def wanted(pod: Pod, pending: Pending | None, settings: ReconcilerSettings, now: float) -> Wanted:
    """What a pod should carry, by the first row of `Reason` that applies.

    A block on the pod counts until an operator removes it.

    A grant counts if it is not withdrawn, its tier is in the settings, and, if it is a grant of mode `allow`, that is the mode.
    A launch without egress does not count, as `unverified` is not a tier in the settings: its pod carries nothing.
    The end of a lease may stop the pod if a launch or an operator gave the grant. If an unlock gave the grant, the end of its lease
    may stop the pod only if the pod was already going to be stopped (D-220).
    A launch or an unlock whose grant is already on the pod no longer waits: the annotation says how long it lasts.

    Nothing is read or written. Only the random id of a new grant is not a function of the arguments.

    Args:
        pod: the pod.
        pending: what Redis holds about its server; None: Redis does not answer, so only the pod's own grant is known.
        settings: mode and tiers.
        now: Unix time in seconds.
    """
    facts = facts_of(pod, pending)
    if blocks := blocks_on(facts, pending.blocks if pending else (), now):
        # The block on the pod outlives a wipe of Redis, so it must be the longest.
        return Wanted(Reason.BLOCK, max(blocks, key=lambda grant: math.inf if grant.until is None else grant.until))
    refused_by = refusal(facts, (), settings, now)
    waiting = _waiting(pod, pending, settings, now)
    if waiting is None and settings.mode == "allow" and not refused_by:
        waiting = Reason.MODE_ALLOW, Egress.new(settings.allow_tier, Rule.MODE_ALLOW, now)
    return Wanted(*(waiting or _ended(pod, pending, settings, now)), refused_by)


def _waiting(pod: Pod, pending: Pending | None, settings: ReconcilerSettings, now: float) -> tuple[Reason, Egress] | None:
    """The egress that a pod that no block keeps from it is given, or keeps."""
    own = pod.grant

    def waiting(record: Record | None) -> Egress | None:
        return _counting(record.grant, pending, settings) if record and not (own and own.id == record.grant.id) else None

    unlock, launch = waiting(unlock_of(pod, pending)), waiting(launch_of(pod, pending))
    counted = _counting(own, pending, settings)
    kept = counted if counted and not counted.is_over(now) else None
    if unlock and not (kept and _is_less(unlock, kept, settings, now)):
        to_be_stopped = own is not None and not _is_withdrawn(own, pending) and grant_stops(own, settings)
        may_stop = to_be_stopped or unlock.rule == Rule.OPERATOR
        return Reason.UNLOCK, leases.begin(unlock, settings.tiers[unlock.tier], now, may_stop)
    if kept:
        return Reason.KEPT, leases.shorten(kept, settings.tiers[kept.tier], now)
    return (Reason.LAUNCH, leases.begin(launch, settings.tiers[launch.tier], now, may_stop=True)) if launch else None


def _ended(pod: Pod, pending: Pending | None, settings: ReconcilerSettings, now: float) -> tuple[Reason, Carried | None]:
    """What a pod without egress carries."""
    own, counted = pod.grant, _counting(pod.grant, pending, settings)
    if isinstance(own, EndedLease) and not _is_withdrawn(own, pending):
        return Reason.ENDED, own
    return (Reason.ENDS, leases.end(counted, now, grant_stops(counted, settings))) if counted else (Reason.NOTHING, None)


def _counting(grant: Grant | None, pending: Pending | None, settings: ReconcilerSettings) -> Egress | None:
    if not isinstance(grant, Egress) or (grant.rule == Rule.MODE_ALLOW and settings.mode != "allow"):  # D-007
        return None
    return grant if grant.tier in settings.tiers and not _is_withdrawn(grant, pending) else None


def _is_withdrawn(grant: Grant, pending: Pending | None) -> bool:
    return pending is not None and grant.id in pending.withdrawn


def _is_less(unlock: Egress, kept: Egress, settings: ReconcilerSettings, now: float) -> bool:
    """Whether an unlock gives less than the grant that a pod keeps, because it was decided earlier. An operator's grant always
    counts."""
    if unlock.rule == Rule.OPERATOR:
        return False
    if unlock.tier == kept.tier:
        return kept.until is None and settings.tiers[kept.tier].lease > 0
    return unlock.tier not in leases.larger_than(kept, settings, now)


def grant_stops(grant: Carried | None, settings: ReconcilerSettings) -> bool:
    """Whether the end of a grant's lease stops its pod, or is about to."""
    if isinstance(grant, EndedLease):
        return grant.may_stop and grant.stop_at is not None
    tier = settings.tiers.get(grant.tier) if isinstance(grant, Egress) and grant.may_stop else None
    return tier is not None and leases.tier_stops(tier, settings)


def unlock_of(pod: Pod, pending: Pending | None) -> Record | None:
    """The unlock for this pod, and not for another one of the same server (D-006)."""
    return pending.unlock if pending and pending.unlock and pending.unlock.uid == pod.uid else None


def launch_of(pod: Pod, pending: Pending | None) -> Record | None:
    """The launch that this pod comes from."""
    launch = pending.launch if pending else None
    if launch is None or launch.image != pod.image:
        return None
    in_time = launch.launched_at is None or abs(pod.created - launch.launched_at) <= LATE_POD_SECONDS
    return launch if in_time else None


def facts_of(pod: Pod, pending: Pending | None) -> Facts:
    """The facts on which a refusal of this pod is decided.

    BinderHub's announcement of the launch counts first, even after the launch is settled; then the environment of the pod.
    """
    launch, known = launch_of(pod, pending), known_of(pod, pending)
    repository = launch.repository if launch else known.repository if known else ""
    client = launch.client if launch else known.client if known else ""
    is_removed = pending is not None and pod.grant is not None and pod.grant.id in pending.lifted
    return Facts(repository or pod.repository, (client or pod.client,), pod.uid, None if is_removed else pod.grant)


def known_of(pod: Pod, pending: Pending | None) -> KnownServer | None:
    """What was published about this pod last."""
    return pending.known if pending and pending.known and pending.known.uid == pod.uid else None


def promise_of(pod: Pod, pending: Pending) -> str:
    """The promise that came with the launch of this pod, even after the launch is settled; empty: none did."""
    launch, known = launch_of(pod, pending), known_of(pod, pending)
    return launch.promise if launch else known.promise if known else ""


def came_of(pod: Pod, pending: Pending) -> str:
    """How the launch of this pod came, even after the launch is settled; empty if unknown."""
    launch, known = launch_of(pod, pending), known_of(pod, pending)
    return launch.came if launch else known.came if known else ""


def is_announced(pod: Pod, pending: Pending) -> bool:
    """Whether BinderHub announced the launch of this pod, even after the launch is settled."""
    known = known_of(pod, pending)
    return launch_of(pod, pending) is not None or (known is not None and known.announced)
