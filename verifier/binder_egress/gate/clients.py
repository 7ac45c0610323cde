"""Clients: their address as trusted proxies report it, and the network that one client plausibly holds.

Decisions: D-021, D-212.
"""

import ipaddress
import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..model.networks import IPAddress, IPNetwork, in_networks, parse_address

QUIET_SECONDS = 3600.0
"""If no client has a public address for this many seconds, a warning about hidden clients is logged, at most once in that
time."""

SHARES_SECONDS = 3600.0
"""Seconds for which a launch counts in the share of its client."""

FEW_LAUNCHES = 50
"""The fewest launches in that time for which a share is computed: more than a class of thirty makes."""

MAX_LAUNCHES = 2000
"""The number of launches that are remembered, the latest ones."""

REMEMBERED = 256
"""The number of addresses whose networks are remembered: one request needs its client's network several times."""

SHARED = "shared"
"""The one client network of all senders that have no address on the internet and that no trusted proxy vouches for."""


@dataclass(frozen=True)
class Client:
    """Who sent a request.

    Attributes:
        address: the client's address, as text; not a valid address if a proxy sent rubbish.
        believed: whether a trusted proxy reported the address. If not, it is the sender's.
    """

    address: str
    believed: bool


_WITH_PORT = re.compile(r"\[([^]]*)\](?::[0-9]+)?|([^:]*):[0-9]+")
"""An address with a port, as Azure's Application Gateway writes it, or an IPv6 address in brackets."""


def _without_port(entry: str) -> str:
    entry = entry.strip()
    found = _WITH_PORT.fullmatch(entry)
    return found[1] or found[2] or "" if found else entry


def client_of(sender: str | None, forwarded_for: str | None, trusted: int | Sequence[IPNetwork]) -> Client:
    """The client of a request (`trustedProxies`).

    Args:
        sender: the address that the connection came from.
        forwarded_for: `X-Forwarded-For`. Each proxy appends the address that it saw, some with a port. Clients can forge everything
            to the left of that.
        trusted: the number of proxies, the last of which is the sender; or the networks of all proxies.
    """
    entries = forwarded_for.split(",") if forwarded_for and forwarded_for.strip() else []
    if isinstance(trusted, int):
        believed = 0 < trusted <= len(entries)
        return Client(_without_port(entries[-trusted]) if believed else sender or "", believed)
    client = Client(sender or "", False)
    for entry in reversed(entries):
        if not in_networks(client.address, trusted):
            break
        client = Client(_without_port(entry), True)
    return client


@lru_cache(REMEMBERED)
def charged_network(client: Client, ipv4_prefix: int, ipv6_prefix: int) -> str:
    """The network that pays for a client's passes.

    Args:
        client: the client.
        ipv4_prefix: the number of leading bits of an IPv4 address that count.
        ipv6_prefix: the number of leading bits of an IPv6 address that count.

    Returns:
        The client's network. It may be private if a trusted proxy reported it: people on an intranet have no other. Everybody
        else without an address on the internet is `SHARED`.
    """
    ip = parse_address(client.address)
    if ip is None or (not client.believed and in_networks(client.address, _NOT_CLIENTS)):
        return SHARED
    return _cut(ip, ipv4_prefix, ipv6_prefix)


@lru_cache(REMEMBERED)
def client_network(address: str | None, ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> str:
    """The network of a client on the internet. Challenges are bound to it, and uses of a pass move within it.

    An IPv4 address stays whole by default. Of an IPv6 address, the first 64 bits count, the part that a network assigns to one
    link (RFC 7421). All private, link-local and loopback addresses count as unknown: behind a proxy that hides its clients, they
    are the proxy's own and say nothing about the client.

    Args:
        address: an IPv4 or IPv6 address, or None.
        ipv4_prefix: the number of leading bits of an IPv4 address that count.
        ipv6_prefix: the number of leading bits of an IPv6 address that count.

    Returns:
        A network such as `198.51.100.7/32` or `2001:db8:1:2::/64`; `""` if the address is private, absent or invalid.
    """
    ip = parse_address(address)
    if ip is None or in_networks(address, _NOT_CLIENTS):
        return ""
    return _cut(ip, ipv4_prefix, ipv6_prefix)


def _cut(ip: IPAddress, ipv4_prefix: int, ipv6_prefix: int) -> str:
    return str(ipaddress.ip_network((ip, ipv4_prefix if ip.version == 4 else ipv6_prefix), strict=False))


class HiddenClients:
    """Warns in the log when all clients have private addresses: a proxy may hide them, and then they pay for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_shown = self._last_warned = -QUIET_SECONDS

    def note(self, network: str) -> None:
        """Note a client, and warn if none had a public address within the last hour.

        Args:
            network: the client's network, from `client_network`.
        """
        now = time.monotonic()
        with self._lock:
            if network:
                self._last_shown = now
                return
            if now - max(self._last_shown, self._last_warned) < QUIET_SECONDS:
                return
            self._last_warned = now
        logging.getLogger(__name__).warning(
            "No client of the last hour had an address on the internet. If clients do come from the internet, a proxy hides them, "
            "and they pay for each other's passes: check trustedProxies, and that the proxy sees the addresses itself."
        )


class LaunchShares:
    """The addresses from which the launches of the last hour came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._launches: deque[tuple[float, str]] = deque(maxlen=MAX_LAUNCHES)

    def note(self, network: str) -> None:
        """Note a launch of a client, by its network, or by its address if that has none."""
        with self._lock:
            self._launches.append((time.monotonic(), network))

    def largest(self) -> float:
        """The largest share of the launches that one client made, 0 to 1; 0 if there were fewer than `FEW_LAUNCHES`."""
        since = time.monotonic() - SHARES_SECONDS
        with self._lock:
            counts = Counter(network for at, network in self._launches if at > since)
        return max(counts.values()) / counts.total() if counts.total() >= FEW_LAUNCHES else 0.0


# Not ip.is_private, which includes the documentation ranges: tests use those, and no client on the internet has one.
_NOT_CLIENTS = [
    ipaddress.ip_network(cidr)
    for cidr in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # RFC 1918
        "100.64.0.0/10",  # RFC 6598, carrier-grade NAT, also used inside clouds
        "127.0.0.0/8", "169.254.0.0/16",  # RFC 1122, RFC 3927
        "::1/128", "fc00::/7", "fe80::/10",  # RFC 4291, RFC 4193
    )
]  # fmt: skip
