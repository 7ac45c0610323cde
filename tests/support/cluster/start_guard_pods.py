"""Pods that try to get out from their first instant, for the tests and the measurement of the start guard.

They are not JupyterHub's, because its servers are up only seconds later. Their init container is copied from a pod of JupyterHub.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from tests.support.cluster.stage import Failed, Stage
from tests.support.cluster.timeouts import POD_SECONDS
from tests.support.waiting import eventually

FAMILIES = ("public HTTP", "public IPv6")
"""The targets of `Stage.targets()` that are tried."""


@dataclass
class Attempts:
    """When a pod's container began, in Unix seconds, and what it reached: connections for each address, and milliseconds to the
    last one (-1: none). Then what its start guard said."""

    began: float
    reached: list[int]
    last: list[float]
    said: dict[str, Any]


def guard_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The start guard of a JupyterHub pod, in a form for another pod."""
    (found,) = pod["spec"]["initContainers"]
    return {key: found[key] for key in ("name", "image", "command", "env", "securityContext", "resources")}


def with_variables(guard: dict[str, Any], **values: str) -> dict[str, Any]:
    """A start guard with other values of its variables."""
    kept = [entry for entry in guard["env"] if entry["name"] not in values]
    return {**guard, "env": [*kept, *({"name": name, "value": value} for name, value in values.items())]}


def start_pod(
    stage: Stage, name: str, guard: dict[str, Any] | None, isolated: bool = True, seconds: float = 2.5, user: str = ""
) -> None:
    """Start a pod that opens a connection each millisecond, over IPv4 and, if the cluster has it, IPv6.

    `guard` is its init container, or None. If `isolated`, the base policy selects it. It counts as a server of `user`.
    """
    names = {"hub.jupyter.org/username": user, "hub.jupyter.org/servername": ""} if user else {}
    targets = stage.targets()
    parts = [urlsplit(targets[family]) for family in FAMILIES if family in targets]
    addresses = [f"{part.netloc.removesuffix(f':{part.port}')}:{part.port or 80}" for part in parts]
    script = "echo began; " + " & ".join(f"probe loop '{address}' {seconds}" for address in addresses) + " & wait"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            # KubeSpawner writes the names into both.
            "labels": {"early": "yes", **names, **({"component": "singleuser-server"} if isolated else {})},
            "annotations": names,
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "initContainers": [guard] if guard else [],
            "containers": [{"name": "early", "image": "localhost/user-server:1", "command": ["sh", "-c", script]}],
        },
    }
    stage.apply(pod)


def attempts(stage: Stage) -> dict[str, Attempts]:
    """Wait until all pods are done, and remove them. Returns name → result."""

    def pods() -> list[dict[str, Any]]:
        return stage.get("pods", "-l", "early=yes")["items"]

    def are_done() -> bool:
        return all(pod["status"]["phase"] == "Succeeded" for pod in pods())

    eventually(are_done, POD_SECONDS, lambda: [(pod["metadata"]["name"], pod["status"]) for pod in pods()])
    found = {}
    for pod in pods():
        text = stage.kubectl("logs", pod["metadata"]["name"], "-c", "early", "--timestamps")
        if not re.search(r"attempts=\d{2}", text):
            raise Failed(f"{pod['metadata']['name']} hardly tried: {text}")
        (ended,) = [status["state"]["terminated"] for status in pod["status"].get("initContainerStatuses", [])] or [{}]
        found[pod["metadata"]["name"]] = Attempts(
            datetime.fromisoformat(text.split()[0]).timestamp(),
            [int(number) for number in re.findall(r"\bok=(\d+)", text)],
            [float(number) for number in re.findall(r"last_ok_ms=(\S+)", text)],
            json.loads(ended.get("message", "{}")),
        )
    stage.kubectl("delete", "pods", "-l", "early=yes")
    return found
