"""The hint inside servers, in real pods: terminals show the page's address, and nothing in an image breaks."""

import time
from collections.abc import Iterator

import pytest

from tests.support.cluster.stage import Stage
from tests.support.cluster.timeouts import POD_SECONDS

pytestmark = pytest.mark.long

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
    with stage.installed("--set=hint=true"):
        stage.install_binderhub()
        yield stage
    stage.install_binderhub()


def in_terminal(stage: Stage, user: str, shell: str) -> str:
    """The output of a shell in a user pod on its own terminal. `shell` is the command that starts it."""
    return stage.inside(user, "python3", "-c", f"import pty; pty.spawn(['sh', '-c', {shell!r}])", stdin="exit\n")


def test_terminals_say_where_the_page_is(hinted):
    """They start a login shell: bash, or sh if there is no bash. People's own profiles are read, too."""
    user = hinted.launch().user
    link = f"/egress/servers/{user}/#unlock"
    own = "mkdir -p /tmp/own && echo echo their own profile >/tmp/own/.profile && HOME=/tmp/own exec"
    for shell in ("bash -l -i", "sh -l -i"):
        shown = in_terminal(hinted, user, f"{own} {shell}")
        assert (shown.count(SAID), shown.count(link), "their own profile" in shown) == (1, 1, True), shown
    # Scripts do not see the hint, in login shells or others.
    for command in (["bash", "-l", "-c", "echo fine"], ["sh", "-c", "echo fine"]):
        assert hinted.inside(user, *command).split("\n") == ["fine", ""]


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
