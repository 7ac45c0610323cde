"""Leases: how long a grant of a tier lasts (`tiers.<name>.lease`), and what comes then (`onExpiry`).

The reconciler dates a grant when it puts it on the pod, by its own clock. From then on the annotation says until when it lasts.
When that is over it puts a grant of nothing in its place, with the same id and the rule `expired`: so what gave the tier cannot
give it again, whatever else still remembers it, and whichever way clocks are set.
"""

from dataclasses import dataclass, replace
from typing import Literal

from ..passes import LEEWAY
from ..records import BLOCKED, UNVERIFIED, Grant, KnownServer
from ..settings import RedisSettings, Tier
from .rules import MODE_ALLOW

EXPIRED = "expired"
"""The rule of what is left on a pod when its lease is over: a grant of nothing."""

GRACE = 120
"""Seconds without network before a pod is stopped whose lease is over. Unlocking it still saves it. They are there for clocks that
are set forward, and so that a renewal which nobody could record can be tried again."""


def begin(grant: Grant, tier: Tier, now: float) -> Grant:
    """A grant as it is put on a pod: with the end of its lease, if its tier has one.

    What mode `allow` gives has none: it is for the day on which nobody can solve anything, and so nobody can renew.
    """
    return replace(grant, until=int(now) + tier.lease) if tier.lease and grant.rule != MODE_ALLOW else grant


def shorten(grant: Grant, tier: Tier, now: float) -> Grant:
    """A grant on a pod, which never lasts longer from now than a lease: the clock was set back, or the lease became shorter."""
    latest = int(now) + tier.lease
    too_long = tier.lease and grant.until is not None and grant.until > latest + LEEWAY
    return replace(grant, until=latest) if too_long else grant


def end(grant: Grant, now: float, stop: bool) -> Grant:
    """What is left of a grant whose lease is over.

    Args:
        grant: the grant.
        now: Unix time in seconds.
        stop: whether its pod shall be stopped; `until` then says when, at the earliest.
    """
    return replace(grant, tier=UNVERIFIED, rule=EXPIRED, at=int(now), until=int(now) + GRACE if stop else None)


def has_ended(wanted: Grant, had: Grant | None) -> bool:
    """Whether a pod's lease ends just now: what it shall carry is the end, and what it had is not."""
    return wanted.rule == EXPIRED and had is not None and had.rule != EXPIRED


def stops(tier: Tier, settings: RedisSettings) -> bool:
    """Whether the end of a lease is that of the pod. Not where nothing is taken away, nor while everybody is let in."""
    return tier.on_expiry == "stop" and settings.mode == "captcha"


def larger(known: KnownServer, settings: RedisSettings, now: float) -> list[str]:
    """The tiers that a server may get in place of the one that it has, the largest first.

    They are more in every respect, since anybody may ask for them: they have a higher rank, last as long at least, and do not stop
    a server that would not have been stopped.

    Args:
        known: the server.
        settings: tiers and mode.
        now: Unix time in seconds.
    """
    has = settings.tiers.get(known.tier)
    if has is None:
        return []

    def lasts(tier: Tier) -> bool:
        if not tier.lease:
            return True
        enough = known.until is not None and int(now) + tier.lease >= known.until
        return enough and (stops(has, settings) or not stops(tier, settings))

    found = [name for name, tier in settings.tiers.items() if tier.rank > has.rank and lasts(tier)]
    return sorted(found, key=lambda name: (-settings.tiers[name].rank, name))


@dataclass(frozen=True)
class Left:
    """What is left of a lease; or, when it is over, of the time until the pod is stopped.

    Attributes:
        until: Unix time in seconds.
        expires_in: seconds from now.
        on_expiry: what comes then.
        renewable_in: seconds until the lease can be renewed, which is in its second half: earlier there would be little to gain,
            and a use to lose. None: it cannot.
    """

    until: int
    expires_in: int
    on_expiry: Literal["end", "stop"]
    renewable_in: int | None


def left(known: KnownServer, settings: RedisSettings, now: float, refused: bool = False) -> Left | None:
    """What is left of a server's lease, or None if it has none. A block's end is not told, nor that of a pod that is not stopped.

    Args:
        known: the server.
        settings: tiers and mode.
        now: Unix time in seconds.
        refused: whether the rules refuse it what it has, so that it cannot be renewed.
    """
    if known.until is None or known.rule == BLOCKED or (known.rule == EXPIRED and settings.mode != "captcha"):
        return None
    expires_in = max(0, known.until - int(now))
    tier = settings.tiers.get(known.tier)
    if tier is None:
        return Left(known.until, expires_in, "stop" if known.rule == EXPIRED else "end", None)
    wait = None if refused else max(0, expires_in - tier.lease // 2) if tier.lease else 0
    return Left(known.until, expires_in, "stop" if stops(tier, settings) else "end", wait)
