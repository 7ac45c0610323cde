"""The worst cases: whatever fails, launches go on, and nobody gets egress without a decision."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import requests

from tests.support.cluster.installing import await_tier_or_unlock, forget_failures
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import HOOK_TRIES, Failed, Launched, Stage, restart_component
from tests.support.cluster.timeouts import ANSWER_SECONDS, POD_SECONDS, RECONCILER_SECONDS
from tests.support.waiting import eventually

HOOK_LIMIT = 1.0
"""Seconds that the hook may add to a launch."""

NOISE = 1.0
"""Seconds by which the same step differs anyway between two launches in this cluster."""

ATTEMPTS = 3
"""One of this many launches must be in time, because a busy machine delays each. After as many failures the hook rests."""


@pytest.fixture
def usual(stage):
    """How long the step with the hook takes without a fault: the slower of two launches."""
    return max(stage.launch().hook for _ in range(2))


def launch_within(stage: Stage, seconds: float, token: str) -> Launched:
    """Launch until the step with the hook takes less than a limit. Returns the last launch. No launch has a tier."""
    took = []
    while len(took) < ATTEMPTS:
        launched = stage.launch(token=token)
        assert stage.tier(launched.user) is None
        took.append(launched.hook)
        if launched.hook < seconds:
            return launched
    raise AssertionError(f"{took} s, not {seconds} s")


def test_launches_without_a_verifier_go_on_unverified(stage, usual):
    token = stage.get_pass()
    stage.scale("verifier", 0)
    try:
        launched = launch_within(stage, usual + HOOK_LIMIT + NOISE, token)
        assert_reaches(stage, launched.user, egress=False)
    finally:
        stage.scale("verifier", 1)
        forget_failures(stage)
    # Launches during the outage can be unlocked afterwards.
    stage.unlock_well(launched.user)


HANG = """
stop='for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || [ $p = $$ ] || kill -STOP $p; done'
eval "$stop"
sh -c "while kill -0 $$; do sleep 0.1; done; while sleep 0.1; do $stop; done" </dev/null >/dev/null 2>&1 &
"""
"""Runs in the verifier's pod: its worker stops answering, and its port stays open. After half a minute gunicorn would replace the
worker, and the next one would serve the waiting requests, so gunicorn is stopped, too."""


def test_hanging_verifier_costs_a_launch_one_second(stage, usual):
    token = stage.get_pass()
    pod = stage.get("pods", "-l", "app.kubernetes.io/component=verifier")["items"][0]["metadata"]["name"]
    stage.kubectl("exec", pod, "--", "sh", "-c", HANG)
    try:
        launch_within(stage, usual + HOOK_LIMIT + NOISE, token)
    finally:
        # The process that would end it gracefully is stopped.
        stage.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
        stage.restart("verifier")
        forget_failures(stage)
    assert stage.launch(token=stage.get_pass()).ready


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


def test_reconciler_converges_from_pods_after_a_crash(stage):
    annotated, labelled = stage.launch().user, stage.launch().user
    stage.scale("reconciler", 0)
    try:
        grant = json.dumps({"id": "0123456789abcdef", "tier": "verified", "rule": "valid-pass", "at": 1})
        pods = [stage.pod(user)["metadata"]["name"] for user in (annotated, labelled)]
        stage.kubectl("annotate", "pod", pods[0], f"binder-egress/grant={grant}", stage.as_reconciler)
        stage.kubectl("label", "pod", pods[1], "binder-egress/tier=verified", stage.as_reconciler)
    finally:
        stage.scale("reconciler", 1)
    stage.await_tier(annotated, "verified")
    stage.await_tier(labelled, None)


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


@pytest.mark.long
def test_rolling_verifiers_lose_no_launch_and_no_grant(stage):
    stage.scale("verifier", 2)

    def roll() -> None:
        for _ in range(2):
            stage.kubectl("rollout", "restart", "deployment/binder-egress-verifier")
            stage.rollout("deployment/binder-egress-verifier")

    try:
        # The nodes of a busy machine may take more than two seconds to learn that a verifier ends. Its pass is valid nevertheless.
        for user, token in launches_during(stage, roll).items():
            await_tier_or_unlock(stage, user, token)
    finally:
        stage.scale("verifier", 1)


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
