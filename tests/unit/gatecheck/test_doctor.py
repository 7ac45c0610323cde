"""Gatecheck and doctor: findings, their publication, logs and advice."""

import json
import logging
import re
import time
from datetime import UTC, datetime
from email.utils import formatdate
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from binder_egress.commands.egress import egress as command
from binder_egress.gatecheck import doctor as module
from binder_egress.gatecheck.check import Canary, Namespace, Watcher, canary_of
from binder_egress.gatecheck.checklist import CHECKS, DOCTOR
from binder_egress.gatecheck.doctor import OK, PROBLEM, WARNING, examine
from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.grants import Block
from binder_egress.model.ping import CLOSED, SYSCTL
from binder_egress.model.serialization import read_origin
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.errors import StoreUnavailable
from binder_egress.store.reconciler_counters import ANNOUNCED_LATE, FAILURES, START_GUARD, WITHOUT_RECORD
from binder_egress.store.saved import data_of
from binder_egress.store.verifiers import VERIFIER_TTL_SECONDS
from tests.support.api_server import ApiServer
from tests.support.apps import launch
from tests.support.metrics import families, value
from tests.support.network_policies import EXPECTED, OURS, egress, jupyterhub, policy
from tests.support.reconciling import ALICE, announce
from tests.support.store import Store
from tests.support.waiting import eventually

CANARY = {"api": True, "kubelet": True}


SHARED = "component=singleuser-server app=jupyterhub"

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


def fits(term, labels):
    """Whether labels fit one term of a selector: `a`, `!a`, `a=b` or `a!=b`."""
    key, is_valued, wanted = term.partition("=")
    fits = (labels.get(key.rstrip("!")) == wanted) if is_valued else key.lstrip("!") in labels
    return fits != ("!" in term)


class FakeNamespace:
    """A namespace without problems, which tests change."""

    def __init__(self):
        self.found_policies = [*OURS, verifier_policy(INGRESS_CONTROLLER)]
        self.found_canary = Canary("running", dict(CANARY), "binder-egress-canary-1")
        self.groups: list[str] = []
        self.found_pods: list[dict] = []
        self.ahead = 0.0
        self.policies = lambda: self.found_policies
        self.canary = lambda: self.found_canary
        self.other_kinds = lambda: self.groups
        self.clock = lambda: self.ahead
        self.saved: dict[str, str] = {}
        self.config_map = lambda name: self.saved
        self.endpoints: list[dict] = []
        self.cilium_endpoints = lambda *_: self.endpoints

    def pods(self, selector, most=100, fields=""):
        return [pod for pod in self.found_pods if all(fits(term, pod["metadata"]["labels"]) for term in selector.split(","))]

    def refuse(self):
        refused = Mock(side_effect=ApiServerUnavailable("403 Forbidden"))
        self.cilium_endpoints = refused
        self.policies = self.canary = self.other_kinds = self.clock = self.pods = self.config_map = refused


@pytest.fixture
def namespace():
    return FakeNamespace()


@pytest.fixture
def ours(redis_server):
    return load(ReconcilerSettings, redis_url=redis_server.url, policies=EXPECTED, canary=True)


