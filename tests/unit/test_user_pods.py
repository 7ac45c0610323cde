"""User pods: read from JSON, and listed, watched, patched and deleted against an API server that fails in many ways."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.grants import Block, Egress
from binder_egress.model.labels import GRANT_ANNOTATION, TIER_LABEL
from binder_egress.model.records import Server
from binder_egress.model.repositories import MAX_URL_CHARACTERS
from binder_egress.model.serialization import read_grant, read_origin, write_grant
from binder_egress.reconciler.user_pods import PODS_PER_PAGE, Conflict, Gone, Pod, UserPods, WatchEnded
from tests.support.api_server import ApiServer
from tests.support.reconciling import make_grant


def from_kubespawner(annotations: dict | None = None, **meta: object) -> dict:
    return {
        "metadata": {
            "name": "jupyter-alice",
            "uid": "uid-1",
            "resourceVersion": "7",
            "creationTimestamp": "2025-01-02T03:04:05Z",
            "annotations": {"hub.jupyter.org/username": "alice", **(annotations or {})},
            **meta,
        },
        "spec": {"containers": [{"name": "notebook", "image": "image:1"}, {"name": "other", "image": "image:2"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-02T03:04:35Z"}],
        },
    }


def pod_json(name: str = "jupyter-alice", version: int = 1, **labels: str) -> dict:
    user = {"hub.jupyter.org/username": name.removeprefix("jupyter-")}
    return from_kubespawner(user, name=name, resourceVersion=str(version), labels={"component": "singleuser-server", **labels})


@pytest.fixture
def cluster(api: ApiServer) -> UserPods:
    return UserPods("binder", {"component": "singleuser-server"}, api.client)


def lines(*events: tuple[str, dict]) -> bytes:
    return b"".join(json.dumps({"type": kind, "object": found}).encode() + b"\n" for kind, found in events)


def watch(cluster: UserPods, version: str = "5") -> tuple[list[tuple[str, str]], WatchEnded]:
    """Returns all events of a watch, and how it ended."""
    found = []
    with pytest.raises(WatchEnded) as lost:
        for kind, pod in cluster.watch(version):
            found.append((kind, pod.version))
    return found, lost.value


def watched(cluster: UserPods) -> Iterator[tuple[str, Pod]]:
    with suppress(WatchEnded):
        yield from cluster.watch("5")


def test_client_loads_no_models_of_kubernetes(api):
    """They take most of a second of processor time, and 24 MiB. A new process, because other tests may have loaded them."""
    program = (
        "import sys; from kubernetes import client; import binder_egress.reconciler.loop;"
        "from binder_egress.gatecheck.check import Namespace;"
        "from binder_egress.reconciler.user_pods import UserPods;"
        "from binder_egress.reconciler.proxy_variables import ProxyVariables;"
        f"api = client.ApiClient(client.Configuration(host={api.url!r}));"
        "UserPods('binder', {}, api).list(); Namespace('binder', api).policies();"
        "print([name for name in sys.modules if name.startswith(('kubernetes.client.models.', 'kubernetes.client.api.'))])"
    )
    api.answer = lambda *_: (200, {"metadata": {"resourceVersion": "9"}, "items": []})
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_list_is_read_in_pages(cluster, api):
    def answer(method, path, query, body):
        at = int(query.get("continue", 0))
        return 200, {
            "metadata": {"resourceVersion": "9", "continue": str(at + 1) if at < 2 else ""},
            "items": [pod_json(f"jupyter-user-{at}")],
        }

    api.answer = answer
    pods, version = cluster.list()
    assert [pod.server for pod in pods] == [Server(f"user-{number}") for number in range(3)]
    assert version == "9"
    assert [query["limit"] for _, _, query in api.asked] == [str(PODS_PER_PAGE)] * 3


def test_pods_that_our_policies_do_not_select_are_in_the_same_list_and_watch(cluster, api):
    """KubeSpawner writes this label whatever its `component_label` is. An event says that a pod's labels have changed."""
    other = pod_json(component="course")
    api.answer = lambda _, path, query, body: (
        (200, lines(("MODIFIED", other))) if "watch" in query else (200, {"metadata": {"resourceVersion": "9"}, "items": [other]})
    )
    (listed,), _ = cluster.list()
    ((event, seen),) = watched(cluster)
    assert (listed.differing, event, seen.differing) == ("component=course", "MODIFIED", "component=course")
    assert [query["labelSelector"] for _, _, query in api.asked] == ["hub.jupyter.org/username"] * 2
    api.answer = lambda *_: (200, other)
    assert cluster.read_again(listed) is None


