"""A launch page in the browser, what its panel says, and how a test launches from it."""

import json
import re
import time
from urllib.parse import urlsplit

from playwright.sync_api import expect

from tests.support.browser import INSECURE_HOST
from tests.support.launch_page import TOP

MESSAGES = {path.stem: json.loads(path.read_text()) for path in sorted((TOP / "verifier/web/messages/launch").glob("*.json"))}
EN = MESSAGES["en"]

HOLD = 4.0
"""Seconds, the default of the chart."""

QUICKLY = 2.0
"""Seconds within which a launch goes that waits for nothing, on a busy machine: well below the hold."""

LONG = {"launch_hold": 60}
"""For tests that look at a launch while it waits."""

SIZES = {"": {"width": 900, "height": 500}, "-320": {"width": 320, "height": 640}}


def text(state, language="en", **values):
    """What the panel says in a state."""
    messages = MESSAGES[language]
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], messages.get(found[1], "")), messages[state])


class Tab:
    """A launch page in the browser, and all that must not happen on it."""

    def __init__(self, page):
        self.page = page
        self.panel = page.locator("#binder-egress section")
        self.text = page.locator("#binder-egress .text")
        self.phase = page.locator("#phase")
        self.hosts = {"127.0.0.1", "localhost", INSECURE_HOST}
        self.noise = []
        """Patterns of what the browser itself says on the console about what a test does."""
        self.requests = []
        self._faults = []
        page.on("pageerror", lambda error: self._faults.append(f"thrown: {error}"))
        page.on("console", self._console)
        page.on("request", lambda request: self.requests.append(request.url))
        # Each state of the panel, for the server's page too, when the launch page has gone.
        page.add_init_script(
            """new MutationObserver(() => {
              const state = document.getElementById("binder-egress")?.dataset.state;
              const states = JSON.parse(sessionStorage.getItem("states") ?? "[]");
              if (state && states.at(-1) !== state) sessionStorage.setItem("states", JSON.stringify([...states, state]));
            }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-state"] });"""
        )

    def _console(self, message):
        if message.type in ("error", "warning") and not any(re.search(pattern, message.text) for pattern in self.noise):
            self._faults.append(f"console: {message.text}")

    @property
    def states(self):
        return json.loads(self.page.evaluate("sessionStorage.getItem('states') ?? '[]'"))

    def expect(self, state, **values):
        expect(self.text).to_have_text(text(state, **values))

    def server(self, user):
        """Wait until the page has left for the server."""
        self.page.wait_for_url(f"**/user/{user}/?token=server-token")
        expect(self.page.get_by_role("heading")).to_have_text(f"Server of {user}")

    def button(self, name):
        return self.panel.get_by_role("button", name=EN[name], exact=True)

    def check(self):
        assert self._faults == []
        others = {urlsplit(url).hostname for url in self.requests if not url.startswith(("data:", "blob:"))} - self.hosts
        assert not others


def wait_for(condition, message):
    """Wait for something that another thread does."""
    until = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < until, message
        time.sleep(0.02)


def launch(hub, opened):
    """Open the launch page as it is in earnest: its script is large, and comes after launch.js."""
    hub.bundle.close()
    opened.page.goto(hub.page(), wait_until="commit")
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    hub.bundle.open()


def launch_while_solving(hub, opened):
    """Open the launch page; its script comes when a challenge is being solved."""
    hub.bundle.close()
    hub.gates["passes"].close()
    opened.page.goto(hub.page(), wait_until="commit")
    wait_for(lambda: hub.count("POST /egress/passes"), "nothing is solved")
    hub.bundle.open()


def launch_when_solved(hub, opened, page=None):
    """Open the launch page; its script comes when there is a pass."""
    hub.bundle.close()
    opened.page.goto(page or hub.page(), wait_until="commit")
    opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
    hub.bundle.open()


def lost(hub):
    """Seconds from the page's script to the build request."""
    return hub.builds[-1].at - hub.delivered


# --- launches, retries, tabs ------------------------------------------------------------------------------------------


def home(hub, tab):
    """The home page, which launches when somebody presses a button."""
    opened = tab()
    opened.page.goto(hub.url)
    expect(opened.page.get_by_role("heading", name="Binder")).to_be_visible()
    return opened


def press_launch(opened, repository="o/cached/HEAD"):
    opened.page.get_by_label("Repository").fill(repository)
    opened.page.get_by_role("button", name="launch").click()


class Ignored(list):
    """Faults of a page, but for one."""

    def __init__(self, pattern):
        super().__init__()
        self._pattern = pattern

    def append(self, fault):
        if self._pattern not in fault:
            super().append(fault)


def person(opened):
    return opened.page.frame_locator("iframe").get_by_role("button", name="I am a person")
