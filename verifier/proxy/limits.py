"""Limits: what one server may take, and all unverified ones together, so that nobody takes anything from another."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

UNVERIFIED_SHARE = 0.5
"""The part of all connections, and of all bytes, that unverified and unknown servers may have together."""

FIRST_SHARE = 0.1
"""The part of all connections that they have besides, for servers that have none open: a few that hold the half cannot keep the
start guards of all new pods from an answer."""

DEFAULT_PORTS = 28_232
"""Source ports of a machine on which nobody has set another range: Linux's default, 32768 to 60999."""

BURST_SECONDS = 2.0
"""Seconds of its rate that a server may use at once, after it used nothing."""


class Bucket:
    """A token bucket that may go into debt.

    Args:
        rate: tokens a second; 0: no limit.
        clock: seconds that no setting of a clock changes.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self._rate, self._clock = rate, clock
        self._tokens, self._at = rate * BURST_SECONDS, clock()

    def take(self, number: float = 1) -> float:
        """Take tokens. Returns the seconds until the bucket is out of debt."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._tokens = min(self._rate * BURST_SECONDS, self._tokens + (now - self._at) * self._rate) - number
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def has(self) -> bool:
        """Whether a token is left, and take it if so."""
        if self.take() > 0:
            self._tokens += 1
            return False
        return True

    @property
    def is_full(self) -> bool:
        """Whether nothing was taken lately."""
        return self._tokens + (self._clock() - self._at) * self._rate >= self._rate * BURST_SECONDS


@dataclass(frozen=True)
class Limits:
    """The limits of the values, and of the machine.

    Attributes:
        connections: connections of one server at a time, silent ones included.
        new_per_second: new connections of one server a second.
        bytes_per_second: bytes of one server a second, both directions together; 0: no limit.
        all_connections: connections of all servers at a time, in this process.
        all_bytes_per_second: bytes of all servers a second, both directions together; 0: no limit.
        source_ports: source ports of the machine toward one address of a host.
    """

    connections: int = 100
    new_per_second: float = 20
    bytes_per_second: float = 0
    all_connections: int = 4000
    all_bytes_per_second: float = 0
    source_ports: int = DEFAULT_PORTS


class Usage:
    """What servers use. A server is named by its pod's uid, or by its address while that is unknown.

    Args:
        limits: the limits.
        clock: seconds that no setting of a clock changes.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self._limits, self._clock = limits, clock
        self._open: Counter[str] = Counter()
        self._new: dict[str, Bucket] = {}
        self._bytes: dict[str, Bucket] = {}
        self._all_bytes = Bucket(limits.all_bytes_per_second, clock)
        self._unverified_bytes = Bucket(limits.all_bytes_per_second * UNVERIFIED_SHARE, clock)
        self.connections = 0
        self.unverified = 0

    def __len__(self) -> int:
        """Servers of which something is remembered."""
        return len(self._open.keys() | self._new.keys() | self._bytes.keys())

    def admit(self, server: str, verified: bool) -> bool:
        """Count a new connection, if it is within the limits."""
        if not self._new.setdefault(server, Bucket(self._limits.new_per_second, self._clock)).has():
            return False
        share = 1.0 if verified else UNVERIFIED_SHARE + (0 if self._open[server] else FIRST_SHARE)
        full = (self.connections if verified else self.unverified) >= self._limits.all_connections * share
        if full or self.connections >= self._limits.all_connections or self._open[server] >= self._limits.connections:
            return False
        self._open[server] += 1
        self.connections += 1
        self.unverified += not verified
        return True

    def release(self, server: str, verified: bool) -> None:
        """A connection that was admitted has ended. The arguments are those of `admit`."""
        self._open[server] -= 1
        if not self._open[server]:
            del self._open[server]
        self.connections -= 1
        self.unverified -= not verified

    def taken(self) -> dict[str, float]:
        """Of all connections that there may be, and of those of unverified servers: which part is open."""
        most = self._limits.all_connections
        return {"all": self.connections / most, "unverified": self.unverified / (most * UNVERIFIED_SHARE)}

    def bytes(self, server: str, verified: bool) -> list[Bucket]:
        """The buckets of a server's bytes: its own, that of all, and that of the unverified ones if it is one."""
        own = self._bytes.setdefault(server, Bucket(self._limits.bytes_per_second, self._clock))
        return [own, self._all_bytes] if verified else [own, self._all_bytes, self._unverified_bytes]

    def forget_idle(self) -> None:
        """Forget the servers that use nothing. To be called now and then."""
        for buckets in (self._new, self._bytes):
            for server in [server for server, bucket in buckets.items() if bucket.is_full and server not in self._open]:
                del buckets[server]
