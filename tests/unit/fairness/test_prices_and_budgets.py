"""The price of a challenge, which rises with the charges of a client network within a window, and the network's budget.

A spent budget withholds passes, but never launches. What Redis' faults cost is here, too.
"""

import base64
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from binder_egress.gate.fairness import TOLERANCE, Charge, Fairness
from binder_egress.store.errors import BudgetSpent, PriceRisen, Replayed
from tests.support.apps import NETWORK, admit, another, get_pass, internal_client, launch, public_client, run_pod, solve
from tests.support.charges import Clock, charge, charges, counted, present, price, public_client_of, unlock
from tests.support.metrics import value
from tests.support.public_port import assert_problem

pytestmark = pytest.mark.usefixtures("impatient")

# -- the curve


@pytest.mark.parametrize(
    ("had", "expected"),
    [(0, 1), (1, 1 + 1 / 30), (30, 2), (100, 1 + 100 / 30), (3000, 101)],
)
def test_price_is_as_documented(public, in_redis, had, expected):
    in_redis.hset(f"binder-egress:charges:{NETWORK}", str(int(time.time())), had)
    assert price(public) == pytest.approx(expected)
    assert price(public, "unlock") == pytest.approx(expected)


@pytest.mark.parametrize("had", [0, 7, 30, 31])
def test_priced_challenge_survives_the_json_of_a_browser(public, store, had):
    """JavaScript writes 2 where Python writes 2.0, and the signature covers the price."""
    charge(store, times=had)
    text = re.sub(r"(\d)\.0([,}])", r"\1\2", base64.b64decode(solve(public)).decode())
    assert ".0," not in text and ".0}" not in text
    assert present(public, base64.b64encode(text.encode()).decode()).status_code == 201


@given(st.integers(0, 10**5), st.integers(0, 10**5), st.integers(1, 10**4))
@example(10, 40, 30)  # twice the price, minus a rounding error
def test_challenge_is_too_cheap_once_the_price_more_than_doubled(then, more, doubled_after):
    curve = Fairness(3600, doubled_after, 0)
    (charge,) = curve.charges(NETWORK, curve.price(curve.levels(NETWORK), [then]))
    # The condition in integers: 1 + now/d <= 2 (1 + then/d).
    assert (then + more <= charge.most) == (doubled_after + then + more <= TOLERANCE * (doubled_after + then))


def test_curve_and_window_are_settings(site, store):
    client = public_client(site(fairness_doubled_after=2, fairness_window=60))
    charge(store, times=3, window=60)
    assert price(client) == 2.5
    # The price can be constant.
    client = public_client(site(fairness_doubled_after=0))
    cheap = solve(client)
    charge(store, times=200)
    assert price(client) == 1
    assert present(client, cheap).status_code == 201


# -- the window


