"""Unlocks a running server."""

import pytest

from tests.support.cluster.commands import egress
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import UNLOCKED
from tests.support.cluster.timeouts import TIER_SECONDS
from tests.support.waiting import eventually


def test_solution_unlocks_a_running_server(stage):
    user = stage.launch().user
    assert_reaches(stage, user, egress=False)
    answer = stage.unlock(user)
    told = (answer.status_code, answer.json()["state"])
    assert told in UNLOCKED and answer.json()["tier"] == ("verified" if told == UNLOCKED[0] else "unverified")
    stage.await_tier(user, "verified")
    assert_reaches(stage, user, egress=True)


@pytest.mark.any_network
def test_label_set_by_hand_is_taken_off(stage):
    user = stage.launch().user
    stage.kubectl("label", "pod", stage.pod_name(user), "binder-egress/tier=verified", stage.as_reconciler)
    stage.await_tier(user, None)


@pytest.mark.long
def test_server_with_a_tier_gets_a_larger_one(stage):
    """The label changes, and with it the targets that packets reach."""
    with stage.installed("--set=tiers.verified.rank=1", "--set-json=tiers.small={}"):
        user = stage.launch().user
        egress(stage, "grant", user, "--tier", "small", "--why", "a test")
        stage.await_tier(user, "small")
        assert_reaches(stage, user, egress=False, always=frozenset({"DNS"}))
        eventually(lambda: stage.page(user)["larger"] == ["verified"], TIER_SECONDS, lambda: stage.page(user))
        stage.unlock_well(user)
        assert_reaches(stage, user, egress=True)