class Site:
    """An installation without problems, which tests change: all parts have reported, and a launch was announced."""

    def __init__(self, settings, store, namespace, redis):
        self.settings, self.store, self.namespace, self.redis = settings, store, namespace, redis
        redis.config_set("maxmemory-policy", "noeviction")
        self.beat(**{f"{START_GUARD}closed": 1})
        self.report("a", providers={"altcha": "up"})
        store.publish_gatecheck('{"label_delay": {"on": 0.2, "off": 0.1}}')
        announce(store)
        redis.delete(f"binder-egress:launch:{ALICE.key}")  # Its pod is ready.

    def set(self, **settings):
        self.settings = self.settings.model_copy(update=settings)

    def report(self, host="b", late_seconds=0, **more):
        self.store.report_verifier(
            host, {"version": "1", "at": time.time() - late_seconds, "signing_keys": 1, "providers": {}} | more
        )

    def beat(self, late_seconds=0, **counters):
        self.store.heartbeat(time.time() - late_seconds, {}, counters)

    def canary(self, state, targets=CANARY, proxy="", groups=()):
        """The canary is in a state, in a cluster that has groups of other policies, too."""
        self.namespace.found_canary = Canary(state, targets if state == "running" else {}, "c", proxy)
        self.namespace.groups = list(groups)

    def miss(self, servers=1, announced=True):
        """BinderHub starts servers, after its last announcement or before the first, and announces none."""
        if not announced:
            self.redis.delete("binder-egress:wiring")
        self.store.heartbeat(time.time() + 1, {}, {WITHOUT_RECORD: servers})

    def binder(self, seconds, variable="BINDER_EGRESS_API"):
        """BinderHub's pod was made so many seconds from now on, and has a variable."""
        made = datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()
        pod = {"metadata": {"name": "binder-1", "labels": {"component": "binder"}, "creationTimestamp": made}}
        self.namespace.found_pods.append({**pod, "spec": {"containers": [{"env": [{"name": variable}]}]}})

    def identities(self, *labels):
        """Cilium gives user pods the identities of these labels."""
        self.namespace.groups = ["cilium.io"]
        numbers = {each: number for number, each in enumerate(dict.fromkeys(labels), 256)}
        self.namespace.endpoints = [
            {"status": {"identity": {"id": numbers[each], "labels": [f"k8s:{label}" for label in each.split()]}}} for each in labels
        ] + [{"status": {}}]

    def announce_without_requests(self):
        self.redis.delete("binder-egress:wiring")
        announce(self.store, context=False)

    def run(self, *specs, **labels):
        labels = {"hub.jupyter.org/username": "x", **(labels or {"component": "singleuser-server"})}
        self.namespace.found_pods = [
            {"metadata": {"name": f"jupyter-{at}", "labels": labels}, "spec": {"containers": [{}], **spec}}
            for at, spec in enumerate(specs)
        ]

    def states(self, **how):
        return {line.name: line.state for line in examine(self.settings, self.store, self.namespace, **how)}

    def line(self, name):
        """State and text of a check; None and nothing if it has no line."""
        found = [line for line in examine(self.settings, self.store, self.namespace) if line.name == name]
        return found[-1].state if found else None, "; ".join(line.text for line in found)


@pytest.fixture
def site(ours, store, namespace, in_redis):
    return Site(ours, store, namespace, in_redis)


ONLY_WITH = {
    "identities",
    "nodes",
    "clock of the verifier",
    "pods of the egress proxy",
    "pod of the receiver",
    "flow killer",
    "egress proxy",
}
"""The checks that have no line unless something is on, or wrong."""


def test_healthy_installation_has_no_problem(site):
    site.set(redis_user_password=SecretStr("x"))
    found = site.states()
    assert set(found.values()) == {OK}
    assert set(found) == {id for id, check in CHECKS.items() if DOCTOR in check.by} - ONLY_WITH


WORLD = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "169.254.169.254/32"]}}]}
BY_TIER = policy("x", egress({}, selector={"matchLabels": {"binder-egress/tier": "verified"}}))


