"""User pods in the Kubernetes API: list, watch and patch them. Nothing else of the cluster is touched.

The bodies are read as plain JSON, and only what is needed of each pod is kept: the client's models cost several times the memory.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from ..records import Grant, Server
from ..user_pods import ANNOTATION, LABEL, kind_of

GUARD = "binder-egress-start-guard"
"""The init container that waits for the pod's isolation (`start_guard`)."""

PAGE = 200
"""Pods in one answer of a list. What an answer takes while it is read, some 100 kB a pod, is most of the memory of a start."""

WATCH = 60
"""Seconds until a watch is renewed. A connection that died silently is noticed `SILENCE` seconds later at most."""

SILENCE = 10
"""Seconds beyond `WATCH` without a byte after which the connection counts as dead, and seconds that a request may take."""


class Conflict(Exception):
    """The pod is not as it was when the patch was decided, or is gone. Read again."""


class WatchLost(Exception):
    """The watch ended.

    Args:
        why: for the log.
        version: the resourceVersion to go on from, if nothing was missed; None: list again.
    """

    def __init__(self, why: str, version: str | None = None):
        super().__init__(why)
        self.version = version


class ClusterUnavailable(Exception):
    """The API server does not answer, or refuses."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What the reconciler needs of a user pod.

    Attributes:
        name: the pod's name.
        uid: the pod's uid.
        version: the resourceVersion that this was read at.
        server: the server that it runs.
        image: the image of its first container, the user's.
        grant: what the annotation says, or None.
        annotated: whether there is an annotation, readable or not.
        label: the value of the tier label, or None.
        created: Unix time in seconds.
        ready: whether it passes its readiness probe.
        ended: whether it is done, or being deleted.
        guard: what its start guard saw (`start_guard.guard`), and the seconds that it took; `absent` if there is none, `failed` if
            it left nothing; None while it is not done.
        kind: its labels, without those of this pod alone (`policies.kind_of`).
        repository: the repository that was launched, as BinderHub wrote it into the user's environment; empty if it did not.
        client: the address of the client that launched it, likewise; BinderHub writes it since March 2026.
    """

    name: str
    uid: str
    version: str
    server: Server
    image: str
    grant: Grant | None
    annotated: bool
    label: str | None
    created: float
    ready: bool
    ended: bool
    guard: tuple[str, float] | None = None
    kind: frozenset[tuple[str, str | None]] = frozenset()
    repository: str = ""
    client: str = ""

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Pod | None":
        """The pod in an answer of the API server, or None if KubeSpawner did not make it.

        KubeSpawner 7.1 writes the names into annotations unchanged, and the server's only where it is not empty.
        """
        meta, status = found["metadata"], found.get("status", {})
        annotations = meta.get("annotations") or {}
        user = annotations.get("hub.jupyter.org/username")
        if not user:
            return None
        first = found["spec"]["containers"][0]
        environment = {entry["name"]: entry.get("value") or "" for entry in first.get("env") or []}
        conditions = {c["type"]: c["status"] for c in status.get("conditions") or []}
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            version=meta["resourceVersion"],
            server=Server(user, annotations.get("hub.jupyter.org/servername", "")),
            image=first["image"],
            grant=Grant.loads(annotations.get(ANNOTATION)),
            annotated=ANNOTATION in annotations,
            label=(meta.get("labels") or {}).get(LABEL),
            created=datetime.fromisoformat(meta["creationTimestamp"]).timestamp(),
            ready=conditions.get("Ready") == "True",
            ended="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
            guard=_guard(found),
            kind=_same(kind_of(meta.get("labels") or {})),
            repository=environment.get("BINDER_REPO_URL", ""),
            client=environment.get("BINDER_CLIENT_IP", ""),
        )


@lru_cache(maxsize=1000)
def _same(kind: frozenset[tuple[str, str | None]]) -> frozenset[tuple[str, str | None]]:
    """The same object for all pods of a kind: thousands of them share a few."""
    return kind


def _guard(pod: dict[str, Any]) -> tuple[str, float] | None:
    if not any(container["name"] == GUARD for container in pod["spec"].get("initContainers") or []):
        return "absent", 0.0
    for status in pod.get("status", {}).get("initContainerStatuses") or []:
        if status["name"] == GUARD and (ended := status.get("state", {}).get("terminated")):
            try:
                seen = json.loads(ended.get("message") or "")
                return seen["outcome"], float(seen["seconds"])
            except (ValueError, KeyError, TypeError):
                return "failed", 0.0
    return None


