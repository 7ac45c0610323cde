"""The hint inside servers, in real pods: terminals show the page's address, and nothing in an image breaks."""

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
import requests
from tornado.websocket import websocket_connect

from tests.support.cluster.stage import QUICK, Launched, Stage
from tests.support.cluster.timeouts import HUB_ANSWER_SECONDS, POD_SECONDS

SAID = "This server may have no internet access, or only packages."

WITHOUT_BASH = "docker.io/library/redis:7.2-bookworm"
"""An image with a plain sh, and neither a profile nor a folder for one."""


PLACES = {
    "binder-egress-terminal": "/etc/profile.d/zz-binder-egress.sh",
    "binder-egress-ipython": "/etc/ipython/startup/zz-binder-egress.py",
}
"""Where the files are mounted."""


@pytest.fixture(scope="module")
def hinted(stage: Stage) -> Iterator[Stage]:
    """BinderHub with the values of a chart that has the hint."""
    stage.install_gate(*QUICK, "--set=hint=true")
    stage.install_binderhub()
    yield stage
    stage.install_gate(*QUICK)
    stage.install_binderhub()


def in_terminal(stage: Stage, launched: Launched) -> str:
    """The output of a terminal that JupyterLab opens, through the hub's proxy, until a typed command has run."""
    server, token = f"{stage.url('proxy-public', 80)}/user/{launched.user}", launched.ready["token"]
    made = requests.post(f"{server}/api/terminals", headers={"Authorization": f"token {token}"}, timeout=HUB_ANSWER_SECONDS)
    made.raise_for_status()
    address = f"{server.replace('http', 'ws', 1)}/terminals/websocket/{made.json()['name']}?token={token}"

    async def read() -> str:
        shown, connection = "", await websocket_connect(address)
        await connection.write_message(json.dumps(["stdin", "echo it is $((40 + 2))\r"]))
        while "it is 42" not in shown:
            kind, *more = json.loads(await connection.read_message() or '["closed"]')
            assert kind != "closed", shown
            shown += more[0] if kind == "stdout" else ""
        return shown

    async def patient() -> str:
        return await asyncio.wait_for(read(), POD_SECONDS)

    return asyncio.run(patient())


def in_pod(stage: Stage, pod: str, shell: str) -> str:
    """The output of a shell in a user pod on its own terminal. `shell` is the command that starts it."""
    spawn = f"import pty; pty.spawn(['sh', '-c', {shell!r}])"
    return stage.kubectl("exec", "-i", pod, "-c", "notebook", "--", "python3", "-c", spawn, stdin="exit\n")


def test_terminals_say_where_the_page_is(hinted):
    launched = hinted.launch()
    pod = hinted.pod_name(launched.user)
    link = f"/egress/servers/{launched.user}/#unlock"
    shown = in_terminal(hinted, launched)
    assert (shown.count(SAID), shown.count(link)) == (1, 1), shown
    # Other terminals start a login shell: bash, or sh if there is no bash. People's own profiles are read, too.
    own = "mkdir -p /tmp/own && echo echo their own profile >/tmp/own/.profile && HOME=/tmp/own exec"
    for shell in ("bash -l -i", "sh -l -i"):
        shown = in_pod(hinted, pod, f"{own} {shell}")
        assert (shown.count(SAID), shown.count(link), "their own profile" in shown) == (1, 1, True), shown
    # Scripts do not see the hint, in login shells or others.
    for command in (["bash", "-l", "-c", "echo fine"], ["sh", "-c", "echo fine"]):
        assert hinted.kubectl("exec", pod, "-c", "notebook", "--", *command).split("\n") == ["fine", ""]


def test_image_without_bash_and_profiles_starts(hinted):
    assert set(hinted.get("secret", "singleuser")["data"]) == set(PLACES)
    mounted = [{"name": "files", "mountPath": place, "subPath": key} for key, place in PLACES.items()]
    container = {"name": "plain", "image": WITHOUT_BASH, "command": ["sh", "-l", "-c", "sleep 300"], "volumeMounts": mounted}
    spec = {"containers": [container], "volumes": [{"name": "files", "secret": {"secretName": "singleuser"}}]}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "plain"},
        "spec": spec | {"terminationGracePeriodSeconds": 0},
    }
    hinted.apply(manifest)
    try:
        hinted.kubectl("wait", "--for=condition=Ready", "pod/plain", f"--timeout={POD_SECONDS}s")
        time.sleep(1)
        assert hinted.get("pod", "plain")["status"]["containerStatuses"][0]["restartCount"] == 0
        assert "binder-egress" in hinted.kubectl("exec", "plain", "--", "cat", "/etc/profile.d/zz-binder-egress.sh")
    finally:
        hinted.kubectl("delete", "pod", "plain", "--grace-period=0", "--force")
