"""What a real API server says of the chart's objects: that it accepts them, and what it then allows to whom.

Nothing here needs a node. tests/cluster has what pods and packets show.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from binder_egress.model.labels import GRANT_ANNOTATION, TIER_LABEL
from tests.support import charts
from tests.support.control_plane import ADMIN, ControlPlane
from tests.support.waiting import eventually

RECONCILER = "system:serviceaccount:binder:binder-egress-reconciler"

MORE_KINDS = {
    "gateway.networking.k8s.io": ["HTTPRoute"],
    "monitoring.coreos.com": ["PodMonitor", "PrometheusRule", "ServiceMonitor"],
}
"""Kinds that a cluster has from operators' other installations, by group; all of version v1."""

PODS = "/api/v1/namespaces/binder/pods"
PATCH = "application/merge-patch+json"


@pytest.fixture(scope="module")
def plane(tools, tmp_path_factory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tools / "kubeall", tmp_path_factory.mktemp("plane"), RECONCILER)
    try:
        for name in ("binder", "dry"):
            plane.add("/api/v1/namespaces", {"metadata": {"name": name}})
        for group, kinds in MORE_KINDS.items():
            for kind in kinds:
                plane.define(f"{group}/v1", kind)
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="module")
def run(plane) -> Callable[..., str]:
    """A function that runs a command in a namespace of that API server, and returns what it prints."""

    def run(namespace: str, program: str, *args: str, stdin: str = "") -> str:
        done = plane.run(program, *args, namespace=namespace, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


# -- what it accepts


def template(run: Callable[..., str], namespace: str, *args: str) -> str:
    """The chart's objects. Helm asks the API server which kinds it has, as in an installation."""
    return run(namespace, "helm", *charts.with_images(["template", "binder-egress", charts.CHART, "--validate", *args]))


@pytest.fixture(scope="module")
def rendered(plane, run) -> dict[str, str]:
    return {file.name: template(run, "dry", "--values", str(file)) for file in charts.TOPOLOGIES}


@pytest.mark.parametrize("values", [file.name for file in charts.TOPOLOGIES])
def test_topology_is_accepted(run, rendered, values):
    options = ("apply", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "name")
    taken = run("dry", "kubectl", *options, stdin=rendered[values]).split()
    assert len(taken) == len(re.findall("^kind: ", rendered[values], re.M))
    if values == "off-values.yaml":
        assert taken == ["secret/binder-egress"]
    running = "deployment.apps/binder-egress-verifier" in taken
    assert any(name.startswith("validatingadmissionpolicy.") for name in taken) == running


def test_kinds_were_all_asked_for(rendered):
    asked = {(made["apiVersion"], made["kind"]) for text in rendered.values() for made in charts.objects(text)}
    assert {(f"{group}/v1", kind) for group, kinds in MORE_KINDS.items() for kind in kinds} <= asked


# -- what it allows


@pytest.fixture(scope="module")
def enforcing(plane, run) -> ControlPlane:
    """An API server with RBAC and the admission policies of the chart's defaults, which it has begun to enforce."""
    run("binder", "kubectl", "apply", "-f", "-", stdin=template(run, "binder", "--no-hooks"))
    made = pod(plane, "probe")
    for user, label, policy in ((RECONCILER, "x", "narrow-reconciler"), (ADMIN, TIER_LABEL, "protect-pods")):
        change = {"metadata": {"labels": {label: "y"}}}
        eventually(lambda: policy in patch(plane, made, change, user, "?dryRun=All").text, what=policy)  # noqa: B023
    return plane


def pod(plane: ControlPlane, name: str, **labels: str) -> dict[str, Any]:
    """Create a user pod as JupyterHub does, with more labels."""
    container = {"name": "notebook", "image": "localhost/user-server:1"}
    metadata = {"name": name, "labels": {"component": "singleuser-server", **labels}}
    metadata["annotations"] = {"hub.jupyter.org/username": name, "hub.jupyter.org/servername": ""}
    tolerations = [{"key": "hub.jupyter.org/dedicated", "operator": "Equal", "value": "user", "effect": "NoSchedule"}]
    body = {"metadata": metadata, "spec": {"containers": [container], "tolerations": tolerations}}
    return plane.ask("GET", plane.add(PODS, body)).json()


def patch(plane: ControlPlane, pod: dict[str, Any], change: dict, user: str = ADMIN, at: str = "") -> requests.Response:
    return plane.ask("PATCH", f"{PODS}/{pod['metadata']['name']}{at}", change, PATCH, user)


@pytest.fixture(scope="module")
def servers(enforcing) -> tuple[dict, dict]:
    """A server without a tier, and one with."""
    plain, verified = pod(enforcing, "plain"), pod(enforcing, "verified")
    ours = {"metadata": {"labels": {TIER_LABEL: "verified"}, "annotations": {GRANT_ANNOTATION: "x"}}}
    assert patch(enforcing, verified, ours, RECONCILER).ok
    return plain, verified


def assert_refused(answer: requests.Response, policy: str, said: str) -> None:
    """Refused with our own words: an expression that cannot be evaluated is refused too."""
    assert not answer.ok and re.search(rf"{policy}[\s\S]*{said}", answer.text), answer.text


FORBIDDEN_FOR_RECONCILER = {
    "image": lambda spec: {"spec": {"containers": [{**spec["containers"][0], "image": "localhost/other:1"}]}},
    "tolerations": lambda spec: {"spec": {"tolerations": [*spec["tolerations"], {"key": "x", "operator": "Exists"}]}},
    "label": {"metadata": {"labels": {"component": "proxy"}}},
    "new label": {"metadata": {"labels": {"x": "y"}}},
    "label taken off": {"metadata": {"labels": {"component": None}}},
    "annotation": {"metadata": {"annotations": {"hub.jupyter.org/username": "somebody"}}},
    "new annotation": {"metadata": {"annotations": {"x": "y"}}},
    "finalizer": {"metadata": {"finalizers": ["example.org/stay"]}},
    "owner": {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"}]}},
    "image beside our label": {
        "metadata": {"labels": {TIER_LABEL: "verified"}},
        "spec": {"activeDeadlineSeconds": 1},
    },
}


@pytest.mark.parametrize("what", FORBIDDEN_FOR_RECONCILER)
def test_reconciler_can_change_nothing_else_of_a_pod(enforcing, servers, what):
    change = FORBIDDEN_FOR_RECONCILER[what]
    change = change(servers[0]["spec"]) if callable(change) else change
    answer = patch(enforcing, servers[0], change, RECONCILER)
    assert_refused(answer, "narrow-reconciler", "(The reconciler may not|the reconciler may only change)")


@pytest.mark.parametrize("at", ["", "/status"])
@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_others_cannot_set_change_or_remove_ours(enforcing, servers, at, where):
    ours = TIER_LABEL if where == "labels" else GRANT_ANNOTATION
    plain, verified = servers
    # The last one removes, in the same step, the label that makes it a user pod.
    slipping = {"labels": {"component": None, TIER_LABEL: "verified"}}
    for server, change in (
        (plain, {where: {ours: "verified"}}),
        (verified, {where: {ours: "other"}}),
        (verified, {where: {ours: None}}),
        (plain, slipping),
    ):
        answer = patch(enforcing, server, {"metadata": change}, at=at)
        assert_refused(answer, "protect-pods", "by binder-egress' reconciler alone")


def test_others_can_change_everything_else_of_a_user_pod(enforcing, servers):
    for server in servers:
        assert patch(enforcing, server, {"metadata": {"labels": {"x": "y"}, "annotations": {"x": "y"}}}).ok


def test_pod_can_be_created_with_our_label(enforcing):
    """A slip in the hub's configuration must not cost a launch. The reconciler takes the label off."""
    made = pod(enforcing, "born-with-label", **{TIER_LABEL: "verified"})
    assert made["metadata"]["labels"][TIER_LABEL] == "verified"


@pytest.mark.parametrize(
    ("verb", "group", "resource", "allowed"),
    [
        ("patch", "", "pods", True),
        ("watch", "", "pods", True),
        ("delete", "", "pods", False),
        ("create", "", "pods", False),
        ("create", "", "pods/exec", False),
        ("get", "", "secrets", False),
        ("list", "networking.k8s.io", "networkpolicies", True),
        ("patch", "networking.k8s.io", "networkpolicies", False),
        ("patch", "", "nodes", False),
    ],
)
def test_reconciler_may_do_no_more_than_it_needs(enforcing, verb, group, resource, allowed):
    name, _, subresource = resource.partition("/")
    asked = {"namespace": "binder", "verb": verb, "group": group, "resource": name, "subresource": subresource}
    review = {"spec": {"resourceAttributes": asked}}
    answer = enforcing.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, user=RECONCILER)
    assert answer.json()["status"]["allowed"] is allowed, json.dumps(answer.json()["status"])
