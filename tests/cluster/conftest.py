"""One installation for all cluster tests. Run them through ci/test, which brings the cluster up and loads the images."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.browser import HEADLESS_SHELL, launch
from tests.support.cluster import networks
from tests.support.cluster.evidence import Evidence
from tests.support.cluster.networks import Network
from tests.support.cluster.quiet_network import quiet_network
from tests.support.cluster.stage import SINGLEUSER, Stage
from tests.support.cluster.timeouts import PAGE_SECONDS

SECONDS = json.loads((Path(__file__).parent / "seconds.json").read_text())
"""How long each file took, as recorded by `ci/test_summary.py --record`. The longest file is started first."""


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "any_network: a cluster test whose result does not depend on the network plugin; the part `calico` leaves it out",
        "long: a cluster test for `ci/test --long`, and for runs that name its file (D-494)",
    ):
        config.addinivalue_line("markers", marker)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--context", default=None, help="the kubeconfig's context; by default the current one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is long, and put the longest files first, with the files of unknown time. The order within a file stays."""
    named = {Path(argument.partition("::")[0]).name for argument in config.args}
    left_out = [item for item in items if item.get_closest_marker("long") and item.path.name not in named]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: (-SECONDS.get(item.path.stem, 10_000), item.path.name))


@pytest.fixture(scope="session")
def evidence(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    """The evidence of failed tests, in test-results/failures/."""
    results = os.environ.get("CLUSTER_RESULTS")
    with Evidence(Path(results) / "failures" if results else None, request.config.getoption("--context")) as evidence:
        request.config.stash[EVIDENCE] = evidence
        yield evidence


EVIDENCE = pytest.StashKey[Evidence]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    evidence = item.config.stash.get(EVIDENCE, None)
    if evidence and outcome.get_result().failed and call.excinfo:
        evidence.save(item.nodeid, call.excinfo.value, outcome.get_result().longreprtext)


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest, evidence: Evidence) -> Iterator[Stage]:
    """Everything installed as by an operator: this chart, and a BinderHub wired with the values that it generates."""
    stage = Stage(request.config.getoption("--context"), "binder-egress-test", patient=True)
    stage.begin()
    yield stage
    if stage.context:  # the local cluster is removed as a whole, or kept as it is
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
    yield stage.apply
    stage.kubectl("delete", "networkpolicy", SINGLEUSER["metadata"]["name"], "--ignore-not-found")


@pytest.fixture(scope="module")
def browser(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if not stage.context:
            network = stack.enter_context(quiet_network())
            script = network.program(tmp_path_factory.mktemp("browser"), HEADLESS_SHELL)
            options = {"program": script, "proxy": network.proxy}
        browser = launch(stack.enter_context(sync_playwright()), **options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a browser profile of its own, in English."""
    context = browser.new_context(locale="en")
    context.set_default_timeout(PAGE_SECONDS * 1000)
    expect.set_options(timeout=PAGE_SECONDS * 1000)
    yield context.new_page()
    context.close()
    expect.set_options(timeout=5_000)


@pytest.fixture(scope="session")
def local_cluster() -> str:
    """For tests that act on the node: they need the cluster of ci/cluster."""
    if not os.environ.get("CLUSTER_TARGETS"):
        pytest.skip("needs the local cluster of ci/cluster, not --context")
    return os.environ["CLUSTER_NAME"]


@pytest.fixture(scope="session")
def network(local_cluster: str) -> Network:
    """What the local cluster's network plugin leaves open."""
    return networks.running()
