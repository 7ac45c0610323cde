"""Chromium as tests start it, and a tab that records everything that must not happen on a page."""

import os
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request

from tests.support import TOP

ARTIFACTS = TOP / "artifacts"

AXE = TOP / "frontend/node_modules/axe-core/axe.min.js"
"""axe-core, a checker of accessibility. ci/frontend installs it."""

INSECURE_HOST = "hub.example.org"
"""A host that the tests' browser resolves to loopback. Browsers consider plain http secure on localhost only."""

PREVIEW = "nbviewer.jupyter.org"
"""The host from which BinderHub's page gets a preview of the repository. The tests' browser does not find it."""

CHROMIUM = "/usr/bin/chromium"
HEADLESS_SHELL = "/usr/bin/chromium-headless-shell"
"""Chromium, and its engine alone. A new tab in the shell takes a fifth of the processor time. It has no back/forward cache
(D-378)."""

FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1, MAP {PREVIEW} ~NOTFOUND",
]
"""Chromium sends no requests of its own."""

MODEST = {"altcha": {"cost": 10_000, "counterMax": 10}}
"""The default algorithm with about a hundredth of the default work: long enough to be visible, and well below a second."""


def launch(playwright: Playwright, program: str = HEADLESS_SHELL, **options: Any) -> Browser:
    """Start Chromium, with options of Playwright's `launch`."""
    # Chromium's sandbox does not start for root, and CI often runs as root.
    sandbox = os.getuid() != 0
    return playwright.chromium.launch(executable_path=program, args=FLAGS, chromium_sandbox=sandbox, **options)


class Tab:
    """A page in the browser, which may request things from its own origin and from `also`, and a record of what must not happen."""

    def __init__(self, page: Page, address: str, also: str = "", goes: bool = True) -> None:
        self.page = page
        self.state = page.locator("#state")
        self.button = page.locator("#unlock")
        self.posts = 0
        self.requests_fail = False
        """Set by a test whose requests fail. The browser reports each failure as an error on the console."""
        self.origins = [urlsplit(origin)[:2] for origin in (address, also) if origin]
        """The origins that the page may send requests to, its own first."""
        self.strangers: list[str] = []
        """The addresses of `also` that the page requested."""
        self.faults: list[str] = []
        """Errors that must not happen, in order."""
        page.on("pageerror", lambda error: self.faults.append(f"thrown: {error}"))
        page.on("console", self._console)
        page.on("request", self._request)
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) =>"
            " console.error(`against the CSP: ${event.effectiveDirective} ${event.blockedURI}`))"
        )
        if goes:
            page.goto(address)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.requests_fail and "Failed to load resource" in message.text):
            self.faults.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        self.posts += request.method == "POST"
        if urlsplit(request.url)[:2] not in self.origins:
            self.faults.append(f"request: {request.url}")
        elif urlsplit(request.url)[:2] != self.origins[0]:
            self.strangers.append(request.url)

    def picture(self, name: str, axe: bool = True) -> None:
        """Save a screenshot for people, and assert that the page fits the screen's width and axe-core reports no violation."""
        self.page.screenshot(path=ARTIFACTS / f"unlock-{name}.png", full_page=True)
        assert self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        if not axe:
            return
        self.page.evaluate(AXE.read_text())
        # Without the content of a provider's frame.
        report = self.page.evaluate("axe.run({ exclude: ['iframe'] }, { iframes: false })")
        assert len(report["passes"]) > 5
        assert [f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html']}" for fault in report["violations"]] == []

    def check(self) -> None:
        """Assert that the page threw nothing, printed no error, and sent no request to another origin."""
        assert self.faults == []
