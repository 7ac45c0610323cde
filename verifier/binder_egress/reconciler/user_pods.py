"""User pods in the Kubernetes API: list, watch, read, patch and delete them. No other part of the package changes a user pod.

Only the few fields of a pod that the reconciler needs are kept: there are thousands of pods.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from kubernetes import client

from .. import kubernetes_api
from ..kubernetes_api import REQUEST_TIMEOUT_SECONDS, ApiServerUnavailable
from ..model.grants import Carried, label_of
from ..model.labels import (
    GRANT_ANNOTATION,
    JSON,
    START_GUARD_CONTAINER,
    TIER_LABEL,
    USERNAME_LABEL,
    LabelSet,
    differing_labels,
    shared_labels,
)
from ..model.ping import way_to_ping
from ..model.records import Server
from ..model.repositories import cut
from ..model.serialization import read_grant, write_grant
from ..model.starts import hindrance
from ..store.reconciler_counters import START_GUARD_OUTCOMES

PODS_PER_PAGE = 200
"""The number of pods in one answer to a list. Reading an answer takes some 100 kB a pod, which is most of the memory at a start."""

WATCH_SECONDS = 60
"""Seconds until a watch is renewed. A connection that died silently is noticed at most `REQUEST_TIMEOUT_SECONDS` later."""


class Conflict(Exception):
    """The pod has changed since the patch was decided, or is gone. Read it again."""


class Gone(Conflict):
    """There is no such pod."""


class WatchEnded(Exception):
    """The watch ended.

    Args:
        reason: the reason, for the log.
        version: the resourceVersion to continue from; None: events may be missing, so list again.
    """

    def __init__(self, reason: str, version: str | None = None):
        super().__init__(reason)
        self.version = version


@dataclass(frozen=True, slots=True)
class Pod:
    """The fields of a user pod that the reconciler needs.

    Attributes:
        name: the pod's name.
        uid: the pod's uid.
        version: the resourceVersion that was read.
        server: the server that runs in it.
        image: the image of its first container, the user's.
        grant: the grant in the annotation; None without one, or if it cannot be read.
        annotated: whether there is an annotation, readable or not.
        label: the value of the tier label, or None.
        created: Unix time in seconds.
        ready: whether it passes its readiness probe.
        ready_at: Unix time in seconds since when it is ready; None: it is not.
        ended: whether it has ended, or is being deleted.
        guard: the outcome of its start guard (`start_guard.guard`), and the seconds that the guard took. The outcome is `absent`
            without a guard, and `failed` if the guard left no message. None: the guard has not ended yet.
        shared_labels: its labels, without values that are its own (`labels.shared_labels`).
        repository: the repository that was launched, from the environment that BinderHub sets, cut to a limited length
            (`repositories.cut`); empty if unknown.
        client: the address of the client that launched it, from the same place; BinderHub has set it since March 2026.
        ping: how the user's code in it can ping (`ping.way_to_ping`); empty if it cannot.
        addresses: its own addresses, IPv4 and IPv6; none if it is on its node's network.
        node: the name of its node; empty until it has one.
        starting: whether its containers have yet to start: it waits for a node, its image or its start guard.
        differing: the labels that keep our policies from selecting it (`labels.differing_labels`); empty: it is covered.
        hindrance: why it cannot start because of us (`starts.hindrance`).
    """

    name: str
    uid: str
    version: str
    server: Server
    image: str
    grant: Carried | None
    annotated: bool
    label: str | None
    created: float
    ready: bool
    ended: bool
    guard: tuple[str, float] | None = None
    shared_labels: LabelSet = frozenset()
    repository: str = ""
    client: str = ""
    ping: str = ""
    addresses: tuple[str, ...] = ()
    node: str = ""
    starting: bool = False
    ready_at: float | None = None
    differing: str = ""
    hindrance: str = ""

    @classmethod
    def from_json(cls, body: JSON, selected: Mapping[str, str] | None = None) -> "Pod | None":
        """The pod in an answer of the API server, or None if KubeSpawner did not create it.

        KubeSpawner 7.1 writes the names into annotations unchanged, and the server's name only if it is not empty.

        Args:
            body: the answer.
            selected: the labels that our policies select.
        """
        meta, status = body["metadata"], body.get("status", {})
        annotations = meta.get("annotations") or {}
        user = annotations.get("hub.jupyter.org/username")
        if not user:
            return None
        labels = meta.get("labels") or {}
        first = body["spec"]["containers"][0]
        environment = {entry["name"]: entry.get("value") or "" for entry in first.get("env") or []}
        ready = next((c for c in status.get("conditions") or [] if c["type"] == "Ready" and c["status"] == "True"), None)
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            version=meta["resourceVersion"],
            server=Server(user, annotations.get("hub.jupyter.org/servername", "")),
            image=first["image"],
            grant=read_grant(annotations.get(GRANT_ANNOTATION)),
            annotated=GRANT_ANNOTATION in annotations,
            label=labels.get(TIER_LABEL),
            created=_time(meta["creationTimestamp"]),
            ready=ready is not None,
            ready_at=_time(ready.get("lastTransitionTime") or meta["creationTimestamp"]) if ready else None,
            ended="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
            guard=_guard(body),
            shared_labels=_one_copy(shared_labels(labels)),
            repository=cut(environment.get("BINDER_REPO_URL", "")),
            client=environment.get("BINDER_CLIENT_IP", ""),
            ping=way_to_ping(body["spec"]),
            addresses=() if body["spec"].get("hostNetwork") else tuple(address["ip"] for address in status.get("podIPs") or []),
            # The same object for all pods on a node.
            node=sys.intern(body["spec"].get("nodeName", "")),
            # Not `ready`: a container could make itself unready, and keep its pod that way.
            starting=status.get("phase") == "Pending",
            differing=differing_labels(labels, selected or {}),
            hindrance=hindrance(body),
        )


@lru_cache(maxsize=1000)
def _one_copy(labels: LabelSet) -> LabelSet:
    """The same object for equal sets: thousands of pods share a few sets."""
    return labels


def _time(text: str) -> float:
    """A time of the API server in Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


