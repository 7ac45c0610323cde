"""Chromium: how tests start it, and a tab that notes what must not happen on a page."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request

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


def launch(playwright: Playwright, **options: Any) -> Browser:
    """Start Chromium, with more options of Playwright's."""
    # Chromium's own sandbox does not start for root, as whom CI often runs.
    sandbox = os.getuid() != 0
    return playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS, chromium_sandbox=sandbox, **options)


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

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.requests_fail and "Failed to load resource" in message.text):
            self._faults.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
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
