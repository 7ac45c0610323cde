"""Proof that the gate is shut: bypasses are found, and the canary and `helm test` send packets."""

import json
import time

import pytest

from tests.support.cluster.canary import await_canary
from tests.support.cluster.commands import cells, doctor, helm_test
from tests.support.cluster.stage import QUICK, SINGLEUSER
from tests.support.cluster.start_guard_pods import guard_of, start_pod
from tests.support.cluster.timeouts import CANARY_SECONDS, RECONCILED_SECONDS, RECONCILER_SECONDS
from tests.support.waiting import eventually


@pytest.mark.any_network
def test_doctor_finds_no_problem_and_says_what_it_sees(stage):
    stage.launch()
    eventually(lambda: doctor(stage)["canary"][0][0] != "warning", CANARY_SECONDS)
    # Reports of verifiers that the previous file stopped count for another minute, and may be about other keys.
    names = ("mode", "Redis", "epoch", "clock of Redis", "clock of the API server", "reconciler", "verifier", "keys", "policies")
    found: dict[str, list[tuple[str, str]]] = {}

    def is_well() -> bool:
        """A busy machine may take so long for an answer that a clock seems wrong, or a heartbeat late."""
        found.clear()
        found.update(doctor(stage))
        return all([state for state, _ in found[name]] == ["ok"] for name in names)

    eventually(is_well, RECONCILER_SECONDS, found)
    assert found["bypass"] == [("ok", "no other NetworkPolicy opens anything for user pods")]
    assert "launches announced in" in found["wiring"][0][1]


def test_user_pods_that_are_not_covered_or_cannot_start_are_named(stage):
    """One has another label, and the image of the other's start guard cannot be pulled."""
    guard = guard_of(stage.pod(stage.launch().user))
    start_pod(stage, "early-other", None, isolated=False, seconds=60, user="other")
    start_pod(stage, "early-waits", guard | {"image": "localhost/nothing:1"}, user="waits")
    found: dict[str, list[tuple[str, str]]] = {}

    def are_named() -> bool:
        found.update(doctor(stage))
        named = (("user labels", "early-other ("), ("starts", "early-waits ("))
        return all(found[name][0][0] == "problem" and words in found[name][0][1] for name, words in named)

    try:
        eventually(are_named, RECONCILED_SECONDS, found)
        names = ("binder_egress_user_pods_not_covered", "binder_egress_user_pods_hindered_total")
        eventually(lambda: all(stage.metrics().get(name) for name in names), RECONCILER_SECONDS)
    finally:
        stage.kubectl("delete", "pods", "-l", "early=yes")


