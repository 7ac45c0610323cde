"""Reading from the local cluster's API server, and commands in its pods, without kubectl.

The tests ask for pods thousands of times, and each kubectl takes a third of a second of processor time, which kept two cores busy.
"""

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import requests
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL, STDIN_CHANNEL

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


def is_local() -> bool:
    """Whether the cluster is the local one, whose API server is reached from here."""
    return bool(os.environ.get("CLUSTER_TARGETS"))


def path_of(namespace: str, args: tuple[str, ...]) -> tuple[str, dict[str, str]] | None:
    """The path and query of `kubectl get ARGS`. None if only kubectl can answer, and outside the local cluster."""
    if not is_local():
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


def execute(namespace: str, args: tuple[str, ...], stdin: str | None, seconds: float) -> tuple[int, str, str]:
    """`kubectl exec ARGS`, with at most `-i` and `-c`. Returns the exit code, the output and the errors."""
    split = args.index("--")
    target, *rest = (arg for arg in args[:split] if arg != "-i")
    pod = _pod(namespace, target)
    container = rest[1] if rest else pod["spec"]["containers"][0]["name"]
    try:
        connection = stream(
            client.CoreV1Api(config.new_client_from_config_dict(_kubeconfig())).connect_get_namespaced_pod_exec,
            pod["metadata"]["name"], namespace, container=container, command=list(args[split + 1 :]), stdin=stdin is not None,
            stdout=True, stderr=True, tty=False, _preload_content=False,
        )  # fmt: skip
    except ApiException as error:
        raise Unavailable(f"exec in {target}: {error}") from None
    try:
        if stdin is not None:
            connection.write_stdin(stdin)
            connection.close_channel(STDIN_CHANNEL)
        connection.run_forever(timeout=seconds)
        if connection.is_open() or not connection.peek_channel(ERROR_CHANNEL):
            raise Unavailable(f"exec in {target}: the connection broke, or no end after {seconds} s")
        return connection.returncode, connection.read_stdout(), connection.read_stderr()
    finally:
        connection.close()


def _pod(namespace: str, target: str) -> dict[str, Any]:
    """A pod by its name, or a running pod of `KIND/NAME`."""
    kind, _, name = target.rpartition("/")
    if not kind:
        return ask("GET", f"{PATHS['pod'].format(namespace)}/{name}", {})
    kind = "daemonset" if kind == "daemonset" else "deployment"
    labels = ask("GET", f"{PATHS[kind].format(namespace)}/{name}", {})["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{label}={value}" for label, value in labels.items())
    pods = ask("GET", PATHS["pod"].format(namespace), {"labelSelector": selector, "fieldSelector": "status.phase=Running"})["items"]
    found = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if not found:
        raise Unavailable(f"no running pod of {target}")
    return found[0]


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