def bookmark(version: int) -> tuple[str, dict]:
    return "BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(version), "creationTimestamp": None}}


def foreign(version: int) -> tuple[str, dict]:
    pod = pod_json(version=version)
    pod["metadata"]["annotations"] = {}
    return "ADDED", pod


@pytest.mark.parametrize(
    ("sent", "events", "version"),
    [
        pytest.param(lines(("ADDED", pod_json(version=6)), ("MODIFIED", pod_json(version=8))), ["6", "8"], "8", id="events"),
        pytest.param(lines(bookmark(10), foreign(11)), [], "11", id="a pod that is not a user's"),
        pytest.param(lines(foreign(11), bookmark(12)), [], "12", id="a bookmark"),
        pytest.param(b"", [], "5", id="nothing"),
        # The end of a broken stream looks like the end of a watch.
        pytest.param(
            lines(("ADDED", pod_json(version=6))) + lines(("MODIFIED", pod_json(version=7)))[:40], ["6"], "6", id="half an event"
        ),
    ],
)
def test_watch_that_ended_says_from_where_to_continue(cluster, api, sent, events, version):
    api.answer = lambda *_: (200, sent)
    found, ended = watch(cluster)
    assert ([seen for _, seen in found], str(ended), ended.version) == (events, "renewed", version)
    assert api.asked[0][2]["resourceVersion"] == "5" and api.asked[0][2]["allowWatchBookmarks"] == "true"


GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 5 (9)"}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((410, GONE), id="410 at once"),
        pytest.param((200, lines(("ADDED", pod_json(version=6)), ("ERROR", GONE))), id="410 later"),
        pytest.param((429, {}), id="throttled"),
        pytest.param((503, b"upstream"), id="unavailable"),
        pytest.param((200, b"no JSON\n"), id="garbage"),
        pytest.param((200, lines(("ADDED", pod_json(version=6))) + b'{"type": "ADDED", "object": {\n'), id="half a line"),
    ],
)
def test_watch_after_a_fault_needs_a_new_list(cluster, api, answer):
    api.answer = lambda *_: answer
    assert watch(cluster)[1].version is None


def test_watch_and_list_fail_without_the_api_server(cluster, api):
    api.close()
    assert watch(cluster)[1].version is None
    with pytest.raises(ApiServerUnavailable):
        cluster.list()


def test_another_pod_of_the_same_name_is_not_the_one_that_was_read(cluster, api):
    api.answer = lambda *_: (200, pod_json())
    pod = cluster.read("jupyter-alice")
    assert cluster.read_again(pod) == pod
    assert cluster.read_again(replace(pod, uid="uid-0")) is None
    api.answer = lambda *_: (404, {})
    assert cluster.read("jupyter-alice") is None


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, Gone), (409, Conflict), (429, ApiServerUnavailable), (500, ApiServerUnavailable), (403, ApiServerUnavailable)],
)
def test_patch_names_the_uid_and_version_it_is_based_on(cluster, api, status, error):
    api.answer = lambda method, *_: (status, {}) if method == "PATCH" else (200, pod_json(version=3))
    pod = cluster.read("jupyter-alice")
    with pytest.raises((Conflict, ApiServerUnavailable)) as raised:
        cluster.patch(pod, Egress.new("verified", "valid-pass", 1))
    assert raised.type is error
    (body,) = api.bodies
    assert (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) == ("uid-1", "3")


RENEWED = Egress("g", "verified", "renewal", 1)
BLOCKED = Block("x", "server", "alice/", read_origin("é"), "мина", 1, 2, "uid-1").grant


@pytest.mark.parametrize(
    ("before", "grant", "sent"),
    [("", RENEWED, {TIER_LABEL: "verified"}), ("verified", RENEWED, None), ("verified", BLOCKED, {TIER_LABEL: None})],
)
def test_patch_leaves_out_an_unchanged_label(cluster, api, before, grant, sent):
    """Each change of a label makes kube-router go through all pods, so a renewal changes only the annotation."""
    api.answer = lambda *_: (200, pod_json(**({TIER_LABEL: before} if before else {})))
    cluster.patch(cluster.read("jupyter-alice"), grant)
    (patch,) = api.bodies
    assert patch["metadata"].get("labels") == sent
    assert read_grant(patch["metadata"]["annotations"][GRANT_ANNOTATION]) == grant