def _guard(body: JSON) -> tuple[str, float] | None:
    """The start guard's outcome and seconds, as in `Pod.guard`."""
    if not any(container["name"] == START_GUARD_CONTAINER for container in body["spec"].get("initContainers") or []):
        return "absent", 0.0
    for status in body.get("status", {}).get("initContainerStatuses") or []:
        if status["name"] == START_GUARD_CONTAINER and (terminated := status.get("state", {}).get("terminated")):
            try:
                message = json.loads(terminated.get("message") or "")
                outcome, seconds = message["outcome"], float(message["seconds"])
            except (ValueError, KeyError, TypeError):
                return "failed", 0.0
            # Metrics show no other outcomes, and seconds must be a number to be added up.
            return (outcome, seconds) if outcome in START_GUARD_OUTCOMES and math.isfinite(seconds) else ("failed", 0.0)
    return None


class UserPods:
    """The user pods of one namespace, also those that our policies do not select (D-545).

    Args:
        namespace: the namespace.
        labels: the labels that our policies select.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(self, namespace: str, labels: dict[str, str], api: client.ApiClient | None = None):
        self._api = api or kubernetes_api.in_cluster_client()
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._labels = labels

    def list(self) -> tuple[list[Pod], str]:
        """All user pods, and the resourceVersion to watch from.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        pods: list[Pod] = []
        following: dict[str, str] = {}
        while True:
            query = {"labelSelector": USERNAME_LABEL, "limit": PODS_PER_PAGE, **following}
            page = kubernetes_api.read(self._api, "GET", self._path, query=query)
            pods += filter(None, map(self._pod, page["items"]))
            if not page["metadata"].get("continue"):
                return pods, page["metadata"]["resourceVersion"]
            following = {"continue": page["metadata"]["continue"]}

    def watch(self, version: str) -> Iterator[tuple[str, Pod]]:
        """The events of user pods after a resourceVersion.

        Yields:
            `ADDED`, `MODIFIED` or `DELETED`, and the pod.

        Raises:
            WatchEnded: always, at the end: after `WATCH_SECONDS` with the version to continue from; after an error or 410 Gone
                without one.
        """
        try:
            answer = kubernetes_api.call(
                self._api,
                "GET",
                self._path,
                {
                    "labelSelector": USERNAME_LABEL,
                    "resourceVersion": version,
                    "watch": True,
                    # If user pods have no events for a long time, bookmarks keep the version recent enough to continue from.
                    "allowWatchBookmarks": True,
                    "timeoutSeconds": WATCH_SECONDS,
                },
                silence_seconds=WATCH_SECONDS + REQUEST_TIMEOUT_SECONDS,
            )
            rest = b""
            for chunk in answer.stream(amt=None):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise WatchEnded(event["object"].get("message", "error"))
                    version = event["object"]["metadata"]["resourceVersion"]
                    if pod := self._pod(event["object"]):  # a bookmark is not a pod
                        yield event["type"], pod
        except ApiServerUnavailable as error:
            raise WatchEnded(str(error)) from None
        except kubernetes_api.FAILURES as error:
            raise WatchEnded(str(kubernetes_api.unavailable(error))) from None
        raise WatchEnded("renewed", version)

    def read(self, name: str) -> Pod | None:
        """One pod as it is now, or None if it is gone.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        try:
            body = self._read("GET", name)
        except Gone:
            return None
        return self._pod(body)

    def read_again(self, pod: Pod) -> Pod | None:
        """The pod as it is now, or None if it is gone or ending, or another pod has its name, or it is not covered.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        fresh = self.read(pod.name)
        return None if fresh is None or fresh.uid != pod.uid or fresh.ended or fresh.differing else fresh

    def patch(self, pod: Pod, grant: Carried | None) -> Pod:
        """Give a pod a grant, or take it away: annotation and label in one step (D-001, D-002, D-003).

        A label that stays the same is not in the patch: kube-router goes through all pods for each change of a label.

        The patch names the uid and the resourceVersion that it was decided on, so it fails for another pod of the same name, and
        for a pod that changed.

        Args:
            pod: the pod as it was read.
            grant: the grant; None removes it.

        Returns:
            The pod as it is now.

        Raises:
            Conflict: the pod changed or is gone.
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        label = label_of(grant)
        metadata: dict[str, object] = {
            "uid": pod.uid,
            "resourceVersion": pod.version,
            "annotations": {GRANT_ANNOTATION: write_grant(grant) if grant else None},
        }
        if label != pod.label:
            metadata["labels"] = {TIER_LABEL: label}
        body = self._read("PATCH", pod.name, {"metadata": metadata}, kubernetes_api.MERGE_PATCH)
        return self._pod(body) or pod

    def delete(self, pod: Pod, unchanged: bool = False) -> None:
        """Delete a pod; JupyterHub notices that the server has ended.

        Args:
            pod: the pod as it was read.
            unchanged: whether to delete it only if it has not changed since.

        Raises:
            Conflict: the pod is gone, another pod has its name, or it has changed and `unchanged` is set.
            ApiServerUnavailable: the API server does not answer, or refuses the request (`reconciler.mayStopPods`).
        """
        preconditions = {"uid": pod.uid} | ({"resourceVersion": pod.version} if unchanged else {})
        self._read("DELETE", pod.name, {"preconditions": preconditions})

    def _pod(self, body: JSON) -> Pod | None:
        return Pod.from_json(body, self._labels)

    def _read(self, method: str, name: str, body: Any = None, content_type: str = "application/json") -> Any:
        try:
            return kubernetes_api.read(self._api, method, f"{self._path}/{name}", body=body, content_type=content_type)
        except ApiServerUnavailable as error:
            if error.status == 404:
                raise Gone(str(error)) from None
            if error.status == 409:
                raise Conflict(str(error)) from None
            raise
