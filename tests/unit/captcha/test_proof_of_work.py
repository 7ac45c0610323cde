"""The work of a challenge: every order of trying costs the same on average, and the honest one has a bound."""

import itertools
from collections import Counter

import altcha
import pytest

from tests.support.charts import VALUES
from verifier.captcha.altcha import Altcha, Options

KEY = "0" * 40


@pytest.fixture
def answers(monkeypatch):
    """Returns a function that gives every possible answer of a challenge, as often as the random source can give it."""

    def drawn(price=1, **options):
        provider = Altcha.from_options({"algorithm": "SHA-256", "cost": 1, **options}, [KEY])
        made = []
        # The first call tells the range; then every number in it is given once.
        numbers = iter([0])

        def randbelow(bound):
            nonlocal numbers
            if not made:
                numbers = iter(range(bound))
            return next(numbers)

        create = altcha.create_challenge

        def record(*args, counter, **rest):
            made.append(counter)
            return create(*args, counter=counter, **rest)

        with monkeypatch.context() as patch:
            patch.setattr("secrets.randbelow", randbelow)
            patch.setattr(altcha, "create_challenge", record)
            while True:
                try:
                    provider.challenge("launch", "198.51.100.7/32", price)
                except StopIteration:
                    return made

    return drawn


def cost(chances, order, last):
    """The average number of tries for one solution, for somebody who tries in this order and gets a new challenge after `last`."""
    found, tries = 0.0, 0.0
    for answer in order[:last]:
        tries += 1 - found
        found += chances.get(answer, 0)
    return tries / found if found else float("inf")


@pytest.mark.parametrize("price", [1, 1.5])
def test_no_order_is_cheaper_than_counting_from_0(answers, price):
    drawn = answers(price, counterMax=4)
    chances = {answer: times / len(drawn) for answer, times in Counter(drawn).items()}
    honest = cost(chances, range(max(drawn) + 1), None)
    everything = [
        cost(chances, order, last) for order in itertools.permutations(range(max(drawn) + 1)) for last in range(1, len(order) + 1)
    ]
    assert min(everything) == pytest.approx(honest)


def test_answer_is_uniform_from_0(answers):
    assert answers() == list(range(4001))


@pytest.mark.parametrize(("price", "average", "most"), [(1, 2001, 4001), (2, 4001, 8001)])
def test_honest_wait_is_bounded(answers, price, average, most):
    """The key derivations of somebody who counts from 0, with the default options."""
    tries = [answer + 1 for answer in answers(price)]
    assert (sum(tries) / len(tries), max(tries)) == (average, most)


@pytest.mark.parametrize("price", [1e9, 1e300])
def test_answer_fits_its_four_bytes_at_any_price(price, monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda bound: bound - 1)
    challenge = Altcha.from_options({"cost": 1}, [KEY]).challenge("launch", "198.51.100.7/32", price)
    assert challenge["parameters"]["keyPrefix"]


def test_defaults_are_those_of_the_chart():
    """Measurements of the default work do not read the chart."""
    of_chart = VALUES["captcha"]["providers"]["altcha"]
    assert Options().model_dump() == {name: value for name, value in of_chart.items() if name != "enabled"}
