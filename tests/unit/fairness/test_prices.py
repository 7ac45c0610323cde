"""The price of a challenge, which rises with the charges of a client network within a window."""

import base64
import re
import time

import altcha
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.support.apps import NETWORK, admit, internal_client, public_client, run_pod, solve
from tests.support.charges import Clock, charge, charges, counted, present, price, unlock
from tests.support.metrics import value
from tests.support.public_port import assert_problem
from verifier.fairness import TOLERANCE, Charge, Fairness
from verifier.store.errors import BudgetSpent, PriceRisen

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


def test_solution_without_work_has_no_price(store, in_redis):
    curve = Fairness(3600, 30, 0)
    charge(store, times=500)
    store.use_solution("hcaptcha", "x", time.time() + 1, 60, admit, curve.charges(NETWORK, None))
    assert charges(store, in_redis) == {NETWORK: 501}