class Cluster:
    """The user pods of one namespace.

    Args:
        namespace: the namespace.
        labels: what every user pod is labelled with.
        api: the client; by default one with the pod's own ServiceAccount.
    """

    def __init__(self, namespace: str, labels: dict[str, str], api: client.CoreV1Api | None = None):
        if api is None:
            config.load_incluster_config()
            api = client.CoreV1Api()
        self._api = api
        self._namespace = namespace
        self._selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))

    def list(self) -> tuple[list[Pod], str]:
        """All user pods, and the resourceVersion to watch from.

        Raises:
            ClusterUnavailable: the API server does not answer.
        """
        pods: list[Pod] = []
        following: dict[str, str] = {}
        while True:
            page = self._call(
                self._api.list_namespaced_pod,
                label_selector=self._selector,
                limit=PAGE,
                _request_timeout=SILENCE,
                **following,
            )
            pods += filter(None, map(Pod.from_json, page["items"]))
            if not page["metadata"].get("continue"):
                return pods, page["metadata"]["resourceVersion"]
            following = {"_continue": page["metadata"]["continue"]}

    def watch(self, version: str) -> Iterator[tuple[str, Pod]]:
        """What happens to user pods after a resourceVersion.

        Returns:
            `ADDED`, `MODIFIED` or `DELETED`, and the pod.

        Raises:
            WatchLost: always, at the end: after `WATCH` seconds with the version to go on from, or without one after an error or
                410 Gone.
        """
        try:
            answer = self._api.list_namespaced_pod(
                self._namespace,
                label_selector=self._selector,
                resource_version=version,
                watch=True,
                # Where nothing happens to user pods for long, these keep the version young enough to go on from.
                allow_watch_bookmarks=True,
                timeout_seconds=WATCH,
                _request_timeout=(SILENCE, WATCH + SILENCE),
                _preload_content=False,
            )
            rest = b""
            for chunk in answer.stream(amt=None):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise WatchLost(event["object"].get("message", "error"))
                    version = event["object"]["metadata"]["resourceVersion"]
                    if pod := Pod.from_json(event["object"]):  # a bookmark is none
                        yield event["type"], pod
        except (ApiException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise WatchLost(f"{type(error).__name__}: {error}") from None
        raise WatchLost("renewed", version)

    def read(self, name: str) -> Pod | None:
        """One pod as it is now, or None if it is gone.

        Raises:
            ClusterUnavailable: the API server does not answer.
        """
        try:
            found = self._call(self._api.read_namespaced_pod, name, _request_timeout=SILENCE)
        except Conflict:
            return None
        return Pod.from_json(found)

    def patch(self, pod: Pod, grant: Grant | None) -> Pod:
        """Give a pod a grant, or take it away: annotation and label in one step.

        A label that stays is not mentioned: each change of one makes kube-router go through all pods.

        The patch names the uid and the resourceVersion that it was decided on, so that it cannot meet another pod of the same name,
        or one that changed.

        Args:
            pod: the pod as it was read.
            grant: the grant; None removes it.

        Returns:
            The pod as it is now.

        Raises:
            Conflict: the pod changed or is gone.
            ClusterUnavailable: the API server does not answer.
        """
        label = grant.label if grant else None
        metadata: dict[str, Any] = {
            "uid": pod.uid,
            "resourceVersion": pod.version,
            "annotations": {ANNOTATION: grant.dumps() if grant else None},
        }
        if label != pod.label:
            metadata["labels"] = {LABEL: label}
        body = {"metadata": metadata}
        found = self._call(
            self._api.patch_namespaced_pod,
            pod.name,
            body=body,
            _content_type="application/merge-patch+json",
            _request_timeout=SILENCE,
        )
        return Pod.from_json(found) or pod

    def delete(self, pod: Pod, unchanged: bool = False) -> None:
        """Delete a pod; JupyterHub notices that the server has ended.

        Args:
            pod: the pod as it was read.
            unchanged: only as it was read.

        Raises:
            Conflict: it is gone, or another one has its name, or it changed where it must not have.
            ClusterUnavailable: the API server does not answer, or does not let us (`reconciler.mayStopPods`).
        """
        body = {"preconditions": {"uid": pod.uid} | ({"resourceVersion": pod.version} if unchanged else {})}
        self._call(self._api.delete_namespaced_pod, pod.name, body=body, _request_timeout=SILENCE)

    def _call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return json.loads(method(*args, self._namespace, _preload_content=False, **kwargs).data)
        except ApiException as error:
            if error.status in (404, 409):
                raise Conflict(error.reason) from None
            raise ClusterUnavailable(f"{error.status} {error.reason}") from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ClusterUnavailable(f"{type(error).__name__}: {error}") from None
