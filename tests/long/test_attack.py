"""Compares the cost of passes for an attacker with docs/fairness.md, by prices and tries, which no load of the machine changes."""

import json
import re
import sys

import pytest

from binder_egress.store.redeeming import MOVES
from tests.support import TOP

sys.path.insert(0, str(TOP / "studies"))
import attack

PASSES = 3000
"""The numbers of passes for which docs/fairness.md states prices."""

ROUNDED = 0.995
"""A price may be this share of the documented price."""

DOCUMENT = (TOP / "docs/fairness.md").read_text()


def rows(heading):
    """The rows of the table in the document whose heading begins so: the text of their cells."""
    table = re.search(rf"^\| {re.escape(heading)}.*\n\|[-|]+\|\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    assert table, heading
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[1].splitlines()]


def number(text):
    return float(re.sub("[^0-9.]", "", text))


DOCUMENTED = {
    name: (number(one_by_one), number(cheapest))
    for names, one_by_one, cheapest, *_ in rows("from")
    for name in {
        "one IPv4 address, or one /64": ["1 address", "/64"],
        "10 addresses": ["10 addresses"],
        "1,000 addresses": ["1000 addresses"],
        "the /64 of a /56, in turns": ["/56"],
        "the /64 of a /48, in turns": ["/48"],
    }[names]
}


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        # The attacker's reconciler is a thread of this process, and ends at the first answer of Redis that a busy machine delays.
        patch.setattr("binder_egress.store.connection.TIMEOUT_SECONDS", 10)
        result = attack.run(PASSES, long=True, say=lambda text: print(text, flush=True))
    print(json.dumps(result))
    return result


@pytest.mark.timeout(3600)
def test_attackers_pay_what_is_documented(found):
    """By price, one after the other, and in the cheapest way."""
    assert {row["name"] for row in found["attackers"]} == set(DOCUMENTED)
    for row in found["attackers"]:
        assert row["passes"] == PASSES
        assert row["base_works"] >= ROUNDED * DOCUMENTED[row["name"]][row["in_advance"]], row
    # No order of trying is cheaper.
    assert found["tries"]["share"] > 0.98, found["tries"]
    assert len(found["orders"]) == 6 and min(found["orders"].values()) > 0.93, found["orders"]
    giving_up = [share for name, share in found["orders"].items() if "another" in name]
    assert min(giving_up) > 1.2, found["orders"]


def test_price_costs_the_documented_tries(found):
    curve = rows("charges before")
    assert len(curve) == len(attack.PRICES)
    for charges, _, tries, *_ in curve:
        price = 1 + number(charges) / found["setting"]["doubled_after"]
        assert attack.average_tries(price) >= ROUNDED * number(tries), charges


def test_script_that_never_stops_gets_no_more_than_documented(found):
    (documented,) = re.findall(r"gets (\d+) passes an hour .*? 8 cores (\d+) .*? 64 cores ([\d,]+) instead", DOCUMENT)
    assert [row["cores"] for row in found["steady"]] == [1, 8, 64]
    for row, most in zip(found["steady"], documented, strict=True):
        assert 0 < row["passes"] < 1.1 * number(most), row


def test_attacks_that_should_earn_nothing_earn_nothing(found):
    assert len(found["free"]) == 9
    for name, outcome in found["free"].items():
        assert outcome["tried"] > 0 and outcome["got"] == 0, (name, outcome)
    # A pass gives one server at a time.
    assert found["moves"]["at_once"] == 1, found["moves"]
    assert 1 <= found["moves"]["in_turn"] <= MOVES + 1, found["moves"]


def test_renewals_of_a_farm_cost_what_passes_cost(found):
    farm = found["farm"]
    assert farm["grants"] == farm["servers"] * (farm["rounds"] + 1)
    assert farm["base_works"] >= farm["documented"] / 2, farm
