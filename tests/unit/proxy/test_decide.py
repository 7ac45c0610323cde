"""The decision, by name and by address, in every case.

Three levels hold the proxy's verdicts. Here and in `test_hosts`, `test_requests` and `test_hello`: texts and addresses, as tables.
`test_battery`: the proxy with sockets: ports, blocked pods, names in ClientHellos. In the cluster: the same attempts, by pods.
"""

import ipaddress
from dataclasses import replace

import pytest

from binder_egress.model.networks import NetworkSet
from binder_egress.model.records import PodAddresses
from binder_egress.proxy.decide import Kind, Policy, TierHosts, decide, decide_address, decide_hello
from binder_egress.proxy.hosts import HostList
from binder_egress.proxy.refusals import Reason, Refusal

CLOSED = NetworkSet(ipaddress.ip_network(cidr) for cidr in ("10.0.0.0/8", "64:ff9b::/96", "fd00::/9", "203.0.113.66/32"))
POLICY = Policy(
    {
        "unverified": TierHosts(HostList(["ok.example", "*.data.example"]), closed=CLOSED),
        "verified": TierHosts(HostList(["*"]), closed=CLOSED),
        "course": TierHosts(HostList(["api.example.org"]), frozenset({443}), CLOSED),
        "direct": TierHosts(HostList([]), closed=CLOSED),
    },
    frozenset({"hub.example.org", "*.intern.example.org"}),
    "https://hub.example.org/egress/servers/",
)


def pod(tier="unverified", **more):
    return PodAddresses("uid-1", "alice", "a b", ("10.42.0.5",), tier, **more)


@pytest.mark.parametrize(
    ("tier", "host", "expected"),
    [
        ("unverified", "ok.example", None),
        ("unverified", "OK.example.", None),
        ("unverified", "a.data.example", None),
        ("unverified", "data.example", Reason.NOT_LISTED),
        ("unverified", "evil.example", Reason.NOT_LISTED),
        ("verified", "evil.example", None),
        ("course", "api.example.org", None),
        ("course", "ok.example", Reason.NOT_LISTED),
        ("direct", "ok.example", Reason.NO_HOSTS),
        ("of another version", "ok.example", Reason.NO_HOSTS),
        ("verified", "hub.example.org", Reason.OWN_NAME),
        ("verified", "HUB.example.org.", Reason.OWN_NAME),
        ("verified", "hub.Intern.example.org", Reason.OWN_NAME),
        ("verified", "a.hub.intern.example.org", Reason.OWN_NAME),
        ("verified", "intern.example.org", None),
        ("verified", "a.hub.example.org", None),
        ("verified", "notintern.example.org", None),
        ("verified", "[2001:db8::1]", Reason.NOT_A_NAME),
    ],
)
def test_name_decides(tier, host, expected):
    refusal = decide(pod(tier), host, 443, Kind.TUNNEL, POLICY)
    assert (refusal.reason if refusal else None) == expected


@pytest.mark.parametrize(("contact", "asks"), [("", ""), ("help@example.org", ": ask help@example.org")])
def test_blocked_pod_is_told_whom_to_ask(contact, asks):
    pod = PodAddresses("uid-1", "alice", "", ("10.0.0.1",), blocked=True)
    refusal = decide(pod, "ok.example", 443, Kind.TUNNEL, replace(POLICY, contact=contact))
    assert refusal and refusal.sentence == f"This server is blocked by the operators of this site{asks}"


WITH_REPOSITORIES = replace(
    POLICY,
    repositories={
        "github.com/org/course": HostList(["api.example.org"]),
        "github.com/org/*": HostList(["all.example.org"]),
        "git.example.org/any/host": HostList(["*"]),
    },
)


@pytest.mark.parametrize(
    ("repository", "hosts"),
    [
        ("https://github.com/org/course", {"api.example.org", "all.example.org"}),
        ("https://github.com/Org/Course.git", {"api.example.org", "all.example.org"}),
        ("https://github.com/org/other", {"all.example.org"}),
        ("https://github.com/organisation/course", set()),
        ("https://github.com/org/course/../../else/where", set()),
        ("https://user@github.com/org/course", set()),
        ("https://git.example.org/ANY/host", set()),
        ("x" * 5000, set()),
        ("", set()),
    ],
)
@pytest.mark.parametrize("tier", ["unverified", "course", "direct", "of another version"])
def test_repository_adds_hosts_to_those_of_the_tier(repository, hosts, tier):
    """Only a plain spelling of the name counts, and no unreadable one."""

    def reached(policy, **more):
        asked = ("ok.example", "api.example.org", "all.example.org", "evil.example")
        found = pod(tier, repository=repository, **more)
        return {host for host in asked if decide(found, host, 443, Kind.TUNNEL, policy) is None}

    # For a tier that is unknown here, the addresses that must stay closed are unknown, too.
    assert reached(WITH_REPOSITORIES) == reached(POLICY) | (hosts if tier != "of another version" else set())
    assert reached(WITH_REPOSITORIES, blocked=True) == set()


