"""Scanners with a pass, by packets on the internet's side: how many destinations they reach before the agent finds them, and before
they are cut off. Each scan prints its row of docs/scans.md (`-s` shows it).
"""

import ipaddress
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from tests.support import scan_networks
from tests.support.cluster.commands import egress
from tests.support.cluster.egress_proxy import LISTED, ask_until, installed
from tests.support.cluster.packets import assert_reaches, python_in
from tests.support.cluster.stage import Stage
from tests.support.cluster.timeouts import TIER_SECONDS
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

SCANNER = f"__file__ = '/no/such/file/x'\n{Path(scan_networks.__file__).read_text()}"
"""Runs in a pod."""

ANSWERING, ANSWERING6, DROPPING = "20.16.0.0/12", "2001:db8:5::/64", "20.32.0.0/12"
"""Networks of the local cluster's internet, in which all addresses answer on `PORT` and refuse on all others, or drop."""

PORT, REFUSED = 8080, 81

PROXIED = "20.24.0.0/16"
"""Hosts that have names, and answer on port 80, too."""

LIMIT = 20
"""Addresses that a server may try in a minute through each of the two pods of the egress proxy."""

THROUGH_PROXY = """
import collections, concurrent.futures, itertools, sys, time, urllib.error, urllib.request
end, numbers = time.monotonic() + 60, itertools.cycle(range(int(sys.argv[2])))
answers = collections.Counter()
def scan():
    while time.monotonic() < end:
        try:
            answers[urllib.request.urlopen(f"http://a{next(numbers)}.{sys.argv[1]}/", timeout=15).status] += 1
        except urllib.error.HTTPError as error:
            answers[f"{error.code} {error.reason}"] += 1
        except Exception as error:
            answers[repr(error)] += 1
        time.sleep(1)
with concurrent.futures.ThreadPoolExecutor(15) as pool:
    for running in [pool.submit(scan) for _ in range(15)]:
        running.result()
print(dict(answers))
"""
"""Runs in a pod: asks the egress proxy for hosts with names for a minute, so that its other limits do not count."""

FAST = {
    "a /16, hosts answer": [f"20.16.0.0/16:{PORT}", "--seconds=20"],
    "a /16, hosts refuse": [f"20.17.0.0/16:{REFUSED}", "--seconds=20"],
    "a /16, hosts drop": [f"20.32.0.0/16:{REFUSED}", "--seconds=20"],
    "IPv6, hosts answer": [f"2001:db8:5::/112:{PORT}", "--seconds=20"],
    "ports of one host": ["20.18.0.0/31:10000", "--ports=50000", "--seconds=20"],
    "40 a second, eight processes": [f"20.19.0.0/16:{PORT}", "--rate=40", "--processes=8", "--seconds=60"],
}
"""Run one after the other. With the slow ones that are found they are eight, and detections cut off nine in ten minutes (D-324)."""

SLOW = {
    "one a second, hosts answer": ([f"20.20.0.0/16:{PORT}", "--rate=1", "--seconds=90"], False),
    "one a second, hosts refuse": ([f"20.21.0.0/16:{REFUSED}", "--rate=1", "--seconds=90"], True),
    "one a second, hosts drop": ([f"20.33.0.0/16:{REFUSED}", "--rate=1", "--seconds=90", "--hold=3"], True),
    "one in five seconds, hosts refuse": ([f"20.22.0.0/16:{REFUSED}", "--rate=0.2", "--seconds=90"], False),
}
"""Run at once, and whether they are found."""


@dataclass
class Internet:
    """What arrives at the local cluster's internet: when each destination was first seen, in monotonic seconds."""

    knocked: list[tuple[float, str]] = field(default_factory=list)

    def of(self, network: str) -> list[float]:
        """When new destinations in a network were seen."""
        inside = ipaddress.ip_network(network)
        return [at for at, address in self.knocked if ipaddress.ip_address(address) in inside]


@pytest.fixture(scope="module")
def internet(local_cluster) -> Iterator[Internet]:
    """The local cluster's internet, with these networks."""
    namespace = f"--net=/run/netns/{os.environ['CLUSTER_NAME']}-internet"
    table = f"""table inet scans {{
      chain arriving {{ type filter hook prerouting priority -300; ip daddr {DROPPING} drop; }}
      chain named {{ type nat hook prerouting priority dstnat; ip daddr {PROXIED} tcp dport 80 redirect to :{PORT}; }}
    }}"""
    routes = [["ip", "route"], ["ip", "-6", "route"]]
    networks, found, started = [ANSWERING, ANSWERING6], Internet(), []

    def run(*command: str, **more: str) -> None:
        subprocess.run(["nsenter", namespace, *command], check=True, text=True, **more)

    def start(*part: str) -> "subprocess.Popen[str]":
        command = ["nsenter", namespace, sys.executable, "-m", "tests.support.scan_networks", *part]
        started.append(subprocess.Popen(command, cwd=scan_networks.TOP, text=True, stdout=subprocess.PIPE))
        return started[-1]

    def note(arriving: "subprocess.Popen[str]") -> None:
        for line in arriving.stdout:
            at, _, address = line.split()
            found.knocked.append((float(at), address))

    for route, network in zip(routes, networks, strict=True):
        run(*route, "add", "local", network, "dev", "lo")
    run("nft", "-f", "-", input=table)
    assert start("serve", str(PORT)).stdout.readline() == "ready\n"
    threading.Thread(target=note, args=[start("knocks")], daemon=True).start()
    yield found
    for process in started:
        process.kill()
        process.wait()
    run("nft", "delete", "table", "inet", "scans")
    for route, network in zip(routes, networks, strict=True):
        run(*route, "del", "local", network, "dev", "lo")


