"""Unlocks a running server."""

import pytest
import requests

from tests.support.cluster.commands import egress
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import QUICK, UNLOCKED, Stage
from tests.support.cluster.timeouts import ANSWER_SECONDS, RECONCILER_SECONDS, TIER_SECONDS
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
def test_pass_unlocks_a_running_server(stage):
    user = stage.launch().user
    stage.unlock_well(user, token=stage.get_pass())


@pytest.mark.any_network
def test_used_pass_unlocks_nothing(stage):
    token = stage.get_pass()
    first = stage.launch("fake/owner/repo/main", token=token).user
    stage.await_tier(first, "verified")
    second = stage.launch("fake/owner/other/main").user
    answer = stage.unlock(second, token=token)
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (403, "pass-refused")
    assert (stage.tier(first), stage.tier(second)) == ("verified", None)


@pytest.mark.any_network
def test_page_of_a_server_is_gone_with_its_pod(stage):
    user = stage.launch().user
    await_page(stage, user)
    stage.delete_user_pods()
    eventually(lambda: address(stage, user).status_code == 404, RECONCILER_SECONDS)


@pytest.mark.any_network
def test_label_set_by_hand_is_taken_off(stage):
    user = stage.launch().user
    stage.kubectl("label", "pod", stage.pod(user)["metadata"]["name"], "binder-egress/tier=verified", stage.as_reconciler)
    stage.await_tier(user, None)


@pytest.mark.any_network
def test_label_taken_off_by_hand_comes_back(stage):
    user = stage.launch_verified()
    stage.kubectl("label", "pod", stage.pod(user)["metadata"]["name"], "binder-egress/tier-", stage.as_reconciler)
    stage.await_tier(user, "verified")


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


def await_page(stage: Stage, user: str) -> None:
    """On a busy machine, the reconciler may publish a server only after it is ready."""
    eventually(lambda: address(stage, user).status_code == 200, TIER_SECONDS, "the server has no page")


def address(stage: Stage, user: str) -> requests.Response:
    return requests.get(f"{stage.verifier}/servers/{user}/", timeout=ANSWER_SECONDS)
