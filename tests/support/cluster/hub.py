"""JupyterHub's own API: servers that start and stop without BinderHub."""

import requests

from tests.support.cluster.stage import Stage
from tests.support.cluster.timeouts import HUB_ANSWER_SECONDS, HUB_SECONDS, POD_SECONDS
from tests.support.waiting import eventually, patiently

BINDER_TOKEN = "token-of-a-test-binder"
"""BinderHub's token for JupyterHub, from the values of the test's BinderHub."""


def ask_hub(stage: Stage, method: str, path: str, token: str = BINDER_TOKEN, **more: object) -> requests.Response:
    """Send a request to JupyterHub's API, at a path below `/hub/api/`, and again if no answer of JupyterHub comes."""
    address = f"{stage.url('proxy-public', 80)}/hub/api/{path}"
    headers = {"Authorization": f"token {token}"} if token else {}

    def ask() -> requests.Response:
        answer = requests.request(method, address, headers=headers, timeout=HUB_ANSWER_SECONDS, **more)
        if answer.status_code in (502, 503, 504):
            raise requests.ConnectionError(f"{answer.status_code} {answer.text}")
        return answer

    return patiently(ask, HUB_SECONDS)


def start_by_hub(stage: Stage, user: str, image: str, server: str = "", **options: str) -> str:
    """Start a server through JupyterHub's API, without BinderHub's hook, until it is ready. Returns the name of its pod.

    If a pod goes while JupyterHub waits for it, KubeSpawner restarts its reflector, and may not find the pods of other tests.
    """
    assert ask_hub(stage, "POST", f"users/{user}").status_code in (201, 409)  # 409: the user exists
    options = {"image": image, "token": "secret", "repo_url": "https://example.com/a/b", **options}
    answer = ask_hub(stage, "POST", f"users/{user}/servers/{server}", json=options)
    # 400: the server is starting or running, because the request was sent twice.
    assert answer.ok or (answer.status_code == 400 and ("pending" in answer.text or "running" in answer.text)), answer.text
    running: list[str] = []

    def runs() -> bool:
        for pod in stage.pods(user):
            if (
                pod["metadata"]["annotations"].get("hub.jupyter.org/servername", "") == server
                and pod["status"]["phase"] == "Running"
            ):
                running.append(pod["metadata"]["name"])
        return bool(running)

    eventually(runs, POD_SECONDS, f"the pod of {user} does not run")

    def is_ready() -> bool:
        servers = ask_hub(stage, "GET", f"users/{user}").json()["servers"]
        return bool(servers.get(server, {}).get("ready"))

    eventually(is_ready, POD_SECONDS, f"the server of {user} is not ready")
    return running[0]


def stop_by_hub(stage: Stage, user: str) -> None:
    """Stop a user's server, and wait until JupyterHub and Kubernetes have forgotten it."""

    def stopped() -> bool:
        if not ask_hub(stage, "GET", f"users/{user}").json()["servers"] and not stage.pods(user):
            return True
        # JupyterHub cannot stop a server before it is ready.
        ask_hub(stage, "DELETE", f"users/{user}/server")
        return False

    eventually(stopped, POD_SECONDS, f"the server of {user} does not stop")
