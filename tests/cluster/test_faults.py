"""The worst cases: whatever fails, launches go on, and nobody gets egress without a decision."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.support.cluster.commands import egress
from tests.support.cluster.installing import await_tier_or_unlock, forget_failures
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import HOOK_TRIES, Failed, Stage, restart_component
from tests.support.cluster.timeouts import ANSWER_SECONDS, POD_SECONDS, RECONCILER_SECONDS
from tests.support.waiting import eventually, patiently


def test_launches_without_a_verifier_go_on_unverified(stage):
    token = stage.get_pass()
    stage.scale("verifier", 0)
    try:
        launched = stage.launch(token=token)
        assert stage.tier(launched.user) is None
        assert_reaches(stage, launched.user, egress=False)
    finally:
        stage.scale("verifier", 1)
        forget_failures(stage)
    # Launches during the outage can be unlocked afterwards.
    stage.unlock_well(launched.user)


def test_launches_without_redis_go_on_and_nothing_is_granted(stage):
    verified, waiting = stage.launch_verified(), stage.launch().user
    old = stage.get_pass()
    block = egress(stage, "block", "repository", "example.com/blocked/*", "--why", "a test")["block"]
    saved = lambda: block in str(stage.get("configmap", "binder-egress-blocks").get("data"))  # noqa: E731
    eventually(saved, RECONCILER_SECONDS, "the reconciler did not save the block")
    stage.scale("redis", 0)
    try:
        launched = stage.launch(token=old)
        assert stage.tier(launched.user) is None
        assert_reaches(stage, launched.user, egress=False)
        assert_reaches(stage, verified, egress=True)
        with pytest.raises((Failed, requests.RequestException)):
            stage.get_pass()
    finally:
        stage.scale("redis", 1)
        stage.scale("verifier", 1)
        forget_failures(stage)
    # Redis came back empty: running servers keep what they have and are known again, and earlier passes are refused.
    assert stage.tier(verified) == "verified"
    address = f"{stage.verifier}/servers/{waiting}/"
    published = lambda: requests.get(address, timeout=ANSWER_SECONDS).status_code == 200  # noqa: E731
    eventually(published, RECONCILER_SECONDS, "the reconciler did not publish its servers again")
    # The block came back before anything was granted.
    assert [row["id"] for row in egress(stage, "blocks")] == [block]
    assert stage.tier(stage.launch("fake/blocked/repo/main", token=stage.get_pass()).user) is None
    egress(stage, "unblock", block)
    assert stage.unlock(waiting, token=old).status_code == 403
    late = stage.launch(token=old).user
    assert stage.tier(late) is None
    stage.unlock_well(waiting)


def test_launches_without_a_reconciler_are_granted_later(stage):
    stage.scale("reconciler", 0)
    try:
        user = stage.launch(token=stage.get_pass()).user
        assert stage.tier(user) is None
    finally:
        stage.scale("reconciler", 1)
    stage.await_tier(user, "verified")
    assert_reaches(stage, user, egress=True)


def launches_while_the_api_server_restarts(stage: Stage) -> dict[str, str]:
    """Launch four times at once, each with a pass, and restart the API server meanwhile. Returns user → pass; none may fail."""
    tokens = [stage.get_pass() for _ in range(4)]
    address = stage.url("binder", 80)  # The API server, which must be asked for it, is away meanwhile.
    with ThreadPoolExecutor(4) as pool:
        running = [
            pool.submit(stage.launch, f"fake/owner/repo-{number}/main", each, at=address) for number, each in enumerate(tokens)
        ]
        time.sleep(0.5)
        restart_component("kube-apiserver")
    patiently(lambda: stage.kubectl("get", "--raw", "/readyz", timeout=5), POD_SECONDS, (Failed,))
    return {launched.result().user: token for launched, token in zip(running, tokens, strict=True)}


def test_restarting_api_server_loses_no_grant(stage, local_cluster):
    """Each launch that the verifier decided gets its tier; the others are unlocked.

    BinderHub's hook waits a second, and says whether it got an answer. Without an answer, there is no grant that could be lost, and
    if a busy machine leaves it without any, all of this is done again.
    """
    for _ in range(HOOK_TRIES):
        launched = launches_while_the_api_server_restarts(stage)
        said = stage.kubectl("logs", "deployment/binder")
        decided = {user for user in launched if f"binder-egress: {user}/ tier=verified" in said}
        for user in decided:
            stage.await_tier(user, "verified")
        for user in launched.keys() - decided:
            await_tier_or_unlock(stage, user, launched[user])
        if decided:
            return
        forget_failures(stage)
    raise AssertionError(said[-2000:])
