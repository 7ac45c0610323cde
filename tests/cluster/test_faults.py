"""The worst cases: whatever fails, launches go on, and nobody gets egress without a decision."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import requests

from tests.support.cluster.installing import await_tier_or_unlock, forget_failures
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import HOOK_TRIES, Failed, Stage, restart_component
from tests.support.cluster.timeouts import ANSWER_SECONDS, POD_SECONDS, RECONCILER_SECONDS
from tests.support.waiting import eventually


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


def launches_during(stage: Stage, disturb: Callable[[], None]) -> dict[str, str]:
    """Launch four times at once, each with a pass, and do something meanwhile. Returns user → pass. No launch may fail."""
    tokens = [stage.get_pass() for _ in range(4)]
    address = stage.url("binder", 80)  # The API server, which must be asked for it, may be away meanwhile.
    with ThreadPoolExecutor(4) as pool:
        running = [
            pool.submit(stage.launch, f"fake/owner/repo-{number}/main", token, at=address) for number, token in enumerate(tokens)
        ]
        disturb()
        return {launched.result().user: token for launched, token in zip(running, tokens, strict=True)}


def assert_no_grant_is_lost(stage: Stage, disturb: Callable[[], None], recovered: Callable[[], None] = lambda: None) -> None:
    """Do something while people launch, and wait until it is over and each launch that the verifier decided has its tier. The
    others are unlocked.

    BinderHub's hook waits a second, and says whether it got an answer. Without an answer, there is no grant that could be lost, and
    if a busy machine leaves it without any, all of this is done again.
    """
    for _ in range(HOOK_TRIES):
        launched = launches_during(stage, disturb)
        recovered()
        said = stage.kubectl("logs", "deployment/binder")
        decided = [user for user in launched if f"binder-egress: {user}/ tier=verified" in said]
        for user, token in launched.items():
            if user in decided:
                stage.await_tier(user, "verified")
            else:
                await_tier_or_unlock(stage, user, token)
        if decided:
            return
        forget_failures(stage)
    raise AssertionError(said[-2000:])


def test_killed_reconciler_loses_no_grant(stage):
    def kill() -> None:
        for _ in range(3):
            time.sleep(1)
            stage.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=reconciler", "--grace-period=0", "--force")

    assert_no_grant_is_lost(stage, kill)


def test_restarting_api_server_loses_no_grant(stage, local_cluster):
    running = stage.launch().user

    def restart() -> None:
        time.sleep(0.5)
        restart_component("kube-apiserver")

    assert_no_grant_is_lost(stage, restart, lambda: wait_for_api_server(stage))
    assert stage.unlock(running).status_code in (200, 202)
    stage.await_tier(running, "verified")


def wait_for_api_server(stage: Stage) -> None:
    def is_ready() -> bool:
        with suppress(Failed):
            return bool(stage.kubectl("get", "--raw", "/readyz", timeout=5))
        return False

    eventually(is_ready, POD_SECONDS, "the API server does not come back")
