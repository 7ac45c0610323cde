"""Reading from the local cluster's API server without kubectl.

The tests ask for pods thousands of times, and each kubectl takes a third of a second of processor time, which kept two cores busy.
"""

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.support.cluster.timeouts import ANSWER_SECONDS
from tests.support.waiting import NO_ANSWER, patiently

PATHS = {
    "configmap": "api/v1/namespaces/{}/configmaps",
    "daemonset": "apis/apps/v1/namespaces/{}/daemonsets",
    "deployment": "apis/apps/v1/namespaces/{}/deployments",
    "networkpolicy": "apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "pod": "api/v1/namespaces/{}/pods",
    "replicaset": "apis/apps/v1/namespaces/{}/replicasets",
    "secret": "api/v1/namespaces/{}/secrets",
    "service": "api/v1/namespaces/{}/services",
}
"""The API server's paths for the kinds that the tests read most."""

PLURALS = {"networkpolicies": "networkpolicy", **{f"{kind}s": kind for kind in PATHS if kind != "networkpolicy"}}

_threads = threading.local()


class Unavailable(Exception):
    """The API server refused a request or did not answer. The text says which."""


def path_of(namespace: str, args: tuple[str, ...]) -> tuple[str, dict[str, str]] | None:
    """The path and query of `kubectl get ARGS`. None if only kubectl can answer, and outside the local cluster."""
    if not os.environ.get("CLUSTER_TARGETS"):
        return None
    match args:
        case (kind,) if kind in PLURALS:
            return PATHS[PLURALS[kind]].format(namespace), {}
        case (kind, "-l", selector) if kind in PLURALS:
            return PATHS[PLURALS[kind]].format(namespace), {"labelSelector": selector}
        case (kind, name) if kind in PATHS and not name.startswith("-"):
            return f"{PATHS[kind].format(namespace)}/{name}", {}
    return None


def ask(method: str, path: str, query: dict[str, str], body: Any = None) -> Any:
    """Send a request to the API server as its administrator, and again if no answer comes. Returns the answer's JSON."""

    def once() -> Any:
        try:
            answer = _session().request(method, f"{_server()}/{path}", params=query, json=body, timeout=ANSWER_SECONDS)
        except NO_ANSWER:
            # The earlier connection may be to an API server that was restarted.
            _threads.__dict__.pop("session", None)
            raise
        if answer.ok:
            return answer.json()
        failed = f"{answer.status_code} {answer.text}"
        if answer.status_code >= 500 or answer.status_code == requests.codes.too_many_requests:
            raise requests.ConnectionError(failed)
        raise Unavailable(f"{method} {path}: {failed}")

    try:
        return patiently(once, ANSWER_SECONDS)
    except NO_ANSWER as error:
        raise Unavailable(f"{method} {path}: {error}") from None


@cache
def _kubeconfig() -> dict[str, Any]:
    return yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())


def _server() -> str:
    return _kubeconfig()["clusters"][0]["cluster"]["server"]


def _session() -> requests.Session:
    """One for each thread."""
    if not hasattr(_threads, "session"):
        _threads.session = requests.Session()
        _threads.session.verify = _kubeconfig()["clusters"][0]["cluster"]["certificate-authority"]
        user = _kubeconfig()["users"][0]["user"]
        _threads.session.cert = (user["client-certificate"], user["client-key"])
        _threads.session.trust_env = False
    return _threads.session