@pytest.mark.parametrize(("unchanged", "named"), [(False, {"uid": "uid-1"}), (True, {"uid": "uid-1", "resourceVersion": "7"})])
def test_deletion_names_the_uid_and_on_request_the_version(cluster, api, unchanged, named):
    api.answer = lambda *_: (200, pod_json(version=7))
    cluster.delete(cluster.read("jupyter-alice"), unchanged)
    assert api.bodies == [{"preconditions": named}]


# -- read from JSON


GARBAGE = [
    *("", "x", "null", "[]", "{}", '"verified"', '{"id":1,"tier":"verified","rule":"r","at":1}'),
    *('{"id":"a","tier":["verified"],"rule":"r","at":1}', '{"id":"a","tier":"verified","rule":"r"}'),
    *('{"id":"a","tier":"verified","rule":"r","at":"now"}', '{"id":"a","tier":"verified","rule":"r","at":{}}'),
    *('{"id":"\\ud800","tier":"verified","rule":"r","at":1}', '{"id":"g","tier":"unverified","rule":"blocked","at":1,"why":null}'),
    *(f'{{"id":"g","tier":"unverified","rule":"blocked","at":1,{wrong}}}' for wrong in ('"by":5', '"until":"x"', '"until":true')),
    *("[" * 100_000, '{"id":"a","tier":"verified","rule":"r","at":' + "9" * 5000 + "}"),
]


def test_pod_is_read_from_json():
    grant = make_grant()
    found = Pod.from_json(
        from_kubespawner(
            {GRANT_ANNOTATION: write_grant(grant), "hub.jupyter.org/servername": "lab"}, labels={TIER_LABEL: "verified", "app": "x"}
        )
    )
    assert found == Pod(
        "jupyter-alice", "uid-1", "7", Server("alice", "lab"), "image:1", grant, True, "verified", 1735787045.0, True, False,
        guard=("absent", 0.0), shared_labels=frozenset({("app", "x")}), ping="no-sysctl", ready_at=1735787075.0,
    )  # fmt: skip


def test_launch_facts_are_read_from_the_pod():
    """Strangers choose the URL, and it goes into Redis and to the proxy, once for each server: it is cut."""
    body = from_kubespawner()
    body["spec"]["containers"][0]["env"] = [
        {"name": "BINDER_REPO_URL", "value": "https://github.com/x/first"},
        {"name": "BINDER_REPO_URL", "value": "https://github.com/owner/name"},
        {"name": "BINDER_CLIENT_IP", "value": "198.51.100.7"},
        {"name": "OTHER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    found, without = Pod.from_json(body), Pod.from_json(from_kubespawner())
    assert (found.repository, found.client) == ("https://github.com/owner/name", "198.51.100.7")
    assert (without.repository, without.client) == ("", "")
    body["spec"]["containers"][0]["env"][1]["value"] += "x" * 60_000
    assert len(Pod.from_json(body).repository) == MAX_URL_CHARACTERS + 1


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:30])
def test_pod_with_a_malformed_annotation_is_read(text):
    assert read_grant(text) is None
    found = Pod.from_json(from_kubespawner({GRANT_ANNOTATION: text}))
    assert (found.grant, found.annotated) == (None, True)


def test_pod_not_made_by_kubespawner_is_ignored():
    assert Pod.from_json(from_kubespawner(annotations={"hub.jupyter.org/username": ""})) is None
    assert Pod.from_json({**from_kubespawner(), "metadata": {"name": "x", "labels": {TIER_LABEL: "verified"}}}) is None


