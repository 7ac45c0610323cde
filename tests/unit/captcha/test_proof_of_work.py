"""The work of a challenge: all answers are equally likely, so no order of trying them is cheaper than counting (D-210)."""

import altcha
import pytest

from tests.support.charts import VALUES
from verifier.captcha.altcha import Altcha, Options

KEY = "0" * 40


@pytest.mark.parametrize(("price", "most"), [(1, 4001), (1.5, 6001), (2, 8001)])
def test_answer_is_a_random_number_below_a_bound(monkeypatch, price, most):
    monkeypatch.setattr("secrets.randbelow", lambda bound: 7 if bound == most else None)
    made = Altcha.from_options({"cost": 1}, [KEY]).challenge("launch", "198.51.100.7/32", price)
    assert altcha.solve_challenge(altcha.Challenge.from_dict(made)).counter == 7


@pytest.mark.parametrize("price", [1e9, 1e300])
def test_answer_fits_its_four_bytes_at_any_price(price, monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda bound: bound - 1)
    challenge = Altcha.from_options({"cost": 1}, [KEY]).challenge("launch", "198.51.100.7/32", price)
    assert challenge["parameters"]["keyPrefix"]


def test_defaults_are_those_of_the_chart():
    """Measurements of the default work do not read the chart."""
    of_chart = VALUES["captcha"]["providers"]["altcha"]
    assert Options().model_dump() == {name: value for name, value in of_chart.items() if name != "enabled"}
