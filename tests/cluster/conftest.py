"""One installation for all cluster tests. Run them through ci/test, which brings the cluster up and loads the images."""

import json
import os
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import FLAGS
from tests.support.cluster.stage import QUICK, SINGLEUSER, Stage


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--context", default=None, help="the kubeconfig's context; by default the current one")


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Everything installed as an operator would: this chart, and a BinderHub wired by the values that it generates."""
    stage = Stage(request.config.getoption("--context"), "binder-egress-test")
    stage.install_gate(*QUICK)
    stage.install_binderhub()
    yield stage
    if stage.context:  # the local cluster goes as a whole
        stage.remove()
    stage.close()


@pytest.fixture(autouse=True)
def _no_user_pods_left(stage: Stage) -> Iterator[None]:
    """Each test begins without user pods: they cost memory, and tests count them."""
    yield
    stage.delete_user_pods()


@pytest.fixture
def bypass(stage: Stage) -> Iterator[Callable[[dict], str]]:
    """A function that makes a NetworkPolicy of JupyterHub's name; it is gone at the end."""
    yield lambda policy: stage.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
    stage.kubectl("delete", "networkpolicy", SINGLEUSER["metadata"]["name"], "--ignore-not-found")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS, chromium_sandbox=os.getuid() != 0)
        yield browser
        browser.close()


@pytest.fixture
def local_cluster() -> str:
    """For tests that reach into the node: they need the cluster of ci/cluster."""
    if not os.environ.get("CLUSTER_TARGETS"):
        pytest.skip("needs the local cluster of ci/cluster, not --context")
    return os.environ["CLUSTER_NAME"]
