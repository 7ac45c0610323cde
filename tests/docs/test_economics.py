"""docs/economics.md: its tables and sentences agree with ci/economics, which uses the chart and the verifier's own curve."""

import re

import pytest

from studies import economics
from studies import economics_model as model
from tests.support import TOP
from tests.support.charts import VALUES

PAGE = (TOP / "docs/economics.md").read_text()


def test_tables_and_figures_are_what_is_computed():
    assert economics.main(["--check"]) == 0


def test_price_of_a_farm_is_the_documented_one():
    """By formulas that know nothing of the model."""
    pods, addresses = 3000, 10
    assert model.price_after(pods, addresses) == pytest.approx(1 + pods / (30 * addresses))
    # For somebody with a whole /48, the widest network is the most expensive.
    assert model.price_after(2400, 0) == pytest.approx(1 + 2400 / 240)
    # At once, with challenges fetched in advance: half of N + N²/60K.
    assert model.farm_price(pods, 1, addresses) == pytest.approx((1 + pods / (60 * addresses)) / 2, rel=0.05)
    # With leases shorter than the window, the earlier charges still count.
    assert model.farm_price(pods, 0.5, addresses) == pytest.approx((1 + 3 * pods / (60 * addresses)) / 2, rel=0.05)
    # Over so long a time that the price never rises.
    assert model.farm_price(1, 6, 1) == 1


def test_figures_in_sentences_are_those_of_the_tables():
    tax = dict(re.findall(r"^\| (1 hour) \| (.*) \|$", PAGE, re.MULTILINE))["1 hour"].split(" | ")
    assert f"{tax[0]} at most for one pod, and {tax[-1]} for each of a thousand with the faster solver" in PAGE
    hour = next(line for line in economics.counters(0.1) if line.startswith("lease: 3600 "))
    laptop, phone = (round(float(found)) for found in re.findall(r"([\d.]+) s", hour))
    assert f"a laptop works for {laptop} s and a slow phone for {phone} s" in PAGE
    assert f"gives {tax[0]} of its processor for that at most" in (TOP / "chart/settings/balanced.yaml").read_text()
    limits = VALUES["proxy"]["limits"]
    assert f"A server has {limits['connections']} connections and {limits['newPerSecond']} new ones a second" in PAGE


def test_conclusions_hold_at_each_end_of_each_range():
    opened, balanced, strict = model.settings_of()
    for key, assumption in model.ASSUMPTIONS.items():
        for end in (assumption.low, assumption.high):
            numbers = {**model.USUAL, key: end}
            assert max(model.cheapest(opened, numbers), model.cheapest(balanced, numbers)) < 0.01, key
            assert model.cheapest(strict, numbers) > 1, key
    assert model.cheapest(strict, {**model.USUAL, "hashes": model.ASSUMPTIONS["hashes"].high, "cores": 2}) < 1


def test_conclusions_hold_where_connections_outlive_their_lease():
    strict = model.Setting.read("strict")
    kept = strict.with_open_connections()
    assert model.cheapest(kept, model.USUAL) > 1
    ends = {"hashes": "high", "cores": "high", "solve_dollars": "low", "life_hours": "high"}
    for key, value in [("cores", 2), *((key, getattr(model.ASSUMPTIONS[key], end)) for key, end in ends.items())]:
        assert model.cheapest(kept, {**model.USUAL, key: value}) < 1, key
    shares = (economics.percent(model.cheapest(each, model.USUAL)) for each in (kept, strict))
    assert "*strict* costs {} of what mining earns, not {}".format(*shares) in PAGE
