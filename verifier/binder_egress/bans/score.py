"""Which repositories stand out: a score of named parts.

Decisions: D-281, D-282.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from .reading import DAY_SECONDS, Repository, Traffic, by_owner, owner

POINTS = {
    "detections": 45.0,
    "revocations": 20.0,
    "processor time": 15.0,
    "no pass": 10.0,
    "few networks": 5.0,
    "new owner": 5.0,
}
"""The most points for each part. The last four, about traffic, give 35 together: less than `PROPOSED_FROM` (D-281)."""

PROPOSED_FROM = 50.0
"""The score from which on a ban is proposed. No single part reaches it."""

MIN_LAUNCHES = 3
"""The fewest launches of a repository that is proposed."""

MIN_REPOSITORIES = 10
"""The fewest repositories for which a median means anything."""

SHARE_FOR_ALL_POINTS = 0.15
"""The share of servers with a detection or a revocation that gives full points."""

NEW_SHARE, MIN_HISTORY_SECONDS = 0.25, 3 * DAY_SECONDS
"""An owner is new if first seen in the last quarter of the time that was read, provided that the time is three days at least."""

MIN_SPREAD = 0.5
"""The least standard deviation of a logarithm that is assumed, a factor of 1.6: on a hub where all are alike, nobody stands out."""


@dataclass(frozen=True)
class Part:
    """One part of a score.

    Attributes:
        points: the points that it gives.
        why: the figures, in words. It contains no names.
    """

    points: float
    why: str


@dataclass(frozen=True)
class Score:
    """A repository with its score.

    Attributes:
        repository: the repository.
        parts: the parts that could be judged, by name.
        spared: whether the operator says not to propose it (`--except`). Its launches still count for its owner and its networks.
    """

    repository: Repository
    parts: dict[str, Part]
    spared: bool = False

    @property
    def points(self) -> float:
        """The sum of the parts, 0 to 100."""
        return round(sum(part.points for part in self.parts.values()), 1)

    @property
    def proposed(self) -> bool:
        """Whether the score is high enough to propose a ban, and the repository is not spared."""
        return not self.spared and self.points >= PROPOSED_FROM and self.repository.launches >= MIN_LAUNCHES


Judged = dict[str, Part] | None
"""One part for all repositories that have points for it, by name; None: it cannot be judged."""


def scores(traffic: Traffic) -> tuple[list[Score], dict[str, str]]:
    """The scores of all repositories, the largest first; and the parts that are left out, with the reasons."""
    repositories = list(traffic.repositories.values())
    parts: dict[str, dict[str, Part]] = {}
    left_out: dict[str, str] = {}
    for name, (judge, reason) in {
        "detections": (_detections, "no line of cryptnono or minesweeper was read"),
        "revocations": (_revocations, "no decision was read"),
        "processor time": (_processor_time, f"no processor time of {MIN_REPOSITORIES} repositories is known"),
        "no pass": (_no_pass, f"no decisions about {MIN_REPOSITORIES} repositories were read"),
        "few networks": (_few_networks, f"no networks of {MIN_REPOSITORIES} repositories were read"),
        "new owner": (_new_owner, "what was read covers less than three days, or too few owners"),
    }.items():
        judged = judge(traffic, repositories)
        if judged is None:
            left_out[name] = reason
        else:
            parts[name] = judged
    done = [
        Score(one, {name: judged[one.name] for name, judged in parts.items() if one.name in judged})
        for one in repositories
        if one.launches
    ]
    return sorted(done, key=lambda one: (-one.points, -one.repository.launches, one.repository.name)), left_out


def _detections(traffic: Traffic, repositories: list[Repository]) -> Judged:
    return _shares("detections", "detected", repositories) if traffic.lines["detection"] else None


def _revocations(traffic: Traffic, repositories: list[Repository]) -> Judged:
    return _shares("revocations", "revoked", repositories) if traffic.lines["decision"] else None


def _shares(part: str, attribute: str, repositories: list[Repository]) -> dict[str, Part]:
    judged = {}
    for one in repositories:
        if (number := len(getattr(one, attribute))) and one.launches:
            share = at_least(number, max(number, one.launches)) / SHARE_FOR_ALL_POINTS
            judged[one.name] = Part(POINTS[part] * _unit(share), f"{number} of {one.launches} servers")
    return judged


def _processor_time(_: Traffic, repositories: list[Repository]) -> Judged:
    used = {one.name: sum(one.seconds) / len(one.seconds) for one in repositories if one.seconds}
    return _apart("processor time", used, 2.0, 6.0, lambda value, middle: f"{value:.0f} s a launch, {middle:.0f} s at the median")


def _no_pass(_: Traffic, repositories: list[Repository]) -> Judged:
    seen = [one for one in repositories if one.servers]
    if len(seen) < MIN_REPOSITORIES:
        return None
    usual = median(len(one.without_pass) / len(one.servers) for one in seen)
    return {
        one.name: Part(
            POINTS["no pass"] * (_unit((at_least(number, len(one.servers)) - usual) / (1 - usual)) if usual < 1 else 0.0),
            f"{number} of {len(one.servers)} without one, {usual:.0%} at the median",
        )
        for one in seen
        if (number := len(one.without_pass))
    }


def _few_networks(_: Traffic, repositories: list[Repository]) -> Judged:
    each = {one.name: one.networks.total() / len(one.networks) for one in repositories if one.networks}
    return _apart(
        "few networks", each, 1.0, 4.0, lambda value, middle: f"{value:.1f} launches a network, {middle:.1f} at the median"
    )


def _new_owner(traffic: Traffic, repositories: list[Repository]) -> Judged:
    began = min(traffic.first_seen.values(), default=traffic.until)
    if traffic.until - began < MIN_HISTORY_SECONDS:
        return None
    new_since = traffic.until - (traffic.until - began) * NEW_SHARE
    owners = {name: float(sum(one.launches for one in theirs)) for name, theirs in by_owner(repositories).items()}
    judged = _apart("new owner", owners, 1.0, 4.0, lambda value, middle: f"{value:.0f} launches, {middle:.0f} at the median owner")
    if judged is None:
        return None
    new = {name for name in judged if traffic.first_seen.get(name, 0.0) > new_since}
    return {one.name: judged[owner(one.name)] for one in repositories if owner(one.name) in new}


def _apart(part: str, values: dict[str, float], from_: float, to: float, say: Callable[[float, float], str]) -> Judged:
    """Points for how far a value is above the median, in robust standard deviations of the logarithm: none at `from_`, full at
    `to`.

    The median and the median absolute deviation hardly move if a few values are far away: one miner does not hide another.
    """
    positive = {name: value for name, value in values.items() if value > 0}
    if len(positive) < MIN_REPOSITORIES:
        return None
    middle, spread = robust(map(math.log, positive.values()))
    return {
        name: Part(POINTS[part] * _unit(((math.log(value) - middle) / spread - from_) / (to - from_)), say(value, math.exp(middle)))
        for name, value in positive.items()
    }


def robust(values: Iterable[float]) -> tuple[float, float]:
    """The median, and a standard deviation derived from the median absolute deviation, `MIN_SPREAD` at least.

    The factor 1.4826 makes it the standard deviation of a normal distribution.
    """
    numbers = list(values)
    middle = median(numbers)
    return middle, max(MIN_SPREAD, 1.4826 * median(abs(value - middle) for value in numbers))


def at_least(number: int, of: int) -> float:
    """The share, 0 to 1, that `number` out of `of` proves at least: the lower end of Wilson's 99 % interval. Three out of three
    prove 0.31."""
    z, share = 2.576, number / of
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (share + z * z / (2 * of) - spread) / (1 + z * z / of)


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