@pytest.mark.parametrize(
    ("name", "state", "says", "change"),
    [
        ("users of Redis", WARNING, ["redis-verifier-password"], lambda site: None),
        ("mode", OK, [], lambda site: site.set(mode="captcha")),
        ("mode", WARNING, ["allow"], lambda site: site.set(mode="allow")),
        ("mode", WARNING, ["observe"], lambda site: site.set(mode="observe")),
        # Objects that a rendering tool leaves out.
        ("secrets", WARNING, ["api-token are new in each rendering"], lambda site: site.set(random_secrets=["api-token"])),
        ("admission policies", WARNING, ["protectPods were not rendered"],
            lambda site: site.set(missing_admission_policies=["protectPods"])),
        ("Redis", PROBLEM, ["noeviction"], lambda site: site.redis.config_set("maxmemory-policy", "allkeys-lru")),
        ("epoch", WARNING, [], lambda site: site.redis.delete("binder-egress:epoch")),
        ("clock of the verifier", WARNING, ["ahead of Redis in b"], lambda site: site.report(late_seconds=-20)),
        ("clock of the verifier", None, [], lambda site: site.report(late_seconds=50)),
        ("clock of the verifier", PROBLEM, ["behind Redis in b"], lambda site: site.report(late_seconds=70)),
        ("reconciler", PROBLEM, ["silent"], lambda site: site.redis.delete("binder-egress:reconciler")),
        ("reconciler", WARNING, [], lambda site: site.beat(late_seconds=20)),
        ("verifier", PROBLEM, [], lambda site: site.redis.delete("binder-egress:verifiers")),
        ("verifier", WARNING, ["signing_keys"], lambda site: site.report(signing_keys=2)),
        ("keys", OK, ["2 signing keys"], lambda site: site.report(signing_keys=2)),
        ("provider", OK, [], lambda site: site.report(providers={"hcaptcha": "up"})),
        ("provider", WARNING, [], lambda site: site.report(providers={"hcaptcha": "down"})),
        ("provider", PROBLEM, [], lambda site: site.report(providers={"hcaptcha": "misconfigured"})),
        ("wiring", WARNING, ["1 without their request"], lambda site: announce(site.store, context=False)),
        ("wiring", WARNING, ["has announced no launch"], lambda site: site.redis.delete("binder-egress:wiring")),
        ("wiring", PROBLEM, ["are refused", "their token is wrong", "Restart BinderHub"],
            lambda site: site.report(refused_at=time.time() + 1)),
        ("wiring", OK, [], lambda site: site.report(refused_at=time.time() - 60)),
        ("wiring", OK, [], lambda site: (site.report(refused_at=time.time() + 1), site.binder(100))),
        ("wiring", PROBLEM, ["no launch for", "and started a server", "pre_launch_hook"], lambda site: site.miss()),
        ("wiring", PROBLEM, ["no launch ever, and started a server"], lambda site: site.miss(announced=False)),
        ("wiring", WARNING, ["started it again from the hub"], lambda site: (site.report(signed_in=True), site.miss())),
        ("wiring", PROBLEM, ["no launch since its start"], lambda site: (site.binder(-1), site.miss(announced=False))),
        ("wiring", WARNING, ["no launch yet"], lambda site: (site.binder(100), site.miss(announced=False))),
        ("wiring", PROBLEM, ["its pod binder-1 has no BINDER_EGRESS_API", "write its extraEnv as a map"],
            lambda site: site.binder(-1, "OTHER")),
        ("wiring", PROBLEM, ["badge_base_url"], Site.announce_without_requests),
        ("launch records", WARNING, ["did not announce 2 servers; it announced 1 late"],
            lambda site: site.beat(**{WITHOUT_RECORD: 3, ANNOUNCED_LATE: 1})),
        ("launch records", OK, ["every server since its wiring; it announced 3 late"],
            lambda site: site.beat(**{WITHOUT_RECORD: 3, ANNOUNCED_LATE: 3})),
        ("launch records", OK, ["3 were there before the first announcement"],
            lambda site: (site.miss(3, False), announce(site.store))),
        *(
            ("start guard", WARNING, [f"of 3 pods: {outcome} 2"],
                lambda site, outcome=outcome: site.beat(**{f"{START_GUARD}{outcome}": 2}))
            for outcome in ("open", "unclear", "unable", "failed", "absent", "mistaken_by_proxy", "unknown_to_proxy")
        ),
        ("bypass", PROBLEM, ["singleuser, egress rule 1", "nonPrivateIPs: false"],
            lambda site: site.namespace.found_policies.append(jupyterhub(WORLD))),
        ("policies", WARNING, ["does not isolate", "missing: binder-egress-base", "selects by our tier"],
            lambda site: setattr(site.namespace, "found_policies", [OURS[1], BY_TIER])),
        # A release without policies has nothing to judge.
        ("policies", OK, [], lambda site: site.set(policies={}, mode="observe")),
        ("canary", None, [], lambda site: site.set(policies={}, mode="observe")),
        ("canary", WARNING, [], lambda site: site.set(canary=False)),
        ("canary", PROBLEM, ["c reached api"], lambda site: site.canary("running", {"api": False, "kubelet": True})),
        ("canary", WARNING, ["helm upgrade"], lambda site: site.canary("missing")),
        ("canary", WARNING, ["Run `kubectl delete pod c`, then `helm upgrade`"], lambda site: site.canary("ended")),
        ("canary", WARNING, ["reported nothing"], lambda site: site.canary("starting")),
        ("canary", WARNING, ["can try none of its targets"], lambda site: site.canary("running", {})),
        ("canary", OK, ["is stopped at"], lambda site: site.canary("running", proxy="hidden")),
        ("egress proxy", PROBLEM, ["docs/proxy-reference.md"], lambda site: site.canary("running", proxy="hidden")),
        ("egress proxy", WARNING, ["Look at its pods"], lambda site: site.canary("running", proxy="silent")),
        ("egress proxy", OK, ["own address"], lambda site: site.canary("running", proxy="shown")),
        ("other policies", OK, ["CiliumNetworkPolicy"], lambda site: site.canary("running", groups=["cilium.io"])),
        ("other policies", WARNING, ["CiliumNetworkPolicy"], lambda site: site.canary("starting", groups=["cilium.io"])),
        ("other policies", WARNING, ["CiliumNetworkPolicy"], lambda site: site.canary("running", {}, groups=["cilium.io"])),
        ("labels", WARNING, ["canary.enabled"], lambda site: site.set(canary=False)),
        ("labels", WARNING, ["act 36.0 s after", "identityChangeGracePeriod: 0s and extraConfig.identity-max-jitter: 0s"],
            lambda site: site.store.publish_gatecheck('{"label_delay": {"on": 36, "off": 0.1}}')),
        ("identities", OK, ["1 of 2 user pods"], lambda site: site.identities(SHARED, SHARED)),
        ("identities", WARNING, ["2 of 2 user pods: each server has its own", "!hub.jupyter.org/username"],
            lambda site: site.identities(*(f"{SHARED} hub.jupyter.org/username={user}" for user in "ab"))),
        ("identities", PROBLEM, ["leaves out component, by which our policies select"], lambda site: site.identities("app=x")),
        ("identities", WARNING, ["leaves out component"],
            lambda site: (site.set(policies={}, mode="observe"), site.identities("app=x"))),
        ("identities", OK, ["0 of 0"], lambda site: site.identities()),
    ],
)  # fmt: skip
def test_each_fault_has_its_line(site, name, state, says, change):
    change(site)
    seen, text = site.line(name)
    assert (seen, [words for words in says if words not in text]) == (state, []), text


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
def test_public_port_that_anybody_reaches_is_a_warning(site, policies, state):
    site.namespace.found_policies = [*OURS, *policies]
    seen, text = site.line("public port")
    assert (seen, "publicFrom" in text) == (state, state == WARNING)


