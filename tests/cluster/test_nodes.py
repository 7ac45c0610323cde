"""Each node is shut, or it is said within a minute: a network plugin that hangs, and rules that are lost."""

import time
from collections.abc import Iterator

import pytest

from binder_egress.gatecheck.probe import WORD_PORT
from tests.support.cluster.commands import doctor, egress
from tests.support.cluster.stage import Stage, on_node, signal_component
from tests.support.cluster.timeouts import CANARY_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually

SAID_SECONDS = 60
"""What the documentation promises: within a minute, `doctor` and the metrics say so. A busy machine gets as much again."""


@pytest.fixture(scope="module")
def node(stage: Stage, local_cluster: str) -> Iterator[str]:
    """The node of a user's server, which is shut."""
    with stage.installed("--set=gatecheck.shut.link-local=false"):  # open on kube-router
        user = stage.launch().user
        name = str(stage.pod(user)["spec"]["nodeName"])
        shut = [("ok", "1 with user pods, and each is shut")]
        eventually(lambda: doctor(stage).get("nodes") == shut, CANARY_SECONDS, lambda: doctor(stage).get("nodes"))
        assert state(stage, name) == (1, None)
        yield name


def state(stage: Stage, node: str) -> tuple[float | None, str | None]:
    """1 if a node is shut, 0 if it is open, None if that is not known; and what `doctor` says of it if it is not shut."""
    lines = [text for level, text in doctor(stage).get("nodes", []) if level == "problem" and text.startswith(node)]
    return stage.metrics().get(f'binder_egress_node_shut{{node="{node}"}}'), lines[0] if lines else None


def connects(stage: Stage, user: str) -> bool:
    """Whether a server opens a connection to the internet."""
    return stage.battery(user, {"public TCP": stage.targets()["public TCP"]})["public TCP"]


def test_network_plugin_that_hangs_is_said(stage, node):
    users = [stage.launch_verified() for _ in range(2)]
    done = egress(stage, "revoke", users[1], "--why", "a test")
    assert (done["state"], done["not_acted"]) == ("done", [])
    signal_component("netpol", "STOP")
    began = time.monotonic()
    try:
        # Nobody has noticed yet, so the command measures.
        done = egress(stage, "revoke", users[0], "--why", "a test")
        assert done["state"] == "pending" and [row["node"] for row in done["not_acted"]] == [node], done
        assert "has not acted on labels for" in done["not_acted"][0]["why"]
        assert connects(stage, users[0])
        eventually(lambda: state(stage, node)[1], 2 * SAID_SECONDS, "nobody says so")
        seconds = time.monotonic() - began
        shut, said = state(stage, node)
        assert shut is None and "is not known" in said and "has not acted on a label" in said
        print(f"said after {seconds:.0f} s")
    finally:
        signal_component("netpol", "CONT")
    eventually(lambda: state(stage, node) == (1, None), TIER_SECONDS, lambda: state(stage, node))
    eventually(lambda: not any(connects(stage, user) for user in users), TIER_SECONDS)


@pytest.mark.long
def test_rules_that_are_lost_come_back_or_it_is_said(stage, node):
    """The label that is measured has kube-router write all of its rules anew."""
    user = stage.launch().user
    assert not connects(stage, user)
    on_node("on_node iptables --flush")
    assert connects(stage, user), "nothing was open"
    eventually(lambda: state(stage, node)[0] == 0 or not connects(stage, user), 2 * SAID_SECONDS)
    eventually(lambda: state(stage, node) == (1, None), TIER_SECONDS, lambda: state(stage, node))


@pytest.mark.long
@pytest.mark.parametrize(
    ("taint", "shut", "says"),
    [("hub.jupyter.org/dedicated=user:NoSchedule", 1, ""), ("example.org/other=yes:NoSchedule", None, "it has no canary")],
)
def test_tainted_node_keeps_its_canary_or_it_is_said(stage, node, taint, shut, says):
    stage.launch()
    stage.kubectl("taint", "node", node, taint)
    try:
        stage.kubectl("delete", "pods", "-l", "binder-egress/gatecheck=node-canary")

        def is_said() -> bool:
            canaries = stage.get("pods", "-l", "binder-egress/gatecheck=node-canary")["items"]
            comes_back = node in {pod["spec"].get("nodeName") for pod in canaries}
            value, said = state(stage, node)
            return comes_back == bool(shut) and value == shut and (says in said if said else not says)

        eventually(is_said, SAID_SECONDS, lambda: state(stage, node))
    finally:
        stage.kubectl("taint", "node", node, f"{taint.split('=')[0]}-")
    eventually(lambda: state(stage, node) == (1, None), 2 * SAID_SECONDS, lambda: state(stage, node))


def test_server_does_not_reach_what_canaries_say(stage, node):
    (canary,) = [
        pod for pod in stage.get("pods", "-l", "binder-egress/gatecheck=node-canary")["items"] if pod["spec"]["nodeName"] == node
    ]
    user, target = stage.launch().user, {"word": f"tcp://{canary['status']['podIP']}:{WORD_PORT}"}
    assert not stage.battery(user, target)["word"]
    stage.unlock(user)
    stage.await_tier(user, "verified")
    assert not stage.battery(user, target)["word"]
