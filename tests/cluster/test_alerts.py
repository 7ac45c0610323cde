"""Each alert of the chart, brought about by a fault in the cluster.

A Prometheus scrapes the verifier and evaluates the chart's rules with each `for` shortened; tests/chart tests the real durations
with promtool. Every day of faults has a new Prometheus, which first sees nothing wrong and then, after each step, exactly the
alerts of the table.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.support.cluster.canary import await_canary, canary
from tests.support.cluster.commands import egress, keys
from tests.support.cluster.hub import start_by_hub
from tests.support.cluster.packets import python_in
from tests.support.cluster.stage import QUICK, TOP, Stage, signal_component
from tests.support.cluster.timeouts import (
    ALERT_SECONDS,
    ANSWER_SECONDS,
    CANARY_SECONDS,
    RECONCILER_SECONDS,
    SECRET_SECONDS,
    TIER_SECONDS,
)
from tests.support.detections import killed
from tests.support.doubles import SECRET, Double, running
from tests.support.ports import free_port
from tests.support.waiting import eventually
from verifier.clients import FEW_LAUNCHES

pytestmark = pytest.mark.long

FOR = 20
"""Seconds that stand for every `for`: several scrapes, so that one that fails on a busy machine raises no alert about absence."""

VISITOR = {"X-Forwarded-For": "198.51.100.9"}


@dataclass
class Place:
    """The installation in which the faults happen.

    Attributes:
        stage: the cluster.
        double: the captcha providers.
        folder: for files.
        healthy: the values of an installation with nothing wrong, in addition to those that make challenges quick.
        key: an API key, good for one server a day.
        detector: the token of a detector.
        values: the installed values.
        unseen: whether something was changed that the reconciler reads only once a minute.
        looked: whether the reconciler was restarted for that.
        running: programs that run in pods.
        routes: addresses that the node can no longer reach.
    """

    stage: Stage
    double: Double
    folder: Path
    healthy: dict[str, Any]
    key: str
    detector: str
    values: dict[str, Any] = field(default_factory=dict)
    unseen: bool = False
    looked: bool = False
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)

    def install(self, **values: Any) -> None:
        """Run `helm upgrade` with other values than before."""
        self.values = {**self.values, **values}
        (self.folder / "values.yaml").write_text(yaml.safe_dump(self.values))
        self.stage.install_gate(*QUICK, f"--values={self.folder}/values.yaml")

    def look(self) -> None:
        """Make the reconciler read policies and the canary now, by a restart."""
        eventually(lambda: canary(self.stage).state != "starting", CANARY_SECONDS)
        self.stage.restart("reconciler")
        self.unseen, self.looked = False, True

    def tidy(self) -> None:
        """End the running programs."""
        for program in self.running:
            program.kill()
        for address in self.routes:
            subprocess.run(["ip", "route", "del", "unreachable", address], check=True)
        if self.running:
            self.stage.delete_user_pods()
        self.running, self.routes = [], []

    def heal(self, **more: Any) -> None:
        """Repair everything as the alerts advise: with `helm upgrade` and the same values, or with more of them. Redis is wiped:
        a key that is used up would stay so."""
        self.tidy()
        self.stage.scale("redis", 0)
        self.stage.kubectl("delete", "networkpolicy", "of-somebody", "--ignore-not-found")
        deployments = [f"deployment/binder-egress-{component}" for component in ("verifier", "reconciler", "redis")]
        self.stage.kubectl("scale", "--replicas=1", *deployments)
        self.values = {}
        self.install(**self.healthy, **more)
        await_canary(self.stage, "kubernetes-api", True)
        self.look()
        eventually(lambda: self.stage.metrics().get('binder_egress_canary_shut{target="kubernetes-api"}') == 1, CANARY_SECONDS)

    def patch(self, kind: str, name: str, *operations: dict[str, Any]) -> None:
        """Change an object by hand."""
        self.stage.kubectl("patch", kind, name, "--type=json", "-p", json.dumps(operations))

    def present(self, provider: str) -> None:
        """Present a solution, and get no pass for it."""
        body = {"provider": provider, "solution": self.double.token(provider)}
        answer = requests.post(f"{self.stage.verifier}/passes", json=body, headers=VISITOR, timeout=ANSWER_SECONDS)
        assert answer.status_code >= 500, answer.text

    def report(self, *lines: str) -> None:
        """Send a detector's lines, once the receiver has read its token."""
        headers = {"Authorization": f"Bearer {self.detector}", "Content-Type": "application/json"}
        address = f"{self.stage.url('binder-egress-receiver', 8081)}/api/detections"

        def taken() -> bool:
            answer = requests.post(address, data="\n".join(lines), headers=headers, timeout=ANSWER_SECONDS)
            return answer.status_code == 202

        eventually(taken, SECRET_SECONDS, "the receiver does not take the report")