@pytest.fixture(scope="module")
def looking(stage: Stage) -> Iterator[None]:
    """An installation whose agent looks for scans, and whose egress proxy has a limit that tests reach."""
    source = {"onMatch": "observe", "lists": {"scan": "revoke"}}
    values = ("--set=agent.enabled=true", "--set=agent.scans.enabled=true", f"--set=proxy.limits.newHostsPerMinute={LIMIT}",
              '--set-json=tiers.proxied={"hosts":{"*":true}}')  # fmt: skip
    with installed(stage, *values, f"--set-json=detections.sources.agent={json.dumps(source)}"):
        stage.rollout("daemonset/binder-egress-agent")
        yield
    stage.kubectl("delete", "service/scan", "endpointslice/scan", "--ignore-not-found")


def found_at(stage: Stage, uid: str) -> float | None:
    """When the agent found a pod, in monotonic seconds; None: it did not."""
    told = map(json.loads, stage.kubectl("logs", "daemonset/binder-egress-agent", "-c", "agent").splitlines())
    times = [line["time"] for line in told if line["message"] == "match" and line["pod_uid"] == uid and line["list"] == "scan"]
    return datetime.fromisoformat(min(times)).timestamp() - time.time() + time.monotonic() if times else None


def scan(stage: Stage, internet: Internet, what: str, told: list[str], user: str) -> bool:
    """Scan, and print a row. Returns whether the pod was found."""
    uid = stage.pod(user)["metadata"]["uid"]
    python_in(stage, user, SCANNER, "scan", *told).wait()
    knocked, at = internet.of(told[0].rpartition(":")[0]), found_at(stage, uid)
    assert knocked
    cells = ["–", "–"]
    if at is not None:
        by_then = sum(one <= at for one in knocked)
        cells = [f"{at - knocked[0]:.1f} s, {by_then:,}", f"{knocked[-1] - knocked[0]:.1f} s, {len(knocked):,}"]
    print(f"\n| {what} | {' | '.join(cells)} |")
    return at is not None


def ready(stage: Stage, number: int) -> list[str]:
    """Users of so many servers with a tier, whose packets reach the internet."""
    users = [stage.launch_verified() for _ in range(number)]
    for user in users:
        assert_reaches(stage, user, egress=True)
    time.sleep(3)  # so that the agent has counted before
    return users


@pytest.mark.parametrize("what", FAST)
def test_scan_that_runs_as_fast_as_it_can_is_cut_off(stage, looking, internet, what):
    (user,) = ready(stage, 1)
    assert scan(stage, internet, what, FAST[what], user)
    eventually(lambda: stage.tier(user) is None)
    reached = len(internet.of(FAST[what][0].rpartition(":")[0]))
    assert reached < 20_000  # of 50,000 and more: it was cut off in the midst


def test_slow_scan_is_found_where_it_fails(stage, looking, internet):
    users = ready(stage, len(SLOW))
    with ThreadPoolExecutor(len(SLOW)) as pool:
        found = list(pool.map(lambda one: scan(stage, internet, one[0], SLOW[one[0]][0], one[1]), zip(SLOW, users, strict=True)))
    assert found == [is_found for _, is_found in SLOW.values()]
    for user, is_found in zip(users, found, strict=True):
        eventually(lambda user=user, is_found=is_found: (stage.tier(user) is None) == is_found)


def test_scan_through_the_proxy_is_slowed_down_and_a_finding(stage, looking, internet):
    """With a tier without `cidrs`, there is no other way out."""
    addresses = [str(address) for address in itertools.islice(ipaddress.ip_network(PROXIED).hosts(), 900)]
    ends = [{"addresses": [address], "hostname": f"a{number}"} for number, address in enumerate(addresses)]
    about = {"name": "scan", "labels": {"kubernetes.io/service-name": "scan"}}
    port = [{"name": "http", "port": 80}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": {"clusterIP": "None", "ports": port}}
    ends_of = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4"}
    stage.apply(service, {**ends_of, "metadata": about, "ports": port, "endpoints": ends})
    user = stage.launch().user
    egress(stage, "grant", user, "--tier", "proxied", "--why", "a test")
    stage.await_tier(user, "proxied")
    ask_until(stage, user, f"http://{LISTED}/", "200")
    names = f"scan.{stage.namespace}.svc.cluster.local"
    with python_in(stage, user, THROUGH_PROXY, names, str(len(addresses))) as scanning:
        answers = scanning.stdout.read().strip()
    print(f"\n| through the proxy | {len(internet.of(PROXIED))}: {answers} |")
    # In a minute, through two pods of the proxy.
    assert LIMIT < len(internet.of(PROXIED)) <= 1.5 * LIMIT * 2

    def found() -> list[tuple[str, ...]]:
        rows = egress(stage, "detections", "list")
        return [(row["source"], row["list"], row["outcome"]) for row in rows if row["user"] == user]

    eventually(lambda: ("proxy", "scan", "observed") in found(), TIER_SECONDS, found)
    assert stage.tier(user) == "proxied"
    # The agent cuts this off, and nothing arrives before.
    python_in(stage, user, SCANNER, "scan", f"20.25.0.0/16:{PORT}", "--seconds=5").wait()
    assert internet.of("20.25.0.0/16") == []
