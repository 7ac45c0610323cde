"""The cost of passes: the price rises with the charges of a client network. A budget withholds passes, but never launches."""

import base64
import logging
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import altcha
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.support.apps import (
    CLIENT,
    NETWORK,
    admit,
    another,
    get_pass,
    internal_client,
    launch,
    make_settings,
    public_client,
    run_pod,
    solve,
)
from tests.support.metrics import value
from verifier.fairness import BASE_SECONDS, TOLERANCE, Charge, Fairness
from verifier.networks import FEW_LAUNCHES, QUIET_SECONDS, SHARED, SHARES_SECONDS, client_network
from verifier.store.errors import BudgetSpent, PriceRisen, Replayed
from verifier.web.app import create_public_app, create_services
from verifier.web.problems import TYPE

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def site(redis_server, store):
    """Returns a function that makes the services of a site with given settings."""
    return lambda **overrides: create_services(make_settings(redis_server, **overrides), store)


def charge(store, network=NETWORK, times=1, window=3600):
    """Charge a network for that many passes."""
    for _ in range(times):
        store.use_solution("altcha", f"{time.time_ns()}", time.time() + 1, 60, admit, [Charge(network, window, None, 0)])


def counted(store, network, window=3600):
    """Returns the charges of one network."""
    (number,) = store.charges([network], window)
    return number


def charges(store, in_redis):
    """Returns the charges of each network."""
    prefix = "binder-egress:charges:"
    return {key.removeprefix(prefix): counted(store, key.removeprefix(prefix)) for key in in_redis.keys(f"{prefix}*")}


def price(client, purpose="launch"):
    return client.get(f"/egress/challenge?purpose={purpose}").json["providers"][0]["challenge"]["parameters"]["data"]["price"]


def present(client, solution, **options):
    return client.post("/egress/passes", json={"provider": "altcha", "solution": solution}, **options)


def unlock(client, **body):
    return client.post("/egress/servers/alice", json=body)


def assert_problem(answer, kind, status):
    assert (answer.status_code, answer.json["type"]) == (status, TYPE + kind), answer.text


# -- the curve


@pytest.mark.parametrize(
    ("had", "expected"),
    [(0, 1), (1, 1 + 1 / 30), (30, 2), (100, 1 + 100 / 30), (3000, 101)],
)
def test_price_is_as_documented(public, in_redis, had, expected):
    in_redis.hset(f"binder-egress:charges:{NETWORK}", str(int(time.time())), had)
    assert price(public) == pytest.approx(expected)
    assert price(public, "unlock") == pytest.approx(expected)


def test_work_is_the_price_times_the_base(site, store, monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda bound: bound - 1)
    client = public_client(site(captcha_providers={"altcha": {"cost": 1, "counterMax": 100}}))
    charge(store, times=60)
    answer = client.get("/egress/challenge").json["providers"][0]["challenge"]
    solution = altcha.solve_challenge(altcha.Challenge.from_dict(answer))
    assert solution.counter == 300


@pytest.mark.parametrize("had", [0, 7, 30, 31])
def test_priced_challenge_survives_the_json_of_a_browser(public, store, had):
    """JavaScript writes 2 where Python writes 2.0, and the signature covers the price."""
    charge(store, times=had)
    text = re.sub(r"(\d)\.0([,}])", r"\1\2", base64.b64decode(solve(public)).decode())
    assert ".0," not in text and ".0}" not in text
    assert present(public, base64.b64encode(text.encode()).decode()).status_code == 201


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_price_is_at_least_1_and_rises_with_each_charge(had, more, doubled_after):
    curve = Fairness(3600, doubled_after, 0)
    levels = curve.levels(NETWORK)
    before, after = (curve.price(levels, [number]) for number in (had, had + more))
    assert 1 <= before <= after
    assert (before < after) == bool(doubled_after)


