"""The agent on a node: a pod that starts the made-up miner loses its egress, and its neighbour notices nothing."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

SCANNED = "20.0.0.0/16"
"""Addresses of the local cluster's internet that drop what arrives."""

SCAN = """
import collections, ipaddress, socket, sys, time
held = collections.deque()
print("scans", flush=True)
for host in ipaddress.ip_network(sys.argv[1]).hosts():
    if len(held) == 500:
        began, oldest = held.popleft()
        time.sleep(max(0, began + 0.2 - time.monotonic()))
        oldest.close()
    held.append((time.monotonic(), socket.socket()))
    held[-1][1].setblocking(False)
    held[-1][1].connect_ex((str(host), 80))
"""
"""Runs in a pod: tries one port of each address of a network, at most 2,500 a second."""


@contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Count in the local cluster's internet to how many addresses of `SCANNED` packets have arrived."""
    table = f"""table inet scanned {{
      set seen {{ type ipv4_addr; size 65536; flags dynamic; }}
      chain arriving {{ type filter hook prerouting priority -300; ip daddr {SCANNED} update @seen {{ ip daddr }} drop; }}
    }}"""

    def nft(*arguments: str, **more: str) -> str:
        command = ["nsenter", f"--net=/run/netns/{os.environ['CLUSTER_NAME']}-internet", "nft", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout

    def count() -> int:
        (found,) = [
            entry["set"] for entry in json.loads(nft("-j", "list", "set", "inet", "scanned", "seen"))["nftables"] if "set" in entry
        ]
        return len(found.get("elem", []))

    nft("-f", "-", input=table)
    try:
        yield count
    finally:
        nft("delete", "table", "inet", "scanned")


@pytest.fixture(scope="module")
def agent(stage: Stage) -> Iterator[None]:
    """An installation with the egress proxy and the agent, with the rules from docs/agent.md."""
    (rules,) = section("docs/agent.md", "YARA rules", "yara")
    stage.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "agent-lists"}, "data": {"examples.yar": rules}})
    source = {"onMatch": "observe", "lists": {"examples": "revoke", "scan": "revoke"}}
    values = ("--set=agent.enabled=true", "--set=agent.configMap=agent-lists", "--set=agent.scans.enabled=true")
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


def test_scanner_is_cut_off(stage, agent, local_cluster):
    scanner = stage.launch_verified()
    assert_reaches(stage, scanner, egress=True)
    with counted() as count, python_in(stage, scanner, SCAN, SCANNED) as scan:
        try:
            assert scan.stdout.readline() == "scans\n"
            began = time.monotonic()
            eventually(lambda: stage.tier(scanner) is None, NOTICED_SECONDS, "the scanner keeps its tier")
            cut_after_seconds = time.monotonic() - began
            assert_reaches(stage, scanner, egress=False, closing=OPEN)
            reached = count()
            assert 0 < reached < 65_534, reached  # It was cut off in the midst.
            print(f"cut after {cut_after_seconds:.1f} s, {reached} addresses reached")
            # The rest of the network is tried in vain.
            scan.wait(NOTICED_SECONDS)
            assert count() == reached
        finally:
            scan.kill()
    # The second of its two findings may still come, and then repeats the first.
    assert {(name, outcome) for name, _, outcome in outcomes(stage, scanner)} - {("scan", "repeated")} == {("scan", "revoked")}


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
