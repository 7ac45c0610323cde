"""One launch of each kind: BinderHub's hook, the label on the pod, and packets."""

import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.support.cluster.packets import assert_reaches, forbidden
from tests.support.cluster.timeouts import ANSWER_SECONDS, POD_SECONDS, RECONCILED_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually

ATTEMPTS = 3
"""One of this many launches must be in time."""


def test_launch_with_a_pass_has_its_tier_and_one_without_reaches_nothing(stage):
    with ThreadPoolExecutor(2) as pool:
        launched, verified = pool.submit(stage.launch), pool.submit(stage.launch_verified)
    plain, more = launched.result().user, forbidden(stage)
    assert stage.tier(plain) is None
    assert_reaches(stage, plain, egress=False, more=more)
    assert_reaches(stage, verified.result(), egress=True, more=more)


def test_grant_is_on_the_pod_when_the_launch_is_ready(stage):
    """On a busy machine the reconciler may be late once. If it waited for anything else, it would be late each time."""
    for _ in range(ATTEMPTS):
        launched = stage.launch(token=stage.get_pass())
        if at_ready := stage.tier(launched.user):
            break
    assert at_ready == "verified", "at the ready event the label was not there"
    grant = stage.grant(launched.user)
    assert (grant["tier"], grant["rule"]) == ("verified", "valid-pass")


BAD_PASSES = {
    "forged": lambda token: token[:-4] + "AAAA",
    "not a pass": lambda token: "x",
    "strange characters": lambda token: "ä€\x00\r\n",
    "oversized": lambda token: token * 40,
}


def test_launches_with_bad_passes_go_on_without_egress(stage):
    token = stage.get_pass()
    with ThreadPoolExecutor(len(BAD_PASSES)) as pool:
        running = {name: pool.submit(stage.launch, token=spoil(token)) for name, spoil in BAD_PASSES.items()}
    users = {name: launched.result().user for name, launched in running.items()}
    assert {name: stage.tier(user) for name, user in users.items()} == dict.fromkeys(BAD_PASSES)
    assert_reaches(stage, users["forged"], egress=False)


def test_repeated_launch_leaves_the_use_with_a_server_that_is_up(stage):
    token = stage.get_pass()
    first = stage.launch(token=token)
    stage.await_tier(first.user, "verified")
    second = stage.launch(token=token)
    time.sleep(RECONCILED_SECONDS)
    assert (stage.tier(first.user), stage.tier(second.user)) == ("verified", None)
    assert_reaches(stage, first.user, egress=True)
    assert_reaches(stage, second.user, egress=False)


def test_retry_of_binderhub_under_a_new_user_name_keeps_egress(stage):
    """The first server of a repository of the owner `flaky` fails after JupyterHub accepted it; BinderHub tries as another user."""
    launched = stage.launch(f"fake/flaky/{secrets.token_hex(4)}/main", token=stage.get_pass())
    assert any("retrying" in event.get("message", "") for event in launched.events)
    stage.await_tier(launched.user, "verified")
    assert_reaches(stage, launched.user, egress=True)


def test_parallel_launches_with_one_pass_leave_one_server_with_egress(stage):
    token = stage.get_pass()
    with ThreadPoolExecutor(6) as pool:
        users = [launched.user for launched in pool.map(lambda _: stage.launch(token=token), range(6))]

    def tiers() -> list[str]:
        return sorted(str(stage.tier(user)) for user in users)

    eventually(lambda: tiers() == ["None"] * 5 + ["verified"], TIER_SECONDS, tiers)
    time.sleep(RECONCILED_SECONDS)
    assert tiers() == ["None"] * 5 + ["verified"]


def sent_bytes(stage, user: str) -> float:
    """The dashboard's data about a user pod: the bytes that it sent, from the kubelet's metrics."""
    pod = stage.pod_name(user)
    assert pod.startswith("jupyter-")
    node = stage.pod(user)["spec"]["nodeName"]
    text = stage.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics/cadvisor")
    where = rf'[^}}]*\bnamespace="{stage.namespace}",pod="{re.escape(pod)}"}} (\S+)'
    return max((float(value) for value in re.findall(rf"^container_network_transmit_bytes_total{{{where}", text, re.M)), default=0)


def test_server_that_nobody_opened_sends_less_than_one_that_is_used(stage):
    """The panel *Launches that nobody used*: a server counts as used from 30 kB on (docs/bots.md)."""
    with ThreadPoolExecutor(2) as pool:
        idle, used = list(pool.map(lambda _: stage.launch(), range(2)))
    address = f"{stage.url('proxy-public', 80)}/user/{used.user}/"
    for _ in range(200):  # Each answer is at least 150 bytes with what TCP needs. JupyterLab's page alone is far more.
        assert requests.get(address, timeout=ANSWER_SECONDS).content
    eventually(lambda: sent_bytes(stage, used.user) > 30_000, POD_SECONDS, lambda: sent_bytes(stage, used.user))
    eventually(lambda: sent_bytes(stage, idle.user) > 0, POD_SECONDS)
    assert sent_bytes(stage, idle.user) < 30_000