@given(st.integers(0, 10**5), st.integers(0, 10**5), st.integers(1, 10**4))
def test_challenge_is_too_cheap_once_the_price_more_than_doubled(then, more, doubled_after):
    curve = Fairness(3600, doubled_after, 0)
    (charge,) = curve.charges(NETWORK, curve.price(curve.levels(NETWORK), [then]))
    # The condition in integers: 1 + now/d <= 2 (1 + then/d).
    assert (then + more <= charge.most) == (doubled_after + then + more <= TOLERANCE * (doubled_after + then))


def test_price_can_be_constant(site, store):
    services = site(fairness_doubled_after=0)
    client = public_client(services)
    cheap = solve(client)
    charge(store, times=200)
    assert price(client) == 1
    assert present(client, cheap).status_code == 201


def test_curve_and_window_are_settings(site, store):
    client = public_client(site(fairness_doubled_after=2, fairness_window=60))
    charge(store, times=3, window=60)
    assert price(client) == 2.5


# -- the window


class Clock:
    """Makes charges that are some seconds old, in the buckets of that time."""

    def __init__(self, in_redis, window):
        self.in_redis, self.window = in_redis, window
        self.width = -(-window // 12)
        self.key = f"binder-egress:charges:{NETWORK}"

    def charged(self, ago):
        at = int(time.time()) - ago
        self.in_redis.hincrby(self.key, str(at - at % self.width), 1)


@examples(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(60, 86400), st.lists(st.floats(0, 2), max_size=40))
def test_charge_counts_for_the_window_and_a_twelfth_at_most(store, in_redis, window, ages):
    clock = Clock(in_redis, window)
    in_redis.delete(clock.key)
    for age in ages:
        clock.charged(int(age * window))
    # Seconds may pass between the two.
    young = sum(int(age * window) < window - 5 for age in ages)
    not_old = sum(int(age * window) <= window + clock.width + 1 for age in ages)
    assert young <= counted(store, NETWORK, window) <= not_old
    # The check of a solution counts the same charges.
    found = counted(store, NETWORK, window)
    if found:
        with pytest.raises(PriceRisen):
            store.use_solution("altcha", "x", time.time() + 1, 60, admit, [Charge(NETWORK, window, found - 1, 0)])
        with pytest.raises(BudgetSpent) as spent:
            store.use_solution("altcha", "x", time.time() + 1, 60, admit, [Charge(NETWORK, window, None, found)])
        assert 1 <= spent.value.retry_after <= window + clock.width
    store.use_solution("altcha", str(time.time_ns()), time.time() + 1, 60, admit, [Charge(NETWORK, window, found, found + 1)])
    assert found <= counted(store, NETWORK, window) <= found + 1


def test_charge_counts_at_once(store):
    for number in range(1, 40):
        charge(store)
        assert counted(store, NETWORK, 3600) == number


def test_charge_is_forgotten_after_the_window(store, in_redis):
    charge(store, window=60)
    assert 60 < in_redis.ttl(f"binder-egress:charges:{NETWORK}") <= 65
    # Expiry alone is not enough: a client that comes each minute would keep all charges for ever.
    clock = Clock(in_redis, 60)
    clock.charged(80)
    clock.charged(70)
    assert counted(store, NETWORK, 60) == 1
    charge(store, window=60)
    assert len(in_redis.hgetall(clock.key)) <= 2


def test_memory_of_one_network_is_bounded(store, in_redis):
    clock = Clock(in_redis, 3600)
    for ago in range(0, 7200, 10):
        clock.charged(ago)
    charge(store)
    assert len(in_redis.hgetall(clock.key)) <= 14


def test_longer_window_counts_earlier_charges(store):
    charge(store, times=5)
    assert counted(store, NETWORK, 7200) == 5


# -- who is charged, when


def test_pass_is_charged_once_with_its_solution(public, internal, store, in_redis):
    run_pod(store)
    token = get_pass(public)
    assert charges(store, in_redis) == {NETWORK: 1}
    launch(internal, token=token)
    unlock(public, token=token)
    assert charges(store, in_redis) == {NETWORK: 1}


def test_unlock_by_solution_is_charged(public, store, in_redis):
    run_pod(store)
    assert unlock(public, provider="altcha", solution=solve(public, "unlock")).status_code == 202
    assert charges(store, in_redis) == {NETWORK: 1}


def test_rejected_solution_is_not_charged(public, store, in_redis):
    solution = solve(public)
    present(public, "rubbish")
    present(public_client_of(public, "203.0.113.1"), solution)
    unlock(public, provider="altcha", solution=solution)  # unknown server
    assert charges(store, in_redis) == {}
    assert present(public, solution).status_code == 201
    assert present(public, solution).status_code == 403
    assert charges(store, in_redis) == {NETWORK: 1}


def public_client_of(client, address):
    other = another(client)
    other.environ_base["HTTP_X_FORWARDED_FOR"] = address
    return other


def test_challenges_are_not_charged(public, store, in_redis):
    for _ in range(50):
        price(public)
    assert charges(store, in_redis) == {}
    assert price(public) == 1


def test_networks_are_charged_separately(public, store):
    charge(store, times=30)
    assert price(public) == 2
    assert price(public_client_of(public, "198.51.100.8")) == 1
    assert price(public_client_of(public, "2001:db8::1")) == 1


@pytest.mark.parametrize(
    ("proxies", "forwarded", "network"),
    [
        (0, "203.0.113.1", "192.0.2.1/32"),
        (0, "203.0.113.1, 203.0.113.2", "192.0.2.1/32"),
        (1, "203.0.113.2", "203.0.113.2/32"),
        (1, "203.0.113.1, 203.0.113.2", "203.0.113.2/32"),
        (1, "10.0.0.1, 203.0.113.2", "203.0.113.2/32"),
        (2, "203.0.113.1, 203.0.113.2, 10.0.0.9", "203.0.113.2/32"),
        (2, "rubbish, 203.0.113.2, 198.51.100.1", "203.0.113.2/32"),
    ],
)
def test_forged_header_neither_lowers_the_price_nor_charges_others(site, store, proxies, forwarded, network, in_redis):
    services = site(trusted_proxies=proxies)
    client = create_public_app(services).test_client()
    client.environ_base["REMOTE_ADDR"] = "192.0.2.1"
    charge(store, network, times=30)
    for forged in (
        {},
        {"X-Real-IP": "203.0.113.99"},
        {"Forwarded": "for=203.0.113.99"},
        {"CF-Connecting-IP": "203.0.113.99"},
        {"True-Client-IP": "203.0.113.99"},
        {"X-Client-IP": "203.0.113.99"},
        {"X-Forwarded": "203.0.113.99"},
    ):
        client.environ_base.update({f"HTTP_{name.upper().replace('-', '_')}": sent for name, sent in forged.items()})
        client.environ_base["HTTP_X_FORWARDED_FOR"] = forwarded
        assert price(client) >= 2
        assert present(client, solve(client)).status_code == 201
    assert charges(store, in_redis) == {network: 37}


def test_client_address_of_a_launch_is_not_charged(internal, store, in_redis):
    launch(internal, client_address="203.0.113.1")
    assert charges(store, in_redis) == {}


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


def test_solution_of_a_private_client_counts_behind_another_node(site, store):
    """Where nodes hide the clients, one client's requests come from several addresses."""
    client = public_client(site(), "10.0.0.1")
    solution = solve(client)
    assert present(public_client_of(client, "10.0.0.2"), solution).status_code == 201


def test_invented_addresses_share_a_price(site, store, in_redis):
    """60 passes with 60 addresses from a sender that is not a proxy."""
    services = site(trusted_proxies=["10.1.0.0/24"], launch_hold=4, fairness_budget=10)
    pod = create_public_app(services).test_client()
    pod.environ_base["REMOTE_ADDR"] = "10.9.9.9"
    prices = []
    for number in range(60):
        pod.environ_base["HTTP_X_FORWARDED_FOR"] = f"198.51.100.{number}"
        prices.append(price(pod))
        get_pass(pod)
    assert prices == [pytest.approx(1 + number / 30) for number in range(60)]
    # Nobody else pays.
    assert charges(store, in_redis) == {SHARED: 60}


@pytest.mark.parametrize(("hold", "cap"), [(4, 4 / BASE_SECONDS), (60, 60 / BASE_SECONDS), (1, 1), (0, 1)])
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


def test_direct_client_without_a_proxy_has_its_own_price(site, store, in_redis):
    client = create_public_app(site(trusted_proxies=["10.1.0.0/24"])).test_client()
    client.environ_base.update(REMOTE_ADDR="203.0.113.5", HTTP_X_FORWARDED_FOR="198.51.100.1")
    get_pass(client)
    assert charges(store, in_redis) == {"203.0.113.5/32": 1}


def test_client_with_an_address_is_not_counted_as_hidden(services, public):
    get_pass(public)
    assert value(internal_client(services), "binder_egress_clients_without_address_total") == 0


@pytest.mark.parametrize("mapped", ["::ffff:198.51.100.7", "::ffff:c633:6407"])
def test_ipv4_mapped_address_is_the_same_client(public, store, mapped, in_redis):
    get_pass(public_client_of(public, mapped))
    assert charges(store, in_redis) == {NETWORK: 1}


@pytest.mark.parametrize(
    ("address", "ipv4", "ipv6", "network"),
    [
        ("198.51.100.7", 32, 64, "198.51.100.7/32"),
        ("198.51.100.7", 24, 64, "198.51.100.0/24"),
        ("::ffff:198.51.100.7", 24, 56, "198.51.100.0/24"),
        ("2001:db8:1:2:3::4", 24, 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:234::4", 24, 56, "2001:db8:1:200::/56"),
        ("2001:db8:1:2::4", 24, 48, "2001:db8:1::/48"),
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


def test_ipv6_networks_around_a_client_raise_its_price(site, store):
    client = public_client(site(), "2001:db8:1:200::1")
    for number in range(1, 21):
        get_pass(public_client_of(client, f"2001:db8:1:2{number:02x}::1"))
    assert price(client) == pytest.approx(1 + 20 / 60)
    assert price(public_client_of(client, "2001:db8:1:9900::1")) == pytest.approx(1 + 20 / 240)
    assert price(public_client_of(client, "2001:db8:2::1")) == 1


def test_ipv6_client_pays_the_largest_price_not_the_sum(site, store):
    client = public_client(site(), "2001:db8::1")
    for _ in range(30):
        get_pass(client)
    assert price(client) == 2


@pytest.mark.parametrize(
    ("name", "passes", "base_works"),
    [
        ("one /64", 3000, 152_950),
        ("one /56", 3000, 77_975),
        ("one /48", 3000, 21_743),
        ("campus", 500, 1020),
    ],
)
def test_ipv6_moves_cost_what_is_documented(name, passes, base_works):
    """The sum of the prices in a network, in multiples of the base, for somebody who moves between all networks in it."""
    curve = Fairness(3600, 30, 0)
    addresses = {
        "one /64": lambda number: "2001:db8:1:1::/64",
        "one /56": lambda number: f"2001:db8:1:{number % 256:x}::/64",
        "one /48": lambda number: f"2001:db8:1:{number * 257 % 65536:x}::/64",
        "campus": lambda number: f"2001:db8:1:{number * 257 % 65536:x}::/64",
    }[name]
    had = Counter()
    paid = 0
    for number in range(passes):
        levels = curve.levels(addresses(number))
        paid += curve.price(levels, [had[level.network] for level in levels])
        had.update(level.network for level in levels)
    assert round(paid) == pytest.approx(base_works, abs=1)


def test_ipv6_challenge_is_too_cheap_when_its_neighbours_took_many(site, store):
    client = public_client(site(), "2001:db8::1")
    cheap = solve(client)
    charge(store, "2001:db8::/56", times=61)
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


@pytest.mark.parametrize("network", [NETWORK, "198.51.0.0/16", SHARED])
def test_ipv4_has_one_level(network):
    assert [level.network for level in Fairness(3600, 30, 0).levels(network)] == [network]


def warnings(caplog):
    return [record for record in caplog.records if record.name == "verifier.networks"]


def test_warning_about_hidden_clients_comes_once_an_hour(services, caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("verifier.networks.time.monotonic", lambda: now[0])
    private, shown = public_client(services, "10.0.0.1"), public_client(services)
    for _ in range(5):
        get_pass(private)
    (warning,) = warnings(caplog)
    assert warning.levelname == "WARNING"
    assert "trustedProxies" in warning.getMessage()
    now[0] += QUIET_SECONDS - 1
    price(private)
    assert len(warnings(caplog)) == 1
    now[0] += 2
    price(private)
    assert len(warnings(caplog)) == 2
    # One client with an address in the last hour shows that not all are hidden.
    now[0] += QUIET_SECONDS - 10
    price(shown)
    now[0] += 60
    price(private)
    assert len(warnings(caplog)) == 2
    now[0] += QUIET_SECONDS
    price(private)
    assert len(warnings(caplog)) == 3


# -- one address with most launches


def test_share_of_the_address_with_most_launches_is_shown(services, internal, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("verifier.networks.time.monotonic", lambda: now[0])

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


# -- challenges fetched at a low price


def test_class_of_thirty_in_one_second_is_accepted(public, store, in_redis):
    solutions = [solve(public) for _ in range(30)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda solution: present(another(public), solution).status_code, solutions))
    assert answers == [201] * 30
    assert charges(store, in_redis) == {NETWORK: 30}


def test_hoarded_challenges_are_refused_after_the_price_doubled(services, public, store, in_redis):
    solutions = [solve(public) for _ in range(40)]
    answers = [present(public, solution) for solution in solutions]
    assert [answer.status_code for answer in answers] == [201] * 31 + [403] * 9
    assert_problem(answers[-1], "price-risen", 403)
    assert charges(store, in_redis) == {NETWORK: 31}
    labels = {"provider": "altcha", "purpose": "launch"}
    assert value(internal_client(services), "binder_egress_solutions_total", outcome="ok", **labels) == 31
    assert value(internal_client(services), "binder_egress_solutions_total", outcome="price-risen", **labels) == 9
    # A new challenge is accepted, until the price doubles again.
    assert present(public, solve(public)).status_code == 201


def test_hundred_clients_in_one_second_need_at_most_three_rounds(public):
    waiting, rounds = 100, []
    while waiting:
        solutions = [solve(public) for _ in range(waiting)]
        done = sum(present(public, solution).status_code == 201 for solution in solutions)
        rounds.append(done)
        waiting -= done
    assert rounds == [31, 62, 7]


def test_cheap_solution_unlocks_nothing(public, store, in_redis):
    run_pod(store)
    solution = solve(public, "unlock")
    charge(store, times=31)
    assert_problem(unlock(public, provider="altcha", solution=solution), "price-risen", 403)
    assert in_redis.keys("binder-egress:unlock:*") == []


def test_solution_without_work_has_no_price(store, in_redis):
    curve = Fairness(3600, 30, 0)
    charge(store, times=500)
    store.use_solution("hcaptcha", "x", time.time() + 1, 60, admit, curve.charges(NETWORK, None))
    assert charges(store, in_redis) == {NETWORK: 501}


# -- the budget


def test_budget_withholds_the_pass_but_not_the_launch(site, store, in_redis):
    services = site(fairness_budget=3)
    client, internal = public_client(services), internal_client(services)
    run_pod(store)
    tokens = [get_pass(client) for _ in range(3)]
    solution = solve(client)
    for answer in (
        present(client, solution),
        unlock(client, provider="altcha", solution=solve(client, "unlock")),
    ):
        assert_problem(answer, "budget-spent", 429)
        assert 3600 - 5 <= int(answer.headers["Retry-After"]) <= 3900
    labels = {"provider": "altcha", "purpose": "launch", "outcome": "budget-spent"}
    assert value(internal_client(services), "binder_egress_solutions_total", **labels) == 1
    # Launches go on, earlier passes are accepted, and other networks are not affected.
    assert launch(internal, "a")["tier"] == "unverified"
    assert [launch(internal, f"b{number}", token=token)["tier"] for number, token in enumerate(tokens)] == ["verified"] * 3
    assert unlock(client, token=get_pass(public_client_of(client, "203.0.113.1"))).status_code == 202
    # The refusal does not use up the solution.
    in_redis.delete(f"binder-egress:charges:{NETWORK}")
    assert present(client, solution).status_code == 201


def test_replay_is_told_apart_from_a_spent_budget(site):
    client = public_client(site(fairness_budget=1))
    solution = solve(client)
    assert present(client, solution).status_code == 201
    assert_problem(present(client, solution), "solution-refused", 403)


def test_budget_is_unlimited_by_default(public, in_redis):
    in_redis.hset(f"binder-egress:charges:{NETWORK}", str(int(time.time())), 999_999)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("verifier.captcha.altcha.MAX_COUNTER", 1)  # the test is not about the work
        assert present(public, solve(public)).status_code == 201


def test_budget_applies_to_every_provider(store):
    curve = Fairness(3600, 30, 2)
    store.use_solution("hcaptcha", "a", time.time() + 1, 60, admit, curve.charges(NETWORK, None))
    store.use_solution("altcha", "b", time.time() + 1, 60, admit, curve.charges(NETWORK, 1))
    for name, asked in (("hcaptcha", None), ("altcha", 1)):
        with pytest.raises(BudgetSpent):
            store.use_solution(name, "c", time.time() + 1, 60, admit, curve.charges(NETWORK, asked))


def test_retry_after_is_the_time_until_budget_is_left(store, in_redis):
    clock = Clock(in_redis, 3600)
    for ago in (0, 3000, 600, 3000):
        clock.charged(ago)

    def wait(budget):
        with pytest.raises(BudgetSpent) as spent:
            store.use_solution("altcha", "x", time.time() + 1, 60, admit, [Charge(NETWORK, 3600, None, budget)])
        return spent.value.retry_after

    # A charge counts for the window, plus the rest of its bucket of 300 s.
    assert 600 - 5 <= wait(3) <= wait(4) + 300 and wait(4) <= 900
    assert 3000 - 5 <= wait(2) <= 3300
    assert 3600 - 5 <= wait(1) <= 3900


def test_fifty_simultaneous_solutions_do_not_exceed_the_budget(site, store, in_redis):
    client = public_client(site(fairness_budget=20, fairness_doubled_after=0))
    solutions = [solve(client) for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda solution: present(another(client), solution).status_code, solutions))
    assert sorted(answers) == [201] * 20 + [429] * 30
    assert charges(store, in_redis) == {NETWORK: 20}


def test_solution_presented_fifty_times_is_charged_once(public, store, in_redis):
    solution = solve(public)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: present(another(public), solution).status_code, range(50)))
    assert sorted(answers) == [201] + [403] * 49
    assert charges(store, in_redis) == {NETWORK: 1}


@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10))
def test_simultaneous_solutions_never_overdraw_the_budget(store, in_redis, budget, threads, most):
    """With budget and price together, exactly the number of solutions that both allow is accepted and charged."""
    in_redis.delete(f"binder-egress:charges:{NETWORK}")

    def use(number):
        try:
            store.use_solution(
                "altcha", f"{time.time_ns()}-{number}", time.time() + 1, 60, admit, [Charge(NETWORK, 3600, most, budget)]
            )
        except (BudgetSpent, PriceRisen):
            return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        accepted = sum(pool.map(use, range(20)))
    assert accepted == min(budget, most + 1) == counted(store, NETWORK, 3600)


