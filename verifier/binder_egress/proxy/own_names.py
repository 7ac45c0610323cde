"""The addresses of the hub's own names, looked up again and again: another name that has one of them is refused, too."""

import asyncio
from collections.abc import Callable, Iterable

from .resolve import Resolver

AGAIN_SECONDS = 30.0
"""Seconds between two lookups of a name."""

KEPT_SECONDS = 3600.0
"""Seconds for which an address counts as the hub's after DNS last gave it for one of its names: DNS may give a few of many at a
time, in turns."""

TICK_SECONDS = 1.0
"""Seconds between two looks at what is due."""


class OwnNames:
    """The hub's own names and their addresses.

    Args:
        names: the names, and `*.` suffixes, which have no addresses.
        resolver: looks the names up.
        clock: monotonic time in seconds.
    """

    def __init__(self, names: Iterable[str], resolver: Resolver, clock: Callable[[], float]):
        self._names = {name for name in names if not name.startswith("*.")}
        self._resolver, self._clock = resolver, clock
        self._found: dict[str, dict[str, float]] = {}  # by name: its addresses, and when DNS last gave each
        self._looked_up = -AGAIN_SECONDS

    def add(self, name: str) -> None:
        """Add a name, which is looked up at once."""
        self._names.add(name)
        self._looked_up = -AGAIN_SECONDS

    def addresses(self) -> list[str]:
        """The addresses of all names."""
        return [address for found in self._found.values() for address in found]

    async def look_up(self) -> None:
        """Look the names up until cancelled. An answer may take seconds."""
        again, pause = 0.0, TICK_SECONDS
        while True:
            due, missing = self._clock() - self._looked_up >= AGAIN_SECONDS, self._clock() >= again
            if due:
                self._looked_up = self._clock()
            # Without an address so far, other names of its addresses are open, so it is looked up again sooner.
            for name in [name for name in self._names if due or (missing and name not in self._found)]:
                # A name that cannot be resolved for a while keeps its last addresses.
                if found := await self._resolver.addresses(name):
                    now, known = self._clock(), self._found.get(name, {})
                    recent = {address: at for address, at in known.items() if now - at <= KEPT_SECONDS}
                    self._found[name] = recent | dict.fromkeys(found, now)
            if missing:
                pause = min(2 * pause, AGAIN_SECONDS) if self._names - self._found.keys() else TICK_SECONDS
                again = self._clock() + pause
            await asyncio.sleep(TICK_SECONDS)
