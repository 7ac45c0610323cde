"""New hosts: a server that tries many addresses in a minute has to wait, so that nobody scans through the proxy."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

WINDOW_SECONDS = 60.0
"""Seconds for which an address counts after it was first tried."""

DOUBLED_AFTER = 0.25
"""The share of the limit by which it must be exceeded for the delay to double."""

NEW_ADDRESSES = 4
"""How many addresses of a name may fail in a minute. Its further new ones are not tried then, or the owner of a name could make its
visitors look like scanners."""

WAIT_SECONDS = 10.0
"""The longest wait. Beyond it the connection is refused, and its address was not tried. pip gives up after 15 s, and many others
later."""


@dataclass
class _Server:
    """What a server tried in the last minute.

    Attributes:
        tried: address → when it was or will be tried, and the name that led to it; the oldest first.
        failed: those that did not answer.
        last: when the last one was or will be tried.
    """

    tried: dict[str, tuple[float, str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    last: float = 0.0


class NewHosts:
    """The addresses that servers tried in the last minute. A name with some that do not answer counts once more.

    Args:
        verified: how many a server with a tier may try in a minute without a wait; 0: any number.
        unverified: how many one without may try.
        note: called for each new address with `verified` or `unverified`, and `immediate`, `waited` or `refused`.
        clock: monotonic time in seconds.

    Attributes:
        beyond: the servers that went beyond the limit, until somebody removes them.
    """

    def __init__(
        self,
        verified: float,
        unverified: float,
        note: Callable[[str, str], None] = lambda who, outcome: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._most = {"verified": verified, "unverified": unverified}
        self._note, self._clock = note, clock
        self._servers: dict[str, _Server] = {}
        self.beyond: set[str] = set()

    def __len__(self) -> int:
        """The number of servers about which something is remembered."""
        return len(self._servers)

    def of(self, server: str, name: str) -> list[str]:
        """The addresses that a name led a server to in the last minute, and that answered. Large services give other addresses in
        each answer of DNS, and are one host."""
        known = self._recent(server)
        return [address for address, (_, led) in known.tried.items() if led == name and address not in known.failed]

    def choose(self, server: str, verified: bool, name: str, addresses: Sequence[str]) -> list[str]:
        """Those addresses of a name that a server may try now, in this order: any that answered it, up to `NEW_ADDRESSES` new ones,
        any that failed. See `wait` for the arguments."""
        known = self._recent(server)
        failed = sum(known.tried[address][1] == name for address in known.failed)
        few = max(0, NEW_ADDRESSES - failed) if self._most[_who(verified)] else len(addresses)
        return [
            *(address for address in addresses if address in known.tried and address not in known.failed),
            *_in_turns([address for address in addresses if address not in known.tried])[:few],
            *(address for address in addresses if address in known.failed),
        ]

    def wait(self, server: str, verified: bool, name: str, address: str) -> float | None:
        """Note that a server is about to try an address.

        Args:
            server: the server.
            verified: whether it has a tier.
            name: the name that led to the address.
            address: the address.

        Returns:
            The seconds to wait first. None: it would take too long, and the address must not be tried.
        """
        known, now, who = self._recent(server), self._clock(), _who(verified)
        most = self._most[who]
        if not most:
            return 0.0
        if address in known.tried:  # Its turn may still be to come.
            return max(0.0, known.tried[address][0] - now)
        over = len(known.tried) + len({known.tried[failed][1] for failed in known.failed}) - most
        turn = now
        if over >= 0:
            self.beyond.add(server)
            turn = max(now, known.last + WINDOW_SECONDS / most * 2 ** (over / (most * DOUBLED_AFTER)))
        if turn - now > WAIT_SECONDS:
            self._note(who, "refused")
            return None
        known.tried[address], known.last = (turn, name), turn  # D-471
        self._servers[server] = known
        self._note(who, "waited" if turn > now else "immediate")
        return turn - now

    def fail(self, server: str, address: str) -> None:
        """Note that an address did not answer."""
        known = self._recent(server)
        if address in known.tried:
            known.failed.add(address)

    def forget_old(self) -> None:
        """Forget what is older than a minute. Must be called from time to time."""
        for server in list(self._servers):
            if not self._recent(server).tried:
                del self._servers[server]

    def _recent(self, server: str) -> _Server:
        known, since = self._servers.get(server) or _Server(), self._clock() - WINDOW_SECONDS
        while known.tried and known.tried[first := next(iter(known.tried))][0] <= since:
            del known.tried[first]
            known.failed.discard(first)
        return known


def _who(verified: bool) -> str:
    return "verified" if verified else "unverified"


def _in_turns(addresses: Sequence[str]) -> list[str]:
    """Addresses of both families in turns, as RFC 8305 says: if one family leads nowhere, the other is among the first."""
    six, four = ([address for address in addresses if (":" in address) is is_six] for is_six in (True, False))
    families = (six, four) if addresses[:1] == six[:1] else (four, six)
    return [address for pair in zip_longest(*families) for address in pair if address]
