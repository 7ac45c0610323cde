"""Fixtures: a verifier that runs, with a real Redis, and Chromium."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from tests.support.apps import RedisServer, VerifierProcess, make_settings, run_pod
from tests.support.browser import ARTIFACTS, MODEST, Tab, launch
from tests.support.launch_page import BinderHub
from verifier.store.connection import connect
from verifier.store.store import Store

# Calculating takes seconds on a busy machine, and an unlock may take 2 s on an idle one.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(_redis_server: RedisServer) -> RedisServer:
    """A running, empty Redis."""
    _redis_server.start()
    _redis_server.wipe()
    return _redis_server


@pytest.fixture
def store(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """What the reconciler writes to."""
    # Longer than in earnest: a machine that is busy with a browser is no fault of it.
    monkeypatch.setattr("verifier.store.connection.TIMEOUT_SECONDS", 10)
    client = connect(make_settings(redis_server))
    yield Store(client)
    client.close()


@pytest.fixture(scope="session")
def _verifier(_redis_server: RedisServer) -> Iterator[VerifierProcess]:
    process = VerifierProcess(_redis_server, captcha_providers=MODEST)
    yield process
    process.stop()


@pytest.fixture
def verifier(_verifier: VerifierProcess, redis_server: RedisServer) -> str:
    """The public address of a verifier that is ready."""
    _verifier.await_ready()
    return _verifier.public


@pytest.fixture
def start(redis_server: RedisServer) -> Iterator[Callable[..., BinderHub]]:
    """A function that starts a BinderHub in front of a verifier, and a verifier with settings if it gets none."""
    started: list[VerifierProcess | BinderHub] = []
    client = connect(make_settings(redis_server))

    def start(process: VerifierProcess | None = None, script: bytes = b"", base: str = "/", **settings: object) -> BinderHub:
        if process is None:
            process = VerifierProcess(redis_server, **{"captcha_providers": MODEST, **settings})
            started.append(process)
        process.await_ready()
        hub = BinderHub((process.public, process.internal), script, base)
        hub.process = process
        # The reconciler has seen the pod when the server is ready.
        hub.launched = lambda user: run_pod(Store(client), user)
        started.append(hub)
        return hub

    yield start
    for one in reversed(started):
        one.stop()
    client.close()


@pytest.fixture(scope="session")
def _playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def browser(_playwright: Playwright) -> Iterator[Browser]:
    browser = launch(_playwright)
    yield browser
    browser.close()


@pytest.fixture
def kept_browser(_playwright: Playwright) -> Iterator[Browser]:
    """A browser that keeps pages for those who go back, as browsers of people do and Playwright's do not."""
    browser = launch(_playwright, ignore_default_args=["--disable-back-forward-cache"])
    yield browser
    browser.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """A function that opens an address, with options of a browser context. At the end of the test each tab is checked."""
    ARTIFACTS.mkdir(exist_ok=True)
    tabs = []

    def open_tab(address: str, also: str = "", **options: object) -> Tab:
        context = browser.new_context(**{"viewport": {"width": 800, "height": 400}, **options})
        context.set_default_timeout(30_000)
        tabs.append(Tab(context.new_page(), address, also))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.page.context.close()
        tab.check()
