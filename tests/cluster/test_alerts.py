"""The alerts that tell of trouble in the cluster itself, each brought about by a fault there.

A Prometheus scrapes the verifier and evaluates the chart's rules with each `for` shortened; tests/chart tests the real durations
with promtool. Every day of faults has a new Prometheus, which first sees nothing wrong and then, after each step, exactly the
alerts of the table.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.support.cluster.canary import await_canary, canary
from tests.support.cluster.commands import egress
from tests.support.cluster.egress_proxy import VALUES
from tests.support.cluster.hub import start_by_hub
from tests.support.cluster.stage import QUICK, TOP, Stage, signal_component
from tests.support.cluster.timeouts import ALERT_SECONDS, ANSWER_SECONDS, CANARY_SECONDS
from tests.support.ports import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

FOR = 20
"""Seconds that stand for every `for`: several scrapes, so that one that fails on a busy machine raises no alert about absence."""

HEALTHY = "--set=gatecheck.shut.link-local=false"
"""The value of an installation with nothing wrong: IPv6 link-local is open here, and is not tried."""

# -- faults


def scaled_to_nothing(component: str) -> Callable[[Stage], None]:
    return lambda stage: stage.scale(component, 0)


def link_local_is_open(stage: Stage) -> None:
    """As in every kube-router cluster with IPv6 on its nodes, until somebody closes it (docs/link-local.md)."""
    stage.install_gate(*QUICK)


def somebody_opens_one_address(stage: Stage) -> None:
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
    stage.apply(policy)


def patch(stage: Stage, kind: str, name: str, operation: dict[str, Any]) -> None:
    """Change an object by hand."""
    stage.kubectl("patch", kind, name, "--type=json", "-p", json.dumps([operation]))


def somebody_changes_a_policy(stage: Stage) -> None:
    patch(stage, "networkpolicy", "binder-egress-tier-verified", {"op": "remove", "path": "/spec/egress/0"})


def the_canary_is_deleted(stage: Stage) -> None:
    stage.kubectl("delete", "pod", "-l", "binder-egress/gatecheck=canary", "--now")


def the_base_policy_is_deleted(stage: Stage) -> None:
    stage.kubectl("delete", "networkpolicy", "binder-egress-base")


def policies_may_not_be_read(stage: Stage) -> None:
    patch(stage, "role", "binder-egress-reconciler", {"op": "remove", "path": "/rules/1"})


def pods_may_not_be_patched(stage: Stage) -> None:
    user = stage.launch().user
    patch(stage, "role", "binder-egress-reconciler", {"op": "replace", "path": "/rules/0/verbs", "value": ["get", "list", "watch"]})
    egress(stage, "grant", user, "--tier", "verified", "--why", "a test")


def a_server_is_started_without_binderhub(stage: Stage) -> None:
    start_by_hub(stage, "stranger", "localhost/user-server:1")


def the_network_plugin_hangs(stage: Stage) -> None:
    """Running pods keep their policies; a new pod has none."""
    signal_component("netpol", "STOP")
    try:
        stage.launch()
    finally:
        signal_component("netpol", "CONT")


def look(stage: Stage) -> None:
    """No fault: the reconciler reads policies and the canary now, because it starts, and not once a minute."""
    eventually(lambda: canary(stage).state != "starting", CANARY_SECONDS)
    stage.restart("reconciler")


Alerts = dict[str, dict[str, str]]

PROCESSES = "our own processes, and the egress proxy"
GONE: Alerts = {"BinderEgressProxyGone": {}}
LASTING: Alerts = {"BinderEgressPodNotIsolated": {"outcome": "open"}, "BinderEgressWiringLost": {}}
OPENED: Alerts = {"BinderEgressBypass": {"policy": "of-somebody", "direction": "egress"}, "BinderEgressPolicyAltered": {}}
DAYS: dict[str, list[tuple[list[Callable[[Stage], None]], Alerts]]] = {
    # The proxy goes first: what the others need is a reason for its alert, too.
    PROCESSES: [
        ([scaled_to_nothing("proxy")], GONE),
        ([scaled_to_nothing("reconciler")], {**GONE, "BinderEgressReconcilerGone": {}}),
        # The reports of the reconciler and the canary are in Redis, and the verifier shows them.
        ([scaled_to_nothing("redis")], {**GONE, "BinderEgressStoreDown": {}, "BinderEgressCanarySilent": {}}),
        ([scaled_to_nothing("verifier")], {**GONE, "BinderEgressVerifierGone": {}, "BinderEgressCanarySilent": {}}),
    ],
    "what is around": [
        ([the_network_plugin_hangs, a_server_is_started_without_binderhub], LASTING),
        (
            [link_local_is_open, somebody_opens_one_address, somebody_changes_a_policy, look],
            {**LASTING, **OPENED, "BinderEgressGateOpen": {"target": "link-local"}},
        ),
        (
            [the_canary_is_deleted, the_base_policy_is_deleted, look],
            {**LASTING, **OPENED, "BinderEgressBasePolicyMissing": {}, "BinderEgressCanarySilent": {}},
        ),
        # Policies that cannot be read cannot be judged.
        (
            [pods_may_not_be_patched, policies_may_not_be_read, look],
            {**LASTING, "BinderEgressReconcilerFailing": {}, "BinderEgressPoliciesUnread": {}, "BinderEgressCanarySilent": {}},
        ),
    ],
}
"""The steps of each day: faults, and all alerts that fire after them, with their own labels. Earlier faults go on."""


@pytest.fixture
def healthy(stage: Stage, local_cluster: str, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """An installation with nothing wrong, repaired as the alerts advise: with `helm upgrade`. One day has the egress proxy."""
    proxy = [*VALUES, "--set=proxy.replicas=1"] if request.node.callspec.params["day"] == PROCESSES else []
    stage.install_gate(*QUICK, HEALTHY, *proxy)
    await_canary(stage, "kubernetes-api", True)
    look(stage)
    eventually(lambda: stage.metrics().get('binder_egress_canary_shut{target="kubernetes-api"}') == 1, CANARY_SECONDS)
    yield stage
    stage.kubectl("delete", "networkpolicy", "of-somebody", "--ignore-not-found")
    deployments = [f"deployment/binder-egress-{component}" for component in ("verifier", "reconciler", "redis")]
    stage.kubectl("scale", "--replicas=1", *deployments)
    stage.install_gate(*QUICK)


@pytest.fixture(scope="module")
def rules(stage: Stage) -> list[dict[str, Any]]:
    """The chart's rules, unchanged. A plugin that hangs makes labels late, if they are measured at that moment."""
    on = "--set=metrics.prometheusRule.enabled=true,proxy.enabled=true"
    text = stage.helm("template", "binder-egress", str(TOP / "chart"), on)
    (found,) = [document for document in yaml.safe_load_all(text) if document and document["kind"] == "PrometheusRule"]
    (group,) = found["spec"]["groups"]
    return [rule for rule in group["rules"] if rule["alert"] != "BinderEgressLabelsLate"]


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


@pytest.mark.parametrize("day", DAYS)
def test_faults_fire_their_alerts_and_no_other(healthy, rules, tmp_path, day):
    if day != PROCESSES:
        rules = [rule for rule in rules if not rule["alert"].startswith("BinderEgressProxy")]
    with prometheus(healthy, rules, tmp_path) as seen:
        eventually(seen.evaluated, ALERT_SECONDS)
        time.sleep(FOR + 2)
        assert seen.ever_fired() == set(), "something is wrong before"
        all_expected = set()
        for faults, alerts in DAYS[day]:
            for fault in faults:
                fault(healthy)
            expected = {_named({"alertname": alert, **labels}): "firing" for alert, labels in alerts.items()}
            eventually(
                lambda expected=expected: seen.alerts() == expected,
                ALERT_SECONDS,
                lambda expected=expected: (seen.alerts(), expected),
            )
            all_expected |= set(expected)
        # On a busy machine, a restart of the reconciler may take longer than its alert waits here.
        gone = {_named({"alertname": "BinderEgressReconcilerGone"})} if day != PROCESSES else set()
        assert all_expected <= seen.ever_fired() <= all_expected | gone
