"""The node of the gate is cut off: launches go on, egress comes back, and the half that was cut off decides nothing afterwards."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest
import requests

from tests.support import TOP
from tests.support.cluster.commands import egress
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import Failed, Stage, on_node
from tests.support.cluster.timeouts import LABEL_SECONDS, POD_SECONDS
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

BACK_SECONDS = 100
"""What the documentation promises: launches have egress again after this time. A busy machine gets as much again."""

COMPONENTS = ("redis", "verifier", "reconciler")

BOTH_SECONDS = 30
"""How long both halves are watched after the network is whole again. The pods that were cut off end within a few seconds."""


@pytest.fixture
def gate_elsewhere(stage: Stage) -> Iterator[None]:
    """Verifier, Redis and reconciler on the second node, and whatever comes later on the first."""
    stage.kubectl("delete", "mutatingadmissionpolicybinding", "placement")
    stage.kubectl("cordon", "node")
    try:
        for component in COMPONENTS:
            stage.restart(component)
        stage.kubectl("uncordon", "node")
        stage.kubectl("cordon", "node2")
        yield
    finally:
        stage.kubectl("uncordon", "node", "node2")
        stage.kubectl("apply", "-f", str(TOP / "ci/cluster/placement.yaml"))


@contextmanager
def changed(begins: str, ends: str) -> Iterator[None]:
    """Between two commands on the machine, with the second node as *the node*."""
    on_node(f"of 2; {begins}")
    try:
        yield
    finally:
        on_node(f"of 2; {ends}")


def cut_off() -> AbstractContextManager[None]:
    """Nothing gets to the second node, or from it. What runs there goes on."""
    link = 'ip -n "$internet_ns" link set "$node"'
    return changed(f"{link} down", f"{link} up")


def nobody_ends_pods() -> AbstractContextManager[None]:
    """The second node's kubelet hangs, so its pods run on, although they were deleted."""
    kill = 'on_node kill "-{}" "$(on_node cat "$node_state/pid/kubelet")"'
    return changed(kill.format("STOP"), kill.format("CONT"))


def test_launches_have_egress_again_and_nothing_of_the_other_half_counts(stage, gate_elsewhere):
    kept, ended, waiting = stage.launch_verified(), stage.launch_verified(), stage.launch().user
    assert {pod["spec"]["nodeName"] for component in COMPONENTS for pod in stage.pods_of(component)} == {"node2"}
    with nobody_ends_pods():
        with cut_off():
            began, launched = time.monotonic(), []

            def has_egress() -> bool:
                token = None
                with suppress(Failed, requests.RequestException):
                    token = stage.get_pass()
                begins = time.monotonic() - began
                launched.append(stage.launch(token=token).user)
                with suppress(AssertionError):
                    stage.await_tier(launched[-1], "verified", LABEL_SECONDS)
                    print(f"the first launch with egress began after {begins:.0f} s")
                    return True
                return False

            eventually(has_egress, 2 * BACK_SECONDS, "no launch has egress again")
            assert stage.tier(kept) == stage.tier(ended) == "verified" and not any(map(stage.tier, launched[:-1]))
            # Neither half knows what the other one decides from now on.
            egress(stage, "revoke", ended, "--why", "test")
            stage.await_tier(ended, None)
        tiers = {user: stage.tier(user) for user in (kept, ended, waiting, *launched)}
        until = time.monotonic() + BOTH_SECONDS
        while time.monotonic() < until:
            assert {user: stage.tier(user) for user in tiers} == tiers
    eventually(lambda: len(stage.pods_of("reconciler")) == 1, POD_SECONDS, "the reconciler that was cut off does not end")
    assert_reaches(stage, ended, egress=False)
    assert_reaches(stage, kept, egress=True)