def test_repository_opens_no_port_and_no_address_that_the_tier_closes():
    found = pod("course", repository="https://github.com/org/course")
    refusal = decide(found, "all.example.org", 80, Kind.PLAIN, WITH_REPOSITORIES)
    assert refusal and refusal.reason == Reason.PORT
    assert isinstance(decide_address(found, ["10.1.2.3"], WITH_REPOSITORIES), Refusal)


def test_hidden_name_needs_a_repository_with_any_host():
    for repository, expected in (("any/host", None), ("any/other", Reason.SERVER_NAME)):
        found = pod(repository=f"https://git.example.org/{repository}")
        assert decide_hello(found, "ok.example", None, True, WITH_REPOSITORIES) == expected


def test_refusal_says_what_to_do():
    """It is the reason phrase of the answer: one line of ASCII, whatever the names of user and server in its address."""
    listed = "Not on the list of this server: evil.example"
    odd = PodAddresses("uid-1", "zoë/é\r\n", "a/b ü", ("10.42.0.5",), "unverified")
    for asks, policy, says in (
        (pod(), POLICY, "No internet access: open https://hub.example.org/egress/servers/alice/a%20b"),
        (odd, POLICY, "/egress/servers/zo%C3%AB%2F%C3%A9%0D%0A/a%2Fb%20%C3%BC"),
        (pod(), Policy(POLICY.tiers), "BINDER_EGRESS_URL"),
        (pod("course"), POLICY, listed),
        (pod("direct", repository="https://github.com/org/course"), WITH_REPOSITORIES, listed),
    ):
        refusal = decide(asks, "evil.example", 443, Kind.TUNNEL, policy)
        assert refusal and says in refusal.sentence and refusal.sentence.isascii(), says


CLOSED_ADDRESSES = """
    10.9.9.9 127.0.0.1 127.9.9.9 0.0.0.0 169.254.169.254 224.0.0.1 ::1 :: fe80::1 ff02::1 fd00::9 64:ff9b::a09:909 ::ffff:10.9.9.9
    ::ffff:0:10.9.9.9 ::10.9.9.9 100::1 5f00::1 fec0::1 64:ff9b:1::a09:909 192.88.99.1 ::ffff:127.0.0.1 203.0.113.66 203.0.113.99
    ::ffff:203.0.113.99 2001:db8:0::99 203.0.113.199 nonsense
"""


@pytest.mark.parametrize("address", CLOSED_ADDRESSES.split())
def test_closed_address_is_refused_alone_and_beside_a_public_one(address):
    for addresses in ([address], ["203.0.113.11", address], [address, "203.0.113.11"]):
        refusal = decide_address(pod("verified"), addresses, POLICY, ["203.0.113.99", "2001:db8:0::99", "::ffff:203.0.113.199"])
        assert isinstance(refusal, Refusal), addresses
        assert refusal.reason == (Reason.OWN_NAME if address.endswith("99") else Reason.ADDRESS)


def test_address_of_nat64_counts_as_the_one_to_which_it_leads():
    """A cluster with IPv6 alone opens these addresses, to reach hosts that have IPv4 alone."""
    closed = NetworkSet(map(ipaddress.ip_network, ["10.0.0.0/8", "203.0.113.66/32"]))
    policy = Policy({"verified": TierHosts(HostList(["*"]), closed=closed)})
    for inside in ("a09:909", "7f00:1", "cb00:7142", "cb00:7163"):
        refusal = decide_address(pod("verified"), [f"64:ff9b::{inside}"], policy, ["203.0.113.99"])
        assert isinstance(refusal, Refusal), inside
        assert refusal.reason == (Reason.OWN_NAME if inside == "cb00:7163" else Reason.ADDRESS)
    assert decide_address(pod("verified"), ["64:ff9b::cb00:710b"], policy) == ["64:ff9b::cb00:710b"]


def test_public_addresses_are_kept_in_their_order_and_have_one_spelling():
    """A stranger's DNS may answer with another spelling, and source ports are counted by address."""
    answer = ["::ffff:203.0.113.12", "2001:db8::1", "203.0.113.12"]
    assert decide_address(pod(), answer, POLICY) == ["203.0.113.12", "2001:db8::1"]


def test_network_set_finds_addresses_as_networks_do():
    networks = [ipaddress.ip_network(cidr) for cidr in ("0.0.0.0/8", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "::1/128")]
    found = NetworkSet(networks)
    tried = "0.0.0.0 0.255.255.255 1.0.0.0 10.1.2.3 11.0.0.0 2001:db8:: 2001:db9:: ::1 ::2 ::a01:203"
    for text in tried.split():
        ip = ipaddress.ip_address(text)
        assert (ip in found) == any(ip.version == network.version and ip in network for network in networks), text
    assert ipaddress.ip_address("10.0.0.1") not in NetworkSet()