def test_public_port_may_be_open_if_proxies_are_named(site):
    site.namespace.found_policies = [*OURS, verifier_policy()]
    for host, proxies, state in (("a", "networks", OK), ("b", "number", WARNING)):
        site.report(host, proxies=proxies)
        assert site.line("public port")[0] == state


def test_other_checks_run_without_redis(ours, namespace, redis_server):
    redis_server.stop()
    client = connect(ours)
    found = {line.name: line.state for line in examine(ours, Store(client), namespace)}
    client.close()
    assert (found["Redis"], found["policies"]) == (PROBLEM, OK)


def test_other_checks_run_without_the_api_server(site):
    labels = {"app.kubernetes.io/component": "proxy"}
    site.set(proxy_labels=labels, receiver_labels=labels)
    site.namespace.refuse()
    found = site.states()
    assert found["policies"] == PROBLEM and "403 Forbidden" in site.line("policies")[1]
    unknown = {
        "public port",
        "canary",
        "other policies",
        "clock of the API server",
        "pods of the egress proxy",
        "pod of the receiver",
    }
    assert {found[name] for name in unknown} == {WARNING}


def pods_that_are(labels, *ready):
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{}]}}
    return [{**pod, "status": {"conditions": [{"type": "Ready", "status": each}]}} for each in ready]


