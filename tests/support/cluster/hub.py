"""JupyterHub's own API: servers that start and stop without BinderHub."""

import requests

from tests.support.cluster.patience import HUB_ANSWER_SECONDS, POD_SECONDS
from tests.support.cluster.stage import Stage
from tests.support.cluster.waiting import eventually, patiently

BINDER_TOKEN = "token-of-a-test-binder"
"""BinderHub's token for JupyterHub, from the values of the test's BinderHub."""


def ask_hub(stage: Stage, method: str, path: str, token: str = BINDER_TOKEN, **more: object) -> requests.Response:
    """Ask JupyterHub through its proxy, and again where no answer comes, or the proxy's, which does not find JupyterHub. Each
    question may be asked twice.

    Args:
        stage: where.
        method: of the request.
        path: below `/hub/api/`.
        token: who asks; without it nobody does.
        more: for `requests.request`.
    """
    address = f"{stage.url('proxy-public', 80)}/hub/api/{path}"
    headers = {"Authorization": f"token {token}"} if token else {}

    def ask() -> requests.Response:
        answer = requests.request(method, address, headers=headers, timeout=HUB_ANSWER_SECONDS, **more)
        if answer.status_code in (502, 503, 504):
            raise requests.ConnectionError(f"{answer.status_code} {answer.text}")
        return answer

    return patiently(ask)


def start_by_hub(stage: Stage, user: str, image: str, server: str = "", **options: str) -> str:
    """Start a server through JupyterHub's API, as BinderHub does, but without its hook: the name of its pod.

    It is ready for JupyterHub, too: where a pod goes that is waited for, KubeSpawner starts its reflector anew four minutes later,
    and may find no pod of the tests that run then.

    Args:
        stage: where.
        user: whose server.
        image: of the pod.
        server: the name of a named server.
        options: more options of the launch, as `binder_launch_host`.
    """
    assert ask_hub(stage, "POST", f"users/{user}").status_code in (201, 409)  # 409: there is such a user
    options = {"image": image, "token": "secret", "repo_url": "https://example.com/a/b", **options}
    answer = ask_hub(stage, "POST", f"users/{user}/servers/{server}", json=options)
    # 400: it starts or runs already, because the question was asked twice.
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
        # Until a server is ready JupyterHub cannot stop it.
        ask_hub(stage, "DELETE", f"users/{user}/server")
        return False

    eventually(stopped, POD_SECONDS, f"the server of {user} does not stop")
