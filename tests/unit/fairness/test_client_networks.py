"""Which networks are charged for a client, and the warnings and metrics about clients behind one address."""

import time

import pytest

from binder_egress.gate.clients import FEW_LAUNCHES, QUIET_SECONDS, SHARED, SHARES_SECONDS, client_network
from binder_egress.gate.fairness import BASE_SECONDS, Charge, Fairness
from binder_egress.web.app import create_public_app
from tests.support.apps import NETWORK, admit, get_pass, internal_client, launch, public_client, run_pod, solve
from tests.support.charges import charge, charges, present, price, public_client_of, unlock
from tests.support.metrics import value
from tests.support.public_port import assert_problem

pytestmark = pytest.mark.usefixtures("impatient")

# -- who is charged, when


def test_solution_is_charged_once_when_it_is_accepted_and_nothing_else_is(public, internal, store, in_redis):
    solution = solve(public)
    present(public, "rubbish")
    launch(internal)
    present(public_client_of(public, "203.0.113.1"), solution)
    unlock(public, provider="altcha", solution=solution)  # unknown server
    assert charges(store, in_redis) == {}
    token = present(public, solution).json["token"]
    assert present(public, solution).status_code == 403
    run_pod(store)
    launch(internal, token=token)
    unlock(public, token=token)
    assert charges(store, in_redis) == {NETWORK: 1}
    assert unlock(public, provider="altcha", solution=solve(public, "unlock")).status_code == 202
    assert charges(store, in_redis) == {NETWORK: 2}


@pytest.mark.parametrize(
    ("proxies", "forwarded", "network"),
    [
        (0, "203.0.113.1", "192.0.2.1/32"),
        (1, "203.0.113.1, 203.0.113.2", "203.0.113.2/32"),
        (2, "rubbish, 203.0.113.2, 198.51.100.1", "203.0.113.2/32"),
    ],
)
def test_forged_header_neither_lowers_the_price_nor_charges_others(site, store, proxies, forwarded, network, in_redis):
    services = site(trusted_proxies=proxies)
    client = create_public_app(services).test_client()
    client.environ_base["REMOTE_ADDR"] = "192.0.2.1"
    charge(store, network, times=30)
    client.environ_base["HTTP_X_FORWARDED_FOR"] = forwarded
    for name in ("X_FORWARDED_FOR", "X_REAL_IP", "FORWARDED", "CF_CONNECTING_IP", "TRUE_CLIENT_IP", "X_CLIENT_IP", "X_FORWARDED"):
        client.environ_base.setdefault(f"HTTP_{name}", "203.0.113.99")
        assert price(client) >= 2
        assert present(client, solve(client)).status_code == 201
    assert charges(store, in_redis) == {network: 37}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        ("192.168.1.1", "192.168.1.1/32"),
        ("100.64.0.1", "100.64.0.1/32"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("fd00::1", "fd00::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("rubbish", SHARED),
        ("", SHARED),
    ],
)
def test_client_without_an_address_is_counted_and_charged(site, store, address, network, in_redis):
    """Behind a trusted proxy, each private address is a client of its own."""
    services = site()
    client = create_public_app(services).test_client()
    client.environ_base.update(REMOTE_ADDR="10.0.0.9", HTTP_X_FORWARDED_FOR=address)
    for before in range(3):
        assert price(client) == 1 + before / 30
        assert present(client, solve(client)).status_code == 201
    assert charges(store, in_redis)[network] == 3
    assert value(internal_client(services), "binder_egress_clients_without_address_total") == 9


def test_invented_addresses_share_a_price(site, store, in_redis):
    """20 passes with 20 addresses from a sender that is not a proxy."""
    services = site(trusted_proxies=["10.1.0.0/24"], launch_hold=4, fairness_budget=10)
    pod = create_public_app(services).test_client()
    pod.environ_base["REMOTE_ADDR"] = "10.9.9.9"
    prices = []
    for number in range(20):
        pod.environ_base["HTTP_X_FORWARDED_FOR"] = f"198.51.100.{number}"
        prices.append(price(pod))
        get_pass(pod)
    assert prices == [pytest.approx(1 + number / 30) for number in range(20)]
    # Nobody else pays.
    assert charges(store, in_redis) == {SHARED: 20}


@pytest.mark.parametrize(
    ("before", "first", "last", "after"),
    [
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
        ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
        ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
        ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
        ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
        ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
        ("::2", "::1", "::1", "::2"),
        ("fbff::1", "fc00::", "fdff::ffff", "fe00::1"),
        ("fe7f::1", "fe80::", "febf::ffff", "fec0::1"),
    ],
)
def test_private_network_has_no_clients_and_its_neighbours_have(before, first, last, after):
    assert client_network(first) == client_network(last) == ""
    assert client_network(before) and client_network(after)


@pytest.mark.parametrize(("hold", "cap"), [(4, 4 / BASE_SECONDS), (60, 60 / BASE_SECONDS), (2, 2 / BASE_SECONDS), (1, 1), (0, 1)])
def test_shared_price_ends_at_what_a_launch_page_can_pay(site, store, hold, cap):
    services = site(launch_hold=hold, fairness_budget=10)
    client = create_public_app(services).test_client()
    client.environ_base["REMOTE_ADDR"] = "10.0.0.9"
    early = solve(client)
    for _ in range(30):
        store.use_solution("altcha", f"{time.time_ns()}", time.time() + 1, 60, admit, [Charge(SHARED, 3600, None, 0)] * 100)
    assert price(client) == pytest.approx(cap)
    assert present(client, solve(client)).status_code == 201
    # A challenge of the base price is too cheap if twice the price is below the cap.
    assert present(client, early).status_code == (403 if cap > 2 else 201)


