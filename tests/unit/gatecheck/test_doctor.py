"""Gatecheck and doctor: findings, their publication, logs and advice."""

import json
import logging
import time
from email.utils import formatdate

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from tests.support.api_server import ApiServer
from tests.support.apps import launch
from tests.support.fake_cluster import FakeCluster
from tests.support.metrics import families, value
from tests.support.network_policies import EXPECTED, OURS, egress, jupyterhub, policy
from tests.support.reconciling import ALICE, announce
from tests.support.store import Store
from tests.support.waiting import eventually
from verifier.egress_cli import egress as command
from verifier.gatecheck import doctor as module
from verifier.gatecheck.check import Canary, Namespace, Watcher, canary_of, check
from verifier.gatecheck.checklist import CHECKS, DOCTOR
from verifier.gatecheck.doctor import OK, PROBLEM, WARNING, examine
from verifier.gatecheck.netpol import Judgement
from verifier.kubernetes_api import ApiServerUnavailable
from verifier.ping import CLOSED, SYSCTL
from verifier.settings import ReconcilerSettings, load
from verifier.store.connection import connect
from verifier.store.errors import StoreUnavailable
from verifier.store.reconciler_counters import FAILURES, START_GUARD, WITHOUT_RECORD
from verifier.store.verifiers import VERIFIER_TTL_SECONDS

CANARY = {"api": True, "kubelet": True}


INGRESS_CONTROLLER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}


def verifier_policy(*peers, **rule):
    """A policy for the verifier, as the chart makes it; without peers it admits everybody."""
    labels = {
        f"app.kubernetes.io/{name}": value for name, value in {"name": "gate", "instance": "r", "component": "verifier"}.items()
    }
    rules = [{"ports": [{"port": 8080, "protocol": "TCP"}], **({"from": list(peers)} if peers else {}), **rule}]
    rules.append({"ports": [{"port": 8081}], "from": [{"namespaceSelector": {}}]})
    spec = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": rules}
    return {"metadata": {"name": "verifier"}, "spec": spec}


class FakeNamespace:
    """A namespace without problems, which tests change."""

    def __init__(self):
        self.found_policies = [*OURS, verifier_policy(INGRESS_CONTROLLER)]
        self.found_canary = Canary("running", dict(CANARY), "binder-egress-canary-1")
        self.groups: list[str] = []
        self.found_pods: list[dict] = []
        self.ahead = 0.0
        self.unreadable = False

    def _check(self):
        if self.unreadable:
            raise ApiServerUnavailable("403 Forbidden")

    def policies(self):
        self._check()
        return self.found_policies

    def canary(self):
        self._check()
        return self.found_canary

    def other_kinds(self):
        self._check()
        return self.groups

    def pods(self, selector, most=100):
        self._check()
        wanted = [pair.split("=") for pair in selector.split(",") if "=" in pair and "!" not in pair]
        return [pod for pod in self.found_pods if all(pod["metadata"]["labels"].get(key) == value for key, value in wanted)]

    def clock(self):
        self._check()
        return self.ahead


@pytest.fixture
def namespace():
    return FakeNamespace()


@pytest.fixture
def ours(redis_server):
    """Settings of the reconciler."""
    return load(ReconcilerSettings, redis_url=redis_server.url, policies=EXPECTED, canary=True)


@pytest.fixture
def well(store, namespace, redis_server, in_redis):
    """A store without problems: verifier and reconciler have reported, and BinderHub has announced a launch."""
    in_redis.config_set("maxmemory-policy", "noeviction")
    store.heartbeat(time.time(), {}, {f"{START_GUARD}closed": 1})
    store.report_verifier("a", {"version": "1", "at": time.time(), "signing_keys": 1, "providers": {"altcha": "up"}})
    announce(store)
    in_redis.delete(f"binder-egress:launch:{ALICE.key}")  # Its pod is ready.
    return store


def states(checks):
    return {check.name: check.state for check in checks}


def text(checks, name):
    return "; ".join(check.text for check in checks if check.name == name)


def test_healthy_installation_has_no_problem(ours, well, namespace):
    with_user = ours.model_copy(update={"redis_user_password": SecretStr("x")})
    checks = examine(with_user, well, namespace)
    assert [check for check in checks if check.state != OK] == []
    only_with = {"clock of the verifier", "pods of the egress proxy", "pod of the receiver", "flow killer", "egress proxy"}
    assert set(states(checks)) == {id for id, check in CHECKS.items() if DOCTOR in check.by} - only_with


