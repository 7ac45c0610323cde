"""Addresses, and the networks that have them."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(256)  # One request needs its client's address several times.
def parse_address(text: str | None) -> IPAddress | None:
    """An address without a zone (`%eth0`); an IPv4-mapped IPv6 address as IPv4. None if the text is no address."""
    try:
        ip = ipaddress.ip_address((text or "").strip())
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    # A zone is the name of a sender's own interface. An address with each of several zones would count as several clients.
    return ip.ipv4_mapped or ipaddress.IPv6Address(int(ip))


def in_networks(text: str | None, networks: Iterable[IPNetwork]) -> bool:
    """Whether a text is an address in one of the networks."""
    ip = parse_address(text)
    return ip is not None and any(ip.version == network.version and ip in network for network in networks)


class NetworkSet:
    """A set of networks in which looking up an address takes a few steps, however many networks there are.

    Args:
        networks: the networks.
    """

    def __init__(self, networks: Iterable[IPNetwork] = ()):
        self._starts: dict[tuple[int, int], set[int]] = {}  # (version, bits after the prefix) → prefixes
        for network in networks:
            rest = network.max_prefixlen - network.prefixlen
            self._starts.setdefault((network.version, rest), set()).add(int(network.network_address) >> rest)

    def __contains__(self, ip: IPAddress) -> bool:
        """Whether an address is in one of the networks."""
        number = int(ip)
        return any(version == ip.version and number >> rest in starts for (version, rest), starts in self._starts.items())