@pytest.mark.long
def test_lost_wiring_is_a_problem_that_names_its_cause(stage):
    """BinderHub with an old token, without our variable, and with a hook that announces nothing."""

    def await_wiring(state: str, words: str) -> None:
        found: list[tuple[str, str]] = []

        def is_said() -> bool:
            found[:] = doctor(stage)["wiring"]
            return found[0][0] == state and words in found[0][1]

        eventually(is_said, RECONCILER_SECONDS, found)

    revision = stage.get("deployment", "binder")["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    try:
        for change, launches, words in (
            ("BINDER_EGRESS_API_TOKEN=old", True, "their token is wrong"),
            ("BINDER_EGRESS_API-", False, "has no BINDER_EGRESS_API"),
            ("BINDER_EGRESS_API=", True, "has announced no launch since its start"),
        ):
            stage.kubectl("set", "env", "deployment/binder", change)
            stage.rollout("deployment/binder")
            stage.await_address("binder", 80, "/versions")
            if launches:
                stage.launch()
            await_wiring("problem", words)
    finally:
        stage.kubectl("rollout", "undo", "deployment/binder", f"--to-revision={revision}")
        stage.rollout("deployment/binder")
        stage.await_address("binder", 80, "/versions")
    stage.launch()
    await_wiring("ok", "launches announced in")


def test_policy_of_jupyterhub_is_found_and_opens_the_canary(stage, bypass):
    found, shut = (
        'binder_egress_bypasses{direction="egress",policy="singleuser"}',
        'binder_egress_canary_shut{target="kubernetes-api"}',
    )
    await_canary(stage, "kubernetes-api", True)
    bypass(SINGLEUSER)
    ((state, text),) = doctor(stage)["bypass"]
    assert state == "problem" and "egressAllowRules.nonPrivateIPs: false" in text
    await_canary(stage, "kubernetes-api", False)
    assert "kubernetes-api" in doctor(stage)["canary"][0][1]
    stage.restart("reconciler")  # It looks when it starts, and then once a minute.
    eventually(lambda: (stage.metrics().get(found), stage.metrics().get(shut)) == (1, 0), RECONCILER_SECONDS)
    stage.kubectl("delete", "networkpolicy", "singleuser")
    await_canary(stage, "kubernetes-api", True)
    stage.restart("reconciler")
    eventually(lambda: (stage.metrics().get(found), stage.metrics().get(shut)) == (None, 1), RECONCILER_SECONDS)


OWN_KIND = {
    "apiVersion": "crd.projectcalico.org/v1",
    "kind": "GlobalNetworkPolicy",
    "metadata": {"name": "default.opens-user-pods"},
    "spec": {"order": 1, "selector": "component == 'singleuser-server'", "types": ["Egress"], "egress": [{"action": "Allow"}]},
}
"""Calico's, which goes before all NetworkPolicies."""


def test_policy_of_the_network_plugins_own_kind_is_seen_by_packets(stage, network):
    assert (OWN_KIND["apiVersion"] in stage.kubectl("api-versions").split()) == network.own_policies
    if not network.own_policies:
        return
    await_canary(stage, "kubernetes-api", True)
    # Where the canary reaches the node, its packets say nothing about other policies.
    assert doctor(stage)["other policies"][0][0] == ("warning" if network.node_link_local_open else "ok")
    stage.apply(OWN_KIND)
    try:
        await_canary(stage, "kubernetes-api", False)
        found = doctor(stage)
        assert found["canary"][0][0] == "problem" and "kubernetes-api" in found["canary"][0][1]
        ((state, text),) = found["other policies"]
        assert state == "warning" and "Calico's NetworkPolicy and GlobalNetworkPolicy" in text
        assert [state for state, _ in found["bypass"]] == ["ok"], "it cannot be judged"
    finally:
        stage.kubectl("delete", "-f", "-", stdin=json.dumps(OWN_KIND))
    await_canary(stage, "kubernetes-api", True)


@pytest.fixture(scope="module", autouse=True)
def _restored(stage):
    """The tests that send packets do not need the usual installation, and none restores it for the next one."""
    yield
    stage.install_gate(*QUICK)


def test_helm_test_shows_what_is_open_and_shut_and_a_sysctl_closes_link_local(stage, network):
    """Some network plugins filter by the addresses that Kubernetes knows for a pod, and fe80:: is not among them."""
    dead = [f"--set=gatecheck.shut.{name}=false" for name in ("kubelet", "hub", "verifier")]
    stage.install_gate(*QUICK, *dead)
    is_open = network.node_link_local_open
    passed, table = helm_test(stage)
    assert passed != is_open, table
    found = cells(table)
    assert found["unverified", "link-local"] == found["verified", "link-local"]
    assert found["unverified", "link-local"] == ("open FAILED: must be shut" if is_open else "shut ok")
    await_canary(stage, "link-local", not is_open)
    ((state, text),) = doctor(stage)["canary"]
    assert state == ("problem" if is_open else "ok") and "link-local" in text

    closed = "--set-string=gatecheck.sysctls.net\\.ipv6\\.conf\\.all\\.disable_ipv6=1"
    stage.install_gate(*QUICK, closed, f"--set=gatecheck.open.internet={stage.targets()['public TCP']}")
    passed, table = helm_test(stage)
    assert passed, table
    found = cells(table)
    assert found["unverified", "link-local"] == "– cannot try"
    assert found["unverified", "kubernetes-api"] == found["verified", "kubernetes-api"] == "shut ok"
    assert found["unverified", "internet"] == "shut ok" and found["verified", "internet"] == "open ok"
    assert found["unverified", "dns"] == "shut ok" and found["verified", "dns"] == "open ok"
    assert found["unverified", "kubelet"] == found["unverified", "verifier"] == "shut ok"


@pytest.mark.any_network
def test_canary_is_not_counted_as_a_user_pod(stage):
    """Not for JupyterHub, nor the reconciler, nor BinderHub's quota, which counts `app=jupyterhub,component=singleuser-server`."""
    (pod,) = [
        pod
        for pod in stage.get("pods", "-l", "binder-egress/gatecheck=canary")["items"]
        if "deletionTimestamp" not in pod["metadata"]
    ]
    assert "app" not in pod["metadata"]["labels"] and "ownerReferences" not in pod["metadata"]
    launched = stage.launch()
    time.sleep(RECONCILED_SECONDS)

    def counted() -> dict[str, float]:
        return {name: value for name, value in stage.metrics().items() if name.startswith("binder_egress_user_pods{")}

    eventually(lambda: counted() == {'binder_egress_user_pods{tier="unverified"}': 1}, RECONCILER_SECONDS, launched.user)
