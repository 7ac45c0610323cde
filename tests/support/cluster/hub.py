"""JupyterHub's own API: servers that start and stop without BinderHub."""

import time

import requests

from tests.support.cluster.stage import Stage


def ask_hub(stage: Stage, method: str, path: str, **body: str) -> requests.Response:
    """JupyterHub's API, as BinderHub may use it."""
    headers = {"Authorization": "token token-of-a-test-binder"}
    return requests.request(
        method, f"{stage.url('hub', 8081)}/hub/api/users/{path}", json=body or None, headers=headers, timeout=60
    )


def start_by_hub(stage: Stage, user: str, image: str) -> None:
    """Start a server through JupyterHub's API, as BinderHub does, but without its hook."""
    assert ask_hub(stage, "POST", user).status_code in (201, 409)  # 409: there is such a user
    ask_hub(stage, "POST", f"{user}/servers/", image=image, token="secret", repo_url="https://example.com/a/b").raise_for_status()
    await_running(stage, user)


def await_running(stage: Stage, user: str, server: str = "") -> str:
    """Wait until the pod of a user's server runs: its name."""
    deadline = time.monotonic() + 60
    while True:
        for pod in stage.pods(user):
            name = pod["metadata"]["annotations"].get("hub.jupyter.org/servername", "")
            if name == server and pod["status"]["phase"] == "Running":
                return pod["metadata"]["name"]
        assert time.monotonic() < deadline, f"the pod of {user} does not run"
        time.sleep(0.2)


def stop_by_hub(stage: Stage, user: str) -> None:
    """Stop a user's server, and wait until the hub and Kubernetes have forgotten it."""
    # Until it is ready the hub cannot stop it.
    deadline = time.monotonic() + 60
    while ask_hub(stage, "GET", user).json()["servers"] or stage.pods(user):
        ask_hub(stage, "DELETE", f"{user}/server")
        assert time.monotonic() < deadline, f"the server of {user} does not stop"
        time.sleep(0.5)
