"""An attacker of our own against the real thing: the default proof of work, the public port, launches by BinderHub, and packets.

`tests/long/test_attack.py` has all of its attempts. This file shows that prices and uses hold with real pods as well.
"""

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import FROM_NODES, QUICK, TOP, Stage

sys.path.insert(0, str(Path(TOP) / "studies"))
from attack_free import get_pass
from attack_passes import Door, Network, in_advance
from attack_solver import Solver

pytestmark = pytest.mark.long

PASSES = 40
"""More than a class of 31 people, who all pay the base price if they come at the same time."""

DOUBLED_AFTER = 30
"""The chart's `fairness.doubledAfter`."""


@pytest.fixture(scope="module")
def door(stage: Stage) -> Iterator[Door]:
    """The verifier's public port, with the chart's own proof of work and prices."""
    stage.install_gate(*FROM_NODES)
    yield Door(stage.verifier)
    stage.install_gate(*QUICK)


@pytest.fixture(scope="module")
def solver() -> Solver:
    return Solver()


@pytest.fixture
def client() -> str:
    """An address without charges: an earlier run's charges in Redis count for an hour."""
    return f"198.18.{random.randrange(256)}.{random.randrange(256)}"


def test_passes_cost_what_is_documented(door, solver, client):
    haul = in_advance(door, solver, Network(DOUBLED_AFTER, lambda _: client), PASSES)
    # Never less than the base price, and never less than half of the price at which a pass is issued.
    least = sum(max(1, (1 + number / DOUBLED_AFTER) / 2) for number in range(PASSES))
    assert haul.passes == PASSES and sum(found.price for found in haul.solved) >= least * 0.999
    # The mean of forty uniform numbers: five standard deviations.
    assert sum(found.tries / (found.most / 2 + 1) for found in haul.solved) / len(haul.solved) > 0.5
    assert [door.present(client, found.payload)[0] for found in haul.solved] == [403] * len(haul.solved), "replays"


def test_pass_gives_one_of_many_pods_network(stage, door, solver, client):
    token = get_pass(door, solver, client)
    with ThreadPoolExecutor(3) as pool:
        users = [launched.user for launched in pool.map(lambda _: stage.launch(token=token, client=client), range(3))]
    verified = [user for user in users if stage.tier(user) == "verified"]
    assert len(verified) == 1
    for user in users:
        assert_reaches(stage, user, egress=user in verified)


def test_unlock_of_a_strangers_server_gives_the_attacker_nothing(stage, door, solver, client):
    mine, theirs = (stage.launch(f"fake/{owner}/repo/main", client=client).user for owner in ("attacker", "stranger"))
    solution = solver.vector(door.challenge(client, "unlock")).payload
    status, body = door.unlock(theirs, client, provider="altcha", solution=solution)
    assert status in (200, 202), body
    stage.await_tier(theirs, "verified")
    status, body = door.unlock(mine, client, provider="altcha", solution=solution)
    assert (status, stage.tier(mine)) == (403, None), body
    assert_reaches(stage, mine, egress=False)
