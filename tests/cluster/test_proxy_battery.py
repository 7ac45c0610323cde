"""The battery of escapes through the egress proxy, from inside user pods. Its table is in docs/battery-tables.md.

The attempts are the lab's (tests/support/egress_proxy), with the chart's proxy, the kubelet's pods and the cluster's DNS,
which gets lying names from a server on the internet. Only the lab has the cases that no pod can cause: addresses that two pods have
or that are used again, and changes in the middle of a connection. test_proxy.py has a revocation and such an address.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from tests.support.cluster.commands import egress
from tests.support.cluster.egress_proxy import who as who_am_i
from tests.support.cluster.stage import QUICK, TOP, Failed, Stage
from tests.support.cluster.timeouts import TIER_SECONDS
from tests.support.egress_proxy import guarantees
from tests.support.egress_proxy.attempts import (
    ANY,
    BLOCKED,
    CLUSTER,
    DNS_PORT,
    LISTED,
    LISTED_HOSTS,
    PUBLIC,
    SIX,
    USE,
    attempts,
)
from tests.support.waiting import eventually

VALUES = (
    "--set=proxy.enabled=true",
    "--set-json=proxy.refusedHosts=" + json.dumps({"hub.example": True}),
    "--set-json=unverified.hosts=" + json.dumps(dict.fromkeys(LISTED_HOSTS, True)),
    "--set-json=tiers.verified.hosts=" + json.dumps({"*": True}),
    "--set=publicUrl=https://hub.example",
)

DNS = f"example:53 google.internal:53 {{\n  forward . {PUBLIC[0]}:{DNS_PORT}\n}}\n"
"""For the cluster's DNS: the server for the battery's names. There is no cache, because one name has another address in every
answer."""

PROGRAM = "".join(
    re.sub(r"^from tests\..*\n", "", (TOP / f"tests/support/egress_proxy/{name}.py").read_text(), flags=re.MULTILINE)
    for name in ("hellos", "attempts")
)
"""The code that runs in a pod."""


@contextmanager
def internet(name: str) -> Iterator[TextIO]:
    """The battery's servers and names, on the internet of a cluster. Yields a function that adds names."""
    command = ["nsenter", f"--net=/run/netns/{name}-internet", sys.executable, "-m", "tests.support.egress_proxy.internet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
        yield process.stdin
        process.stdin.close()


@contextmanager
def cluster_dns(stage: Stage) -> Iterator[None]:
    """The names of the battery in the cluster's DNS."""

    def use(corefile: str) -> None:
        patch = json.dumps({"data": {"Corefile": corefile}})
        stage.kubectl("-n", "kube-system", "patch", "configmap", "coredns", "--type=merge", f"--patch={patch}")
        stage.kubectl("-n", "kube-system", "rollout", "restart", "deployment/coredns")
        stage.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", f"--timeout={TIER_SECONDS}s")

    before = stage.get("configmap", "coredns", "-n", "kube-system")["data"]["Corefile"].replace(DNS, "")
    use(DNS + before)
    try:
        yield
    finally:
        use(before)


@pytest.fixture(scope="module")
def seen(stage: Stage, local_cluster: str) -> Iterator[dict[str, list]]:
    """The results: attempt → [whether it ended as it must, what was seen]."""
    with internet(local_cluster) as names, cluster_dns(stage):
        stage.install_gate(*QUICK, *VALUES)
        proxy = stage.cluster_ip("binder-egress-proxy")
        print(json.dumps({"self.example": [proxy]}), file=names, flush=True)
        egress(stage, "block", "repository", "example.com/blocked/*", "--why", "the battery")
        with ThreadPoolExecutor(3) as pool:
            tokens = {ANY: stage.get_pass(), BLOCKED: stage.get_pass()}
            launched = {who: pool.submit(stage.launch, f"fake/{who}/repo/main", tokens.get(who)) for who in (LISTED, ANY, BLOCKED)}
            users = {who: launch.result().user for who, launch in launched.items()}
            stage.await_tier(users[ANY], "verified")
            replicas = [pod["status"]["podIPs"] for pod in stage.pods_of("proxy")]
            # Without IPv6 there is no second list.
            four, *more = [[entry["ip"] for entry in one] for one in zip(*replicas, strict=True)]
            by_six = {SIX: (more[0][0], more[0])} if more else {}
            pods = {
                LISTED: {LISTED: (proxy, four), **by_six},
                ANY: {ANY: (proxy, four)},
                BLOCKED: {BLOCKED: (proxy, four)},
            }

            def run(who: str, kind: str = "") -> dict[str, list]:
                program = ("python3", "-", json.dumps(pods[who]), kind)
                return json.loads(stage.inside(users[who], *program, stdin=PROGRAM))

            # Open targets may take a while: the policies of new pods may be late, and so may the proxy's data about them.
            def bad(who: str) -> list[str]:
                return [name for name, (as_it_must, _) in run(who, USE).items() if not as_it_must]

            for who in (LISTED, ANY):
                eventually(lambda who=who: not bad(who), TIER_SECONDS, lambda who=who: bad(who))
            # The proxy refuses a blocked pod everything else, but tells it who it is.
            uid = stage.pod(users[BLOCKED])["metadata"]["uid"]
            eventually(lambda: who_am_i(stage, users[BLOCKED])["uid"] == uid, TIER_SECONDS, no_answer=(Failed,))
            made = list(pool.map(run, pods))
        yield {name: result for each in made for name, result in each.items()}
        stage.delete_user_pods()
        for each in egress(stage, "blocks"):
            egress(stage, "unblock", each["id"])
        stage.install_gate(*QUICK)


def test_attempts_from_pods_end_as_they_must(seen):
    assert {name: what for name, (as_it_must, what) in seen.items() if not as_it_must} == {}


def test_attempts_from_pods_are_those_of_the_page(seen):
    made = [attempt for attempt in attempts() if CLUSTER in attempt.where]
    dual = json.loads(Path(os.environ["CLUSTER_TARGETS"]).read_text())["family"] == "dual"
    assert set(seen) == {attempt.id for attempt in made if dual or attempt.pod != SIX}
    assert Counter(attempt.kind for attempt in made) == +Counter({kind: row.cluster for kind, row in guarantees.rows().items()})