# -- faults


def no_reconciler(place: Place) -> None:
    place.stage.scale("reconciler", 0)


def no_redis(place: Place) -> None:
    place.stage.scale("redis", 0)


def no_proxy(place: Place) -> None:
    place.stage.scale("proxy", 0)


def no_verifier(place: Place) -> None:
    place.stage.scale("verifier", 0)


def link_local_is_open(place: Place) -> None:
    """As in every kube-router cluster with IPv6 on its nodes, until somebody closes it (docs/link-local.md)."""
    place.install(gatecheck={})
    place.unseen = True


def somebody_opens_one_address(place: Place) -> None:
    """The canary does not try this address."""
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "of-somebody"},
        "spec": {
            "podSelector": {"matchLabels": {"component": "singleuser-server"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": "203.0.113.10/32"}}]}],
        },
    }
    place.stage.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
    place.unseen = True


def somebody_changes_a_policy(place: Place) -> None:
    place.patch("networkpolicy", "binder-egress-tier-verified", {"op": "remove", "path": "/spec/egress/0"})
    place.unseen = True


def the_canary_is_deleted(place: Place) -> None:
    place.stage.kubectl("delete", "pod", "-l", "binder-egress/gatecheck=canary", "--now")
    place.unseen = True


def the_base_policy_is_deleted(place: Place) -> None:
    place.stage.kubectl("delete", "networkpolicy", "binder-egress-base")
    place.unseen = True


def policies_may_not_be_read(place: Place) -> None:
    place.patch("role", "binder-egress-reconciler", {"op": "remove", "path": "/rules/1"})
    place.unseen = True


def a_provider_is_down(place: Place) -> None:
    place.double.behaviour["turnstile"] = "down"
    place.present("turnstile")


def a_provider_refuses_our_secret(place: Place) -> None:
    place.double.behaviour["hcaptcha"] = "misconfigured"
    place.present("hcaptcha")


def a_key_is_used_up(place: Place) -> None:
    headers = {"Authorization": f"Bearer {place.key}", **VISITOR}
    assert requests.post(f"{place.stage.verifier}/passes", headers=headers, timeout=ANSWER_SECONDS).status_code == 201


def a_key_ends_tomorrow(place: Place) -> None:
    made = keys(place.stage, "create", "--name=ends", "--tier=verified", "--servers-per-day=9", "--expires=1d")
    known = place.values["apiKeys"]["keys"] | made["values"]["apiKeys"]["keys"]
    place.install(apiKeys={"keys": known})
    place.stage.hurry_kubelet("verifier")


def one_address_brings_all_launches(place: Place) -> None:
    hook = place.stage.hook()
    for number in range(FEW_LAUNCHES):
        body = {"user": f"many-{number}", "image": "i", "client_address": "10.0.0.1", "forwarded_for": "198.51.100.9"}
        assert hook(**body).status_code == 200


def a_detector_sees_a_miner(place: Place) -> None:
    pod = place.stage.pod(place.stage.launch().user)["metadata"]
    place.report(killed(pod["name"], pod["uid"], time.time(), "made-up-miner", pod["namespace"]))


def a_detector_writes_what_nobody_can_read(place: Place) -> None:
    place.report("neither JSON nor a line of cryptnono's")


def a_server_is_started_without_binderhub(place: Place) -> None:
    start_by_hub(place.stage, "stranger", "localhost/user-server:1")


def the_network_plugin_hangs(place: Place) -> None:
    """Running pods keep their policies; a new pod has none."""
    signal_component("netpol", "STOP")
    try:
        place.stage.launch()
    finally:
        signal_component("netpol", "CONT")


HOLD = """
import os, socket, ssl, time, urllib.parse
at = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
held = []
while len(held) < 10:
    one = socket.create_connection((at.hostname, at.port), 15)
    one.sendall(b"CONNECT public.example:443 HTTP/1.1\\r\\nHost: public.example:443\\r\\n\\r\\n")
    if b" 200 " not in one.recv(4096):  # Another's connection has not ended yet.
        one.close()
        time.sleep(0.5)
        continue
    held.append(ssl._create_unverified_context().wrap_socket(one, server_hostname="public.example"))
print("held", flush=True)
while True:
    for one in held:
        one.sendall(b"E")
        one.recv(1)
    time.sleep(1)
"""
"""Runs in a pod: ten tunnels, half of what the proxy allows here."""

KNOCK = """
import socket, sys, time, urllib.parse, os
at = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
for _ in range(int(sys.argv[1])):
    with socket.create_connection((at.hostname, at.port), 15) as one:
        one.sendall(b"GET http://public.example/ HTTP/1.1\\r\\nHost: public.example\\r\\n\\r\\n")
        try:
            print(one.recv(12).decode()[-3:], flush=True)
        except OSError:
            pass
    time.sleep(0.1)
"""
"""Runs in a pod: some requests through the proxy, ten a second at most."""


FLOOD = """
import os, socket, time, urllib.parse
at = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
while True:
    with socket.create_connection((at.hostname, at.port), 15), socket.create_connection((at.hostname, at.port), 15) as one:
        try:
            one.sendall(b"GET http://public.example/ HTTP/1.1\\r\\nHost: public.example\\r\\n\\r\\n")
            print(one.recv(12).decode()[-3:], flush=True)
        except OSError:
            pass
    time.sleep(0.03)
"""
"""Runs in a pod: two connections at a time, thirty times a second at most. While half of all are taken, a server may have one."""


def pod_behind_the_proxy(place: Place, verified: bool = False) -> str:
    """A user whose pod reaches a host through the proxy."""
    stage = place.stage
    eventually(lambda: stage.get("configmap", "binder-egress-proxy-variables").get("data"), RECONCILER_SECONDS)
    user = stage.launch().user
    if verified:
        egress(stage, "grant", user, "--tier", "verified", "--why", "a test")
    pod = stage.pod(user)["metadata"]["name"]
    command = ["exec", pod, "-c", "notebook", "--", "python3", "-c", KNOCK, "1"]
    eventually(lambda: stage.kubectl(*command).strip() == "200", TIER_SECONDS)
    return user


def a_server_holds_the_half_and_another_floods(place: Place) -> None:
    first, second = pod_behind_the_proxy(place), pod_behind_the_proxy(place)
    for user, code in ((first, HOLD), (second, FLOOD)):
        program = python_in(place.stage, user, code)
        place.running.append(program)
        assert program.stdout
        # The second pod's earlier connections may not have ended yet.
        assert any(line.strip() in ("held", "429") for line in program.stdout)


def hosts_do_not_answer(place: Place) -> None:
    user = pod_behind_the_proxy(place, verified=True)
    targets = json.loads(Path(os.environ["CLUSTER_TARGETS"]).read_text())
    for address in filter(None, (targets["public_ip"], targets["public6_ip"])):
        subprocess.run(["ip", "route", "add", "unreachable", address], check=True)
        place.routes.append(address)
    # Each request takes some seconds, until the proxy gives up on the host.
    place.running += [python_in(place.stage, user, KNOCK, "100000") for _ in range(4)]


def pods_may_not_be_patched(place: Place) -> None:
    user = place.stage.launch().user
    place.patch("role", "binder-egress-reconciler", {"op": "replace", "path": "/rules/0/verbs", "value": ["get", "list", "watch"]})
    egress(place.stage, "grant", user, "--tier", "verified", "--why", "a test")


Fault = Callable[[Place], None]
Alerts = dict[str, dict[str, str]]

LASTING: Alerts = {
    "BinderEgressPodNotIsolated": {"outcome": "open"},
    "BinderEgressWiringLost": {},
    "BinderEgressOneClient": {},
    "BinderEgressCaptchaProviderDown": {"provider": "turnstile"},
    "BinderEgressCaptchaProviderMisconfigured": {"provider": "hcaptcha"},
    "BinderEgressApiKeySpent": {"key": "spent"},
    "BinderEgressApiKeyEnds": {"key": "ends"},
    "BinderEgressDetected": {"source": "cryptnono", "list": "execwhacker"},
    "BinderEgressReportsLost": {"source": "cryptnono", "outcome": "unreadable"},
}
UNREACHABLE: Alerts = {"BinderEgressProxyHostsUnreachable": {}}
GONE: Alerts = {"BinderEgressProxyGone": {}}
OPENED: Alerts = {"BinderEgressBypass": {"policy": "of-somebody", "direction": "egress"}, "BinderEgressPolicyAltered": {}}
DAYS: dict[str, list[tuple[list[Fault], Alerts]]] = {
    "load on the egress proxy": [
        (
            [a_server_holds_the_half_and_another_floods],
            {"BinderEgressProxyFull": {"who": "unverified"}, "BinderEgressProxyFlood": {}},
        )
    ],
    # A separate day: the connections that are held end with it.
    "hosts beyond the egress proxy, and the API server": [
        ([hosts_do_not_answer], UNREACHABLE),
        ([pods_may_not_be_patched], {**UNREACHABLE, "BinderEgressReconcilerFailing": {}}),
    ],
    # The proxy goes first: what the others need is a reason for its alert, too.
    "our own processes, and the egress proxy": [
        ([no_proxy], GONE),
        ([no_reconciler], {**GONE, "BinderEgressReconcilerGone": {}}),
        # The reports of the reconciler and the canary are in Redis, and the verifier shows them.
        ([no_redis], {**GONE, "BinderEgressStoreDown": {}, "BinderEgressCanarySilent": {}}),
        ([no_verifier], {**GONE, "BinderEgressVerifierGone": {}, "BinderEgressCanarySilent": {}}),
    ],
    "what is around": [
        (
            [
                the_network_plugin_hangs,
                a_server_is_started_without_binderhub,
                one_address_brings_all_launches,
                a_provider_is_down,
                a_provider_refuses_our_secret,
                a_key_is_used_up,
                a_key_ends_tomorrow,
                a_detector_sees_a_miner,
                a_detector_writes_what_nobody_can_read,
            ],
            LASTING,
        ),
        (
            [link_local_is_open, somebody_opens_one_address, somebody_changes_a_policy],
            {**LASTING, **OPENED, "BinderEgressGateOpen": {"target": "link-local"}},
        ),
        (
            [the_canary_is_deleted, the_base_policy_is_deleted],
            {**LASTING, **OPENED, "BinderEgressBasePolicyMissing": {}, "BinderEgressCanarySilent": {}},
        ),
        # Policies that cannot be read cannot be judged.
        ([policies_may_not_be_read], {**LASTING, "BinderEgressPoliciesUnread": {}, "BinderEgressCanarySilent": {}}),
    ],
}
"""The steps of each day: faults, and all alerts that fire after them, with their own labels. Earlier faults go on."""

ELSEWHERE = {
    "BinderEgressAgentCrowded",
    "BinderEgressAgentGone",
    "BinderEgressAgentReportsFail",
    "BinderEgressRedisNearlyFull",
    "BinderEgressDetectionsLimited",
    "BinderEgressLabelsLate",
    "BinderEgressProxyAddressesHidden",
    "BinderEgressProxyAddressesClaimedTwice",
}
"""Alerts whose metrics are tested elsewhere, and which promtool tests."""

PROXY = {
    "proxy": {"enabled": True, "replicas": 1, "limits": {"allConnections": 20}},
    "unverified": {"hosts": {"public.example": True}},
    "tiers": {"verified": {"hosts": {"*": True}}},
}

VALUES: dict[str, dict[str, Any]] = {day: PROXY for day in DAYS if "egress proxy" in day}
"""The values that a day needs in addition to the healthy ones. The other days have no egress proxy, and no rules about it."""


@pytest.fixture(scope="module")
def place(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An installation with nothing wrong: two remote providers, a key, and no check of IPv6 link-local, which is open here."""
    if not os.environ.get("CLUSTER_TARGETS"):
        pytest.skip("needs the local cluster of ci/cluster, not --context")
    node = json.loads(Path(os.environ["CLUSTER_TARGETS"]).read_text())["node_ip"]
    with running(node) as double:
        # Of an earlier run: no two keys have the same name.
        eventually(lambda: not keys(stage, "list"), SECRET_SECONDS)
        made = keys(stage, "create", "--name=spent", "--tier=verified", "--servers-per-day=1", "--expires=30d")
        reached = {
            "to": [{"ipBlock": {"cidr": f"{node}/32"}}],
            "ports": [{"port": int(double.url.rpartition(":")[2]), "protocol": "TCP"}],
        }
        names = ("hcaptcha", "turnstile")
        detector = egress(stage, "detections", "create-token", "cryptnono")
        source = detector["values"]["detections"]["sources"]["cryptnono"] | {"lists": {"execwhacker": "revoke"}}
        healthy = {
            **made["values"],
            "detections": {"sources": {"cryptnono": source}},
            "captcha": {"providers": {name: {"enabled": True, **double.options(name)} for name in names}},
            "secret": {"captcha": dict.fromkeys(names, SECRET)},
            "verifier": {"networkPolicy": {"captchaProviders": {"extraEgress": {"double": reached}}}},
            "gatecheck": {"shut": {"link-local": False}},
            "canary": {"interval": 5},
        }
        found = Place(stage, double, tmp_path_factory.mktemp("alerts"), healthy, made["key"], detector["token"])
        yield found
        found.tidy()
        stage.kubectl("delete", "networkpolicy", "of-somebody", "--ignore-not-found")
        stage.install_gate(*QUICK)


@pytest.fixture(scope="module")
def rules(stage: Stage) -> list[dict[str, Any]]:
    """The chart's rules, unchanged."""
    on = "--set=metrics.prometheusRule.enabled=true,proxy.enabled=true,detections.sources.cryptnono.onMatch=observe"
    text = stage.helm("template", "binder-egress", str(TOP / "chart"), on)
    (found,) = [document for document in yaml.safe_load_all(text) if document and document["kind"] == "PrometheusRule"]
    (group,) = found["spec"]["groups"]
    return group["rules"]


class Prometheus:
    """A Prometheus that scrapes the pods of verifier and proxy every three seconds, and evaluates rules every second."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its API."""
        answer = requests.get(f"{self._url}/api/v1/{path}", params=query, timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        return answer.json()["data"]

    def evaluated(self) -> bool:
        """Whether Prometheus has scraped the verifier, and evaluated every rule without an error."""
        found = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
        assert not [rule for rule in found if rule["health"] == "err"], found
        scraped = {target["health"] for target in self.ask("targets")["activeTargets"]} == {"up"}
        return bool(found) and scraped and all(rule["health"] == "ok" for rule in found)

    def alerts(self) -> dict[str, str]:
        """The pending and firing alerts: the alert with its own labels → its state."""
        return {_named(alert["labels"]): alert["state"] for alert in self.ask("alerts")["alerts"]}

    def ever_fired(self) -> set[str]:
        """The alerts that have fired since Prometheus began."""
        query = 'last_over_time(ALERTS{alertstate="firing"}[1h])'
        return {_named(found["metric"]) for found in self.ask("query", query=query)["result"]}


def _named(labels: dict[str, str]) -> str:
    known = ("__name__", "alertname", "alertstate", "severity", "namespace")
    return json.dumps([labels["alertname"], {name: value for name, value in sorted(labels.items()) if name not in known}])


@contextmanager
def prometheus(stage: Stage, rules: list[dict[str, Any]], folder: Path) -> Iterator[Prometheus]:
    pods = stage.get("pods", "-l", "app.kubernetes.io/component in (verifier, proxy)")["items"]
    ports = {"verifier": 8081, "proxy": 8082}
    addresses = [
        f"{pod['status']['podIP']}:{ports[pod['metadata']['labels']['app.kubernetes.io/component']]}"
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
    ]
    targets = {"targets": addresses, "labels": {"namespace": stage.namespace}}
    short = [rule | ({"for": f"{FOR}s"} if "for" in rule else {}) for rule in rules]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "binder-egress", "rules": short}]}))
    settings = {
        "global": {"scrape_interval": "3s", "scrape_timeout": "3s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "binder-egress", "static_configs": [targets]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            return requests.get(f"http://{address}/-/ready", timeout=2).ok

        eventually(is_ready, ALERT_SECONDS, (folder / "log").read_text)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait()


def test_alerts_all_have_a_fault(rules):
    caused = {alert for steps in DAYS.values() for _, alerts in steps for alert in alerts}
    assert caused == {rule["alert"] for rule in rules} - ELSEWHERE


@pytest.mark.parametrize("day", DAYS)
def test_faults_fire_their_alerts_and_no_other(place, rules, tmp_path, day):
    place.heal(**VALUES.get(day, {}))
    # A plugin that hangs makes labels late, if they are measured at that moment.
    rules = [rule for rule in rules if rule["alert"] != "BinderEgressLabelsLate"]
    if day not in VALUES:
        rules = [rule for rule in rules if not rule["alert"].startswith("BinderEgressProxy")]
    with prometheus(place.stage, rules, tmp_path) as seen:
        eventually(seen.evaluated, ALERT_SECONDS)
        time.sleep(FOR + 2)
        assert seen.ever_fired() == set(), "something is wrong before"
        all_expected, place.looked = set(), False
        for faults, alerts in DAYS[day]:
            for fault in faults:
                fault(place)
            if place.unseen:
                place.look()
            expected = {_named({"alertname": alert, **labels}): "firing" for alert, labels in alerts.items()}
            eventually(
                lambda expected=expected: seen.alerts() == expected,
                ALERT_SECONDS,
                lambda expected=expected: (seen.alerts(), expected),
            )
            all_expected |= set(expected)
        # On a busy machine, a restart of the reconciler may take longer than its alert waits here.
        gone = {_named({"alertname": "BinderEgressReconcilerGone"})} if place.looked else set()
        assert all_expected <= seen.ever_fired() <= all_expected | gone
