"""Client addresses, cut to the network that one client plausibly holds."""

import ipaddress
import logging
import threading
import time
from collections.abc import Iterable

QUIET = 3600.0
"""Seconds: a warning about hidden clients comes after so long without a client that has an address, and at most once in so long."""


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str | None) -> IPAddress | None:
    """An address, IPv4 where it is an IPv4 address in IPv6 clothes; None if it is none."""
    try:
        ip = ipaddress.ip_address((text or "").strip())
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def in_networks(text: str | None, networks: Iterable[IPNetwork]) -> bool:
    """Whether a text is an address in one of some networks."""
    ip = parse_address(text)
    return ip is not None and any(ip.version == network.version and ip in network for network in networks)


def client_network(address: str | None, ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> str:
    """The network of a client: challenges are bound to it, uses move within it, and it is charged for its passes.

    An IPv4 address stays whole by default; of an IPv6 address the first 64 bits count, the part that a network assigns to one
    link (RFC 7421). All addresses that are not on the internet (private, link-local, loopback) count as one: behind a proxy that
    hides its clients they are the proxy's and say nothing about the client.

    Args:
        address: an IPv4 or IPv6 address, or None.
        ipv4_prefix: bits of an IPv4 address that count.
        ipv6_prefix: bits of an IPv6 address that count.

    Returns:
        A network such as `198.51.100.7/32` or `2001:db8:1:2::/64`, or `""` if it is private, absent or not an address.
    """
    ip = parse_address(address)
    if ip is None or in_networks(address, _NOT_CLIENTS):
        return ""
    return str(ipaddress.ip_network((ip, ipv4_prefix if ip.version == 4 else ipv6_prefix), strict=False))


class HiddenClients:
    """Notices when all clients look private, so that nobody is charged, and says so in the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_shown = self._last_warned = -QUIET

    def note(self, network: str) -> None:
        """A client was seen; warn if in the last hour none had an address on the internet.

        Args:
            network: what `client_network` says of it.
        """
        now = time.monotonic()
        with self._lock:
            if network:
                self._last_shown = now
                return
            if now - max(self._last_shown, self._last_warned) < QUIET:
                return
            self._last_warned = now
        logging.getLogger(__name__).warning(
            "No client of the last hour had an address on the internet, so nobody is charged for passes. If clients do come from "
            "the internet, a proxy hides them: check trustedProxies, and that the proxy sees the addresses itself."
        )


# Not ip.is_private: that counts the documentation ranges, which tests stand on, and which a client on the internet never has.
_NOT_CLIENTS = [
    ipaddress.ip_network(cidr)
    for cidr in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # RFC 1918
        "100.64.0.0/10",  # RFC 6598, carrier-grade NAT, also used inside clouds
        "127.0.0.0/8", "169.254.0.0/16",  # RFC 1122, RFC 3927
        "::1/128", "fc00::/7", "fe80::/10",  # RFC 4291, RFC 4193
    )
]  # fmt: skip
