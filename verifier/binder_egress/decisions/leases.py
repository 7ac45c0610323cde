"""Leases: how long a grant of a tier lasts (`tiers.<name>.lease`), and what happens at its end (`onExpiry`).

The reconciler dates a grant when it writes it on the pod, by its own clock. From then on the annotation says when the lease ends.
When the lease ends, the reconciler replaces the grant with one without egress that has the same id and the rule `expired`. So the
pass or key that gave the tier cannot give it again, even if Redis still holds the grant or a clock is set back.

Decisions: D-071, D-072, D-075.
"""

from dataclasses import dataclass, replace
from typing import Literal

from ..model.grants import Egress, EndedLease, Grant, Rule
from ..model.passes import LEEWAY_SECONDS
from ..settings import CommonSettings, Tier

STOP_GRACE_SECONDS = 120
"""Seconds between the end of a lease and the deletion of its pod (`onExpiry: stop`). An unlock within this time saves the pod. It
allows for clocks that are set forward, and for a renewal that could not be recorded and is tried again."""


def begin(grant: Egress, tier: Tier, now: float, may_stop: bool) -> Egress:
    """A grant as it is written on a pod: with the end of its lease, if its tier has a lease.

    A grant of mode `allow` has no lease: that mode is for times when nobody can solve a captcha, so nobody could renew.

    Args:
        grant: the decision.
        tier: its tier.
        now: Unix time in seconds.
        may_stop: whether the end of the lease may stop the pod.
    """
    if grant.rule == Rule.MODE_ALLOW or not tier.lease:
        return grant
    return replace(grant, until=int(now) + tier.lease, may_stop=may_stop)


def shorten(grant: Egress, tier: Tier, now: float) -> Egress:
    """A grant on a pod, cut to one lease from `now` (Unix seconds), if it is longer: the clock was set back, or the lease became
    shorter in the values."""
    latest = int(now) + tier.lease
    too_long = tier.lease and grant.until is not None and grant.until > latest + LEEWAY_SECONDS
    return replace(grant, until=latest) if too_long else grant


def end(grant: Egress, now: float, stop: bool) -> EndedLease:
    """The grant that replaces one whose lease is over.

    Args:
        grant: the grant whose lease is over.
        now: Unix time in seconds.
        stop: whether the pod must be stopped, `STOP_GRACE_SECONDS` later at the earliest.
    """
    stop_at = int(now) + STOP_GRACE_SECONDS if stop else None
    return EndedLease(grant.id, int(now), grant.origin, grant.why, stop_at, grant.may_stop)


def tier_stops(tier: Tier, settings: CommonSettings) -> bool:
    """Whether a tier's lease stops the pods that it may stop. Only in mode `captcha`: in other modes nobody loses egress."""
    return tier.on_expiry == "stop" and settings.mode == "captcha"


def larger(tier: str, until: int | None, settings: CommonSettings, now: float) -> list[str]:
    """The tiers that a server may get in place of its own, the largest first.

    Anybody may ask for them, so they must be better in every respect: a higher rank, an end that is not earlier, and no stop unless
    the current tier has one too.

    Args:
        tier: its own tier.
        until: Unix time in seconds of the end of its lease; None: it has no lease.
        settings: tiers and mode.
        now: Unix time in seconds.
    """
    own = settings.tiers.get(tier)
    if own is None:
        return []

    def lasts(other: Tier) -> bool:
        if not other.lease:
            return True
        enough = until is not None and int(now) + other.lease >= until
        return enough and (tier_stops(own, settings) or not tier_stops(other, settings))

    names = [name for name, other in settings.tiers.items() if other.rank > own.rank and lasts(other)]
    return sorted(names, key=lambda name: (-settings.tiers[name].rank, name))


def larger_than(grant: Grant, settings: CommonSettings, now: float) -> list[str]:
    """The tiers that a server may get in place of what a grant gives it, as `larger` says."""
    return larger(grant.tier, grant.until, settings, now) if isinstance(grant, Egress) else []


def outranking(tier: str, settings: CommonSettings, now: float) -> list[str]:
    """The tiers whose waiting unlocks an unlock with this tier must not replace, because it is not larger.

    Args:
        tier: a tier.
        settings: tiers and mode.
        now: Unix time in seconds.
    """

    def stays(other: str, lease: int) -> bool:
        return tier not in larger(other, int(now) + lease if lease else None, settings, now)

    return [other for other, has in settings.tiers.items() if other != tier and stays(other, has.lease)]


@dataclass(frozen=True)
class Left:
    """The time left on a lease; after its end, the time left until the pod is stopped.

    Attributes:
        until: Unix time in seconds of the end.
        expires_in: seconds until then.
        on_expiry: what happens then.
        renewable_in: seconds until the lease can be renewed, which is possible in its second half; an earlier renewal would gain
            little and waste a use. None: it cannot be renewed.
    """

    until: int
    expires_in: int
    on_expiry: Literal["end", "stop"]
    renewable_in: int | None


def left(grant: Grant, settings: CommonSettings, now: float, refused: bool = False) -> Left | None:
    """The time left on a server's lease, or None without a lease. The end of a block is never revealed.

    Args:
        grant: the grant that its pod carries.
        settings: tiers and mode.
        now: Unix time in seconds.
        refused: whether a refusal applies to the server, so that its lease cannot be renewed.
    """
    if isinstance(grant, EndedLease) and grant.stop_at is not None and settings.mode == "captcha":
        return Left(grant.stop_at, max(0, grant.stop_at - int(now)), "stop", None)
    if not isinstance(grant, Egress) or grant.until is None:
        return None
    expires_in = max(0, grant.until - int(now))
    tier = settings.tiers.get(grant.tier)
    if tier is None:
        return Left(grant.until, expires_in, "end", None)
    renewable_in = None if refused else max(0, expires_in - tier.lease // 2) if tier.lease else 0
    return Left(grant.until, expires_in, "stop" if grant.may_stop and tier_stops(tier, settings) else "end", renewable_in)
