"""A cell that fails for lack of network, and the way to a cell that works: real JupyterLab in pods, a browser, packets."""

from collections.abc import Iterator

import pytest
import requests
from playwright.sync_api import expect

from tests.support.cluster.front_door import PORT, URL, FrontDoor
from tests.support.cluster.hub import start_by_hub
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import JUPYTER, Stage
from tests.support.cluster.timeouts import ANSWER_SECONDS, POD_SECONDS
from tests.support.jupyter import Lab, notebook_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

HUB_PORT = PORT + 1
"""JupyterHub has its own host, as at mybinder.org's members: another origin than the verifier's."""

CELL = """
import socket, urllib.request
socket.getaddrinfo("kubernetes.default.svc.cluster.local.", 80)
print("the answer was", urllib.request.urlopen("{}", timeout=60).status)
""".strip()


class InPod:
    """The Jupyter server of a user's pod, through JupyterHub's proxy."""

    def __init__(self, stage: Stage, user: str) -> None:
        self.origin = f"http://localhost:{HUB_PORT}/user/{user}"
        self._stage, self._user = stage, user

    def answers(self) -> bool:
        """Whether Jupyter answers there, and not JupyterHub in its place."""
        return requests.get(f"{self.origin}/api", allow_redirects=False, timeout=ANSWER_SECONDS).status_code == 200

    def notebook(self, *cells: str) -> str:
        """Write a notebook with code cells. Returns its name."""
        self._stage.inside(self._user, "sh", "-c", "cat >cells.ipynb", stdin=notebook_of(*cells))
        return "cells.ipynb"


@pytest.fixture(scope="module")
def doors(stage: Stage) -> Iterator[None]:
    """Two hosts: one with BinderHub and the verifier, one with JupyterHub."""
    with stage.installed(f"--set=hubUrl=http://localhost:{HUB_PORT}"):
        stage.install_binderhub(JUPYTER)
        doors = [FrontDoor(stage, b"", port) for port in (PORT, HUB_PORT)]
        yield
        for door in doors:
            door.close()
    stage.install_binderhub()


@pytest.mark.parametrize("notebook", [False, True], ids=["JupyterLab", "Notebook"])
@pytest.mark.parametrize("version", ["newest", "oldest"])
def test_failed_cell_works_after_one_click_and_one_button(stage, doors, page, version, notebook):
    user = f"{version}-{'notebook' if notebook else 'lab'}"
    start_by_hub(stage, user, f"localhost/jupyterlab:{version}", binder_launch_host=URL)
    jupyter = InPod(stage, user)
    eventually(jupyter.answers, POD_SECONDS, "Jupyter does not answer")
    page.goto(f"{jupyter.origin}/tree?token=secret")
    assert_reaches(stage, user, egress=False)

    lab = Lab(page, jupyter, CELL.format(stage.targets()["public HTTP"]), notebook=notebook)
    lab.run()
    expect(lab.cells.locator(".jp-OutputArea")).to_contain_text("gaierror")
    small = lab.press("Give it internet access")
    small.locator("#unlock").click()
    expect(lab.notices("Run the cell again.")).to_be_visible()
    assert_reaches(stage, user, egress=True)

    lab.run()
    expect(lab.cells.locator(".jp-OutputArea")).to_contain_text("the answer was 200")
    assert lab.faults == []
