"""The decision whether a pod may reach a host. It is a function of pod, host, port and kind of request, for any engine (D-250).

A connection is judged twice: `decide` judges the name before anything is resolved, and `decide_address` the address that the name
has. The proxy connects to exactly the address that was judged, so a name whose address changes in between (DNS rebinding) gains
nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Network, ip_network

from ..model.grants import UNVERIFIED
from ..model.networks import IPAddress, NetworkSet, parse_address
from ..model.records import PodAddresses
from ..model.repositories import covers, exact
from . import refusals
from .hosts import HostList, normal
from .identities import same
from .refusals import Reason, Refusal


class Kind(StrEnum):
    """How a host is requested."""

    TUNNEL = "tunnel"  # CONNECT, then TLS
    PLAIN = "plain"  # a request for http://…


_NAT64 = IPv6Network("64:ff9b::/96")

_INTERNET = NetworkSet(map(ip_network, ("0.0.0.0/0", "2000::/3", str(_NAT64))))
"""What somebody on the internet may have as an address, apart from `_SPECIAL`. IANA has given out no other IPv6 addresses."""

_SPECIAL = NetworkSet(map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.88.99.0/24", "224.0.0.0/4")))
"""IPv4 addresses that are refused whatever the values say: this host, link-local, the relays of 6to4 (RFC 7526), multicast."""

PORTS = {Kind.TUNNEL: 443, Kind.PLAIN: 80}
"""The one port of each kind."""


@dataclass(frozen=True)
class TierHosts:
    """What a tier may reach through the proxy.

    Attributes:
        hosts: the hosts.
        ports: the TCP ports that the tier opens; empty: all.
        closed: networks that it does not reach: `except` and `bannedAddresses`.
    """

    hosts: HostList
    ports: frozenset[int] = frozenset()
    closed: NetworkSet = field(default_factory=NetworkSet)


@dataclass(frozen=True)
class Policy:
    """The rules for all connections.

    Attributes:
        tiers: by tier, including `unverified`.
        own_names: the hub's own names, which nobody reaches through the proxy: hosts, and `*.` suffixes.
        page: the address of the servers' pages, up to the user's name; empty: unknown.
        contact: whom a blocked server's owner may ask; empty: not named.
        repositories: pattern (`repositories.strict`) → the hosts that servers of these repositories may also reach.
    """

    tiers: dict[str, TierHosts]
    own_names: frozenset[str] = frozenset()
    page: str = ""
    contact: str = ""
    repositories: dict[str, HostList] = field(default_factory=dict)


_NOTHING = TierHosts(HostList(()))
"""What a tier may reach if the policy does not have that tier."""


def _lists(pod: PodAddresses, policy: Policy) -> list[HostList]:
    """The lists that apply to a pod: its tier's, and its repository's (D-066). Empty lists are left out.

    There are none if the tier is unknown, as during a roll-out: what it must not reach is then unknown, too.
    """
    if pod.tier not in policy.tiers:
        return []
    lists = [policy.tiers[pod.tier].hosts]
    if policy.repositories:
        name = exact(pod.repository)
        lists += [hosts for pattern, hosts in policy.repositories.items() if covers(pattern, name)]
    return list(filter(None, lists))


def group(pod: PodAddresses, name: str, policy: Policy) -> str:
    """The group by which a name, in its form from `normal`, is on a list of a pod (`HostList.group`); empty if it is on none."""
    return next(filter(None, (hosts.group(name) for hosts in _lists(pod, policy))), "")


def decide(pod: PodAddresses, host: str, port: int, kind: Kind, policy: Policy) -> Refusal | None:
    """Judge a connection by its name.

    Args:
        pod: the pod that asks.
        host: the host as requested.
        port: the port.
        kind: how it was requested.
        policy: the rules for all connections.

    Returns:
        The refusal, or None if the name is allowed.
    """
    if pod.blocked:
        return refusals.blocked(policy.contact)
    tier = policy.tiers.get(pod.tier, _NOTHING)
    name = normal(host)
    if name is None:
        return refusals.NOT_A_NAME
    if _is_own(name, policy):
        return refusals.OWN_NAME
    if port != PORTS[kind] or (tier.ports and port not in tier.ports):
        return refusals.PORT
    lists = _lists(pod, policy)
    if any(name in hosts for hosts in lists):
        return None
    if pod.tier == UNVERIFIED:
        return refusals.no_access(Reason.NOT_LISTED if lists else Reason.NO_HOSTS, policy.page, pod.user, pod.server)
    return refusals.not_listed(name) if lists else refusals.NO_HOSTS


def _is_own(name: str, policy: Policy) -> bool:
    """Whether a name, in its form from `normal`, is one of the hub's own, or below one of its suffixes."""
    parts = name.split(".")
    above = (".".join(["*", *parts[start:]]) for start in range(1, len(parts)))
    return name in policy.own_names or any(suffix in policy.own_names for suffix in above)


def decide_address(
    pod: PodAddresses, addresses: Iterable[str] | None, policy: Policy, own_addresses: Iterable[str] = ()
) -> Refusal | list[str]:
    """Judge the addresses of a name.

    Args:
        pod: the pod that asks.
        addresses: all addresses of the name; None if DNS gave no answer.
        policy: the rules for all connections.
        own_addresses: the addresses of the hub's own names.

    Returns:
        The addresses to connect to, normalized and in their original order. A refusal if any of them is closed: a name with both a
        public and a private address is no accident.
    """
    if addresses is None:
        return refusals.UNANSWERED
    found = list(dict.fromkeys(map(same, addresses)))
    if not found:
        return refusals.UNRESOLVED
    tier, own = policy.tiers.get(pod.tier, _NOTHING), frozenset(map(same, own_addresses))
    for address in found:
        ip = parse_address(address)
        if address in own:
            return refusals.OWN_NAME
        if ip is None or ip not in _INTERNET or ip in _SPECIAL or ip in tier.closed:
            return refusals.ADDRESS
        if ip in _NAT64 and isinstance(refusal := decide_address(pod, [_inside(ip)], policy, own), Refusal):
            return refusal
    return found


def _inside(ip: IPAddress) -> str:
    """The IPv4 address to which an address of NAT64 leads (RFC 6052)."""
    return str(IPv4Address(int(ip) & 0xFFFFFFFF))


def decide_hello(pod: PodAddresses, host: str, name: str | None, is_tls: bool, policy: Policy) -> Reason | None:
    """Judge the ClientHello in a tunnel. It is too late to send the client a sentence: the tunnel just ends.

    A tier that may reach any host may hide the name, but not use another protocol.

    Args:
        pod: the pod that the tunnel belongs to.
        host: the host that the client asked for.
        name: the server name in the ClientHello; None: there is not exactly one.
        is_tls: whether these bytes are a ClientHello at all.
        policy: the lists of the tiers.

    Returns:
        The reason why the tunnel ends, or None.
    """
    if not is_tls:
        return Reason.NOT_TLS
    if name == normal(host) or (name is None and any(hosts.any for hosts in _lists(pod, policy))):
        return None
    return Reason.SERVER_NAME
