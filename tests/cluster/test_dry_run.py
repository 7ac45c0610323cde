"""Every values file of chart/ci, in a dry run: would the API server accept all of its objects?"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.support.cluster.stage import TOP, Failed, Stage
from tests.support.cluster.timeouts import POD_SECONDS
from tests.support.waiting import eventually

TOPOLOGIES = sorted((TOP / "chart/ci").glob("*-values.yaml"))

MORE_KINDS = {
    "gateway.networking.k8s.io": ["HTTPRoute"],
    "monitoring.coreos.com": ["PodMonitor", "PrometheusRule", "ServiceMonitor"],
}
"""Kinds that a cluster has from operators' other installations, by group; all of version v1."""


def definition(group: str, kind: str) -> dict:
    """A kind that accepts any fields: Helm only looks whether the kind exists. This cannot show whether the fields are right."""
    singular = kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{singular}s.{group}",
            # For Kubernetes' own groups, the API server requires a note of who approved the definition.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": f"{singular}s", "singular": singular},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }


def await_kinds(stage: Stage, fits: Callable[[set[str]], bool]) -> None:
    """Wait until the API server lists the right kinds: new and deleted kinds appear there a moment late."""

    def is_so() -> bool:
        with suppress(Failed):  # of a kind that is just being deleted
            return fits(set(stage.kubectl("api-resources", "-o", "name").split()))
        return False

    eventually(is_so, POD_SECONDS, "kinds")


@pytest.fixture(scope="module")
def namespace(stage: Stage) -> Iterator[Stage]:
    """An empty namespace, in a cluster that knows those kinds."""
    other = Stage(stage.context, f"{stage.namespace}-dry")
    other.new_namespace()
    definitions = [definition(group, kind) for group, kinds in MORE_KINDS.items() for kind in kinds]
    there = other.kubectl("get", "crds", "-o", "name")
    definitions = [made for made in definitions if made["metadata"]["name"] not in there]
    names = [made["metadata"]["name"] for made in definitions]
    for made in definitions:
        other.kubectl("create", "-f", "-", stdin=json.dumps(made))
    if names:
        other.kubectl("wait", "--for=condition=Established", "crd", *names, f"--timeout={POD_SECONDS}s")
        await_kinds(other, lambda listed: set(names) <= listed)
    # A pod needs its account, which a dry run does not create. Helm adopts objects that are marked as the release's.
    account = "serviceaccount/binder-egress-reconciler"
    other.kubectl("create", *account.split("/"))
    other.kubectl("label", account, "app.kubernetes.io/managed-by=Helm")
    other.kubectl(
        "annotate", account, "meta.helm.sh/release-name=binder-egress", f"meta.helm.sh/release-namespace={other.namespace}"
    )
    yield other
    if names:
        other.kubectl("delete", "crd", *names)
        await_kinds(other, lambda listed: not set(names) & listed)
    other.delete_namespace()


@pytest.fixture(scope="module")
def rendered(namespace: Stage) -> Callable[[Path], str]:
    """A function that returns the objects of a values file, with the pods of `helm test`."""
    # --validate: Helm asks the cluster which kinds it has, as in an installation.
    options = ("template", "binder-egress", str(TOP / "chart"), "--validate")
    return cache(lambda values: namespace.helm(*options, "--values", str(values)))


@pytest.mark.parametrize("values", TOPOLOGIES, ids=lambda path: path.name)
def test_topology_is_accepted_by_the_api_server(namespace, rendered, values):
    objects = rendered(values)
    taken = namespace.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "name", stdin=objects).split()
    assert len(taken) == len(re.findall("^kind: ", objects, re.M))
    if "off" in values.name:
        assert taken == ["secret/binder-egress"]
    running = "deployment.apps/binder-egress-verifier" in taken
    assert any(name.startswith("validatingadmissionpolicy.") for name in taken) == running


def test_kinds_were_all_asked_for(rendered):
    objects = [made for values in TOPOLOGIES for made in yaml.safe_load_all(rendered(values)) if made]
    asked = {(made["apiVersion"], made["kind"]) for made in objects}
    assert {(f"{group}/v1", kind) for group, kinds in MORE_KINDS.items() for kind in kinds} <= asked
