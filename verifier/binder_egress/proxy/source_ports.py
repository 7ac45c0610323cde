"""Source ports: limits how many connections there are to one address of a host, so that they do not slow down the others (D-340).

Each connection to a host has one of this machine's source ports, and the kernel keeps the port for a minute after the end
(TIME_WAIT). The kernel first looks for a free one among the ports of one parity (`__inet_hash_connect` in
`net/ipv4/inet_hashtables.c`). While half of the ports are free, that takes a step or two. Beyond that it walks past all the taken
ports for each new connection to that address, and the process does nothing else meanwhile.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .limits import DEFAULT_PORTS, FIRST_SHARE, UNVERIFIED_SHARE

USED_SHARE = 0.5
"""The share of the source ports that is used for one address of a host: up to there the kernel finds one without a long search."""

FEW = 20
"""An unverified server with fewer connections to one address in a minute may use `FIRST_SHARE` too."""

KEPT_SECONDS = 60.0
"""Seconds for which the kernel keeps the port of a connection that has ended: `TCP_TIMEWAIT_LEN` in `include/net/tcp.h`."""

ENDED_MOST = 100_000
"""The number of ended connections that are remembered: more than a core opens in a minute."""

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def source_ports(file: Path = _RANGE) -> int:
    """How many source ports this machine has for one address and port, over IPv4 or IPv6; `DEFAULT_PORTS` if unknown.

    Args:
        file: the file of the sysctl that has the first and last port.
    """
    try:
        first, last = map(int, file.read_text().split())
    except (OSError, ValueError):
        return DEFAULT_PORTS
    return last - first + 1


@dataclass(frozen=True, slots=True)
class SourcePort:
    """A source port in use: for which address and port, and by which server."""

    host: tuple[str, int]
    server: str
    verified: bool


class SourcePorts:
    """Counts the source ports for each address of a host: of open connections, and of connections that ended recently.

    All servers together may use half of the machine's ports, and unverified ones half of that. Another tenth is for unverified
    servers that use few, as with connections (`limits`): those that use up the half do not keep others from their packages.

    Args:
        ports: the number of source ports of this machine.
        clock: monotonic time in seconds.
    """

    def __init__(self, ports: int, clock: Callable[[], float] = time.monotonic):
        self._most, self._clock = ports * USED_SHARE, clock
        self._all: Counter[tuple[str, int]] = Counter()
        self._unverified: Counter[tuple[str, int]] = Counter()
        self._of_one: Counter[tuple[tuple[str, int], str]] = Counter()  # for unverified servers
        self._ended: deque[tuple[float, SourcePort]] = deque()

    def __len__(self) -> int:
        """The number of entries that are remembered."""
        return len(self._all) + len(self._unverified) + len(self._of_one) + len(self._ended)

    def take(self, address: str, port: int, server: str, verified: bool) -> SourcePort | None:
        """Count a new connection if it is within the limits. Returns its port, or None.

        Args:
            address: the address that is connected to.
            port: its port.
            server: the server that asks.
            verified: whether it has a tier.
        """
        self.forget_ended()
        taken = SourcePort((address, port), server, verified)
        host, share = taken.host, UNVERIFIED_SHARE + (FIRST_SHARE if self._of_one[taken.host, server] < FEW else 0)
        if self._all[host] >= self._most or (not verified and self._unverified[host] >= self._most * share):
            return None
        self._count(taken, 1)
        return taken

    def give_back(self, taken: SourcePort, connected: bool) -> None:
        """Note that a connection has ended. If it was connected, the kernel keeps its port for a while.

        It does not keep it if the host ended the connection first. There is no way to know which side did, so the port counts.
        """
        if not connected:
            self._count(taken, -1)
            return
        self._ended.append((self._clock(), taken))
        if len(self._ended) > ENDED_MOST:
            self._count(self._ended.popleft()[1], -1)

    def forget_ended(self) -> None:
        """Forget connections that ended long ago. Must be called from time to time."""
        until = self._clock() - KEPT_SECONDS
        while self._ended and self._ended[0][0] <= until:
            self._count(self._ended.popleft()[1], -1)

    def taken(self) -> dict[str, float]:
        """The share in use of the ports allowed for one address, by all and by unverified servers, for the address where it is
        largest."""
        all_, unverified = (max(counter.values(), default=0) / self._most for counter in (self._all, self._unverified))
        return {"all": all_, "unverified": unverified / UNVERIFIED_SHARE}

    def _count(self, taken: SourcePort, step: int) -> None:
        counted: list[tuple[Counter[Any], Any]] = [(self._all, taken.host)]
        if not taken.verified:
            counted += [(self._unverified, taken.host), (self._of_one, (taken.host, taken.server))]
        for counter, key in counted:
            counter[key] += step
            if not counter[key]:
                del counter[key]
