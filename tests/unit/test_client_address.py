"""The client's address: which forwarding headers count, and from whom."""

import ipaddress

import pytest

from binder_egress.gate.clients import Client, client_of
from binder_egress.web.app import create_public_app
from tests.support.apps import CLIENT, internal_client, launch, public_client, run_pod, solve
from tests.support.public_port import assert_problem

PROXIES = [ipaddress.ip_network(cidr) for cidr in ("10.1.0.0/24", "fd00:1::/64", "203.0.113.64/26")]


@pytest.mark.parametrize(
    ("trusted", "sender", "forwarded", "expected"),
    [
        pytest.param(0, "192.0.2.1", "203.0.113.1", ("192.0.2.1", False), id="0: the header is not believed"),
        pytest.param(1, "192.0.2.1", "203.0.113.1", ("203.0.113.1", True), id="1: the proxy's word"),
        pytest.param(1, "192.0.2.1", "198.51.100.66, 203.0.113.1", ("203.0.113.1", True), id="1: what the client wrote"),
        pytest.param(2, "192.0.2.1", "198.51.100.66, 203.0.113.1, 10.0.0.1", ("203.0.113.1", True), id="2: the outer proxy's word"),
        pytest.param(2, "192.0.2.1", "203.0.113.1, 198.51.100.2", ("203.0.113.1", True), id="2: both proxies"),
        pytest.param(2, "192.0.2.1", "203.0.113.1", ("192.0.2.1", False), id="2: one proxy was passed by"),
        pytest.param(1, "192.0.2.1", "", ("192.0.2.1", False), id="1: no header"),
        pytest.param(1, "192.0.2.1", "rubbish", ("rubbish", True), id="1: the proxy sent rubbish"),
        pytest.param(1, "192.0.2.1", "10.1.2.3", ("10.1.2.3", True), id="1: the proxy hides its clients"),
        pytest.param(1, "192.0.2.1", "2001:db8:1:2:3:4:5:6", ("2001:db8:1:2:3:4:5:6", True), id="1: IPv6"),
        pytest.param(1, "192.0.2.1", "198.51.100.66:1, 203.0.113.1:51234", ("203.0.113.1", True), id="1: a port"),
        pytest.param(1, "192.0.2.1", "[2001:db8:1:2:3:4:5:6]:51234", ("2001:db8:1:2:3:4:5:6", True), id="1: IPv6 and a port"),
        pytest.param(1, "192.0.2.1", "[2001:db8:1:2:3:4:5:6]", ("2001:db8:1:2:3:4:5:6", True), id="1: IPv6 in brackets"),
        pytest.param(1, "192.0.2.1", "[]:80", ("", True), id="1: a port alone"),
        pytest.param(PROXIES, "10.1.0.1", "198.51.100.1", ("198.51.100.1", True), id="a proxy's word"),
        pytest.param(PROXIES, "10.1.0.1", "203.0.113.9, 198.51.100.1", ("198.51.100.1", True), id="what the client wrote"),
        pytest.param(PROXIES, "::ffff:10.1.0.1", "198.51.100.1", ("198.51.100.1", True), id="a mapped proxy"),
        pytest.param(PROXIES, "fd00:1::9", "2001:db8::1, 203.0.113.70", ("2001:db8::1", True), id="two proxies"),
        pytest.param(PROXIES, "10.1.0.1", "198.51.100.1, 10.2.0.1, 10.1.0.2", ("10.2.0.1", True), id="an unknown proxy"),
        pytest.param(PROXIES, "10.1.0.1", "10.1.0.3, 10.1.0.2", ("10.1.0.3", True), id="a proxy as the client"),
        pytest.param(PROXIES, "10.1.0.1", "198.51.100.1:443, 10.1.0.2:443", ("198.51.100.1", True), id="ports"),
        pytest.param(PROXIES, "10.1.0.1", "rubbish", ("rubbish", True), id="rubbish"),
        pytest.param(PROXIES, "10.1.0.1", "198.51.100.1,", ("", True), id="an empty entry"),
        pytest.param(PROXIES, "10.1.0.1", "", ("10.1.0.1", False), id="no header"),
        pytest.param(PROXIES, "10.1.1.1", "198.51.100.1", ("10.1.1.1", False), id="a pod's word"),
        pytest.param(PROXIES, "192.0.2.1", "198.51.100.1", ("192.0.2.1", False), id="a stranger's word"),
        pytest.param(PROXIES, "10.1.1.1", "198.51.100.1, 10.1.0.1", ("10.1.1.1", False), id="a pod that invents a proxy"),
    ],
)
def test_forwarding_header_is_used_only_from_trusted_proxies(trusted, sender, forwarded, expected):
    assert client_of(sender, forwarded, trusted) == Client(*expected)


