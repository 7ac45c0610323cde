"""Limits on what one server, and all unverified servers together, may use, so that enough is left for the others."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

UNVERIFIED_SHARE = 0.5
"""The share of all connections, and of all bytes, that unverified and unknown servers may use together."""

FIRST_SHARE = 0.1
"""An additional share of all connections, for unverified and unknown servers that have none open. Otherwise a few servers that hold
the half above would keep the start guards of all new pods from getting an answer."""

DEFAULT_PORTS = 28_232
"""The number of source ports of a machine on which nobody set another range: Linux's default, 32768 to 60999."""

BURST_SECONDS = 2.0
"""The largest burst after a pause: what the rate allows in this many seconds."""


class Bucket:
    """A token bucket that may go into debt.

    Args:
        rate: tokens a second; 0: no limit.
        clock: monotonic time in seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self._rate, self._clock = rate, clock
        self._tokens, self._at = rate * BURST_SECONDS, clock()

    def take(self, number: float = 1) -> float:
        """Take tokens; 0 takes none. Returns the seconds until the bucket is out of debt."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._tokens = min(self._rate * BURST_SECONDS, self._tokens + (now - self._at) * self._rate) - number
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def has(self) -> bool:
        """Take a token if one is left. Returns whether there was one."""
        if self.take() > 0:
            self._tokens += 1
            return False
        return True

    @property
    def is_full(self) -> bool:
        """Whether nothing was taken recently."""
        return self._tokens + (self._clock() - self._at) * self._rate >= self._rate * BURST_SECONDS


@dataclass(frozen=True)
class Limits:
    """The limits from the values and from the machine.

    Attributes:
        connections: connections of one server at a time, including silent ones.
        new_per_second: new connections of one server a second.
        bytes_per_second: bytes of one server a second, both directions together; 0: no limit.
        all_connections: connections of all servers at a time, in this process.
        all_bytes_per_second: bytes of all servers a second, both directions together; 0: no limit.
        source_ports: source ports of the machine for one address of a host.
        new_hosts_per_minute: addresses that a server with a tier may try in a minute without a wait; 0: no limit.
        unverified_new_hosts_per_minute: addresses that a server without a tier may try.
    """

    connections: int = 100
    new_per_second: float = 20
    bytes_per_second: float = 0
    all_connections: int = 4000
    all_bytes_per_second: float = 0
    source_ports: int = DEFAULT_PORTS
    new_hosts_per_minute: int = 100
    unverified_new_hosts_per_minute: int = 30


class Usage:
    """What servers use. A server is identified by its pod's uid, or by its address while the pod is unknown.

    Args:
        limits: the limits.
        clock: monotonic time in seconds.
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
        """The number of servers about which something is remembered."""
        return len(self._open.keys() | self._new.keys() | self._bytes.keys())

    def admit(self, server: str, verified: bool) -> bool:
        """Count a new connection if it is within the limits.

        Args:
            server: the key of the server.
            verified: whether it has a tier.

        Returns:
            Whether it is within the limits.
        """
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
        """Note that an admitted connection has ended. Takes what `admit` takes."""
        self._open[server] -= 1
        if not self._open[server]:
            del self._open[server]
        self.connections -= 1
        self.unverified -= not verified

    def taken(self) -> dict[str, float]:
        """The share in use of all allowed connections, and of those allowed for unverified servers."""
        most = self._limits.all_connections
        return {"all": self.connections / most, "unverified": self.unverified / (most * UNVERIFIED_SHARE)}

    def bytes(self, server: str, verified: bool) -> list[Bucket]:
        """The buckets of a server's bytes: its own, the one of all servers, and if it is unverified, the one of all unverified
        servers."""
        own = self._bytes.setdefault(server, Bucket(self._limits.bytes_per_second, self._clock))
        return [own, self._all_bytes] if verified else [own, self._all_bytes, self._unverified_bytes]

    def forget_idle(self) -> None:
        """Forget the servers that use nothing. Must be called from time to time."""
        for buckets in (self._new, self._bytes):
            for server in [server for server, bucket in buckets.items() if bucket.is_full and server not in self._open]:
                del buckets[server]
