"""Fixtures: BinderHub with the chart's snippet, the double and the real one if it is installed, and tabs on its page."""

from functools import partial

import pytest

from tests.support.apps import PATIENT_UNLOCK_SECONDS
from tests.support.browser import ARTIFACTS
from tests.support.launch_page import BinderHub, bundle
from tests.support.launch_page.real import REASON, Process, RealBinderHub, is_installed
from tests.support.launch_tab import SIZES, Tab


@pytest.fixture(scope="session")
def script():
    """The script of BinderHub's page."""
    return bundle()


@pytest.fixture(scope="session")
def binderhub():
    """The process in which real BinderHubs run."""
    process = Process()
    yield process
    process.stop()


REAL = pytest.param("binderhub", marks=pytest.mark.skipif(not is_installed(), reason=REASON))


@pytest.fixture(params=["double", REAL])
def make_hub(request, script):
    """A function that makes a BinderHub, with the addresses of a verifier."""
    if request.param == "double":
        return partial(BinderHub, script=script)
    return partial(RealBinderHub, process=request.getfixturevalue("binderhub"))


@pytest.fixture
def hub(start):
    """A BinderHub in front of a verifier with default settings."""
    return start(unlock_wait_seconds=PATIENT_UNLOCK_SECONDS)


@pytest.fixture
def tab(browser):
    """A function that makes a tab, with options for the browser context. Each tab is checked at the end of the test."""
    ARTIFACTS.mkdir(exist_ok=True)
    tabs = []

    def tab(context=None, **options):
        context = context or browser.new_context(**{"viewport": SIZES[""], **options})
        context.set_default_timeout(60_000)
        tabs.append(Tab(context.new_page()))
        return tabs[-1]

    yield tab
    for one in tabs:
        one.page.context.close()
        one.check()