@pytest.mark.parametrize(
    ("proxies", "told", "scheme"),
    [
        (["10.1.0.0/24"], "https", "http"),
        (["127.0.0.0/8"], "https", "https"),
        (0, "https", "http"),
        (1, "http, https", "https"),
        (2, "https", "https"),
        (2, "http, https, http", "https"),
        (2, "https, http, http", "http"),
        (2, "https,", "https"),
    ],
)
def test_scheme_is_that_of_the_outermost_proxy(make_services, proxies, told, scheme):
    """Many proxies replace the header, so it may have fewer values than there are proxies."""
    client = create_public_app(make_services(trusted_proxies=proxies)).test_client()
    answer = client.get(
        "/egress/v1/third-party.json", headers={"X-Forwarded-For": "203.0.113.1, 10.0.0.1", "X-Forwarded-Proto": told}
    )
    assert answer.json["scripts"]["third-party.js"]["address"].startswith(f"{scheme}://")


def test_scheme_that_is_none_counts_as_not_sent(public):
    """Two slashes are redirected, to an address with the scheme."""
    for sent, scheme in (("HTTPS", "https"), ("ftp", "http"), ("https://[", "http"), ("https://hub.example.org:99999", "http")):
        answer = public.get("/egress//challenge", headers={"X-Forwarded-Proto": sent})
        assert (answer.status_code, answer.headers["Location"]) == (308, f"{scheme}://localhost/egress/challenge")


@pytest.mark.parametrize(
    ("trusted", "sender", "forwarded", "rule"),
    [
        (1, "10.9.9.9", "192.0.2.7", "own-network"),
        (1, "10.9.9.9", "192.0.2.7, 198.51.100.1", "default"),
        (0, "192.0.2.7", "198.51.100.1", "own-network"),
        (["10.1.0.0/24"], "10.1.0.1", "198.51.100.1, 192.0.2.7", "own-network"),
        (["10.1.0.0/24"], "192.0.2.7", "198.51.100.1", "own-network"),
        (["10.1.0.0/24"], "10.1.0.1", "192.0.2.7, 198.51.100.1", "default"),
    ],
)
def test_launch_has_its_address_by_the_same_rule(make_services, trusted, sender, forwarded, rule):
    internal = internal_client(make_services(trusted_proxies=trusted, self_networks=["192.0.2.7/32"]))
    assert launch(internal, client_address=sender, forwarded_for=forwarded)["rule"] == rule


def test_forged_forwarding_header_does_not_validate_a_solution(make_services, store):
    """A solution from another network, presented with its maker's address in front."""
    services = make_services()
    store.ping()
    solution = solve(public_client(services, "203.0.113.1"))
    answer = public_client(services, "203.0.113.1, 198.51.100.9").post(
        "/egress/passes", json={"provider": "altcha", "solution": solution}
    )
    assert_problem(answer, "solution-refused")


def test_end_of_a_forwarding_header_counts_behind_as_many_proxies_as_there_can_be(make_services, store):
    """Only so much of a header is read, and clients choose what stands in front."""
    store.ping()
    entries = [f"[2001:0db8:0001:000{number}:ffff:ffff:ffff:ffff]:65535" for number in range(10)]
    client = public_client(make_services(trusted_proxies=10), ", ".join(["198.51.100.66"] * 500 + entries))
    data = client.get("/egress/challenge").json["providers"][0]["challenge"]["parameters"]["data"]
    assert data["network"] == "2001:db8:1::/64"


@pytest.mark.parametrize("header", ["Forwarded", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Prefix", "CF-Connecting-IP"])
def test_other_forwarding_headers_are_ignored(public, store, header):
    run_pod(store)
    answer = public.get("/egress/servers/alice", headers={header: "evil.example", "Accept": "text/plain"})
    assert "http://localhost/egress/" in answer.text
    data = public.get("/egress/challenge", headers={header: "203.0.113.5"}).json["providers"][0]["challenge"]["parameters"]["data"]
    assert data["network"] == f"{CLIENT}/32"