# -- Redis


def test_lost_answer_is_not_charged_again(store, monkeypatch, in_redis):
    """The Redis client repeats a call on a dead connection. A random word marks the repeat as the same call."""
    monkeypatch.setattr("verifier.store.store.secrets.token_hex", lambda _: "the same word")
    for _ in range(2):
        store.use_solution("altcha", "x", time.time() + 1, 60, admit, [Charge(NETWORK, 3600, None, 1)])
    assert charges(store, in_redis) == {NETWORK: 1}
    monkeypatch.undo()
    with pytest.raises(Replayed):
        store.use_solution("altcha", "x", time.time() + 1, 60, admit, [Charge(NETWORK, 3600, None, 1)])


@pytest.mark.parametrize("address", [CLIENT, "10.0.0.1"])
def test_challenge_without_redis_is_refused(services, redis_server, address):
    redis_server.stop()
    answer = public_client(services, address).get("/egress/challenge")
    assert_problem(answer, "unavailable", 503)
    assert answer.headers["Retry-After"] == "5"


def test_wiped_redis_forgets_only_charges(public, internal, store, redis_server):
    charge(store, times=60)
    redis_server.wipe()
    assert price(public) == 1
    assert launch(internal, token=get_pass(public))["tier"] == "verified"


def test_full_redis_gives_no_free_pass(public, store, in_redis):
    solution = solve(public)
    try:
        in_redis.config_set("maxmemory", 1)
        in_redis.config_set("maxmemory-policy", "noeviction")
        assert_problem(present(public, solution), "unavailable", 503)
        assert price(public) == 1
    finally:
        in_redis.config_set("maxmemory", 0)
    assert present(public, solution).status_code == 201
    assert charges(store, in_redis) == {NETWORK: 1}


