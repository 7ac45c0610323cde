"""Fixtures: a real JupyterLab with the extension, beside a verifier."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.apps import Verifiers
from tests.support.browser import ARTIFACTS, MODEST
from tests.support.jupyter import Jupyter, Lab


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """The newest Jupyter. `page_address` tells it the address of a server's page."""
    made = Jupyter(tmp_path_factory.mktemp("jupyter"), "http://127.0.0.1:9/egress/servers/alice/")
    yield made
    made.stop()


@pytest.fixture
def page_address(verifiers: Verifiers, jupyter: Jupyter) -> str:
    """The address of the page of alice's server, which the extension knows."""
    tiers = {"verified": {"internet": True, "lease": 1200}}
    branding = {"contact": "help@example.org"}
    process = verifiers.start(captcha_providers=MODEST, hub_url=jupyter.origin, tiers=tiers, branding=branding)
    address = f"{process.public}/egress/servers/alice/"
    jupyter.move(address)
    return address


@pytest.fixture
def open_lab(browser: Browser, jupyter: Jupyter) -> Iterator[Callable[..., Lab]]:
    """A function that opens a notebook with cells, with handlers for addresses (Playwright's `route`), and with options for the
    browser context. Each tab is checked at the end."""
    ARTIFACTS.mkdir(exist_ok=True)
    labs = []

    def open_lab(
        *cells: str, notebook: bool = False, routes: tuple[tuple[str, Callable[..., None]], ...] = (), **options: object
    ) -> Lab:
        context = browser.new_context(**{"locale": "en", "viewport": {"width": 1100, "height": 700}, **options})
        context.set_default_timeout(60_000)
        for address, handler in routes:
            context.route(address, handler)
        labs.append(Lab(context.new_page(), jupyter, *cells, notebook=notebook))
        return labs[-1]

    yield open_lab
    for lab in labs:
        lab.page.context.close()
        assert lab.faults == []
