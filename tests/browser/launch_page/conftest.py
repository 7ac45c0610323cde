"""Fixtures: a double of BinderHub with the chart's snippet, and tabs on its page.

The verifier and its Redis are real. A test also fails if the page throws, if the console shows an error, or if the page sends a
request to a host that the test did not name.
"""

from functools import partial

import pytest

from tests.support.browser import ARTIFACTS
from tests.support.doubles import running
from tests.support.launch_page import bundle
from tests.support.launch_tab import SIZES, Tab


@pytest.fixture(scope="session")
def script():
    """The script of BinderHub's page."""
    return bundle()


@pytest.fixture
def start(start, script):
    """The outer `start`, with the script of BinderHub's page."""
    return partial(start, script=script)


@pytest.fixture
def hub(start, verifier, _verifier):
    """A BinderHub in front of the verifier with default settings."""
    return start(_verifier)


@pytest.fixture
def tab(browser):
    """A function that makes a tab, with options for the browser context. Each tab is checked at the end of the test."""
    ARTIFACTS.mkdir(exist_ok=True)
    tabs = []

    def tab(context=None, **options):
        context = context or browser.new_context(**{"viewport": SIZES[""], **options})
        context.set_default_timeout(20_000)
        tabs.append(Tab(context.new_page()))
        return tabs[-1]

    yield tab
    for one in tabs:
        one.page.context.close()
        one.check()


@pytest.fixture
def double():
    """A double of the remote captcha providers."""
    with running() as double:
        yield double
