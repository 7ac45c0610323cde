"""A launch page in the browser, the texts of its panel, and ways to launch from it."""

import json
import re
from urllib.parse import urlsplit

from playwright.sync_api import expect

from binder_egress.model.records import Server
from tests.support import TOP
from tests.support.browser import INSECURE_HOST, PREVIEW
from tests.support.page_time import PageTime
from tests.support.waiting import eventually

MESSAGES = {
    path.stem: json.loads(path.read_text()) for path in sorted((TOP / "verifier/binder_egress/web/messages/launch").glob("*.json"))
}
EN = MESSAGES["en"]

SIZES = {"": {"width": 900, "height": 500}, "-320": {"width": 320, "height": 640}}


def text(state, language="en", **values):
    """The text of the panel in a state."""
    messages = MESSAGES[language]
    values.setdefault("access", messages["nothing"])
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], messages.get(match[1], "")), messages[state])


PHASES = {"idle": [], "launching": ["Launching"], "failed": ["Failed"]}
"""The text in the last part of the page's progress bar."""


class Tab:
    """A launch page in the browser, on which time stands still, and a record of what must not happen on it.

    Playwright routes no request: on a busy machine, one that the page sends while it leaves for its server would be lost.
    """

    def __init__(self, page):
        self.page = page
        self.time = PageTime(page)
        self.panel = page.locator("#binder-egress section")
        self.text = page.locator("#binder-egress .text")
        self.hosts = {"127.0.0.1", "localhost", INSECURE_HOST, PREVIEW}
        self.noise = ["task queue exceeded allotted deadline"]  # xterm.js, which shows the build's log, on a slow machine
        """Patterns of errors, and of console messages, that the test causes on purpose."""
        self.requests = []
        self.faults = []
        page.on("pageerror", lambda error: self._note("thrown", str(error)))
        page.on("console", self._console)
        page.on("request", lambda request: self.requests.append(request.url))
        # Record each state of the panel. The session keeps them after the page has left for the server.
        page.add_init_script(
            """if (self === top) new MutationObserver(() => {
              const state = document.getElementById("binder-egress")?.dataset.state;
              const states = JSON.parse(sessionStorage.getItem("states") ?? "[]");
              if (state && states.at(-1) !== state) sessionStorage.setItem("states", JSON.stringify([...states, state]));
            }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-state"] });"""
        )

    def _note(self, kind, text, url=""):
        if not any(re.search(pattern, text) for pattern in self.noise) and urlsplit(url).hostname != PREVIEW:
            self.faults.append(f"{kind}: {text} {url}")

    def _console(self, message):
        if message.type in ("error", "warning"):
            self._note("console", message.text, message.location.get("url", ""))

    @property
    def states(self):
        return json.loads(self.page.evaluate("sessionStorage.getItem('states') ?? '[]'"))

    def expect(self, state, **values):
        expect(self.text).to_have_text(text(state, **values))
        expect(self.panel).to_be_visible()

    @property
    def asked(self):
        """The hosts, with ports, that the page sent requests to, other than for the preview."""
        return {urlsplit(url).netloc for url in self.requests if url.startswith("http")} - {PREVIEW}

    def expect_phase(self, phase):
        """Expect that the page shows this phase, or that it was sent to the server: `ready`."""
        if phase == "ready":

            def leaves():
                self.page.wait_for_timeout(20)  # Playwright hears of requests only while it talks to the browser.
                return any("/user/" in urlsplit(url).path for url in self.requests)

            eventually(leaves, what="the page does not leave")
        else:
            expect(self.page.locator("[role=progressbar] .progress-bar:last-child")).to_have_text(PHASES[phase])

    def painted(self):
        """Wait until the page's script has drawn the page."""
        expect(self.page.locator("#root h4").first).to_be_visible()

    def server(self, user):
        """Wait until the browser shows the server's page."""
        self.page.wait_for_url(re.compile(rf"/user/{user}/\?token=[\w-]+$"))
        expect(self.page.get_by_role("heading")).to_have_text(f"Server of {user}")

    def button(self, name):
        return self.panel.get_by_role("button", name=EN[name], exact=True)

    def check(self):
        assert self.faults == []
        others = {urlsplit(url).hostname for url in self.requests if not url.startswith(("data:", "blob:"))} - self.hosts
        assert not others


LOADED = "Boolean(window.binderEgress?.sent)"
"""Whether launch.js has loaded, in JavaScript."""

PROMISE = re.compile("promise-[0-9a-f]{32}")
"""A promise, as build requests carry it."""


def launch(hub, opened):
    """Open the launch page as in production: its script is large, and arrives after launch.js."""
    hub.bundle.close()
    opened.page.goto(hub.page(), wait_until="commit")
    opened.page.wait_for_function(LOADED)
    hub.bundle.open()


