"""The egress proxy while something that it needs is away: open connections and launches go on."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from binder_egress.proxy.identities import MAX_AGE_SECONDS
from tests.support.cluster.egress_proxy import LISTED, OTHER, ask, ask_until, installed, launch, tunnel
from tests.support.cluster.stage import Stage
from tests.support.cluster.timeouts import TIER_SECONDS
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

BEAT_SECONDS = 10
"""The reconciler sends a message every second; on a busy machine it may be late."""


@pytest.fixture(scope="module", autouse=True)
def proxy(stage: Stage) -> Iterator[None]:
    with installed(stage):
        yield


@pytest.mark.parametrize("component", ["redis", "reconciler"])
def test_proxy_goes_by_what_it_knew_for_half_a_minute(stage, component):
    user = launch(stage)
    with tunnel(stage, user) as held, ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        stage.kubectl("scale", f"deployment/binder-egress-{component}", "--replicas=0")
        try:
            # Meanwhile, because its start guard waits in vain for the proxy to know the pod.
            launching = pool.submit(stage.launch)
            seen = []
            while "503" not in (answer := ask(stage, user, f"http://{LISTED}/")) and time.monotonic() - began < TIER_SECONDS:
                seen.append(answer)
            assert set(seen) == {"200"} and "does not know this server yet" in answer, (seen, answer)
            assert time.monotonic() - began > MAX_AGE_SECONDS - BEAT_SECONDS
            assert stage.tier(launching.result().user) is None
            assert held.poll() is None
        finally:
            stage.scale(component, 1)
        ask_until(stage, user, f"http://{LISTED}/", "200")
        assert held.poll() is None


def test_proxy_without_dns_keeps_open_connections(stage):
    """Only the proxy's DNS: everything else needs the cluster's names."""
    user = launch(stage)
    rules = stage.get("networkpolicy", "binder-egress-proxy")["spec"]["egress"]
    without = [rule for rule in rules if {port["port"] for port in rule["ports"]} != {53}]
    assert len(without) == len(rules) - 1
    with tunnel(stage, user) as held:
        try:
            give_rules(stage, without)
            ask_until(stage, user, f"http://{LISTED}/", "504 DNS does not answer, try again")
            stage.launch()
            assert held.poll() is None
            # No DNS query is sent for a refused host.
            assert "No internet access" in ask(stage, user, f"http://{OTHER}/")
        finally:
            give_rules(stage, rules)
        ask_until(stage, user, f"http://{LISTED}/", "200")
        assert held.poll() is None


def give_rules(stage: Stage, egress: list) -> None:
    """Change the egress that the policy of the proxy's pods allows."""
    patch = json.dumps({"spec": {"egress": egress}})
    stage.kubectl("patch", "networkpolicy", "binder-egress-proxy", "--type=merge", f"--patch={patch}")


def test_killed_pod_of_the_proxy_ends_its_connections_alone(stage):
    user = launch(stage)
    killed, living = stage.pods_of("proxy")
    ways = [f"http://{pod['status']['podIP']}:3128" for pod in (killed, living)]
    with tunnel(stage, user, ways[0]) as through_killed, tunnel(stage, user, ways[1]) as through_living:
        stage.kubectl("delete", "pod", killed["metadata"]["name"], "--grace-period=0", "--force")
        ask_until(stage, user, f"http://{LISTED}/", "200")
        stage.launch()
        eventually(lambda: through_killed.poll() is not None, TIER_SECONDS, "the connection through the killed pod lives")
        assert through_living.poll() is None
    stage.rollout("deployment/binder-egress-proxy")
