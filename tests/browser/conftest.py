"""Fixtures: a verifier that runs, with a real Redis, and Chromium."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from apps import RedisServer, VerifierProcess, make_settings, run_pod
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.browser.launch_page import BinderHub
from verifier.store.connection import connect
from verifier.store.store import Store

ARTIFACTS = Path(__file__).parents[2] / "artifacts"

AXE = Path(__file__).parents[2] / "frontend/node_modules/axe-core/axe.min.js"
"""ci/frontend installs it."""

INSECURE_HOST = "hub.example.org"
"""Leads to loopback in the tests' browser. To a browser plain http is secure enough on localhost, and nowhere else."""

FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1",
]
"""Chromium shall ask nobody but the verifier for anything."""

MODEST = {"altcha": {"cost": 100, "counterMin": 100, "counterMax": 200}}
"""The default algorithm, at about a hundredth of the default's work: it may be seen, and takes well below a second."""


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


def _launch(playwright: Playwright, **options: Any) -> Browser:
    # Chromium's own sandbox does not start for root, as whom CI often runs.
    sandbox = os.getuid() != 0
    return playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS, chromium_sandbox=sandbox, **options)


@pytest.fixture(scope="session")
def browser(_playwright: Playwright) -> Iterator[Browser]:
    browser = _launch(_playwright)
    yield browser
    browser.close()


@pytest.fixture
def kept_browser(_playwright: Playwright) -> Iterator[Browser]:
    """A browser that keeps pages for those who go back, as browsers of people do and Playwright's do not."""
    browser = _launch(_playwright, ignore_default_args=["--disable-back-forward-cache"])
    yield browser
    browser.close()


class Tab:
    """A page in the browser, and all that must not happen on it.

    Args:
        page: not yet opened.
        address: where it will go first.
        also: another origin that it may ask for something.
    """

    def __init__(self, page: Page, address: str, also: str = "") -> None:
        self.page = page
        self.state = page.locator("#state")
        self.button = page.locator("#unlock")
        self.posts = 0
        self.requests_fail = False
        """Set by a test in which they do: the browser itself reports each as an error on the console."""
        self._origins = [urlsplit(origin)[:2] for origin in (address, also) if origin]
        self.strangers: list[str] = []
        """The addresses of `also` that it asked for."""
        self._faults: list[str] = []
        page.on("pageerror", lambda error: self._faults.append(f"thrown: {error}"))
        page.on("console", self._console)
        page.on("request", self._request)
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) =>"
            " console.error(`against the policy: ${event.effectiveDirective} ${event.blockedURI}`))"
        )
        page.goto(address)

    def _console(self, message) -> None:
        if message.type in ("error", "warning") and not (self.requests_fail and "Failed to load resource" in message.text):
            self._faults.append(f"console: {message.text}")

    def _request(self, request) -> None:
        self.posts += request.method == "POST"
        if urlsplit(request.url)[:2] not in self._origins:
            self._faults.append(f"request: {request.url}")
        elif urlsplit(request.url)[:2] != self._origins[0]:
            self.strangers.append(request.url)

    def picture(self, name: str, axe: bool = True) -> None:
        """Leave a screenshot, for people to look at, and see that nothing is wider than the screen, and what axe-core finds."""
        self.page.screenshot(path=ARTIFACTS / f"unlock-{name}.png", full_page=True)
        assert self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        if not axe:
            return
        self.page.evaluate(AXE.read_text())
        # Not what is inside of a provider's frame.
        found = self.page.evaluate("axe.run({ exclude: ['iframe'] }, { iframes: false })")
        assert len(found["passes"]) > 5
        assert [f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html']}" for fault in found["violations"]] == []

    def check(self) -> None:
        assert self._faults == []


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