@pytest.mark.parametrize(
    ("phase", "starting", "ended"),
    [
        ("Pending", True, False),
        ("Running", False, False),
        ("Succeeded", False, True),
        ("Failed", False, True),
        (None, False, False),
    ],
)
def test_pod_is_starting_until_its_containers_run_and_has_ended_by_its_phase_or_deletion(phase, starting, ended):
    unready = {"phase": phase, "conditions": [{"type": "Ready", "status": "False"}]} if phase else {}
    found = Pod.from_json(from_kubespawner() | {"status": unready})
    assert (found.starting, found.ended) == (starting, ended)
    assert Pod.from_json(from_kubespawner(deletionTimestamp="2025-01-02T03:04:05Z")).ended


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, None),
        ({"running": {}}, None),
        ({"terminated": {"message": '{"outcome": "closed", "seconds": 0.31, "tries": 7}'}}, ("closed", 0.31)),
        ({"terminated": {"exitCode": 137}}, ("failed", 0.0)),
        ({"terminated": {"message": "[1]"}}, ("failed", 0.0)),
        ({"terminated": {"message": '{"outcome": "closed"}'}}, ("failed", 0.0)),
        ({"terminated": {"message": '{"outcome": "of another version", "seconds": 1}'}}, ("failed", 0.0)),
        ({"terminated": {"message": '{"outcome": ["closed"], "seconds": 1}'}}, ("failed", 0.0)),
        ({"terminated": {"message": '{"outcome": "closed", "seconds": "nan"}'}}, ("failed", 0.0)),
        ({"terminated": {"message": '{"outcome": "closed", "seconds": 1e999}'}}, ("failed", 0.0)),
    ],
)
def test_outcome_of_the_start_guard_is_read_from_the_pod(state, expected):
    body, name = from_kubespawner(), "binder-egress-start-guard"
    body["spec"]["initContainers"] = [{"name": "tc-init"}, {"name": name}]
    body["status"]["initContainerStatuses"] = [{"name": name, "state": state}] if state else []
    assert Pod.from_json(body).guard == expected
    body["spec"]["initContainers"].pop()
    assert Pod.from_json(body).guard == ("absent", 0.0)


WANTED = {"component": "singleuser-server", "release": "binder"}


@pytest.mark.parametrize(
    ("labels", "differing"),
    [
        ({**WANTED, "x": "y"}, ""),
        ({**WANTED, "component": "course"}, "component=course"),
        ({"component": ""}, "component=, no release"),
        (None, "no component, no release"),
    ],
)
def test_pod_names_the_labels_that_our_policies_do_not_select(labels, differing):
    assert Pod.from_json(from_kubespawner(labels=labels), WANTED).differing == differing


PULL = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x:1"'}}
TOO_SMALL = {"terminated": {"exitCode": 128, "reason": "StartError", "message": "container init was OOM-killed"}}
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "{}"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
SYSCTL_REFUSED = 'forbidden sysctl: "net.ipv4.ping_group_range" not allowlisted'


@pytest.mark.parametrize(
    ("state", "last", "status", "hindrance"),
    [
        (PULL, {}, {}, 'ImagePullBackOff: Back-off pulling image "x:1"'),
        (TOO_SMALL, {}, {}, "StartError: container init was OOM-killed"),
        (BACK_OFF, TOO_SMALL, {}, "StartError: container init was OOM-killed"),
        (BACK_OFF, KILLED, {}, "OOMKilled"),
        (BACK_OFF, {}, {}, "CrashLoopBackOff: back-off 10s"),
        ({"waiting": {"reason": "PodInitializing"}}, {}, {}, ""),
        ({"waiting": {}}, {}, {}, ""),
        ({"running": {}}, KILLED, {}, ""),
        ({"terminated": {"exitCode": 0, "reason": "Completed"}}, KILLED, {}, ""),
        (PULL, {}, {"phase": "Running"}, ""),
        ({}, {}, {"phase": "Failed", "reason": "SysctlForbidden", "message": SYSCTL_REFUSED}, f"SysctlForbidden: {SYSCTL_REFUSED}"),
        # Others' sysctls, and what happened to the node.
        ({}, {}, {"phase": "Failed", "reason": "SysctlForbidden", "message": 'forbidden sysctl: "kernel.x"'}, ""),
        ({}, {}, {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource"}, ""),
    ],
)
def test_pod_has_kubernetes_reason_why_it_cannot_start_because_of_us(state, last, status, hindrance):
    body = from_kubespawner()
    guard = {"name": "binder-egress-start-guard", "state": state, "lastState": last}
    others = {"name": "tc-init", "state": PULL}
    body["status"] = {"phase": "Pending", "initContainerStatuses": [others, guard], **status}
    assert Pod.from_json(body).hindrance == hindrance
