"""The agent on a node: a pod that starts the made-up miner loses its egress, and its neighbour notices nothing."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import made_up_miner
from tests.support.cluster.commands import egress
from tests.support.cluster.egress_proxy import LISTED, ask_until, installed, tunnel
from tests.support.cluster.packets import assert_reaches, python_in
from tests.support.cluster.stage import OPEN, Stage
from tests.support.doc_examples import section
from tests.support.waiting import eventually

NOTICED_SECONDS = 180
"""Two rounds of the agent, and the same again on a machine that is busy."""

MINE = "import os; print('mines', flush=True); os.execv('/tmp/miner', ['/tmp/miner'])"
"""Runs in a pod: becomes the made-up miner."""

HIDE = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0); print('hidden', flush=True); time.sleep(3600)"
"""Runs in a pod: a process that its own user cannot read (PR_SET_DUMPABLE)."""


@pytest.fixture(scope="module")
def agent(stage: Stage) -> Iterator[None]:
    """An installation with the egress proxy and the agent, with the rules from docs/agent.md."""
    (rules,) = section("docs/agent.md", "YARA rules", "yara")
    stage.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "agent-lists"}, "data": {"examples.yar": rules}})
    source = {"onMatch": "observe", "lists": {"examples": "revoke"}}
    values = ("--set=agent.enabled=true", "--set=agent.configMap=agent-lists")
    with installed(stage, *values, f"--set-json=detections.sources.agent={json.dumps(source)}"):
        stage.rollout("daemonset/binder-egress-agent")
        yield
    stage.kubectl("delete", "configmap", "agent-lists")


def outcomes(stage: Stage, user: str) -> list[tuple[str, str, str]]:
    """The outcomes of the reports about a user's server, the latest first."""
    return [(row["list"], row["label"], row["outcome"]) for row in egress(stage, "detections", "list") if row["user"] == user]


def lay_miner(stage: Stage, user: str, folder: Path) -> None:
    """Compile the made-up miner, and put it into a user's pod."""
    made_up_miner.compiled(folder / "miner")
    text = base64.b64encode((folder / "miner").read_bytes()).decode()
    command = "base64 -d > /tmp/miner && chmod +x /tmp/miner"
    stage.inside(user, "sh", "-c", command, stdin=text)


def test_miner_loses_its_egress_and_its_neighbour_notices_nothing(stage, agent, local_cluster, tmp_path):
    miner, neighbour = (stage.launch_verified() for _ in range(2))
    for user in (miner, neighbour):
        ask_until(stage, user, f"http://{LISTED}/", "200")
    lay_miner(stage, miner, tmp_path)
    with (
        tunnel(stage, miner) as held,
        tunnel(stage, neighbour) as other,
        python_in(stage, neighbour, HIDE) as hidden,
        python_in(stage, miner, MINE) as mining,
    ):
        try:
            assert (hidden.stdout.readline(), mining.stdout.readline()) == ("hidden\n", "mines\n")
            eventually(lambda: stage.tier(miner) is None, NOTICED_SECONDS, "the miner keeps its tier")
            assert held.stdout.readline().startswith("ended")
            assert_reaches(stage, miner, egress=False, closing=OPEN)
            ask_until(stage, miner, f"http://{LISTED}/", "blocked by the operators")
            eventually(lambda: ("examples", "pool_client", "revoked") in outcomes(stage, miner), NOTICED_SECONDS)

            # The agent only looks: the process that it reported still runs, and so do all of the neighbour's.
            assert mining.poll() is None
            eventually(lambda: outcomes(stage, neighbour) == [("hidden", "a process hides itself", "observed")], NOTICED_SECONDS)
            assert stage.tier(neighbour) == "verified"
            assert_reaches(stage, neighbour, egress=True)
            assert other.poll() is None and hidden.poll() is None
        finally:
            for process in (hidden, mining):
                process.kill()


def test_agent_has_no_rights(stage, agent, local_cluster):
    """The agent's process on the node: the user pods' user, no capabilities, seccomp, and no way to regain more."""
    status = stage.kubectl("exec", "daemonset/binder-egress-agent", "--", "cat", "/proc/self/status")
    found = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert found["Uid"].split() == found["Gid"].split() == ["1000"] * 4 and found["Groups"].strip() in ("", "1000")
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    told = stage.kubectl("logs", "daemonset/binder-egress-agent").splitlines()
    lists = next(line for line in map(json.loads, told) if line["message"] == "lists")
    assert (lists["hashes"], lists["rules"]) == (0, ["examples"])
