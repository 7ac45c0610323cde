"""The first moments of a pod: the packets that get out before its policies are in force, with and without the start guard."""

import json
import re

import pytest

from tests.support.cluster.stage import Failed, Stage, signal_component
from tests.support.cluster.start_guard_pods import attempts, guard_of, start_pod, with_variables
from tests.support.cluster.timeouts import POD_SECONDS

BORN_AT_ONCE = 8


@pytest.fixture(scope="module")
def guard(stage: Stage) -> dict:
    """The init container, as JupyterHub made it."""
    return guard_of(stage.pod(stage.launch().user))


def test_new_pod_reaches_nothing(stage, guard):
    for number in range(BORN_AT_ONCE):
        start_pod(stage, f"early-{number}", guard)
    found = attempts(stage)
    assert len(found) == BORN_AT_ONCE
    assert {name: pod for name, pod in found.items() if any(pod.reached)} == {}
    assert {pod.said["outcome"] for pod in found.values()} <= {"closed", "blocked"}


def test_new_pod_without_the_guard_reaches_something_where_policies_are_late(stage, network):
    """The guard's purpose. Where policies are late, this also shows that the test above can fail."""
    for number in range(BORN_AT_ONCE):
        start_pod(stage, f"early-{number}", None)
    assert any(any(pod.reached) for pod in attempts(stage).values()) == network.late


def test_new_pod_while_the_network_plugin_hangs(stage, network):
    signal_component("netpol", "STOP")
    try:
        start_pod(stage, "early", None)
        (pod,) = attempts(stage).values()
    finally:
        signal_component("netpol", "CONT")
    assert any(pod.reached) == network.fails_open


def test_pod_that_is_never_isolated_starts_after_the_timeout(stage, guard):
    start_pod(stage, "early-open", with_variables(guard, BINDER_EGRESS_START_GUARD_TIMEOUT="2"), isolated=False)
    (pod,) = attempts(stage).values()
    # `unclear` if a connection took too long at the very end, on a busy machine.
    assert pod.said["outcome"] in ("open", "unclear") and 1.5 <= pod.said["seconds"] <= POD_SECONDS and all(pod.reached)


@pytest.mark.any_network
def test_command_of_the_image_starts_without_a_library(stage):
    """What pip writes around it runs in every new pod."""
    lines = stage.kubectl("exec", "deployment/binder-egress-verifier", "--", "cat", "/opt/venv/bin/binder-egress").splitlines()
    imported = [line for line in lines if re.match(r"\s*(import|from)\b", line)]
    assert imported == ["import sys", "from binder_egress.commands.binder_egress import main"]


LAB = "/usr/local/share/jupyter/labextensions/binder-egress"


@pytest.mark.any_network
def test_server_has_the_jupyterlab_extension(stage):
    user = stage.launch().user
    address = json.loads(stage.inside(user, "cat", f"{LAB}/address.json"))["url"]
    assert address == stage.page_address(user) and address.startswith("http")
    assert len(stage.inside(user, "sh", "-c", f"cat {LAB}/static/*.js")) > 10_000
    with pytest.raises(Failed, match=r"Read-only|Permission denied"):
        stage.inside(user, "touch", f"{LAB}/mine")