@pytest.mark.parametrize(
    ("address", "ipv4", "ipv6", "network"),
    [
        ("198.51.100.7", 32, 64, "198.51.100.7/32"),
        ("198.51.100.7", 24, 64, "198.51.100.0/24"),
        ("::ffff:198.51.100.7", 24, 56, "198.51.100.0/24"),
        ("2001:db8:1:2:3::4", 24, 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:234::4", 24, 56, "2001:db8:1:200::/56"),
        ("2001:db8:1:2::4", 24, 48, "2001:db8:1::/48"),
        ("2001:db8:1:2::%eth0", 24, 64, "2001:db8:1:2::/64"),
    ],
)
def test_client_network_has_the_prefix_of_the_settings(site, store, address, ipv4, ipv6, network, in_redis):
    assert client_network(address, ipv4, ipv6) == network
    client = public_client(site(client_ipv4_prefix=ipv4, client_ipv6_prefix=ipv6), address)
    data = client.get("/egress/challenge").json["providers"][0]["challenge"]["parameters"]["data"]
    assert data["network"] == network
    get_pass(client)
    assert charges(store, in_redis)[network] == 1


@pytest.mark.parametrize(("prefix", "expected"), [(24, "moved"), (32, "used-up")])
def test_use_moves_within_the_client_network(site, prefix, expected):
    services = site(client_ipv4_prefix=prefix)
    token = get_pass(public_client(services))
    internal = internal_client(services)
    launch(internal, "a", token=token, client_address="198.51.100.7")
    assert launch(internal, "b", token=token, client_address="198.51.100.8")["pass_outcome"] == expected


# -- IPv6, where one customer has many networks


def test_ipv6_networks_around_a_client_raise_its_price(site):
    client = public_client(site(), "2001:db8:1:200::1")
    for number in range(1, 21):
        get_pass(public_client_of(client, f"2001:db8:1:2{number:02x}::1"))
    assert price(client) == pytest.approx(1 + 20 / 60)
    assert price(public_client_of(client, "2001:db8:1:9900::1")) == pytest.approx(1 + 20 / 240)
    assert price(public_client_of(client, "2001:db8:2::1")) == 1


def test_ipv6_client_pays_the_largest_price_not_the_sum(site, store):
    client = public_client(site(), "2001:db8::1")
    cheap = solve(client)
    for network in ("2001:db8::/64", "2001:db8::/56", "2001:db8::/48"):
        charge(store, network, times=30)
    assert price(client) == 2
    charge(store, "2001:db8::/56", times=31)
    assert_problem(present(client, cheap), "price-risen", 403)


@pytest.mark.parametrize(("network", "most"), [("2001:db8::/64", 2), ("2001:db8::/56", 4), ("2001:db8::/48", 16)])
def test_ipv6_budget_holds_for_networks_around_a_client(site, store, network, most):
    client = public_client(site(fairness_budget=2), "2001:db8::1")
    charge(store, network, times=most - 1)
    assert present(client, solve(client)).status_code == 201
    assert_problem(present(client, solve(client)), "budget-spent", 429)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (64, {"2001:db8:1:200::/64": 1, "2001:db8:1:200::/56": 2, "2001:db8:1::/48": 8}),
        (60, {"2001:db8:1:200::/60": 1, "2001:db8:1:200::/56": 2, "2001:db8:1::/48": 8}),
        (56, {"2001:db8:1:200::/56": 1, "2001:db8:1::/48": 8}),
        (48, {"2001:db8:1::/48": 1}),
        (32, {"2001:db8::/32": 1}),
    ],
)
def test_ipv6_levels_are_wider_than_the_client_network(prefix, expected):
    levels = Fairness(3600, 30, 0).levels(client_network("2001:db8:1:200::1", 32, prefix))
    assert {level.network: level.flatter for level in levels} == expected


def warnings(caplog):
    return [record for record in caplog.records if record.name == "binder_egress.gate.clients"]


def test_warning_about_hidden_clients_comes_once_an_hour(services, caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("binder_egress.gate.clients.time.monotonic", lambda: now[0])
    private, shown = public_client(services, "10.0.0.1"), public_client(services)
    for _ in range(5):
        get_pass(private)
    (warning,) = warnings(caplog)
    assert warning.levelname == "WARNING"
    assert "trustedProxies" in warning.getMessage()
    # One client with an address in the last hour shows that not all are hidden.
    for seconds, client, expected in (
        (QUIET_SECONDS - 1, private, 1),
        (2, private, 2),
        (QUIET_SECONDS - 10, shown, 2),
        (60, private, 2),
        (QUIET_SECONDS, private, 3),
    ):
        now[0] += seconds
        price(client)
        assert len(warnings(caplog)) == expected


# -- one address with most launches


def test_share_of_the_address_with_most_launches_is_shown(internal, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("binder_egress.gate.clients.time.monotonic", lambda: now[0])

    def share():
        return value(internal, "binder_egress_launches_largest_share")

    for number in range(FEW_LAUNCHES - 1):
        launch(internal, f"a{number}", client_address="10.0.0.1", forwarded_for="203.0.113.1")
    assert share() == 0
    launch(internal, "none", client_address=None)
    assert share() == 0
    launch(internal, "b", client_address="10.0.0.1", forwarded_for="203.0.113.2")
    assert share() == (FEW_LAUNCHES - 1) / FEW_LAUNCHES
    # A private address is one, too: a proxy may hide the clients.
    for number in range(2 * FEW_LAUNCHES):
        launch(internal, f"c{number}", client_address="10.0.0.1")
    assert share() == 2 / 3
    now[0] += SHARES_SECONDS + 1
    assert share() == 0
