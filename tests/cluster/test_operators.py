"""Operators' commands in the reconciler's pod, on running servers."""

import time
from collections.abc import Iterator

import pytest

from tests.support.cluster.commands import egress, refused
from tests.support.cluster.packets import assert_reaches, stream
from tests.support.cluster.stage import OPEN, QUICK, Failed, Stage
from tests.support.cluster.timeouts import POD_SECONDS, STALLED_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually


@pytest.fixture
def verified(stage: Stage) -> str:
    """The user of a server with a tier."""
    return stage.launch_verified()


@pytest.fixture(autouse=True)
def _no_blocks_left(stage: Stage) -> Iterator[None]:
    yield
    for block in egress(stage, "blocks"):
        egress(stage, "unblock", block["id"])


def test_grant_of_an_operator_opens_the_network(stage):
    user = stage.launch().user
    egress(stage, "grant", user, "--tier", "verified", "--as", "eve", "--why", "a test")
    stage.await_tier(user, "verified")
    assert_reaches(stage, user, egress=True)
    assert (egress(stage, "explain", user)["rule"], egress(stage, "explain", user)["by"]) == ("operator", "eve")
    logs = stage.kubectl("logs", "deployment/binder-egress-reconciler")
    assert any('"eve"' in line and "a test" in line and user in line for line in logs.splitlines())


def test_revoked_server_cannot_be_unlocked_by_solving_again(stage, verified):
    egress(stage, "revoke", verified, "--as", "eve", "--why", "a test")
    stage.await_tier(verified, None)
    assert_reaches(stage, verified, egress=False, closing=OPEN)
    answer = stage.unlock(verified)
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (403, "blocked")
    assert "eve" not in answer.text and "a test" not in answer.text
    egress(stage, "unblock", verified, "--as", "eve")
    eventually(lambda: stage.unlock(verified).status_code in (200, 202), TIER_SECONDS, "the block does not end")
    assert_reaches(stage, verified, egress=True)


def test_blocked_repository_has_no_egress_now_and_later(stage, verified):
    egress(stage, "block", "repository", "example.com/owner/*", "--why", "a test")
    stage.await_tier(verified, None)
    again = stage.launch(token=stage.get_pass()).user
    other = stage.launch("fake/somebody/else/main", token=stage.get_pass()).user
    stage.await_tier(other, "verified")
    assert stage.tier(again) is None
    assert_reaches(stage, again, egress=False)


def test_open_connection_stays_until_the_pod_is_stopped(stage, verified, network):
    """A block stops new connections. Where open ones stay, only the end of the pod ends them (docs/operating.md)."""
    running = stream(stage, verified)
    try:
        egress(stage, "revoke", verified, "--why", "a test")
        stage.await_tier(verified, None)
        assert_reaches(stage, verified, egress=False, closing=OPEN)
        time.sleep(STALLED_SECONDS)  # it would have ended
        assert (running.poll() is None) == network.connections_stay
        assert "mayStopPods" in refused(stage, "revoke", verified, "--stop", "--why", "a test")
        stage.install_gate(*QUICK, "--set=reconciler.mayStopPods=true")
        with pytest.raises(Failed, match=r"narrow-reconciler[\s\S]*The reconciler may delete user pods alone"):
            stage.kubectl("delete", "pod", "--selector=app.kubernetes.io/component=redis", "--dry-run=server", stage.as_reconciler)
        egress(stage, "revoke", verified, "--stop", "--why", "a test")
        stage.kubectl("wait", "--for=delete", "pod", "-l", f"hub.jupyter.org/username={verified}", f"--timeout={POD_SECONDS}s")
        running.wait(timeout=POD_SECONDS)
    finally:
        running.kill()
        running.wait()
        stage.install_gate(*QUICK)
