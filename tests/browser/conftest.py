"""Fixtures: a running verifier, a real Redis, and Chromium."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from binder_egress.store.connection import connect
from tests.support.apps import RedisServer, VerifierProcess, Verifiers, make_settings, run_pod
from tests.support.browser import ARTIFACTS, CHROMIUM, MODEST, Tab, launch
from tests.support.doubles import Double, running
from tests.support.launch_page import BinderHub
from tests.support.store import Store

# A calculation takes seconds on a busy machine, and an unlock may take 2 s even on an idle one.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="session")
def _verifiers(_redis_server: RedisServer) -> Iterator[Verifiers]:
    verifiers = Verifiers(_redis_server)
    yield verifiers
    verifiers.stop()


@pytest.fixture
def verifiers(_verifiers: Verifiers, redis_server: RedisServer) -> Verifiers:
    """Verifiers at an empty Redis."""
    return _verifiers


@pytest.fixture
def verifier(verifiers: Verifiers) -> VerifierProcess:
    """A verifier with default settings."""
    return verifiers.start(captcha_providers=MODEST)


@pytest.fixture
def make_hub() -> Callable[..., BinderHub]:
    """A function that makes a BinderHub, with the addresses of a verifier."""
    return BinderHub


@pytest.fixture
def start(verifiers: Verifiers, store: Store, make_hub: Callable[..., BinderHub]) -> Iterator[Callable[..., BinderHub]]:
    """A function that starts a BinderHub in front of a verifier with the given settings."""
    with ExitStack() as ends:

        def start(base: str = "/", **settings: object) -> BinderHub:
            process = verifiers.start(**{"captcha_providers": MODEST, **settings})
            hub = make_hub((process.public, process.internal), base=base)
            ends.callback(hub.stop)
            # When the server is ready, the reconciler has published its pod.
            hub.launched = lambda user: run_pod(store, user)
            return hub

        yield start


@pytest.fixture(scope="session")
def _elsewhere() -> Iterator[tuple[RedisServer, Verifiers]]:
    server = RedisServer()
    server.start()
    verifiers = Verifiers(server)
    yield server, verifiers
    verifiers.stop()
    server.stop()


@pytest.fixture
def make_member(
    _elsewhere: tuple[RedisServer, Verifiers], patient: None, make_hub: Callable[..., BinderHub]
) -> Iterator[Callable[..., tuple[BinderHub, Store]]]:
    """A function that starts another member of a federation: BinderHub and verifier, with a Redis of their own."""
    server, verifiers = _elsewhere
    server.wipe()
    with ExitStack() as ends:

        def make_member(**settings: object) -> tuple[BinderHub, Store]:
            process = verifiers.start(captcha_providers=MODEST, **settings)
            store = Store(ends.enter_context(closing(connect(make_settings(server)))))
            member = make_hub((process.public, process.internal))
            ends.callback(member.stop)
            member.launched = lambda user: run_pod(store, user)
            return member, store

        yield make_member


@pytest.fixture(scope="session")
def _double() -> Iterator[Double]:
    with running() as double:
        yield double


@pytest.fixture
def double(_double: Double) -> Double:
    """A double of the remote captcha providers, which accepts what is right, and has been asked nothing."""
    _double.behaviour.update(dict.fromkeys(_double.behaviour, "right"))
    _double.calls.clear()
    return _double


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
