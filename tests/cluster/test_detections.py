"""Reports: the agent's of a made-up miner, to the packets of its server and of a neighbour; a detector's; and forged ones."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.support import made_up_miner
from tests.support.cluster.commands import egress
from tests.support.cluster.egress_proxy import LISTED, ask_until, installed, tunnel
from tests.support.cluster.packets import assert_reaches, python_in
from tests.support.cluster.stage import OPEN, Failed, Stage
from tests.support.cluster.timeouts import ANSWER_SECONDS, SECRET_SECONDS, TIER_SECONDS
from tests.support.detections import killed
from tests.support.doc_examples import section
from tests.support.waiting import eventually

NOTICED_SECONDS = 180
"""Two rounds of the agent, and the same again on a machine that is busy."""

MINE = "import os; print('mines', flush=True); os.execv('/tmp/miner', ['/tmp/miner'])"
"""Runs in a pod: becomes the made-up miner."""

HIDE = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0); print('hidden', flush=True); time.sleep(3600)"
"""Runs in a pod: a process that its own user cannot read (PR_SET_DUMPABLE)."""


class Detector:
    """cryptnono, or the shipper of its log: it has a token, and sends lines."""

    def __init__(self, stage: Stage, token: str) -> None:
        self._stage, self._token = stage, token

    def send(self, *lines: str, token: str = "") -> requests.Response:
        headers = {"Authorization": f"Bearer {token or self._token}", "Content-Type": "application/json"}
        address = f"{self._stage.url('binder-egress-receiver', 8081)}/api/detections"
        return requests.post(address, data="\n".join(lines), headers=headers, timeout=ANSWER_SECONDS)

    def saw(self, user: str, matched: str, now: float) -> str:
        """The line about a user's pod."""
        pod = self._stage.pod(user)["metadata"]
        return killed(pod["name"], pod["uid"], now, matched, pod["namespace"])


@pytest.fixture(scope="module")
def detector(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    """An installation with the egress proxy, and with the agent and the rules from docs/agent.md.

    Its values have a detector that revokes, and one that stops.
    """
    (rules,) = section("docs/agent.md", "YARA rules", "yara")
    stage.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "agent-lists"}, "data": {"examples.yar": rules}})
    made = egress(stage, "detections", "create-token", "cryptnono")
    source = made["values"]["detections"]["sources"]["cryptnono"]
    sources = {
        "agent": {"onMatch": "observe", "lists": {"examples": "revoke"}},
        "cryptnono": {**source, "onMatch": "observe", "lists": {"execwhacker": "revoke"}},
        "stopper": {"onMatch": "stop"},
    }
    agent = {"enabled": True, "configMap": "agent-lists"}
    values = tmp_path_factory.mktemp("detections") / "values.yaml"
    values.write_text(yaml.safe_dump({"agent": agent, "detections": {"sources": sources}, "reconciler": {"mayStopPods": True}}))
    with installed(stage, f"--values={values}"):
        stage.rollout("daemonset/binder-egress-agent")
        found = Detector(stage, made["token"])
        eventually(lambda: found.send("{}").status_code == 202, SECRET_SECONDS, "the receiver has not read the token")
        yield found
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


def test_miner_loses_its_egress_and_its_neighbour_notices_nothing(stage, detector, local_cluster, tmp_path):
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
            # Nor does any user pod reach the receiver.
            address = f"http://{stage.cluster_ip('binder-egress-receiver')}:8081/healthz"
            assert_reaches(stage, neighbour, egress=True, more={"receiver of reports": address})
            assert other.poll() is None and hidden.poll() is None
        finally:
            for process in (hidden, mining):
                process.kill()


def test_agent_has_no_rights(stage, detector, local_cluster):
    """The agent's process on the node: the user pods' user, no capabilities, seccomp, and no way to regain more."""
    status = stage.kubectl("exec", "daemonset/binder-egress-agent", "--", "cat", "/proc/self/status")
    found = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert found["Uid"].split() == found["Gid"].split() == ["1000"] * 4 and found["Groups"].strip() in ("", "1000")
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    told = stage.kubectl("logs", "daemonset/binder-egress-agent").splitlines()
    lists = next(line for line in map(json.loads, told) if line["message"] == "lists")
    assert (lists["hashes"], lists["rules"]) == (0, ["examples"])


def test_reported_server_loses_its_egress_and_cannot_be_unlocked(stage, detector):
    user = stage.launch_verified()
    line = detector.saw(user, "made-up-miner", time.time())

    refused = detector.send(line, token="binder_egress_reporter_" + "0" * 40)
    assert refused.status_code == 401 and outcomes(stage, user) == []

    answer = detector.send("not JSON", line)
    assert (answer.status_code, answer.json()["reports"], len(answer.json()["unreadable"])) == (202, 1, 1)
    stage.await_tier(user, None)
    eventually(lambda: [outcome for _, _, outcome in outcomes(stage, user)] == ["revoked"], TIER_SECONDS)
    explained = egress(stage, "explain", user)
    assert explained["because"] == "No network: blocked by detector cryptnono: execwhacker: made-up-miner."
    assert [row["outcome"] for row in explained["detections"]] == ["revoked"]
    assert stage.unlock(user).status_code == 403


FORGE = """
import sys
from binder_egress.detections.reports import Report
from binder_egress.settings import VerifierSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.store import ReconcilerStore

ReconcilerStore(connect(load(VerifierSettings))).add_report(Report("stopper", "any", "forged", 0.0, uid=sys.argv[1]))
"""
"""Runs in the verifier's pod, with all of its credentials: enters a report that would make the reconciler stop a pod."""

POST = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], data=b'{}', timeout=10)"


def test_captured_verifier_forges_no_report(stage, detector):
    victim, other = (stage.launch().user for _ in range(2))
    eventually(lambda: {victim, other} <= {row["user"] for row in egress(stage, "grants")}, TIER_SECONDS)
    pods = {user: stage.pod(user)["metadata"] for user in (victim, other)}
    captured = ("exec", "deployment/binder-egress-verifier", "--", "python3", "-c")
    with pytest.raises(Failed, match="NoPermissionError"):
        stage.kubectl(*captured, FORGE, pods[victim]["uid"])
    address = f"http://{stage.cluster_ip('binder-egress-receiver')}:8081/api/detections"
    with pytest.raises(Failed, match=r"URLError|timed out"):
        stage.kubectl(*captured, POST, address)

    # With the right credentials it works: such a report stops another pod, and it came after the forged one. 5: not confirmed yet.
    line = json.dumps({"uid": pods[other]["uid"], "source": "stopper", "list": "any", "label": "by hand"})
    command = ("exec", "-i", "deploy/binder-egress-reconciler", "--", "sh", "-c", "egress detect --from - || test $? = 5")
    stage.kubectl(*command, stdin=line + "\n")
    eventually(lambda: [outcome for _, _, outcome in outcomes(stage, other)] == ["stopped"], TIER_SECONDS)
    assert outcomes(stage, victim) == []
    left = stage.pod(victim)["metadata"]
    assert left["uid"] == pods[victim]["uid"] and "deletionTimestamp" not in left