@pytest.mark.parametrize(
    ("setting", "component", "name"),
    [("proxy_labels", "proxy", "pods of the egress proxy"), ("receiver_labels", "receiver", "pod of the receiver")],
)
def test_components_that_are_not_ready_are_a_problem(site, setting, component, name):
    """JupyterHub's own proxy has the same component."""
    labels = {"app.kubernetes.io/component": component, "app.kubernetes.io/name": "binder-egress"}
    of_the_hub = pods_that_are(labels | {"app.kubernetes.io/name": "jupyterhub"}, "True")
    site.set(**{setting: labels})
    site.namespace.found_pods = of_the_hub + pods_that_are(labels, "True", "False")
    assert site.line(name) == (OK, "1 of 2 ready")
    for pods in (pods_that_are(labels, "False"), []):
        site.namespace.found_pods = of_the_hub + pods
        assert site.line(name)[0] == PROBLEM


@pytest.mark.parametrize(("reason", "state"), [("Error", WARNING), ("OOMKilled", OK)])
def test_egress_proxy_that_something_kills_is_told_of_the_flow_killer(site, reason, state):
    labels = {"app.kubernetes.io/component": "proxy"}
    site.namespace.found_pods = pods_that_are(labels, "True", "True")
    ended = {"lastState": {"terminated": {"exitCode": 137, "reason": reason}}}
    site.namespace.found_pods[0]["status"]["containerStatuses"] = [{"lastState": {}}, ended]
    site.set(proxy_labels=labels, receiver_labels=labels)
    seen, text = site.line("pods of the egress proxy")
    assert seen == state and ("has killed 1. cryptnono's flow killer" in text) == (state == WARNING)
    assert site.line("pod of the receiver")[0] == OK


def test_flow_killer_beside_the_egress_proxy_is_a_problem(site):
    site.run({"containers": [{"name": "monero"}, {"name": "flowkiller"}]}, **{"app.kubernetes.io/name": "cryptnono"})
    assert site.line("flow killer")[0] is None
    site.set(proxy_labels={"app.kubernetes.io/component": "proxy"})
    assert site.line("flow killer")[0] == PROBLEM
    site.run({}, **{"app.kubernetes.io/name": "cryptnono"})
    assert site.line("flow killer")[0] is None


@pytest.mark.parametrize(("ahead", "state"), [(0, OK), (2, OK), (5, WARNING), (-5, WARNING), (60, PROBLEM), (-60, PROBLEM)])
def test_clock_difference_is_judged_by_its_size(site, ahead, state):
    site.namespace.ahead = ahead
    found = site.states(now=lambda: time.time() - ahead)
    assert (found["clock of the API server"], found["clock of Redis"]) == (state, state)


def test_failed_attempts_of_the_reconciler_are_a_warning_for_a_minute(site):
    site.beat(late_seconds=90, **{FAILURES: 2})
    site.beat(**{WITHOUT_RECORD: 1})
    assert site.line("reconciler")[0] == OK
    site.beat(**{FAILURES: 3})
    seen, text = site.line("reconciler")
    assert seen == WARNING and "5 in all" in text


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


def test_bypass_is_judged_by_the_running_pods(site):
    site.namespace.found_policies.append(policy("other", egress({}, selector={"matchLabels": {"release": "other"}})))
    assert site.line("bypass")[0] == PROBLEM
    site.run({}, component="singleuser-server", release="binder")
    assert site.line("bypass")[0] == OK


def test_user_pods_that_can_ping_are_reported(site):
    assert site.line("ping")[1] == "no user pod runs"
    closed = {"securityContext": {"sysctls": [{"name": SYSCTL, "value": CLOSED}]}}
    unprivileged = {"containers": [{"securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": False}}]}
    site.run(closed | unprivileged)
    assert site.line("ping")[1] == "closed in every user pod"
    site.run(closed | unprivileged, closed, unprivileged)
    seen, text = site.line("ping")
    assert seen == WARNING
    for part in ("open in 2 of 3 user pods", "1 without the sysctl", "1 may be root or gain privileges"):
        assert part in text
    # A canary without the sysctl, which a policy stops.
    site.canary("running", {**CANARY, "ping": True})
    assert site.line("ping")[0] == OK