# -- metrics, logs and hints to clients


def test_prices_and_refusals_are_in_metrics_and_logs(services, public, store, caplog):
    caplog.set_level(logging.INFO)
    price(public)
    charge(store, times=60)
    price(public)
    assert value(internal_client(services), "binder_egress_challenge_price_count") == 2
    assert value(internal_client(services), "binder_egress_challenge_price_sum") == 4
    cheap = solve(public)
    charge(store, times=200)
    present(public, cheap)
    (record,) = [record for record in caplog.records if record.getMessage() == "solution"]
    assert (record.fields["rule"], record.fields["client_network"]) == ("price-risen", "198.51.100.0/24")


def test_challenge_states_how_long_a_launch_may_wait(public, site):
    answer = public.get("/egress/challenge").json
    assert (answer["hold"], answer["interactive_hold"]) == (4, 60)
    answer = public_client(site(launch_hold=0, launch_interactive_hold=20)).get("/egress/challenge").json
    assert (answer["hold"], answer["interactive_hold"]) == (0, 20)


@pytest.mark.parametrize(("times", "hold"), [(180, 4), (200, 0)], ids=["7.0", "7.7"])
def test_launch_does_not_wait_for_work_that_takes_longer(public, store, times, hold):
    """With two workers the base takes 0.55 s on average, so a price of 7.3 takes 4 s."""
    charge(store, times=times)
    answer = public.get("/egress/challenge").json
    assert (answer["hold"], answer["interactive_hold"]) == (hold, 60)


def test_launch_waits_for_a_widget_whatever_the_price(site, store):
    """Its answer costs no work. The work is offered as another way."""
    offered = {"turnstile": {"siteKey": "x"}, "altcha": {"order": 100, "cost": 1}}
    client = public_client(site(captcha_providers=offered, captcha_secrets={"TURNSTILE": "y"}))
    charge(store, times=200)
    answer = client.get("/egress/challenge").json
    assert [offer["name"] for offer in answer["providers"]] == ["turnstile", "altcha"] and answer["hold"] == 4