def test_shared_password_of_redis_is_a_warning(ours, well, namespace):
    checks = examine(ours, well, namespace)
    assert states(checks)["users of Redis"] == WARNING
    assert "redis-verifier-password" in text(checks, "users of Redis")


@pytest.mark.parametrize(
    ("policies", "state"),
    [
        ([], WARNING),
        ([verifier_policy()], WARNING),
        ([policy("deny-egress", {"podSelector": {}, "policyTypes": ["Egress"]})], WARNING),
        ([verifier_policy({"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}})], WARNING),
        ([verifier_policy({"ipBlock": {"cidr": "0.0.0.0/0"}})], WARNING),
        ([verifier_policy({"namespaceSelector": {}}, ports=[])], WARNING),
        ([verifier_policy({"namespaceSelector": {}}, ports=[{"port": 8000, "endPort": 8090}])], WARNING),
        ([verifier_policy({"namespaceSelector": {}}, ports=[{"port": "public"}])], WARNING),
        ([verifier_policy({"namespaceSelector": {}}, ports=[{"port": 8080, "protocol": "UDP"}])], OK),
        ([verifier_policy({"namespaceSelector": {}}, ports=[{"port": 9000}])], OK),
        ([verifier_policy(INGRESS_CONTROLLER)], OK),
        ([verifier_policy({"podSelector": {}})], OK),
        ([verifier_policy({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}})], OK),
        ([verifier_policy(INGRESS_CONTROLLER), verifier_policy()], WARNING),
    ],
)
def test_public_port_that_anybody_reaches_is_a_warning(ours, well, namespace, policies, state):
    namespace.found_policies = [*OURS, *policies]
    checks = examine(ours, well, namespace)
    assert states(checks)["public port"] == state
    assert ("publicFrom" in text(checks, "public port")) == (state == WARNING)


def test_public_port_may_be_open_if_proxies_are_named(ours, well, namespace):
    namespace.found_policies = [*OURS, verifier_policy()]
    report = {"version": "1", "at": time.time(), "signing_keys": 1, "providers": {"altcha": "up"}, "proxies": "networks"}
    well.report_verifier("a", report)
    assert states(examine(ours, well, namespace))["public port"] == OK
    well.report_verifier("b", report | {"proxies": "number"})
    assert states(examine(ours, well, namespace))["public port"] == WARNING


def test_public_port_is_unknown_without_the_api_server(ours, well, namespace):
    namespace.unreadable = True
    assert states(examine(ours, well, namespace))["public port"] == WARNING


def test_mode_other_than_captcha_is_a_warning(ours, well, namespace):
    for mode, state in (("captcha", OK), ("allow", WARNING), ("observe", WARNING)):
        assert states(examine(ours.model_copy(update={"mode": mode}), well, namespace))["mode"] == state


def test_objects_that_a_rendering_tool_leaves_out_are_a_warning(ours, well, namespace):
    found = states(examine(ours, well, namespace))
    assert (found["secrets"], found["admission policies"]) == (OK, OK)
    rendered = ours.model_copy(update={"random_secrets": ["api-token"], "missing_admission_policies": ["protectPods"]})
    checks = examine(rendered, well, namespace)
    assert (states(checks)["secrets"], states(checks)["admission policies"]) == (WARNING, WARNING)
    assert "api-token are new in each rendering" in text(checks, "secrets")
    assert "protectPods were not rendered" in text(checks, "admission policies")


def test_other_checks_run_without_redis(ours, namespace, redis_server):
    redis_server.stop()
    client = connect(ours)
    checks = examine(ours, Store(client), namespace)
    client.close()
    assert states(checks)["Redis"] == PROBLEM
    assert states(checks)["policies"] == OK


def pods_that_are(labels, *ready):
    def status(each):
        return {"conditions": [{"type": "Ready", "status": each}]}

    return [{"metadata": {"labels": labels}, "spec": {"containers": [{}]}, "status": status(each)} for each in ready]


@pytest.mark.parametrize(
    ("setting", "component", "name"),
    [("proxy_labels", "proxy", "pods of the egress proxy"), ("receiver_labels", "receiver", "pod of the receiver")],
)
def test_components_that_are_not_ready_are_a_problem(ours, well, namespace, setting, component, name):
    """JupyterHub's own proxy has the same component."""
    labels = {"app.kubernetes.io/component": component, "app.kubernetes.io/name": "binder-egress"}
    of_the_hub = pods_that_are(labels | {"app.kubernetes.io/name": "jupyterhub"}, "True")
    ours = ours.model_copy(update={setting: labels})
    namespace.found_pods = of_the_hub + pods_that_are(labels, "True", "False")
    checks = examine(ours, well, namespace)
    assert (states(checks)[name], text(checks, name)) == (OK, "1 of 2 ready")
    for pods in (pods_that_are(labels, "False"), []):
        namespace.found_pods = of_the_hub + pods
        assert states(examine(ours, well, namespace))[name] == PROBLEM
    namespace.unreadable = True
    assert states(examine(ours, well, namespace))[name] == WARNING


@pytest.mark.parametrize(("reason", "state"), [("Error", WARNING), ("OOMKilled", OK)])
def test_egress_proxy_that_something_kills_is_told_of_the_flow_killer(ours, well, namespace, reason, state):
    labels = {"app.kubernetes.io/component": "proxy"}
    namespace.found_pods = pods_that_are(labels, "True", "True")
    ended = {"lastState": {"terminated": {"exitCode": 137, "reason": reason}}}
    namespace.found_pods[0]["status"]["containerStatuses"] = [{"lastState": {}}, ended]
    checks = examine(ours.model_copy(update={"proxy_labels": labels, "receiver_labels": labels}), well, namespace)
    name = "pods of the egress proxy"
    assert states(checks)[name] == state and ("has killed 1. cryptnono's flow killer" in text(checks, name)) == (state == WARNING)
    assert states(checks)["pod of the receiver"] == OK


def test_flow_killer_beside_the_egress_proxy_is_a_problem(ours, well, namespace):
    cryptnono = {"app.kubernetes.io/name": "cryptnono"}
    namespace.found_pods = pods_that_are(cryptnono, "True")
    with_proxy = ours.model_copy(update={"proxy_labels": {"app.kubernetes.io/component": "proxy"}})
    assert "flow killer" not in states(examine(with_proxy, well, namespace))
    namespace.found_pods[0]["spec"]["containers"] = [{"name": "monero"}, {"name": "flowkiller"}]
    assert states(examine(with_proxy, well, namespace))["flow killer"] == PROBLEM
    assert "flow killer" not in states(examine(ours, well, namespace))


def test_components_that_are_off_have_no_line(ours, well, namespace):
    assert not {"pods of the egress proxy", "pod of the receiver"} & set(states(examine(ours, well, namespace)))


def test_redis_that_evicts_keys_is_a_problem(ours, well, namespace, in_redis):
    in_redis.config_set("maxmemory-policy", "allkeys-lru")
    checks = examine(ours, well, namespace)
    assert states(checks)["Redis"] == PROBLEM and "noeviction" in text(checks, "Redis")


@pytest.mark.parametrize(("share", "state"), [(0.95, WARNING), (1.5, PROBLEM)])
def test_full_redis_is_a_problem_and_a_nearly_full_one_a_warning(ours, well, namespace, in_redis, share, state):
    in_redis.config_set("maxmemory", int(in_redis.info("memory")["used_memory"] / share))
    try:
        checks = examine(ours, well, namespace)
        assert states(checks)["Redis"] == state and "Raise redis.maxmemory; this empties the chart's Redis" in text(checks, "Redis")
    finally:
        in_redis.config_set("maxmemory", 0)


def test_redis_without_an_epoch_is_a_warning(ours, well, namespace, in_redis):
    in_redis.delete("binder-egress:epoch")
    assert states(examine(ours, well, namespace))["epoch"] == WARNING


@pytest.mark.parametrize(("ahead", "state"), [(0, OK), (2, OK), (5, WARNING), (-5, WARNING), (60, PROBLEM), (-60, PROBLEM)])
def test_clock_difference_is_judged_by_its_size(ours, well, namespace, ahead, state):
    namespace.ahead = ahead
    assert states(examine(ours, well, namespace))["clock of the API server"] == state
    found = states(examine(ours, well, namespace, now=lambda: time.time() - ahead))
    assert found["clock of Redis"] == state


def test_verifier_clock_ahead_of_redis_is_reported(ours, well, namespace):
    well.report_verifier("b", {"version": "1", "at": time.time() + 20, "signing_keys": 1, "providers": {}})
    assert "ahead of Redis in b" in text(examine(ours, well, namespace), "clock of the verifier")


def test_verifier_clock_too_far_behind_redis_is_a_problem(ours, well, namespace):
    for behind, state in ((50, None), (70, PROBLEM)):
        well.report_verifier("b", {"version": "1", "at": time.time() - behind, "signing_keys": 1, "providers": {}})
        found = examine(ours, well, namespace)
        assert states(found).get("clock of the verifier") == state
    assert "behind Redis in b" in text(found, "clock of the verifier")


def test_silent_reconciler_is_reported(ours, well, namespace, in_redis):
    in_redis.delete("binder-egress:reconciler")
    assert states(examine(ours, well, namespace))["reconciler"] == PROBLEM
    well.heartbeat(time.time() - 20, {})
    assert states(examine(ours, well, namespace))["reconciler"] == WARNING


def test_failed_attempts_of_the_reconciler_are_a_warning_for_a_minute(ours, well, namespace):
    now = time.time()
    well.heartbeat(now - 90, {}, {FAILURES: 2})
    well.heartbeat(now, {}, {WITHOUT_RECORD: 1})
    assert states(examine(ours, well, namespace))["reconciler"] == OK
    well.heartbeat(now, {}, {FAILURES: 3})
    found = examine(ours, well, namespace)
    assert states(found)["reconciler"] == WARNING
    assert "5 in all" in text(found, "reconciler")


def test_missing_verifier_is_a_problem(ours, well, namespace, in_redis):
    in_redis.delete("binder-egress:verifiers")
    assert states(examine(ours, well, namespace))["verifier"] == PROBLEM


def test_silent_verifier_is_forgotten(store, in_redis):
    """Redis' clock decides, not the clock of the verifier."""
    store.report_verifier("a", {"at": time.time() - 1000})
    assert list(store.verifier_reports()) == ["a"] and store.verifier_is_there()
    assert 0 < in_redis.ttl("binder-egress:verifiers") <= VERIFIER_TTL_SECONDS
    seen = int(time.time()) - VERIFIER_TTL_SECONDS - 1
    in_redis.hset("binder-egress:verifiers", "a", json.dumps({"seen": seen, "report": {}}))
    assert store.verifier_reports() == {}
    store.report_verifier("b", {"at": 1})
    assert store.verifier_reports() == {"b": {"at": 1}}
    assert in_redis.hkeys("binder-egress:verifiers") == ["b"]


def test_differing_verifiers_are_a_warning(ours, well, namespace):
    well.report_verifier("b", {"version": "1", "at": time.time(), "signing_keys": 2, "providers": {}})
    checks = examine(ours, well, namespace)
    assert states(checks)["verifier"] == WARNING and "signing_keys" in text(checks, "verifier")
    assert text(checks, "keys").startswith("2 signing keys")


@pytest.mark.parametrize(("known", "state"), [("up", OK), ("down", WARNING), ("misconfigured", PROBLEM)])
def test_provider_state_is_reported(ours, well, namespace, known, state):
    well.report_verifier("b", {"version": "1", "at": time.time(), "signing_keys": 1, "providers": {"hcaptcha": known}})
    assert states(examine(ours, well, namespace))["provider"] == state


def test_wiring_of_binderhub_is_checked(ours, well, namespace, in_redis):
    announce(well, context=False)
    checks = examine(ours, well, namespace)
    assert states(checks)["wiring"] == WARNING and "1 without their request" in text(checks, "wiring")
    in_redis.delete("binder-egress:wiring")
    assert "has announced no launch" in text(examine(ours, well, namespace), "wiring")
    announce(well, context=False)
    checks = examine(ours, well, namespace)
    assert states(checks)["wiring"] == PROBLEM and "badge_base_url" in text(checks, "wiring")
    well.heartbeat(time.time(), {}, {WITHOUT_RECORD: 3})
    checks = examine(ours, well, namespace)
    assert states(checks)["launch records"] == WARNING and "3 user pods" in text(checks, "launch records")


@pytest.mark.parametrize("outcome", ["open", "unclear", "unable", "failed", "absent", "mistaken_by_proxy", "unknown_to_proxy"])
def test_start_guard_outcomes_are_a_warning(ours, well, namespace, outcome):
    well.heartbeat(time.time(), {}, {f"{START_GUARD}{outcome}": 2})
    checks = examine(ours, well, namespace)
    assert states(checks)["start guard"] == WARNING and f"of 3 pods: {outcome} 2" in text(checks, "start guard")


def test_bypass_is_a_problem_and_names_the_chart_value(ours, well, namespace):
    namespace.found_policies.append(
        jupyterhub({"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "169.254.169.254/32"]}}]})
    )
    checks = examine(ours, well, namespace)
    assert states(checks)["bypass"] == PROBLEM
    assert "singleuser, egress rule 1" in text(checks, "bypass") and "nonPrivateIPs: false" in text(checks, "bypass")


def test_bypass_is_judged_by_the_running_pods(ours, well, namespace):
    namespace.found_policies.append(policy("other", egress({}, selector={"matchLabels": {"release": "other"}})))
    assert states(examine(ours, well, namespace))["bypass"] == PROBLEM
    labels = {"component": "singleuser-server", "release": "binder"}
    namespace.found_pods = [{"metadata": {"labels": labels}, "spec": {"containers": [{}]}}]
    assert states(examine(ours, well, namespace))["bypass"] == OK


def test_user_pods_that_can_ping_are_reported(ours, well, namespace):
    assert text(examine(ours, well, namespace), "ping") == "no user pod runs"
    sysctls = [{"name": SYSCTL, "value": CLOSED}]
    context = {"runAsUser": 1000, "allowPrivilegeEscalation": False}
    pods = [
        {"securityContext": {"sysctls": sysctls}, "containers": [{"securityContext": context}]},
        {"securityContext": {"sysctls": sysctls}, "containers": [{}]},
        {"containers": [{"securityContext": context}]},
    ]
    namespace.found_pods = [{"metadata": {"labels": {"component": "singleuser-server"}}, "spec": spec} for spec in pods[:1]]
    assert text(examine(ours, well, namespace), "ping") == "closed in every user pod"
    namespace.found_pods = [{"metadata": {"labels": {"component": "singleuser-server"}}, "spec": spec} for spec in pods]
    checks = examine(ours, well, namespace)
    assert states(checks)["ping"] == WARNING
    for part in ("open in 2 of 3 user pods", "1 without the sysctl", "1 may be root or gain privileges"):
        assert part in text(checks, "ping")
    # A canary without the sysctl, which a policy stops.
    namespace.found_canary = Canary("running", {**CANARY, "ping": True}, "binder-egress-canary-1")
    assert states(examine(ours, well, namespace))["ping"] == OK


def test_wrong_policies_of_ours_are_reported(ours, well, namespace):
    namespace.found_policies = [OURS[1], policy("x", egress({}, selector={"matchLabels": {"binder-egress/tier": "verified"}}))]
    checks = examine(ours, well, namespace)
    assert "does not isolate" in text(checks, "policies") and "missing: binder-egress-base" in text(checks, "policies")
    assert "selects by our tier" in text(checks, "policies")


def test_release_without_policies_has_nothing_to_judge(ours, well, namespace):
    checks = examine(ours.model_copy(update={"policies": {}, "mode": "observe"}), well, namespace)
    assert "canary" not in states(checks) and states(checks)["policies"] == OK


def test_unreadable_policies_are_a_problem(ours, well, namespace):
    namespace.unreadable = True
    checks = examine(ours, well, namespace)
    assert states(checks)["policies"] == PROBLEM and "403 Forbidden" in text(checks, "policies")
    assert [states(checks)[name] for name in ("canary", "other policies", "clock of the API server")] == [WARNING] * 3


def test_other_kinds_of_policy_are_named_and_the_canary_decides(ours, well, namespace):
    namespace.groups = ["cilium.io"]
    checks = examine(ours, well, namespace)
    assert states(checks)["other policies"] == OK and "CiliumNetworkPolicy" in text(checks, "other policies")
    for knows_nothing in (Canary("starting"), Canary("running", {}, "c")):
        namespace.found_canary = knows_nothing
        assert states(examine(ours, well, namespace))["other policies"] == WARNING


@pytest.mark.parametrize(
    ("canary", "state", "says"),
    [
        (Canary("running", {"api": False, "kubelet": True}, "c"), PROBLEM, "c reached api"),
        (Canary("missing"), WARNING, "helm upgrade"),
        (Canary("ended", {}, "c"), WARNING, "Run `kubectl delete pod c`, then `helm upgrade`"),
        (Canary("starting", {}, "c"), WARNING, "reported nothing"),
        (Canary("running", {}, "c"), WARNING, "can try none of its targets"),
    ],
)
def test_canary_state_is_reported(ours, well, namespace, canary, state, says):
    namespace.found_canary = canary
    checks = examine(ours, well, namespace)
    assert states(checks)["canary"] == state and says in text(checks, "canary")


@pytest.mark.parametrize(
    ("seen", "state", "says"),
    [("hidden", PROBLEM, "docs/proxy-reference.md"), ("silent", WARNING, "Look at its pods"), ("shown", OK, "own address")],
)
def test_address_that_the_proxy_sees_is_reported(ours, well, namespace, seen, state, says):
    namespace.found_canary = Canary("running", dict(CANARY), "c", seen)
    checks = examine(ours, well, namespace)
    assert (states(checks)["egress proxy"], states(checks)["canary"]) == (state, OK) and says in text(checks, "egress proxy")


def test_proxy_that_is_off_has_no_line(ours, well, namespace):
    assert "egress proxy" not in states(examine(ours, well, namespace))


def test_disabled_canary_is_reported(ours, well, namespace):
    assert states(examine(ours.model_copy(update={"canary": False}), well, namespace))["canary"] == WARNING


def test_command_exits_with_1_if_there_is_a_problem(monkeypatch, ours, well, namespace):
    monkeypatch.setattr(module, "load", lambda kind: ours)
    monkeypatch.setattr(module, "Namespace", lambda name: namespace)
    done = CliRunner().invoke(command, ["doctor"])
    assert (done.exit_code, "canary" in done.output) == (0, True)
    namespace.found_canary = Canary("running", {"api": False}, "c")
    done = CliRunner().invoke(command, ["doctor", "--json"])
    assert done.exit_code == 1
    assert {"name": "canary", "state": "problem"}.items() <= next(
        c for c in json.loads(done.output) if c["name"] == "canary"
    ).items()


# -- the reconciler's publications


@pytest.fixture
def watcher(ours, namespace, store):
    return Watcher(ours, namespace, store, lambda: [])


def test_findings_become_metrics(watcher, namespace, internal):
    namespace.found_policies.append(jupyterhub({}, ingress=[{}]))
    namespace.found_canary = Canary("running", {"api": False, "kubelet": True}, "c")
    watcher.run_once()
    for direction in ("egress", "ingress"):
        assert value(internal, "binder_egress_bypasses", policy="singleuser", direction=direction) == 1
    assert value(internal, "binder_egress_base_policy_missing") == 0
    assert value(internal, "binder_egress_canary_shut", target="api") == 0
    assert value(internal, "binder_egress_canary_shut", target="kubelet") == 1
    assert value(internal, "binder_egress_policies_read_timestamp_seconds") == pytest.approx(time.time(), abs=60)
    namespace.found_policies = []
    namespace.found_canary = Canary("missing")
    watcher.run_once()
    assert value(internal, "binder_egress_base_policy_missing") == 1
    assert value(internal, "binder_egress_policies_wrong") == 2
    assert families(internal)["binder_egress_canary_shut"].samples == []


@pytest.mark.parametrize(
    ("measured", "state", "says"),
    [
        ({"on": 0.21, "off": 0.1}, OK, "act 0.2 s after they were set, and 0.1 s after they were taken off"),
        ({"on": 2.0, "off": 26.4}, WARNING, "26.4 s after they were taken off. A tier opens, and a block closes"),
        ({"on": 60.0, "off": 60.0}, WARNING, "more than 60 s after they were set"),
        ({"reason": "the canary does not run"}, OK, "not measured yet: the canary does not run"),
        ({}, OK, "not measured yet: the reconciler has not tried yet"),
    ],
)
def test_delay_of_labels_becomes_a_line_and_a_metric(ours, well, namespace, internal, measured, state, says):
    Watcher(ours, namespace, well, list, lambda: measured).run_once()
    checks = examine(ours, well, namespace)
    assert states(checks)["labels"] == state and says in text(checks, "labels")
    samples = {one.labels["change"]: one.value for one in families(internal)["binder_egress_label_delay_seconds"].samples}
    assert samples == {change: seconds for change, seconds in measured.items() if change != "reason"}


def test_delay_of_labels_needs_a_canary(ours, well, namespace):
    checks = examine(ours.model_copy(update={"canary": False}), well, namespace)
    assert states(checks)["labels"] == WARNING and "canary.enabled" in text(checks, "labels")


@pytest.mark.parametrize(("seen", "samples"), [("hidden", [1]), ("shown", [0]), ("silent", []), ("", [])])
def test_hidden_addresses_become_a_metric_and_a_log_line(watcher, namespace, internal, caplog, seen, samples):
    namespace.found_canary = Canary("running", {}, "c", seen)
    watcher.run_once()
    assert [sample.value for sample in families(internal)["binder_egress_proxy_addresses_hidden"].samples] == samples
    logged = [record for record in caplog.records if "hides pods from the egress proxy" in record.getMessage()]
    assert len(logged) == (seen == "hidden")


@pytest.mark.parametrize("share", [0.95, 0.5])
def test_memory_of_redis_becomes_a_metric_and_a_log_line(watcher, internal, in_redis, caplog, share):
    in_redis.config_set("maxmemory", int(in_redis.info("memory")["used_memory"] / share))
    try:
        watcher.run_once()
        assert (value(internal, "binder_egress_redis_memory_used_ratio") > 0.9) is (share > 0.9)
    finally:
        in_redis.config_set("maxmemory", 0)
    assert [record.levelname for record in caplog.records if "nearly full" in record.getMessage()] == ["ERROR"] * (share > 0.9)
    assert families(internal)["binder_egress_redis_memory_used_ratio"].samples == []  # It has no limit.


def test_unknown_findings_have_no_sample(watcher, namespace, internal):
    namespace.unreadable = True
    watcher.run_once()
    found = families(internal)
    assert found["binder_egress_base_policy_missing"].samples == found["binder_egress_canary_shut"].samples == []
    assert value(internal, "binder_egress_policies_read_timestamp_seconds") == 0


def test_findings_are_logged_once_and_when_they_end(watcher, namespace, caplog):
    caplog.set_level(logging.INFO, "binder-egress")
    namespace.found_policies.append(policy("other", egress({})))
    for _ in range(3):
        watcher.run_once()
    assert [record.getMessage() for record in caplog.records] == ["policies open the gate"]
    namespace.found_policies.append(policy("more", egress({})))
    watcher.run_once()
    assert len(caplog.records) == 2
    namespace.found_policies = list(OURS)
    watcher.run_once()
    assert caplog.records[-1].getMessage() == "over: policies open the gate"
    namespace.unreadable = True
    watcher.run_once()
    watcher.run_once()
    assert ["cannot be read" in record.getMessage() for record in caplog.records[3:]] == [True, True]


def test_watcher_without_redis_logs_and_continues(ours, namespace, caplog):
    class Down:
        def memory_used(self):
            raise StoreUnavailable("down")

    namespace.found_policies = []
    Watcher(ours, namespace, Down(), lambda: []).run_once()
    assert "the base policy does not isolate user pods: the gate is open" in caplog.text


def test_watcher_survives_a_fault(ours, namespace, store, monkeypatch, caplog):
    calls = []

    def fail():
        calls.append(1)
        raise SystemExit if len(calls) == 3 else RuntimeError("x")

    monkeypatch.setattr("verifier.gatecheck.check.PERIOD_SECONDS", 0.01)
    with pytest.raises(SystemExit):
        Watcher(ours, namespace, store, fail).run()
    assert len(calls) == 3 and "fault in the gate check" in caplog.text


def test_reconciler_reports_the_kinds_of_its_pods(redis_server, store):
    from verifier.reconciler.loop import Reconciler

    cluster = FakeCluster()
    worker = Reconciler(load(ReconcilerSettings, redis_url=redis_server.url), cluster, store)
    labels = frozenset({("component", "singleuser-server")})
    for user in ("a", "b"):
        cluster.add(user, f"uid-{user}", shared_labels=labels)
    cluster.add("c", "uid-c", shared_labels=frozenset({("x", "y")}), ended=True)
    worker.list_pods()
    assert worker.label_sets() == [labels]


# -- the API server's answers


def canary_pod(state=None, last=None, **status):
    found = {"state": state or {"running": {}}, "lastState": last or {}}
    meta = {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": meta, "status": {"phase": "Running", "containerStatuses": [found], **status}}


SAID = {"terminated": {"message": '{"reached": {"a": true, "b": false, "c": null}}'}}


@pytest.mark.parametrize(
    ("pods", "state", "targets"),
    [
        ([], "missing", {}),
        ([canary_pod(last=SAID)], "running", {"a": False, "b": True}),
        ([canary_pod(SAID)], "running", {"a": False, "b": True}),
        ([canary_pod({"waiting": {"reason": "CrashLoopBackOff"}}, SAID)], "running", {"a": False, "b": True}),
        ([canary_pod({"waiting": {"reason": "ImagePullBackOff"}}, SAID)], "starting", {}),
        ([canary_pod()], "starting", {}),
        ([canary_pod(last={"terminated": {"message": "Killed", "exitCode": 137}})], "starting", {}),
        ([canary_pod(last=SAID, phase="Failed")], "ended", {}),
        ([canary_pod(last=SAID, phase="Failed"), canary_pod()], "starting", {}),
        # Kubernetes deletes the pods of a dead node, and no kubelet carries it out.
        ([canary_pod(last=SAID) | {"metadata": {"name": "c", "deletionTimestamp": "2026-01-01T00:06:00Z"}}], "missing", {}),
        ([canary_pod(containerStatuses=None)], "starting", {}),
    ],
)
def test_canary_result_is_read_from_its_pod(pods, state, targets):
    found = canary_of(pods)
    assert (found.state, found.targets) == (state, targets)


def test_canary_says_what_the_proxy_sees_of_it():
    said = {"terminated": {"message": '{"reached": {"a": false}, "proxy": "hidden"}'}}
    assert [canary_of([canary_pod(last=last)]).proxy for last in (said, SAID)] == ["hidden", ""]


@pytest.fixture
def api():
    api = ApiServer()
    yield api
    api.close()


@pytest.fixture
def real(api):
    return Namespace("binder", api.client)


def test_requests_to_the_api_server_are_limited(api, real):
    groups = [{"name": "apps", "versions": []}, {"name": "cilium.io", "versions": []}]
    api.answer = lambda *_: (200, {"items": OURS, "groups": groups})
    api.headers["Date"] = formatdate(time.time() + 60, usegmt=True)
    assert real.policies() == OURS
    assert real.other_kinds() == ["cilium.io"]
    assert real.clock() == pytest.approx(60, abs=2)
    real.pods("a=b", 7)
    assert api.asked == [
        ("GET", "/apis/networking.k8s.io/v1/namespaces/binder/networkpolicies", {}),
        ("GET", "/apis/", {}),
        ("GET", "/apis/", {}),
        ("GET", "/api/v1/namespaces/binder/pods", {"labelSelector": "a=b", "limit": "7"}),
    ]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [(403, {}, "403 Forbidden"), (200, b"no JSON", "JSONDecodeError"), (None, None, "NewConnectionError")],
)
def test_refusal_by_the_api_server_is_reported(api, real, status, body, reason):
    api.answer = lambda *_: (status, body)
    if status is None:
        api.close()
    for ask in (real.policies, real.other_kinds, real.canary):
        with pytest.raises(ApiServerUnavailable, match=reason) as failed:
            ask()
        assert failed.value.status == (403 if status == 403 else None)


@pytest.mark.parametrize(("status", "date"), [(403, None), (200, "yesterday")])
def test_answer_without_a_date_leaves_the_clock_unknown(api, real, status, date):
    api.answer = lambda *_: (status, {"groups": []})
    api.headers |= {"Date": date} if date else {}
    with pytest.raises(ApiServerUnavailable, match=r"403|no date"):
        real.clock()


def test_hanging_api_server_is_asked_once_and_times_out(api, real, monkeypatch):
    monkeypatch.setattr("verifier.kubernetes_api.REQUEST_TIMEOUT_SECONDS", 0.1)
    api.answer = lambda *_: time.sleep(1) or (200, {"items": []})
    with pytest.raises(ApiServerUnavailable, match=r"timed out|Timeout"):
        real.policies()
    # On a busy machine, the client gives up before the server has read the request.
    eventually(lambda: api.asked)
    assert len(api.asked) == 1


def test_check_lists_what_it_could_not_read(ours, namespace):
    namespace.unreadable = True
    found = check(ours, namespace, [], 1.0)
    assert (found.judgement, found.canary, set(found.unread)) == (None, None, {"policies", "canary"})
    assert json.loads(found.dumps())["at"] == 1.0
    assert check(ours.model_copy(update={"policies": {}}), FakeNamespace(), [], 1.0).judgement == Judgement()


# -- reports of the verifier for doctor


def test_readiness_probe_reports_and_launches_are_noted(internal, store):
    assert internal.get("/readyz").status_code == 200
    launch(internal, "a")
    launch(internal, "b", context=False)
    health = store.health()
    (report,) = health["verifiers"].values()
    assert report["signing_keys"] >= 1 and report["providers"] == {"altcha": "up"}
    assert (health["wiring"]["launches"], health["wiring"]["without-context"]) == (2, 1)
    assert health["wiring"]["first"] <= health["wiring"]["last"] <= time.time()
