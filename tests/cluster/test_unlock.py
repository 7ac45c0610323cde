"""Unlocks a running server."""

import pytest
import requests

from tests.support.cluster.commands import egress
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import QUICK, UNLOCKED
from tests.support.cluster.timeouts import ANSWER_SECONDS, TIER_SECONDS
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
    stage.kubectl("label", "pod", stage.pod(user)["metadata"]["name"], "binder-egress/tier=verified", stage.as_reconciler)
    stage.await_tier(user, None)


def test_server_with_a_tier_gets_a_larger_one(stage):
    """The label changes, and with it the targets that packets reach."""
    stage.install_gate(*QUICK, "--set=tiers.verified.rank=1", "--set-json=tiers.small={}")
    try:
        user = stage.launch().user
        egress(stage, "grant", user, "--tier", "small", "--why", "a test")
        stage.await_tier(user, "small")
        assert_reaches(stage, user, egress=False, always=frozenset({"DNS"}))

        def shown() -> bool:
            found = requests.get(
                f"{stage.verifier}/servers/{user}", headers={"Accept": "application/json"}, timeout=ANSWER_SECONDS
            ).json()
            return (found["tier"], found["larger"]) == ("small", ["verified"])

        eventually(shown, TIER_SECONDS, "the page does not show the tier")
        stage.unlock_well(user)
        assert_reaches(stage, user, egress=True)
    finally:
        stage.install_gate(*QUICK)
