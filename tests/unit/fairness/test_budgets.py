"""Budgets of client networks, which withhold passes, but never launches; and what Redis' faults cost."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.support.apps import NETWORK, admit, another, get_pass, internal_client, launch, public_client, run_pod, solve
from tests.support.charges import Clock, charge, charges, counted, present, price, public_client_of, unlock
from tests.support.metrics import value
from tests.support.public_port import assert_problem
from verifier.fairness import Charge, Fairness
from verifier.store.errors import BudgetSpent, PriceRisen, Replayed

pytestmark = pytest.mark.usefixtures("impatient")

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


def test_budget_applies_to_every_provider(store):
    curve = Fairness(3600, 30, 2)
    store.use_solution("hcaptcha", "a", time.time() + 1, 60, admit, curve.charges(NETWORK, None))
    store.use_solution("altcha", "b", time.time() + 1, 60, admit, curve.charges(NETWORK, 1))
    for name, asked in (("hcaptcha", None), ("altcha", 1)):
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
    monkeypatch.setattr("verifier.store.issuing.secrets.token_hex", lambda _: "the same word")
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
