"""A detector's report, from its token to the packets of the server that it is about and of a neighbour; and forged reports."""

import json
import time
from collections.abc import Iterator

import pytest
import requests
import yaml

from tests.support.cluster.commands import egress
from tests.support.cluster.egress_proxy import LISTED, ask_until, installed, tunnel
from tests.support.cluster.packets import assert_reaches, stream
from tests.support.cluster.stage import OPEN, Failed, Stage
from tests.support.cluster.timeouts import ANSWER_SECONDS, SECRET_SECONDS, STALLED_SECONDS, TIER_SECONDS
from tests.support.detections import killed
from tests.support.waiting import eventually


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
    """An installation with the egress proxy, whose values have a source that revokes, one that observes and one that stops."""
    made = egress(stage, "detections", "create-token", "cryptnono")
    source = made["values"]["detections"]["sources"]["cryptnono"]
    values = tmp_path_factory.mktemp("detections") / "values.yaml"
    sources = {"cryptnono": {**source, "onMatch": "observe", "lists": {"execwhacker": "revoke"}}, "stopper": {"onMatch": "stop"}}
    values.write_text(yaml.safe_dump({"detections": {"sources": sources}, "reconciler": {"mayStopPods": True}}))
    with installed(stage, f"--values={values}"):
        found = Detector(stage, made["token"])
        eventually(lambda: found.send("{}").status_code == 202, SECRET_SECONDS, "the receiver has not read the token")
        yield found


def outcome(stage: Stage, user: str) -> list[str]:
    """The outcomes of the reports about a user's server, the latest first."""
    return [row["outcome"] for row in egress(stage, "detections", "list") if row["user"] == user]


def test_reported_server_loses_its_egress_and_its_neighbour_notices_nothing(stage, detector, network):
    miner, neighbour = (stage.launch_verified() for _ in range(2))
    for user in (miner, neighbour):
        ask_until(stage, user, f"http://{LISTED}/", "200")
    with stream(stage, miner) as direct, stream(stage, neighbour) as other, tunnel(stage, miner) as held:
        try:
            line = detector.saw(miner, "made-up-miner", time.time())

            refused = detector.send(line, token="binder_egress_reporter_" + "0" * 40)
            assert refused.status_code == 401 and outcome(stage, miner) == []

            answer = detector.send("not JSON", line)
            assert (answer.status_code, answer.json()["reports"], len(answer.json()["unreadable"])) == (202, 1, 1)
            stage.await_tier(miner, None)
            assert held.stdout.readline().startswith("ended")
            assert_reaches(stage, miner, egress=False, closing=OPEN)
            ask_until(stage, miner, f"http://{LISTED}/", "blocked by the operators")
            eventually(lambda: outcome(stage, miner) == ["revoked"], TIER_SECONDS)
            explained = egress(stage, "explain", miner)
            assert explained["because"] == "No network: blocked by detector cryptnono: execwhacker: made-up-miner."
            assert [row["outcome"] for row in explained["detections"]] == ["revoked"]

            assert stage.tier(neighbour) == "verified" and outcome(stage, neighbour) == []
            # Nor does any user pod reach the receiver.
            address = f"http://{stage.cluster_ip('binder-egress-receiver')}:8081/healthz"
            assert_reaches(stage, neighbour, egress=True, more={"receiver of reports": address})
            time.sleep(STALLED_SECONDS)  # they would have ended
            assert other.poll() is None
            assert (direct.poll() is None) == network.connections_stay, "past the proxy (docs/detections.md)"
        finally:
            for process in (direct, other):
                process.kill()
    assert stage.unlock(miner).status_code == 403


FORGE = """
import sys
from verifier.detections.reports import Report
from verifier.settings import VerifierSettings, load
from verifier.store.connection import connect
from verifier.store.store import ReconcilerStore

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
    eventually(lambda: outcome(stage, other) == ["stopped"], TIER_SECONDS)
    assert outcome(stage, victim) == []
    left = stage.pod(victim)["metadata"]
    assert left["uid"] == pods[victim]["uid"] and "deletionTimestamp" not in left