def launch_while_solving(hub, opened):
    """Open the launch page. The verifier does not answer solutions."""
    hub.gates["passes"].close()
    launch(hub, opened)
    eventually(lambda: hub.count("POST /egress/passes"), what="nothing is solved")


def open_when_solved(hub, opened, address=None):
    """Open a launch page, until there is a pass. The page's script does not arrive yet."""
    hub.bundle.close()
    opened.page.goto(address or hub.page(), wait_until="commit")
    opened.page.wait_for_function("window.binderEgress?.state === 'checked'")


def launch_when_solved(hub, opened):
    """Open the launch page. Its script arrives when there is a pass."""
    open_when_solved(hub, opened)
    hub.bundle.open()


def raise_price(opened, times=None):
    """The verifier refuses that many solutions, or all, because the price has risen."""
    problem = json.dumps({"type": "https://example.org/problems#price-risen", "detail": "x"})
    opened.noise.append("403")
    opened.page.route("**/egress/passes", lambda route: route.fulfill(status=403, body=problem), times=times)


def tier_of(store, user="user-1"):
    """The tier that waits for a server's pod since its launch was decided."""
    return store.pending(Server(user), set()).launch.grant.tier


def end_wait(opened, seconds):
    """Wait until the page waits for exactly so many seconds, and let them pass."""
    eventually(lambda: seconds in opened.time.timers, what=f"the page does not wait for {seconds} s")
    opened.time.let_pass(seconds)


def ask_until(opened, state):
    """Let the page ask about its promise, once a second, until it shows a state."""

    def asked():
        if 1 in opened.time.timers:
            opened.time.let_pass(1)
        return opened.page.evaluate("window.binderEgress?.state") == state

    eventually(asked, what=f"the page does not learn: {state}")


# --- launches, retries, tabs ------------------------------------------------------------------------------------------


def home(hub, tab):
    """Open the home page, which launches when somebody presses the button."""
    opened = tab()
    opened.page.goto(hub.url)
    opened.painted()
    return opened


def press_launch(opened, repository="o/cached"):
    """Press the button of the home page, which gives it the ref HEAD."""
    opened.page.locator("input[name=repository]").fill(repository)
    opened.page.locator("#btn-launch").click()


def build_by_script(opened):
    """Send a build request as another client in the page would: the page's own button is disabled after a launch."""
    opened.page.evaluate(
        """() => {
          const address = new URL("build/gh/o/cached/HEAD", new URL(pageConfig.baseUrl, location.href));
          fetch(address, { headers: { accept: "text/event-stream" } }).then((answer) => answer.text());
        }"""
    )


CLIENT_ERRORS = "EventStream|^Error$"
"""The errors of the client in BinderHub's page when a stream has ended. In the real page's bundle they have no name."""


def person(opened):
    return opened.page.frame_locator("#binder-egress iframe").get_by_role("button", name="I am a person")


# -- the states of the panel


def show_checking(hub, opened):
    hub.gates["challenge"].close()
    launch(hub, opened)


def show_holding(hub, opened):
    hub.ready.open()
    launch_while_solving(hub, opened)


def show_checked(hub, opened):
    """BinderHub's hook rests after failures, so that the verifier knows of no launch."""
    hub.rests = True
    launch(hub, opened)


def open_checked(hub, tab, **options):
    """A tab whose panel shows `checked`, and whose server is not ready."""
    hub.ready.close()
    opened = tab(**options)
    show_checked(hub, opened)
    opened.expect("checked")
    return opened


def show_has(hub, opened):
    launch(hub, opened)
    ask_until(opened, "has")


def show_unanswered(hub, opened):
    hub.fault, hub.fault_paths = "garbage", ("challenge",)


def show_confirm_holding(hub, opened):
    hub.ready.open()
    launch(hub, opened)


def show_without(hub, opened):
    launch(hub, opened)
    opened.page.locator("#binder-egress button.carry_on").click()


PANEL_STATES = {
    "checking": (show_checking, ()),
    "holding": (show_holding, ()),
    "checked": (show_checked, ()),
    "has": (show_has, ()),
    "none": (lambda hub, opened: opened.page.add_init_script("delete window.Worker"), ()),
    "unanswered": (show_unanswered, ()),
    "needed": (lambda hub, opened: hub.page_config.update(apiToken="secret"), ("turnstile",)),
    "confirm": (launch, ("turnstile",)),
    "confirm_holding": (show_confirm_holding, ("turnstile",)),
    "without": (show_without, ("turnstile",)),
}
"""State → the function that leads to it, and the providers that it needs."""
