"""Operators' commands in the reconciler's pod, on a running server."""

import time

import pytest

from tests.support.cluster.commands import egress, refused
from tests.support.cluster.packets import assert_reaches, stream
from tests.support.cluster.stage import OPEN, QUICK, Failed
from tests.support.cluster.timeouts import POD_SECONDS, STALLED_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually


def test_revoked_server_is_shut_until_it_is_unblocked_and_an_open_connection_ends_with_the_pod(stage, network):
    """A block stops new connections. Where open ones stay, only the end of the pod ends them (docs/operating.md)."""
    user = stage.launch_verified()
    running = stream(stage, user)
    try:
        egress(stage, "revoke", user, "--as", "eve", "--why", "a test")
        stage.await_tier(user, None)
        assert_reaches(stage, user, egress=False, closing=OPEN)
        time.sleep(STALLED_SECONDS)  # it would have ended
        assert (running.poll() is None) == network.connections_stay
        answer = stage.unlock(user)
        assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (403, "blocked"), "solving again"
        assert "eve" not in answer.text and "a test" not in answer.text
        assert "mayStopPods" in refused(stage, "revoke", user, "--stop", "--why", "a test")

        egress(stage, "unblock", user, "--as", "eve")
        eventually(lambda: stage.unlock(user).status_code in (200, 202), TIER_SECONDS, "the block does not end")
        assert_reaches(stage, user, egress=True)

        stage.install_gate(*QUICK, "--set=reconciler.mayStopPods=true")
        with pytest.raises(Failed, match=r"narrow-reconciler[\s\S]*The reconciler may delete user pods alone"):
            stage.kubectl("delete", "pod", "--selector=app.kubernetes.io/component=redis", "--dry-run=server", stage.as_reconciler)
        egress(stage, "revoke", user, "--stop", "--why", "a test")
        stage.kubectl("wait", "--for=delete", "pod", "-l", f"hub.jupyter.org/username={user}", f"--timeout={POD_SECONDS}s")
        running.wait(timeout=POD_SECONDS)
    finally:
        running.kill()
        running.wait()
        for block in egress(stage, "blocks"):
            egress(stage, "unblock", block["id"])
        stage.install_gate(*QUICK)
