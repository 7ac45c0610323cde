"""The canaries as the reconciler sees them: pods that stand in for a user's, one on each node, and one without a controller.

Each tries what must be shut, and tells the last result to whoever asks at its port. Policies open that port to the reconciler
alone, so the reconciler asks, and no canary needs a way out (D-540).
"""

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client

from .. import kubernetes_api
from ..model.labels import GATECHECK_LABEL, TIER_LABEL
from ..pods import start_guard
from .probe import MARK_PORT, WORD_PORT

SELECTOR = f"{GATECHECK_LABEL} in (canary,node-canary)"

TRY_SECONDS = 0.3
"""Time limit for one connection to a mark's port: some plugins drop packets without an answer."""

ASK_SECONDS = 1.0
"""Time limit for one question. The answer is one packet, which is ready."""

WORD_BYTES = 8192
"""The longest answer that is read. A target takes some 30 bytes, and an answer of 1,400 is one packet."""

AT_ONCE = 32
"""Canaries that are asked at the same time. One that does not answer takes `ASK_SECONDS`."""


@dataclass(frozen=True)
class Word:
    """What a canary said.

    Attributes:
        at: when it last tried its targets, Unix time in seconds by our clock.
        targets: each target that it could try → whether it was shut.
        proxy: what the egress proxy sees of it (`probe.seen_by_proxy`); empty without a proxy.
    """

    at: float
    targets: dict[str, bool] = field(default_factory=dict)
    proxy: str = ""


class Canaries:
    """The canaries' pods.

    Args:
        namespace: the release's namespace.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(self, namespace: str, api: client.ApiClient | None = None):
        self._api = api or kubernetes_api.in_cluster_client()
        self._path = f"/api/v1/namespaces/{namespace}/pods"

    def running(self, node: str = "") -> list[dict[str, Any]]:
        """Those whose container runs, as JSON; of a node with a canary of its own, no other.

        Args:
            node: only those on this node.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        query = {"labelSelector": SELECTOR} | ({"fieldSelector": f"spec.nodeName={node}"} if node else {})
        running = [
            dict(pod)
            for pod in kubernetes_api.read(self._api, "GET", self._path, query=query)["items"]
            if "deletionTimestamp" not in pod["metadata"]
            if any("running" in status["state"] for status in pod["status"].get("containerStatuses") or [])
        ]
        own = {pod["spec"]["nodeName"] for pod in running if is_of_node(pod)}
        return [pod for pod in running if is_of_node(pod) or pod["spec"]["nodeName"] not in own]

    def mark(self, pod: dict[str, Any], value: str | None) -> None:
        """Give the pod the tier label with a value; None takes it off.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
        """
        metadata = {"uid": pod["metadata"]["uid"], "labels": {TIER_LABEL: value}}
        path = f"{self._path}/{pod['metadata']['name']}"
        kubernetes_api.read(self._api, "PATCH", path, body={"metadata": metadata}, content_type=kubernetes_api.MERGE_PATCH)

    def answers(self, pod: dict[str, Any]) -> bool:
        """Whether the pod accepts a connection at the port that a mark opens."""
        return bool(start_guard.connects((pod["status"]["podIP"], MARK_PORT), TRY_SECONDS))


def is_of_node(pod: dict[str, Any]) -> bool:
    """Whether a canary's pod is the one that its node has, and not the one without a controller."""
    return bool(pod["metadata"]["labels"][GATECHECK_LABEL] == "node-canary")


def ask(address: str, now: Callable[[], float] = time.time) -> Word | None:
    """Ask a canary for its last result.

    Args:
        address: the pod's address.
        now: Unix time in seconds.

    Returns:
        What it said; None: nothing that can be read.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with socket.create_connection((address, WORD_PORT), ASK_SECONDS) as connection:
            said = json.loads(connection.recv(WORD_BYTES))
        targets = {str(target): shut is True for target, shut in said["shut"].items()}
        return Word(now() - max(0.0, float(said["age"])), targets, str(said.get("proxy", "")))
    return None


def ask_all(pods: list[dict[str, Any]], ask: Callable[[str], Word | None] = ask) -> dict[str, Word]:
    """Ask canaries, several at a time. Returns node → what its canary said, without those that did not answer."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        words = pool.map(lambda pod: ask(pod["status"].get("podIP", "")), pods)
        return {pod["spec"]["nodeName"]: word for pod, word in zip(pods, words, strict=True) if word}