@examples(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_charges_of_one_bucket_are_kept_as_one_number(store, in_redis):
    """A network that is charged each second takes no more memory than one that is charged each minute."""
    for _ in range(3):
        charge(store, window=3600)
    found = in_redis.hgetall(f"binder-egress:charges:{NETWORK}")
    assert all(int(began) % (3600 // 12) == 0 for began in found)
    assert sum(map(int, found.values())) == 3


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


# -- challenges fetched at a low price


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


def test_cheap_solution_unlocks_nothing(public, store, in_redis):
    run_pod(store)
    solution = solve(public, "unlock")
    charge(store, times=31)
    assert_problem(unlock(public, provider="altcha", solution=solution), "price-risen", 403)
    assert in_redis.keys("binder-egress:unlock:*") == []


# -- the budget


def test_budget_withholds_the_pass_but_not_the_launch(site, store, in_redis):
    services = site(fairness_budget=3)
    client, internal = public_client(services), internal_client(services)
    run_pod(store)
    used, solution = solve(client), solve(client)
    tokens = [present(client, used).json["token"], *(get_pass(client) for _ in range(2))]
    for answer in (present(client, solution), unlock(client, provider="altcha", solution=solve(client, "unlock"))):
        assert_problem(answer, "budget-spent", 429)
        assert 3600 - 5 <= int(answer.headers["Retry-After"]) <= 3900
    # A replay is told apart.
    assert_problem(present(client, used), "solution-refused", 403)
    labels = {"provider": "altcha", "purpose": "launch", "outcome": "budget-spent"}
    assert value(internal_client(services), "binder_egress_solutions_total", **labels) == 1
    # Launches go on, earlier passes are accepted, and other networks are not affected.
    assert launch(internal, "a")["tier"] == "unverified"
    assert [launch(internal, f"b{number}", token=token)["tier"] for number, token in enumerate(tokens)] == ["verified"] * 3
    assert unlock(client, token=get_pass(public_client_of(client, "203.0.113.1"))).status_code == 202
    # The refusal does not use up the solution.
    in_redis.delete(f"binder-egress:charges:{NETWORK}")
    assert present(client, solution).status_code == 201


def test_budget_applies_to_every_provider_and_the_price_to_work_alone(store, in_redis):
    curve = Fairness(3600, 30, 502)
    charge(store, times=500)
    store.use_solution("hcaptcha", "a", time.time() + 1, 60, admit, curve.charges(NETWORK, None))
    store.use_solution("altcha", "b", time.time() + 1, 60, admit, curve.charges(NETWORK, 18))
    assert charges(store, in_redis) == {NETWORK: 502}
    for name, asked in (("hcaptcha", None), ("altcha", 18)):
        with pytest.raises(BudgetSpent):
            store.use_solution(name, "c", time.time() + 1, 60, admit, curve.charges(NETWORK, asked))


def test_retry_after_is_the_time_until_budget_is_left(store, in_redis):
    clock, wider = Clock(in_redis, 3600), Clock(in_redis, 3600)
    for ago in (0, 3000, 600, 3000):
        clock.charged(ago)
    wider.key = "binder-egress:charges:wider"
    wider.charged(3000)

    def wait(budget, *networks):
        with pytest.raises(BudgetSpent) as spent:
            charged = [Charge(network, 3600, None, budget) for network in networks or [NETWORK]]
            store.use_solution("altcha", "x", time.time() + 1, 60, admit, charged)
        return spent.value.retry_after

    # A charge counts for the window, plus the rest of its bucket of 300 s.
    assert 600 - 5 <= wait(3) <= wait(4) + 300 and wait(4) <= 900
    assert 3000 - 5 <= wait(2) <= 3300
    assert 3600 - 5 <= wait(1) <= 3900
    # An IPv6 client's own network and the wider ones around it may all have used their budgets.
    assert 600 - 5 <= wait(1, "wider") <= 900
    assert min(wait(1, NETWORK, "wider"), wait(1, "wider", NETWORK)) >= 3600 - 5


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
    monkeypatch.setattr("binder_egress.store.issuing.secrets.token_hex", lambda _: "the same word")
    for _ in range(2):
        store.use_solution("altcha", "x", time.time() + 1, 60, admit, [Charge(NETWORK, 3600, None, 1)])
        store.use_key("k", 1, 3600, admit)
    assert charges(store, in_redis) == {NETWORK: 1, "key:k": 1}
    monkeypatch.undo()
    with pytest.raises(Replayed):
        store.use_solution("altcha", "x", time.time() + 1, 60, admit, [Charge(NETWORK, 3600, None, 1)])


def test_challenge_without_redis_is_refused(public, redis_server):
    redis_server.stop()
    answer = public.get("/egress/challenge")
    assert_problem(answer, "unavailable", 503)
    assert answer.headers["Retry-After"] == "5"


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


def test_challenge_states_how_long_a_launch_may_wait(site, public, store):
    answer = public_client(site(launch_hold=0, launch_interactive_hold=20)).get("/egress/challenge").json
    assert (answer["hold"], answer["interactive_hold"]) == (0, 20)
    # With two workers the base takes 0.55 s on average, so a price of 7.3 takes 4 s. A launch does not wait for longer work.
    for times, hold in ((180, 4), (20, 0)):
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
