"""Fixtures: third-party pages in Chromium, on another origin, with the real clients; BinderHub is a double (`launch_page`)."""

from functools import partial

import pytest

from tests.support.apps import PATIENT_UNLOCK_SECONDS
from tests.support.third_party import Tab
from tests.support.third_party_site import ThirdPartySite


@pytest.fixture(scope="session")
def site():
    made = ThirdPartySite()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _clean(site):
    site.pages.clear()
    site.headers.clear()


@pytest.fixture
def start_listed(start, site):
    """A function that starts a BinderHub in front of a verifier that lists the third-party site's origin."""
    return partial(start, allowed_origins=[site.origin], unlock_wait_seconds=PATIENT_UNLOCK_SECONDS)


@pytest.fixture
def hub(start_listed):
    return start_listed()


@pytest.fixture
def tab(browser):
    """A function that opens an address in a new context. The test fails if a page throws."""
    tabs = []

    def tab(address, init=None, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        opened = Tab(context.new_page())
        tabs.append(opened)
        if init:
            opened.page.add_init_script(init)
        opened.page.goto(address)
        return opened

    yield tab
    for one in tabs:
        one.page.context.close()
        assert one.thrown == []