def test_user_pods_that_our_policies_do_not_select_are_named_with_the_label_that_differs(site):
    assert site.line("user labels") == (OK, "no user pod lacks component=singleuser-server")
    site.run(*[{}] * 7, component="course")
    seen, text = site.line("user labels")
    assert seen == PROBLEM and "select component=singleuser-server, and so leave out jupyter-0 (component=course), jup" in text
    assert "jupyter-4 (component=course), and 2 more. " in text and "userPods.labels" in text
    # The other labels are compared too, and they are not ours if nothing else is.
    site.set(user_pod_labels={"app": "jupyterhub", "component": "course"})
    assert "jupyter-0 (no app)" in site.line("user labels")[1]
    site.set(policies={})
    assert site.line("user labels")[0] == WARNING
    site.namespace.refuse()
    assert site.line("user labels") == (WARNING, "unknown: 403 Forbidden. " + CHECKS["user labels"].advice)


def test_user_pods_that_cannot_start_because_of_us_are_named_with_kubernetes_reason(site):
    assert site.line("starts")[0] == OK
    site.run({}, {})
    waits = {"name": "binder-egress-start-guard", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    site.namespace.found_pods[1]["status"] = {"phase": "Pending", "initContainerStatuses": [waits]}
    seen, text = site.line("starts")
    assert seen == PROBLEM and "from starting: jupyter-1 (ErrImagePull: not found). " in text
    site.namespace.refuse()
    assert site.line("starts")[0] == WARNING


def test_command_exits_with_1_if_there_is_a_problem(monkeypatch, site):
    monkeypatch.setattr(module, "load", lambda kind: site.settings)
    monkeypatch.setattr(module, "Namespace", lambda name: site.namespace)
    done = CliRunner().invoke(command, ["doctor"])
    assert (done.exit_code, "canary" in done.output) == (0, True)
    site.canary("running", {"api": False})
    done = CliRunner().invoke(command, ["doctor", "--json"])
    assert done.exit_code == 1
    assert [line["state"] for line in json.loads(done.output) if line["name"] == "canary"] == [PROBLEM]


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
    # What is unknown has no sample.
    namespace.refuse()
    watcher.run_once()
    found = families(internal)
    assert found["binder_egress_base_policy_missing"].samples == found["binder_egress_canary_shut"].samples == []
    assert value(internal, "binder_egress_policies_read_timestamp_seconds") == 0


@pytest.mark.parametrize(
    ("measured", "state", "says"),
    [
        ({"on": 0.21, "off": 0.1}, OK, "act 0.2 s after they were set, and 0.1 s after they were taken off"),
        ({"on": 2.0, "off": 26.4}, WARNING, "26.4 s after they were taken off. A tier opens, and a block closes"),
        ({"on": 60.0, "off": 60.0}, WARNING, "more than 60 s after they were set"),
        ({"on": 0.3}, OK, "act 0.3 s after they were set, and in an unknown time after they were taken off"),
        ({}, WARNING, "not measured yet"),
    ],
)
def test_delay_of_labels_becomes_a_line_and_a_metric(site, internal, measured, state, says):
    Watcher(site.settings, site.namespace, site.store, list, lambda: measured).run_once()
    seen, text = site.line("labels")
    assert seen == state and says in text
    samples = {one.labels["change"]: one.value for one in families(internal)["binder_egress_label_delay_seconds"].samples}
    assert samples == measured


@pytest.mark.parametrize(("seen", "samples"), [("hidden", [1]), ("shown", [0]), ("silent", []), ("", [])])
def test_hidden_addresses_become_a_metric_and_a_log_line(watcher, namespace, internal, caplog, seen, samples):
    namespace.found_canary = Canary("running", {}, "c", seen)
    watcher.run_once()
    assert [sample.value for sample in families(internal)["binder_egress_proxy_addresses_hidden"].samples] == samples
    logged = [record for record in caplog.records if "hides pods from the egress proxy" in record.getMessage()]
    assert len(logged) == (seen == "hidden")


def test_nodes_with_the_part_that_ends_connections_are_published(watcher, namespace, store):
    def part(node, state, name="binder-egress-connections-x"):
        labels = {"app.kubernetes.io/component": "connections"}
        status = {"containerStatuses": [{"state": {state: {}}}]} if state else {}
        return {"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node}, "status": status}

    namespace.found_pods = [
        part("n1", "running"), part("n2", "waiting"), part("n3", ""), part("n4", "running", "other-connections-x")
    ]  # fmt: skip
    watcher.run_once()
    assert store.gatecheck()["connections"] is None  # They are off.
    watcher._settings = watcher._settings.model_copy(update={"connections": "binder-egress-connections"})
    watcher.run_once()
    assert store.gatecheck()["connections"] == ["n1"]


@pytest.mark.parametrize(("share", "state"), [(0.5, OK), (0.95, WARNING), (1.5, PROBLEM)])
def test_full_redis_is_a_line_a_metric_and_a_log_line(site, watcher, internal, in_redis, caplog, share, state):
    in_redis.config_set("maxmemory", int(in_redis.info("memory")["used_memory"] / share))
    try:
        seen, text = site.line("Redis")
        watcher.run_once()
        assert (value(internal, "binder_egress_redis_memory_used_ratio") > 0.9) is (share > 0.9)
    finally:
        in_redis.config_set("maxmemory", 0)
    assert seen == state and ("Raise redis.maxmemory, which replaces the chart's Redis" in text) is (share > 0.9)
    assert [record.levelname for record in caplog.records if "nearly full" in record.getMessage()] == ["ERROR"] * (share > 0.9)
    assert families(internal)["binder_egress_redis_memory_used_ratio"].samples == []  # It has no limit.


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
    namespace.refuse()
    watcher.run_once()
    watcher.run_once()
    assert ["cannot be read" in record.getMessage() for record in caplog.records[3:]] == [True, True]


def test_watcher_without_redis_logs_and_continues(ours, namespace, caplog):
    namespace.found_policies = []
    down = Mock(memory_used=Mock(side_effect=StoreUnavailable("down")))
    Watcher(ours, namespace, down, lambda: []).run_once()
    assert "the base policy does not isolate user pods: the gate is open" in caplog.text


def test_watcher_survives_a_fault(ours, namespace, store, monkeypatch, caplog):
    fail = Mock(side_effect=[RuntimeError("x"), RuntimeError("x"), SystemExit])
    monkeypatch.setattr("binder_egress.gatecheck.check.PERIOD_SECONDS", 0.01)
    with pytest.raises(SystemExit):
        Watcher(ours, namespace, store, fail).run()
    assert caplog.text.count("fault in the gate check") == 2


def test_reconciler_reports_the_kinds_of_its_pods(reconciler, cluster):
    labels = frozenset({("component", "singleuser-server")})
    for user in ("a", "b"):
        cluster.add(user, f"uid-{user}", shared_labels=labels)
    cluster.add("c", "uid-c", shared_labels=frozenset({("x", "y")}), ended=True)
    reconciler.list_pods()
    assert reconciler.label_sets() == [labels]


# -- the API server's answers


def canary_pod(state=None, last=None, **status):
    found = {"state": state or {"running": {}}, "lastState": last or {}}
    meta = {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": meta, "status": {"phase": "Running", "containerStatuses": [found], **status}}


SAID = {"terminated": {"message": '{"reached": {"a": true, "b": false, "c": null}}'}}
OF_PROXY = {"terminated": {"message": '{"reached": {"a": false}, "proxy": "hidden"}'}}


@pytest.mark.parametrize(
    ("pods", "state", "targets"),
    [
        ([], "missing", {}),
        ([canary_pod(last=SAID)], "running", {"a": False, "b": True}),
        ([canary_pod(SAID)], "running", {"a": False, "b": True}),
        ([canary_pod(OF_PROXY)], "running", {"a": True}),
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
    assert (found.state, found.targets, found.proxy) == (state, targets, "hidden" if targets == {"a": True} else "")


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
    api.headers["Date"] = "yesterday"
    with pytest.raises(ApiServerUnavailable, match="no date"):
        real.clock()
    real.pods("a=b", 7)
    assert api.asked == [
        ("GET", "/apis/networking.k8s.io/v1/namespaces/binder/networkpolicies", {}),
        *[("GET", "/apis/", {})] * 3,
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
    for ask in (real.policies, real.other_kinds, real.canary, *([real.clock] if status != 200 else [])):
        with pytest.raises(ApiServerUnavailable, match=reason) as failed:
            ask()
        assert failed.value.status == (403 if status == 403 else None)


def test_hanging_api_server_is_asked_once_and_times_out(api, real, monkeypatch):
    monkeypatch.setattr("binder_egress.kubernetes_api.REQUEST_TIMEOUT_SECONDS", 0.1)
    api.answer = lambda *_: time.sleep(1) or (200, {"items": []})
    with pytest.raises(ApiServerUnavailable, match=r"timed out|Timeout"):
        real.policies()
    # On a busy machine, the client gives up before the server has read the request.
    eventually(lambda: api.asked)
    assert len(api.asked) == 1


# -- reports of the verifier for doctor


def test_readiness_probe_reports_and_launches_are_noted(internal, store):
    assert internal.get("/readyz").status_code == 200
    launch(internal, "a")
    launch(internal, "b", context=False)
    health = store.health()
    (report,) = health["verifiers"].values()
    assert report["signing_keys"] >= 1 and not report["signed_in"] and report["providers"] == {"altcha": "up"}
    assert (health["wiring"]["launches"], health["wiring"]["without-context"]) == (2, 1)
    assert health["wiring"]["first"] <= health["wiring"]["last"] <= time.time()


def test_refused_announcement_is_counted_and_reported(internal, store):
    store.heartbeat(time.time(), {}, {WITHOUT_RECORD: 2})
    assert internal.post("/api/launches", headers={"Authorization": "Bearer old"}, json={}).status_code == 401
    assert value(internal, "binder_egress_announcements_refused_total") == 1
    internal.get("/readyz")
    (report,) = store.health()["verifiers"].values()
    assert time.time() - report["refused_at"] < 60
    for user in "ab":
        launch(internal, user)
    # What nobody had announced until then.
    assert store.health()["wiring"]["before"] == 2


# -- what outlives Redis


def test_what_was_restored_is_said_and_what_is_not_saved(site, in_redis):
    site.store.add_block(Block("b", "repository", "example.com/a/b", read_origin("eve"), "mining", 1), [])
    site.store.revoke_key("0" * 16)
    assert site.line("blocks")[0] == WARNING and "without 2 of them" in site.line("blocks")[1]
    site.namespace.saved = data_of(site.store.to_save())
    assert site.line("blocks") == (OK, "saved in the ConfigMap binder-egress-blocks")
    in_redis.flushall()
    state, text = site.line("blocks")
    assert state == PROBLEM and "nothing is granted until the ConfigMap binder-egress-blocks is read" in text
    site.store.restore(site.namespace.saved, time.time())
    state, text = site.line("blocks")
    assert state == OK and re.match(r"Redis was lost \d s ago, and blocks \(1\) and revoked API keys \(1\) were restored", text)
    site.namespace.config_map = Mock(side_effect=ApiServerUnavailable("403 Forbidden"))
    state, text = site.line("blocks")
    assert state == WARNING and "403" in text and "`patch`" in text


def test_lines_that_could_not_be_restored_are_said(site, in_redis):
    in_redis.flushall()
    site.namespace.saved = {"blocks": "no block"}
    site.store.restore(site.namespace.saved, time.time())
    state, text = site.line("blocks")
    assert state == WARNING and "1 lines there could not be read" in text
