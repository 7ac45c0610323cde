"""The share limit: how many servers detections may cut off in ten minutes.

A wrong rule must not empty a hub. A miner must not be able to switch off a rule by starting many servers that it detects. So
servers with egress and servers without are counted separately, since the latter cost nothing to start (D-324).
"""

from collections.abc import Mapping

WINDOW_SECONDS = 600
"""Seconds for which a server counts after it was cut off."""

MAX_SHARE = 0.1
"""The share of the running servers that may be cut off in the window."""

ALWAYS = 9
"""The number of servers that may be cut off in the window, however few are running."""


def in_window(at: float, now: float) -> bool:
    """Whether an event at one Unix time in seconds still counts at another. An event too far in the future, from a wrong clock or
    in a forged record, does not: it would count for ever."""
    return abs(now - at) < WINDOW_SECONDS


class ShareLimit:
    """Counts the servers that detections cut off recently, each once."""

    def __init__(self) -> None:
        self._acted: dict[str, tuple[float, bool | None]] = {}  # by uid: when, and whether it had egress

    def remember(self, acted: Mapping[str, float]) -> None:
        """Count servers that an earlier process cut off: uid → Unix time in seconds. Whether they had egress is not known, so they
        count on both sides."""
        for uid, at in acted.items():
            self._acted.setdefault(uid, (at, None))

    def allows(self, uid: str, has_egress: bool, running: int, now: float) -> bool:
        """Whether one more server may be cut off. If so, it counts from now on.

        Args:
            uid: its pod.
            has_egress: whether it has a tier.
            running: the number of running servers that are not blocked, among those with a tier or among those without.
            now: Unix time in seconds.
        """
        self._acted = {one: (at, had) for one, (at, had) in self._acted.items() if in_window(at, now)}
        if uid in self._acted:
            return True
        acted = sum(had in (has_egress, None) for _, had in self._acted.values())
        # Those that were cut off were running, too.
        if acted + 1 > max(ALWAYS, MAX_SHARE * (running + acted)):
            return False
        self._acted[uid] = now, has_egress
        return True
