"""Fixtures: a running verifier, a real Redis, and Chromium."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from tests.support.apps import RedisServer, VerifierProcess, make_settings, run_pod
from tests.support.browser import ARTIFACTS, CHROMIUM, MODEST, Tab, launch
from tests.support.doubles import Double, running
from tests.support.launch_page import BinderHub
from tests.support.store import Store
from verifier.store.connection import connect

# A calculation takes seconds on a busy machine, and an unlock may take 2 s even on an idle one.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="session")
def _verifier(_redis_server: RedisServer) -> Iterator[VerifierProcess]:
    process = VerifierProcess(_redis_server, captcha_providers=MODEST)
    yield process
    process.stop()


@pytest.fixture
def verifier(_verifier: VerifierProcess, redis_server: RedisServer) -> str:
    """The public address of a ready verifier."""
    _verifier.await_ready()
    return _verifier.public


@pytest.fixture
def make_hub() -> Callable[..., BinderHub]:
    """A function that makes a BinderHub, with the addresses of a verifier."""
    return BinderHub


@pytest.fixture
def start(redis_server: RedisServer, patient: None, make_hub: Callable[..., BinderHub]) -> Iterator[Callable[..., BinderHub]]:
    """A function that starts a BinderHub in front of a verifier. Without a verifier it starts one with the given settings."""
    started: list[VerifierProcess | BinderHub] = []
    client = connect(make_settings(redis_server))

    def start(process: VerifierProcess | None = None, base: str = "/", **settings: object) -> BinderHub:
        if process is None:
            process = VerifierProcess(redis_server, **{"captcha_providers": MODEST, **settings})
            started.append(process)
        process.await_ready()
        hub = make_hub((process.public, process.internal), base=base)
        hub.process = process
        # When the server is ready, the reconciler has published its pod.
        hub.launched = lambda user: run_pod(Store(client), user)
        started.append(hub)
        return hub

    yield start
    for one in reversed(started):
        one.stop()
    client.close()


@pytest.fixture
def make_member(patient: None, make_hub: Callable[..., BinderHub]) -> Iterator[Callable[..., tuple[BinderHub, Store]]]:
    """A function that starts another member of a federation: BinderHub and verifier, with a Redis of their own."""
    with ExitStack() as ends:

        def make_member(**settings: object) -> tuple[BinderHub, Store]:
            server = RedisServer()
            server.start()
            ends.callback(server.stop)
            process = VerifierProcess(server, captcha_providers=MODEST, **settings)
            ends.callback(process.stop)
            client = ends.enter_context(closing(connect(make_settings(server))))
            member, store = make_hub((process.public, process.internal)), Store(client)
            ends.callback(member.stop)
            member.launched = lambda user: run_pod(store, user)
            return member, store

        yield make_member


@pytest.fixture
def double() -> Iterator[Double]:
    """A double of the remote captcha providers."""
    with running() as double:
        yield double


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
    """A browser with the back/forward cache, as people use it. Playwright turns the cache off by default."""
    browser = launch(_playwright, CHROMIUM, ignore_default_args=["--disable-back-forward-cache"])
    yield browser
    browser.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """A function that opens an address, or a tab that `goes` there later, and checks the tab at the end of the test."""
    ARTIFACTS.mkdir(exist_ok=True)
    tabs = []

    def open_tab(address: str, also: str = "", goes: bool = True, **options: object) -> Tab:
        context = browser.new_context(**{"viewport": {"width": 800, "height": 400}, **options})
        context.set_default_timeout(60_000)
        tabs.append(Tab(context.new_page(), address, also, goes))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.page.context.close()
        tab.check()
