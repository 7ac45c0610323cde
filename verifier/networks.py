"""Client addresses, cut to the network that one client plausibly holds."""

import ipaddress


def client_network(address: str | None) -> str:
    """The network of a client, for binding challenges and for moving uses.

    An IPv4 address stays whole; of an IPv6 address the first 64 bits count, the part that a network assigns to one link (RFC 7421).
    All addresses that are not on the internet (private, link-local, loopback) count as one: behind a proxy that hides its clients
    they are the proxy's and say nothing about the client.

    Args:
        address: an IPv4 or IPv6 address, or None.

    Returns:
        A network such as `198.51.100.7/32` or `2001:db8:1:2::/64`, or `""` if it is private, absent or not an address.
    """
    try:
        ip = ipaddress.ip_address((address or "").strip())
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if _hidden(ip):
        return ""
    return str(ipaddress.ip_network((ip, 32 if ip.version == 4 else 64), strict=False))


def _hidden(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(ip.version == network.version and ip in network for network in _NOT_CLIENTS)


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
