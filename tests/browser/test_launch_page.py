"""The launch page in Chromium: the wrapper of the chart's values, launch.js and the panel, in a double of BinderHub's page.

The verifier and its Redis are real; BinderHub is a double (`launch_page`). Each test also fails for what the page throws, errors on
the console, and requests to another host than those it names.
"""

import gzip
import json
import re
import subprocess
import time
from functools import partial
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route, expect

from tests.support.apps import RedisServer, VerifierProcess, make_settings, reconciler, run_pod
from tests.support.browser import ARTIFACTS, INSECURE_HOST, MODEST
from tests.support.doubles import running
from tests.support.launch_page import HEADER, TOP, BinderHub, bundle
from verifier.records import Server
from verifier.store.connection import connect
from verifier.store.store import Store

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


@pytest.fixture(scope="session")
def script():
    return bundle()


@pytest.fixture
def start(start, script):
    """The same with the script of BinderHub's page."""
    return partial(start, script=script)


@pytest.fixture
def hub(start, verifier, _verifier):
    """A BinderHub with the verifier of default settings."""
    return start(_verifier)


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


@pytest.fixture
def tab(browser):
    """A function that makes a tab, with options of a browser context. At the end each is checked."""
    ARTIFACTS.mkdir(exist_ok=True)
    tabs = []

    def tab(context=None, **options):
        context = context or browser.new_context(**{"viewport": SIZES[""], **options})
        context.set_default_timeout(20_000)
        tabs.append(Tab(context.new_page()))
        return tabs[-1]

    yield tab
    for one in tabs:
        one.page.context.close()
        one.check()


expect.set_options(timeout=30_000)


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


# --- when the solution comes ------------------------------------------------------------------------------------------


def test_a_solution_before_the_build_goes_with_it(hub, tab):
    opened = tab()
    launch_when_solved(hub, opened)
    opened.server("user-1")
    [build] = hub.builds
    assert build.tier == "verified"
    assert opened.states == ["checked", "will"] or opened.states == ["checking", "checked", "will"]
    assert hub.count("POST /egress/servers") == 0


def test_a_launch_waits_while_a_challenge_is_solved_and_takes_the_pass_along(start, tab):
    hub = start(**LONG)
    opened = tab()
    launch_while_solving(hub, opened)
    opened.expect("holding")
    assert hub.builds == []
    hub.gates["passes"].open()
    opened.server("user-1")
    assert [build.tier for build in hub.builds] == ["verified"]
    assert opened.states[-2:] == ["holding", "will"]


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "slow"])
def test_a_solution_during_the_build_unlocks_the_server(cached, hub, store, tab):
    """The challenge takes longer than a launch waits for it."""
    hub.cached = cached
    hub.gates["challenge"].close()
    hub.ready.close()
    opened = tab()
    opened.page.goto(hub.page())
    wait_for(lambda: hub.builds, "the build request waits")
    assert hub.builds[0].token is None
    opened.expect("checking")
    hub.gates["challenge"].open()
    opened.expect("checked")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.server("user-1")
        wait_for(lambda: store.known(Server("user-1")).tier == "verified", "not unlocked")
    assert hub.builds[0].tier == "unverified"
    assert hub.count("POST /egress/servers/user-1") == 1


def test_a_build_that_went_before_launch_js_came_is_unlocked_too(hub, store, tab):
    hub.gates["launch.js"].close()
    hub.ready.close()
    opened = tab()
    opened.page.goto(hub.page(), wait_until="commit")
    wait_for(lambda: hub.builds, "the build request waits")
    assert lost(hub) < QUICKLY and hub.builds[0].token is None
    hub.gates["launch.js"].open()
    opened.expect("checked")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.server("user-1")
        wait_for(lambda: store.known(Server("user-1")).tier == "verified", "not unlocked")


def test_after_the_unlock_the_panel_says_that_the_server_has_access(hub, store, tab):
    hub.gates["challenge"].close()
    hub.ready.close()
    opened = tab()
    hub.page_config["stay"] = True
    opened.page.goto(hub.page())
    wait_for(lambda: hub.builds, "no build")
    hub.gates["challenge"].open()
    opened.expect("checked")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.expect("has")


def test_a_refused_unlock_is_no_access(hub, tab):
    """No pod of this name is known."""
    hub.launched = lambda user: None
    hub.gates["challenge"].close()
    hub.ready.close()
    opened = tab()
    opened.noise.append("404")
    hub.page_config["stay"] = True
    opened.page.goto(hub.page())
    wait_for(lambda: hub.builds, "no build")
    hub.gates["challenge"].open()
    opened.expect("checked")
    hub.ready.open()
    opened.expect("none")


def test_a_solution_after_the_launch_is_of_no_use_and_delays_nothing(hub, tab):
    hub.gates["challenge"].close()
    opened = tab()
    launch(hub, opened)
    opened.server("user-1")
    assert hub.builds[0].tier == "unverified"
    assert hub.count("POST /egress/") == 0
    assert lost(hub) < QUICKLY
    assert {"checked", "will"}.isdisjoint(opened.states)


def test_no_launch_waits_for_longer_than_the_hold(start, tab):
    hub = start(launch_hold=2)
    hub.ready.close()
    opened = tab()
    launch_while_solving(hub, opened)
    wait_for(lambda: hub.builds, "no build")
    assert 1.9 < hub.builds[0].at - hub.delivered < 2 + QUICKLY
    opened.expect("checking")
    hub.gates["passes"].open()
    opened.expect("checked")


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


def test_the_home_page_solves_nothing_and_shows_nothing_before_a_launch(hub, tab):
    opened = home(hub, tab)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    assert hub.count("GET /egress/challenge") == 0
    assert opened.panel.count() == 0
    hub.ready.close()
    press_launch(opened)
    opened.expect("will")
    wait_for(lambda: hub.builds[0].tier, "not announced")
    assert hub.builds[0].tier == "verified"


def test_a_retry_of_a_launch_has_the_same_pass_and_another_launch_another(hub, tab):
    opened = home(hub, tab)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    hub.failures = 1
    hub.cuts = 1
    opened.noise += ["503"]
    # The client says that it tries again, and does not (binderhub-client 0.5.0); a person presses the button.
    opened._faults = Ignored("EventStreamRetry")
    for count in (1, 2, 3):
        hub.ready.close()
        press_launch(opened, "o/one/HEAD")
        wait_for(lambda count=count: len(hub.builds) == count, "no build")
        if count < 3:
            expect(opened.phase).to_have_text("failed")
    press_launch(opened, "o/two/HEAD")
    wait_for(lambda: len(hub.builds) == 4 and hub.builds[3].tier, "no build")
    first, second, third, other = (build.token for build in hub.builds)
    assert first and first == second == third
    assert other and other != first
    # A cut stream is a launch that was announced; the retry takes over its use of the pass.
    assert [build.tier for build in hub.builds[1:]] == ["verified"] * 3


def test_a_client_that_repeats_its_request_keeps_the_pass(hub, tab):
    hub.failures = 1
    opened = tab()
    opened.noise.append("503")
    hub.bundle.close()
    opened.page.goto(hub.page(), wait_until="commit")
    opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
    tokens = opened.page.evaluate(
        """async () => {
          for (;;) {
            const answer = await fetch(new URL("/build/gh/o/cached/HEAD", location.href));
            await answer.text();
            if (answer.ok) return;
          }
        }"""
    )
    assert tokens is None
    assert len({build.token for build in hub.builds}) == 1 and len(hub.builds) == 2
    assert hub.builds[1].tier == "verified"


def test_a_launch_that_is_tried_again_waits_once(start, tab):
    hub = start(launch_hold=2)
    hub.failures = 1
    opened = tab()
    opened.noise.append("503")
    hub.bundle.close()
    hub.gates["passes"].close()
    opened.page.goto(hub.page(), wait_until="commit")
    wait_for(lambda: hub.count("POST /egress/passes"), "nothing is solved")
    waited = opened.page.evaluate(
        """async () => {
          const waited = [];
          for (const attempt of [1, 2]) {
            const began = performance.now();
            const answer = await fetch("/build/gh/o/cached/HEAD");
            await answer.text();
            waited.push((performance.now() - began) / 1000);
          }
          return waited;
        }"""
    )
    assert waited[0] > 1.9 and waited[1] < 1.5, waited


def test_after_the_server_is_ready_the_same_address_is_another_launch(hub, tab):
    opened = home(hub, tab)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    hub.page_config["stay"] = True
    opened.page.reload()
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    for count in (1, 2):
        press_launch(opened)
        wait_for(lambda count=count: len(hub.builds) == count, "no build")
        expect(opened.phase).to_have_text("ready")
        opened.page.evaluate("document.getElementById('phase').textContent = 'again'")
    first, second = hub.builds
    assert first.token and second.token and first.token != second.token


def test_two_tabs_have_two_passes(hub, tab, browser):
    first = tab()
    second = tab(first.page.context)
    hub.bundle.close()
    for opened in (first, second):
        opened.page.goto(hub.page(), wait_until="commit")
        opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
    hub.bundle.open()
    for opened in (first, second):
        opened.page.wait_for_url("**/user/*/?token=server-token")
    assert len({build.token for build in hub.builds}) == 2
    assert [build.tier for build in hub.builds] == ["verified"] * 2


def test_going_back_is_a_new_launch(hub, tab):
    opened = tab()
    launch(hub, opened)
    opened.server("user-1")
    opened.page.go_back(wait_until="commit")
    opened.server("user-2")
    first, second = hub.builds
    assert second.token and second.token != first.token
    assert second.tier == "verified"


def test_going_back_to_a_page_that_the_browser_kept(hub, store, kept_browser):
    """Its script goes on where it was: the launch of then is over, and whoever presses the button again has another one."""
    context = kept_browser.new_context()
    context.set_default_timeout(20_000)
    opened = Tab(context.new_page())
    opened.page.add_init_script("addEventListener('pageshow', (event) => { globalThis.kept = event.persisted; })")
    launch(hub, opened)
    opened.server("user-1")
    opened.page.go_back(wait_until="commit")
    wait_for(lambda: opened.page.evaluate("globalThis.kept"), "the page was not kept")
    expect(opened.panel).to_have_count(0)
    assert len(hub.builds) == 1, "the page launched by itself"
    press_launch(opened)
    opened.server("user-2")
    first, second = hub.builds
    assert first.token and second.token and second.token != first.token
    assert [build.tier for build in hub.builds] == ["verified"] * 2
    assert store.known(Server("user-1")).uid, "the first server is still there"
    context.close()
    opened.check()


# --- the verifier fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [("",), ("challenge",), ("passes",)], ids=["all", "challenge", "passes"])
@pytest.mark.parametrize("fault", ["down", "hang", "404", "garbage"])
def test_a_failing_verifier_costs_nothing(fault, paths, hub, tab):
    hub.fault, hub.fault_paths = fault, paths
    # Events one by one: the page reads on while its copy is read by nobody.
    hub.cached = fault != "hang"
    opened = tab()
    opened.noise += ["Failed to load resource"]
    if paths == ("",) and fault == "garbage":
        # A script that is none: the browser reports it, as it would for any script of the page.
        opened._faults = Ignored("Unexpected token '<'")
    if paths == ("passes",):
        launch_while_solving(hub, opened)
        hub.gates["passes"].open()
    else:
        opened.page.goto(hub.page(), wait_until="commit")
    opened.server("user-1")
    assert hub.builds[0].token is None
    if paths != ("passes",):
        assert lost(hub) < QUICKLY
    else:
        # A solution was there, and its answer was waited for.
        assert lost(hub) < HOLD + QUICKLY


class Ignored(list):
    """Faults of a page, but for one."""

    def __init__(self, pattern):
        super().__init__()
        self._pattern = pattern

    def append(self, fault):
        if self._pattern not in fault:
            super().append(fault)


def test_the_order_of_events_is_that_of_a_page_without_us(hub, tab):
    """With a verifier that hangs, the page's own requests are the same, in the same order."""

    def own(requests):
        return [
            re.sub(r"user-\d", "user", urlsplit(url).path)
            for url in requests
            if "/egress/" not in url and not url.startswith("data:")
        ]

    hub.fault = "hang"
    with_us = tab()
    with_us.page.goto(hub.page(), wait_until="commit")
    with_us.server("user-1")
    hub.header_html = {}
    without = tab()
    without.page.goto(hub.page())
    without.server("user-2")
    assert own(with_us.requests) == own(without.requests)
    assert hub.builds[0].query == hub.builds[1].query


def test_the_panel_says_that_the_verifier_does_not_answer(hub, tab):
    hub.fault, hub.fault_paths = "garbage", ("challenge",)
    hub.ready.close()
    opened = tab()
    opened.page.goto(hub.page())
    opened.expect("unanswered")


def test_blocked_requests_cost_nothing(hub, tab):
    """As an ad blocker does it."""
    opened = tab()
    opened.noise.append("Failed to load resource")
    opened.page.route("**/egress/**", lambda route: route.abort("blockedbyclient"))
    opened.page.goto(hub.page())
    opened.server("user-1")
    assert hub.count("GET /egress/") == 0
    assert lost(hub) < QUICKLY


def test_a_price_that_has_risen_is_paid(hub, tab):
    problem = json.dumps({"type": "https://example.org/problems#price-risen", "detail": "x"})
    opened = tab()
    opened.noise.append("403")
    refusals = []

    def refuse(route: Route):
        refusals.append(route)
        if len(refusals) <= 3:
            route.fulfill(status=403, content_type="application/problem+json", body=problem)
        else:
            route.continue_()

    opened.page.route("**/egress/passes", refuse)
    launch_when_solved(hub, opened)
    opened.server("user-1")
    assert len(refusals) == 4
    assert hub.count("GET /egress/challenge") == 4
    assert hub.builds[0].tier == "verified"


def test_a_price_that_rises_for_ever_is_not_paid(hub, tab):
    problem = json.dumps({"type": "https://example.org/problems#price-risen", "detail": "x"})
    opened = tab()
    opened.noise.append("403")
    opened.page.route("**/egress/passes", lambda route: route.fulfill(status=403, body=problem))
    hub.ready.close()
    opened.page.goto(hub.page())
    opened.expect("none")
    assert hub.count("GET /egress/challenge") == 4


# --- browsers and pages that cannot -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "blocked",
    [
        "delete window.Worker",
        "window.Worker = class { constructor() { throw new DOMException('no', 'SecurityError'); } }",
        "delete window.AbortController",
        "delete window.CSSStyleSheet",
        "Element.prototype.attachShadow = undefined",
        "Object.defineProperty(crypto, 'subtle', { value: undefined })",
        "window.URL = undefined",
        "Response.prototype.clone = () => { throw new TypeError('no') }",
        "Object.defineProperty(document, 'cookie', { get() { throw new DOMException('no', 'SecurityError'); } })",
        "Object.defineProperty(document, 'head', { value: null })",
    ],
)
def test_a_browser_that_lacks_something_launches_as_without_us(blocked, hub, tab):
    """The page's own client needs some of it too: what it cannot do without us is not asked of it."""
    needed = ("AbortController", "URL")
    hub.cached = False
    opened = tab()
    opened.page.add_init_script(f"if (location.pathname.startsWith('/v2/')) {{ {blocked} }}")
    if any(name in blocked for name in needed):
        # Such a browser runs no page of today's BinderHub: see only that the page's fetch works.
        opened._faults = Ignored("is not")
        opened.page.goto(hub.page())
        assert opened.page.evaluate("fetch('/build/gh/o/cached/HEAD').then((answer) => answer.text())").count("data:") == 3
        return
    opened.page.goto(hub.page())
    opened.server("user-1")
    assert lost(hub) < HOLD


def test_workers_that_the_page_forbids(hub, tab):
    hub.headers = {"Content-Security-Policy": "worker-src 'none'"}
    hub.ready.close()
    opened = tab()
    opened.noise.append("Content Security Policy")
    opened.page.goto(hub.page())
    opened.expect("none")
    wait_for(lambda: hub.builds, "no build")
    assert lost(hub) < QUICKLY
    assert hub.builds[0].token is None
    hub.ready.open()
    opened.server("user-1")


@pytest.mark.parametrize(
    "policy",
    ["script-src 'self'", "script-src 'unsafe-inline'", "connect-src 'none'", "style-src 'none'"],
)
def test_a_page_whose_policy_blocks_us(policy, hub, tab):
    # 'unsafe-inline' alone would block the page's bundle too, so that is let in by its address.
    hub.headers = {"Content-Security-Policy": policy.replace("'unsafe-inline'", f"'unsafe-inline' {hub.url}static/")}
    opened = tab()
    opened.noise.append("Content Security Policy|violates|Refused")
    if policy == "connect-src 'none'":
        # Such a page could not launch without us either; nothing is thrown but what it throws itself.
        opened._faults = Ignored("Failed to fetch")
        opened.noise.append("Failed|Event stream error")
        opened.page.goto(hub.page())
        expect(opened.phase).to_have_text("failed")
        return
    if policy == "script-src 'self'":
        # The page's own inline script, which sets pageConfig, is blocked as well.
        hub.script = b"window.pageConfig = {baseUrl: '/', repoProviders: [{id: 'gh'}]};" + hub.script
    if policy == "style-src 'none'":
        launch(hub, opened)
    else:
        opened.page.goto(hub.page())
    opened.server("user-1")
    assert (hub.builds[0].token is None) == policy.startswith("script-src")
    assert lost(hub) < HOLD


def test_an_insecure_connection(hub, tab):
    hub.ready.close()
    opened = tab()
    opened.page.goto(hub.page().replace("127.0.0.1", INSECURE_HOST))
    assert opened.page.evaluate("isSecureContext") is False
    opened.expect("none")
    wait_for(lambda: hub.builds, "no build")
    assert lost(hub) < QUICKLY


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wrong_clock(hours, hub, tab):
    opened = tab()
    opened.page.clock.install(time=time.time() + hours * 3600)
    hub.bundle.close()
    opened.page.goto(hub.page(), wait_until="commit")
    opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
    assert abs(opened.page.evaluate("Date.now()") / 1000 - time.time() - hours * 3600) < 60
    hub.bundle.open()
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"


def test_a_service_worker_of_the_page_is_no_obstacle(hub, tab):
    opened = tab()
    context = opened.page.context
    context.route("**/worker.js", lambda route: route.fulfill(content_type="text/javascript", body=SERVICE_WORKER))
    opened.page.goto(hub.url)
    opened.page.evaluate("navigator.serviceWorker.register('/worker.js').then(() => navigator.serviceWorker.ready).then(() => {})")
    opened.page.reload()
    assert opened.page.evaluate("Boolean(navigator.serviceWorker.controller)")
    launch_when_solved(hub, opened)
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"


SERVICE_WORKER = """
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("fetch", (event) => {
  if (!event.request.url.includes("bundle.js")) event.respondWith(fetch(event.request));
});
"""


def test_without_javascript_the_page_says_what_that_means(hub, tab):
    opened = tab(java_script_enabled=False)
    opened.page.goto(hub.page())
    # In a head, a noscript ends where its text begins.
    expect(opened.page.locator("body > p")).to_contain_text("Without JavaScript nothing can be launched")
    expect(opened.page.locator("body > p")).to_be_visible()


# --- where the verifier is --------------------------------------------------------------------------------------------


def test_below_another_base_url(start, tab, redis_server):
    hub = start(base="/binder/")
    opened = tab()
    launch(hub, opened)
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"


def test_a_verifier_elsewhere(start, tab, script, redis_server):
    """Named by a meta element, as the chart's values for a separate release do; its workers are started across origins."""
    page = BinderHub(None, script)
    origin = page.url.rstrip("/")
    try:
        elsewhere = start(allowed_origins=[origin])
        page.verifier = elsewhere.verifier
        page.header_html["binder-egress"] = f'<meta name="binder-egress" content="{elsewhere.url}egress">'
        opened = tab()
        page.bundle.close()
        opened.page.goto(page.page(), wait_until="commit")
        opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
        page.bundle.open()
        opened.server("user-1")
        assert page.builds[0].tier == "verified"
        assert page.count("GET /egress/") == 0
    finally:
        page.stop()


@pytest.mark.parametrize("late", [False, True], ids=["with the build", "unlock"])
def test_a_federation_that_redirects_builds(late, start, tab, script):
    """The page is that of one member, the build is another's, and so is the server that is unlocked."""
    page = start()
    origin = page.url.rstrip("/")
    others = RedisServer()
    others.start()
    process = VerifierProcess(others, captcha_providers=MODEST, allowed_origins=[origin])
    member = BinderHub((process.public, process.internal), script)
    page.redirect = member.url
    client = connect(make_settings(others))
    store = Store(client)
    try:
        member.launched = lambda user: run_pod(store, user)
        opened = tab()
        (page.gates["challenge"] if late else page.bundle).close()
        member.ready.close()
        opened.page.goto(page.page(), wait_until="commit")
        if not late:
            opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
            page.bundle.open()
        wait_for(lambda: member.builds, "no build")
        page.gates["challenge"].open()
        opened.expect("checked" if late else "will")
        with reconciler(store, Server("user-1")):
            member.ready.open()
            opened.server("user-1")
            if late:
                wait_for(lambda: store.known(Server("user-1")).tier == "verified", "not unlocked")
        assert member.builds[0].tier == ("unverified" if late else "verified")
        assert member.count("POST /egress/servers/user-1") == late
        assert page.count("POST /egress/servers") == 0
        assert page.builds == []
    finally:
        member.stop()
        client.close()
        process.stop()
        others.stop()


# --- providers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def double():
    with running() as double:
        yield double


def person(opened):
    return opened.page.frame_locator("iframe").get_by_role("button", name="I am a person")


def presented(double):
    """The providers that were asked about a solution, the verifier's check of its own secrets aside."""
    return [name for name, fields in double.calls if "self-check" not in fields["response"]]


def test_a_launch_waits_for_a_person(double, start, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm")
    expect(opened.button("carry_on")).to_be_visible()
    time.sleep(HOLD + 1)
    assert hub.builds == []
    person(opened).click()
    opened.server("user-1")
    assert [build.tier for build in hub.builds] == ["verified"]
    assert opened.states[-2:] == ["confirm", "will"]
    assert presented(double) == ["turnstile"]


def test_nobody_has_to(double, start, tab):
    hub = start(**double.settings("hcaptcha"))
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    expect(opened.page.frame_locator("iframe").get_by_role("button", name="I am a person")).to_be_visible()
    opened.button("carry_on").click()
    opened.expect("without")
    wait_for(lambda: hub.builds, "no build")
    assert hub.builds[0].token is None
    expect(opened.page.locator("iframe")).to_have_count(0)
    expect(opened.button("carry_on")).to_be_hidden()


def test_closing_the_panel_is_to_continue_without(double, start, tab):
    hub = start(**double.settings("hcaptcha"))
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm")
    opened.button("close").click()
    opened.server("user-1")
    assert hub.builds[0].token is None


def test_another_way(double, start, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm")
    opened.button("another").click()
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"
    assert presented(double) == []


def test_whoever_chose_another_way_pays_a_price_that_has_risen_there(double, start, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    problem = json.dumps({"type": "https://example.org/problems#price-risen", "detail": "x"})
    opened = tab()
    opened.noise.append("403")
    opened.page.route("**/egress/passes", lambda route: route.fulfill(status=403, body=problem), times=1)
    launch(hub, opened)
    opened.expect("confirm")
    opened.button("another").click()
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"
    assert presented(double) == []


def test_the_keyboard_is_enough(double, start, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm")
    expect(person(opened)).to_be_visible()

    def press_tab_until(target):
        for _ in range(20):
            opened.page.keyboard.press("Tab")
            if target.evaluate("(element) => element.getRootNode().activeElement === element"):
                return
        raise AssertionError("not reached")

    press_tab_until(opened.button("why"))
    opened.page.screenshot(path=ARTIFACTS / "launch-focus.png")
    opened.page.keyboard.press("Enter")
    expect(opened.panel.get_by_text(EN["reason"])).to_be_visible()
    opened.page.keyboard.press("Space")
    expect(opened.panel.get_by_text(EN["reason"])).to_be_hidden()
    press_tab_until(opened.button("another"))
    opened.page.keyboard.press("Enter")
    opened.expect("will")
    press_tab_until(opened.button("close"))
    opened.page.keyboard.press("Enter")
    expect(opened.panel).to_have_count(0)
    hub.ready.open()
    opened.server("user-1")


def test_the_widget_is_within_reach_of_the_keyboard(double, start, tab):
    hub = start(**double.settings("turnstile"))
    opened = tab()
    launch(hub, opened)
    expect(person(opened)).to_be_visible()
    for _ in range(20):
        opened.page.keyboard.press("Tab")
        if person(opened).evaluate("(element) => document.activeElement === element"):
            break
    opened.page.keyboard.press("Enter")
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"


def test_a_person_who_takes_long_does_not_lose_the_launch(double, start, tab, store):
    hub = start(**double.settings("turnstile"), launch_interactive_hold=1)
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    wait_for(lambda: hub.builds, "no build")
    opened.expect("confirm_running")
    person(opened).click()
    opened.expect("checked")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.server("user-1")
        wait_for(lambda: store.known(Server("user-1")).tier == "verified", "not unlocked")


def test_a_provider_that_does_not_load_gives_way_to_the_next(double, start, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    opened = tab()
    opened.noise.append("Failed to load resource")
    opened.page.route(f"{double.url}/**", lambda route: route.abort("blockedbyclient"))
    launch(hub, opened)
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"


def test_a_provider_that_hangs_costs_no_more_than_a_calculation(double, start, tab):
    hub = start(**double.settings("hcaptcha"), launch_hold=2)
    hub.ready.close()
    opened = tab()
    opened.page.route(f"{double.url}/hcaptcha/**", lambda route: None)
    launch(hub, opened)
    opened.expect("holding")
    expect(opened.button("carry_on")).to_be_visible()
    wait_for(lambda: hub.builds, "no build")
    assert lost(hub) < 3 + QUICKLY


def test_closing_the_panel_before_the_widget_is_there_is_to_continue_without(double, start, tab):
    hub = start(**double.settings("hcaptcha"), **LONG)
    opened = tab()
    opened.page.route(f"{double.url}/hcaptcha/**", lambda route: None)
    launch(hub, opened)
    opened.expect("holding")
    opened.button("close").click()
    opened.server("user-1")
    assert hub.builds[0].token is None
    assert lost(hub) < 2 * QUICKLY


def test_a_provider_without_a_click(double, start, tab):
    hub = start(**double.settings("recaptchaV3"))
    opened = tab()
    launch_when_solved(hub, opened)
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"


def test_what_needs_no_click_is_waited_for_like_a_calculation(double, start, tab):
    """The provider's script never comes to an end, as where its own requests are blocked."""
    hub = start(**double.settings("recaptchaV3"), launch_hold=2)
    hub.ready.close()
    opened = tab()
    opened.page.route(
        f"{double.url}/recaptchaV3/recaptcha/api.js*",
        lambda route: route.fulfill(
            content_type="text/javascript", body="window.grecaptcha = { execute: () => new Promise(() => {}) }"
        ),
    )
    launch(hub, opened)
    opened.expect("holding")
    wait_for(lambda: hub.builds, "no build")
    assert lost(hub) < 3 + QUICKLY
    opened.expect("checking")


def test_a_new_launch_asks_anew_after_the_panel_was_closed(double, start, tab):
    hub = start(**double.settings("hcaptcha"))
    hub.page_config["stay"] = True
    opened = home(hub, tab)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    press_launch(opened)
    opened.expect("confirm")
    opened.button("close").click()
    expect(opened.phase).to_have_text("ready")
    expect(opened.panel).to_have_count(0)
    press_launch(opened, "o/two/HEAD")
    opened.expect("confirm")
    assert len(hub.builds) == 1
    person(opened).click()
    wait_for(lambda: len(hub.builds) == 2, "no build")
    assert hub.builds[1].token


def test_after_the_launch_nothing_more_is_solved(double, start, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]), launch_interactive_hold=1)
    hub.page_config["stay"] = True
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm_running")
    hub.ready.open()
    opened.expect("none")
    time.sleep(2)
    assert hub.count("POST /egress/passes") == 0
    opened.expect("none")


SIGNED_IN = ["apiToken", "cookie"]


@pytest.mark.parametrize("how", SIGNED_IN)
def test_whoever_is_signed_in_loads_nothing_from_elsewhere(how, double, start, tab):
    """With auth_enabled: the page holds, or may use, the hub's token of its user."""
    hub = start(**double.settings("turnstile"))
    hub.ready.close()
    opened = tab()
    if how == "cookie":
        opened.page.context.add_cookies([{"name": "_xsrf", "value": "2|x", "url": hub.url}])
    else:
        hub.page_config["apiToken"] = "secret"
    launch(hub, opened)
    opened.expect("needed", provider="Cloudflare Turnstile")
    wait_for(lambda: hub.builds, "no build")
    assert lost(hub) < QUICKLY
    assert {urlsplit(url).netloc for url in opened.requests if url.startswith("http")} == {urlsplit(hub.url).netloc}


@pytest.mark.parametrize("how", SIGNED_IN)
def test_whoever_is_signed_in_gets_proof_of_work(how, double, start, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    opened = tab()
    if how == "cookie":
        opened.page.context.add_cookies([{"name": "_xsrf", "value": "2|x", "url": hub.url}])
    else:
        hub.page_config["apiToken"] = "secret"
    launch_when_solved(hub, opened)
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"
    assert {urlsplit(url).netloc for url in opened.requests if url.startswith("http")} == {urlsplit(hub.url).netloc}


def test_no_provider_at_all(hub, tab):
    hub.ready.close()
    opened = tab()
    opened.page.route("**/egress/challenge?*", lambda route: route.fulfill(json={"purpose": "launch", "providers": []}))
    launch(hub, opened)
    opened.expect("none")
    wait_for(lambda: hub.builds, "no build")


# --- the wrapper ------------------------------------------------------------------------------------------------------

RECORD = """
  window.calls = [];
  window.answers = [];
  window.fetch = function (...args) {
    const answer = args[0] === "/reject" ? Promise.reject(new TypeError("as it was")) : Promise.resolve(new Response("x"));
    answer.catch(() => {});
    window.calls.push({ self: this, args });
    window.answers.push(answer);
    return answer;
  };
"""


@pytest.mark.parametrize("loaded", [False, True], ids=["before launch.js", "after launch.js"])
def test_other_requests_pass_through_untouched(loaded, hub, tab):
    opened = tab()
    opened.page.add_init_script(RECORD)
    if not loaded:
        hub.fault = "404"
        opened.noise.append("404")
    opened.page.goto(hub.url)
    if loaded:
        opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    result = opened.page.evaluate(
        """async () => {
          const form = new FormData();
          form.append("a", "b");
          const aborted = AbortSignal.abort("why");
          const request = new Request("/build-elsewhere/x", { method: "POST", body: form });
          const self = { fetch: window.fetch };
          const cases = {
            text: [window, ["/api/x"]],
            none: [window, []],
            url: [window, [new URL("/api/x?build/=1", location.href)]],
            form: [window, ["/upload", { method: "POST", body: form }]],
            request: [window, [request]],
            signal: [window, ["/x", { signal: aborted }]],
            rejected: [window, ["/reject"]],
            self: [self, ["/x", undefined, 3]],
            undefined: [undefined, ["/x"]],
            object: [window, [{ toString: () => "/x" }]],
            otherhost: [window, ["https://example.org/build/gh/o/r/HEAD"]],
          };
          const results = {};
          for (const [name, [on, args]] of Object.entries(cases)) {
            window.calls.length = window.answers.length = 0;
            const answer = window.fetch.apply(on, args);
            const [call] = window.calls;
            results[name] = window.calls.length === 1 && answer === window.answers[0] && call.args.length === args.length
              && call.args.every((arg, index) => arg === args[index]) && call.self === (on ?? window);
            await answer.catch((error) => { results[name] &&= error.message === "as it was" && name === "rejected"; });
          }
          return results;
        }"""
    )
    assert result == dict.fromkeys(result, True) and len(result) == 11


def test_builds_that_are_not_launches_pass_through(hub, tab):
    opened = tab()
    opened.page.add_init_script(RECORD)
    opened.page.goto(hub.url)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    for call in (
        "'/build/gh/o/r/HEAD?build_only=true'",
        "'/build/gh/o/r/HEAD?egress_token=mine'",
        "'/build/gh/o/r/HEAD', { method: 'POST', body: 'x' }",
        "new Request('/build/gh/o/r/HEAD', { method: 'POST', body: 'x' })",
    ):
        assert opened.page.evaluate(
            f"""() => {{
              const args = [{call}];
              window.calls.length = window.answers.length = 0;
              const answer = fetch(...args);
              return answer === window.answers[0] && window.calls[0].args.every((arg, index) => arg === args[index]);
            }}"""
        ), call
    assert hub.count("GET /egress/challenge") == 0


@pytest.mark.parametrize("kind", ["text", "URL", "Request"])
def test_a_build_request_is_what_it_was_but_for_the_pass(kind, hub, tab):
    hub.bundle.close()
    opened = tab()
    opened.page.goto(hub.page(), wait_until="commit")
    opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
    address = "/build/gh/o/r%2Fx/HEAD?build_token=a%20b+c&x=%C3%A9"
    make = {
        "text": "address",
        "URL": "new URL(address, location.href)",
        "Request": "new Request(address)",
    }
    answer = opened.page.evaluate(
        f"""async (address) => {{
          const answer = await fetch({make[kind]}, {{ headers: {{ "X-Mine": "1" }} }});
          return [answer.url, answer.status, (await answer.text()).length > 0];
        }}""",
        address,
    )
    [build] = hub.builds
    assert answer[0].startswith(hub.url.rstrip("/") + address + "&egress_token=")
    assert answer[1:] == [200, True]
    assert build.headers["X-Mine"] == "1"
    assert build.tier == "verified"


def test_a_request_that_is_aborted_while_it_waits(start, tab):
    hub = start(**LONG)
    hub.gates["passes"].close()
    hub.bundle.close()
    opened = tab()
    opened.page.goto(hub.page(), wait_until="commit")
    opened.page.wait_for_function("window.binderEgress?.state === 'checking'")
    opened.page.wait_for_timeout(500)
    reason = opened.page.evaluate(
        """async () => {
          const controller = new AbortController();
          const answer = fetch("/build/gh/o/r/HEAD", { signal: controller.signal });
          setTimeout(() => controller.abort(), 200);
          const late = new Promise((resolve) => { setTimeout(resolve, 5000, "late"); });
          return Promise.race([late, answer.then(() => "answered", (error) => error.name)]);
        }"""
    )
    assert reason == "AbortError"
    assert hub.builds == []


def test_one_namespace_and_no_other_global(hub, tab):
    names = "Object.getOwnPropertyNames(window).sort()"
    hub.ready.close()
    opened = tab()
    opened.page.goto(hub.page())
    opened.page.wait_for_function("window.binderEgress?.state === 'will' || window.binderEgress?.state === 'checked'")
    with_us = set(opened.page.evaluate(names))
    hub.header_html = {}
    opened.page.goto(hub.page())
    expect(opened.page.get_by_role("heading", name="Binder")).to_be_visible()
    assert with_us - set(opened.page.evaluate(names)) == {"binderEgress"}


def test_the_wrapper_is_small_and_old():
    """About 1 kB, in the language of 2009."""
    [script] = re.findall(r"<script>(.*?)</script>", HEADER["zz-binder-egress"], re.DOTALL)
    esbuild = TOP / "frontend/node_modules/.bin/esbuild"
    small = subprocess.run([esbuild, "--minify", "--target=es5"], input=script.encode(), check=True, stdout=subprocess.PIPE).stdout
    assert len(small) <= 1024
    # esbuild would write newer syntax anew, or refuse it.
    plain = subprocess.run([esbuild, "--minify-whitespace"], input=script.encode(), check=True, stdout=subprocess.PIPE).stdout
    assert not re.search(rb"=>|`|\bconst\b|\blet\b|\?\.|\?\?|\basync\b(?!=)|\bclass\b", plain)
    assert "{{" not in script


def test_launch_js_is_small():
    """With ALTCHA's own library; the workers come on their own, and so do the widgets."""
    static = TOP / "verifier/web/static"
    name = json.loads((static / "manifest.json").read_text())["launch.js"]
    assert len(gzip.compress((static / name).read_bytes(), 9)) <= 10_240


# --- the panel --------------------------------------------------------------------------------------------------------


def show_checking(hub, opened):
    hub.gates["challenge"].close()


def show_checked(hub, opened):
    hub.gates["challenge"].close()
    opened.page.goto(hub.page())
    wait_for(lambda: hub.builds, "no build")
    hub.gates["challenge"].open()


def show_unanswered(hub, opened):
    hub.fault, hub.fault_paths = "garbage", ("challenge",)


def show_has(hub, opened):
    hub.page_config["stay"] = True
    hub.page_config["stay"] = True
    opened.page.route("**/egress/servers/**", lambda route: route.fulfill(json={"state": "granted"}))
    show_checked(hub, opened)
    opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
    hub.ready.open()


def show_without(hub, opened):
    launch(hub, opened)
    opened.page.locator("#binder-egress button.carry_on").click()


STATES = {
    "checking": (show_checking, ()),
    "holding": (launch_while_solving, ()),
    "checked": (show_checked, ()),
    "will": (launch_when_solved, ()),
    "has": (show_has, ()),
    "none": (lambda hub, opened: opened.page.add_init_script("delete window.Worker"), ()),
    "unanswered": (show_unanswered, ()),
    "needed": (lambda hub, opened: hub.page_config.update(apiToken="secret"), ("turnstile",)),
    "confirm": (launch, ("turnstile",)),
    "confirm_running": (launch, ("turnstile", "late")),
    "without": (show_without, ("turnstile",)),
}
"""State → what leads to it, and with which providers."""

LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "light-320": {"color_scheme": "light", "viewport": SIZES["-320"]},
    "dark-320-ar": {"color_scheme": "dark", "viewport": SIZES["-320"], "locale": "ar"},
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_accessible_and_moves_nothing(state, double, start, tab):
    lead, providers = STATES[state]
    settings = dict(LONG)
    if providers:
        settings |= double.settings("turnstile", with_altcha=None if state == "needed" else MODEST["altcha"])
    if "late" in providers:
        settings["launch_interactive_hold"] = 0
    process = start(**settings).process
    for look, options in LOOKS.items():
        hub = start(process)
        hub.ready.close()
        opened = tab(reduced_motion="reduce" if look == "dark" else "no-preference", **options)
        opened.noise.append("Failed to load resource")
        lead(hub, opened)
        if not opened.requests:
            opened.page.goto(hub.page())
        language = "ar" if look.endswith("-ar") else "en"
        expect(opened.text).to_have_text(text(state, language, provider="Cloudflare Turnstile"))
        assert opened.text.get_attribute("role") == "status" and opened.text.get_attribute("aria-live") == "polite"
        assert opened.panel.get_attribute("dir") == ("rtl" if language == "ar" else "ltr")
        assert opened.panel.get_attribute("lang") == language
        if "confirm" in state:
            expect(person(opened)).to_be_visible()
        expect(opened.page.get_by_role("heading", name="Binder")).to_be_visible()
        if state in ("checking", "holding"):
            motion = opened.page.locator("#binder-egress .progress").evaluate(
                "(element) => getComputedStyle(element).animationName"
            )
            assert motion == ("none" if look == "dark" else "turn")
        opened.page.screenshot(path=ARTIFACTS / f"launch-{state}-{look}.png")
        inside(opened)
        violations(opened)
        opened.page.locator("#binder-egress button.why").click()
        expect(opened.page.locator("#binder-egress .reason")).to_have_text(MESSAGES[language]["reason"])
        if state == "will":
            opened.page.screenshot(path=ARTIFACTS / f"launch-{state}-{look}-why.png")
        inside(opened)
        violations(opened)
        assert not moved(opened)
        opened.page.context.close()


def inside(opened):
    """Nothing is wider than the screen, and the panel is on it."""
    assert opened.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    box, size = opened.panel.bounding_box(), opened.page.viewport_size
    assert box["x"] >= 0 and box["y"] >= 0
    assert box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"]


AXE = (TOP / "frontend/node_modules/axe-core/axe.min.js").read_text()


def violations(opened):
    opened.page.evaluate(AXE)
    # The double of a provider's frame is not ours to make accessible.
    found = opened.page.evaluate("axe.run({ exclude: [['iframe']] }).then(({ violations }) => violations)")
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_the_panel_follows_the_theme_of_the_page(hub, tab):
    """Bootstrap's, when the page has one."""
    hub.ready.close()
    opened = tab(color_scheme="light")
    launch(hub, opened)
    opened.expect("will")
    back = "(element) => getComputedStyle(element).backgroundColor"
    assert opened.panel.evaluate(back) == "rgb(255, 255, 255)"
    opened.page.evaluate("document.documentElement.dataset.bsTheme = 'dark'")
    expect(opened.panel).to_have_css("background-color", "rgb(30, 30, 30)")
    opened.page.evaluate("delete document.documentElement.dataset.bsTheme")
    expect(opened.panel).to_have_css("background-color", "rgb(255, 255, 255)")
    opened.page.emulate_media(color_scheme="dark")
    expect(opened.panel).to_have_css("background-color", "rgb(30, 30, 30)")


def test_the_page_s_style_sheet_does_not_reach_the_panel(hub, tab):
    hub.header_html["a"] = (
        "<style>div, section, p, button { position: static !important; display: inline; color: red !important }</style>"
    )
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    opened.expect("will")
    assert opened.text.evaluate("(element) => getComputedStyle(element).color") == "rgb(27, 27, 27)"
    expect(opened.panel).to_have_css("position", "fixed")


def test_nothing_of_the_page_stays_hidden_behind_the_panel(hub, tab):
    """A page that ends where the panel is, in a window that is no higher: BinderHub's own ends with a row of buttons."""
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    opened.expect("will")
    bottom = opened.page.evaluate(
        """() => {
          document.getElementById("root").insertAdjacentHTML("beforeend", "<button id=last>view raw</button>");
          return document.getElementById("last").getBoundingClientRect().bottom;
        }"""
    )
    opened.page.set_viewport_size({"width": 900, "height": int(bottom) + 5})
    last = opened.page.locator("#last")

    def is_behind():
        return last.bounding_box()["y"] + last.bounding_box()["height"] > opened.panel.bounding_box()["y"]

    assert is_behind()
    # Whoever scrolls there, or gets there by the keyboard, sees it whole; whoever clicks on it meets nothing else.
    opened.button("why").click()
    # Not in the same moment in which the panel grows.
    opened.page.wait_for_function(
        "parseFloat(getComputedStyle(document.documentElement).scrollPaddingBottom)"
        " > document.getElementById('binder-egress').shadowRoot.querySelector('section').offsetHeight"
    )
    opened.page.get_by_role("button", name="launch").focus()
    opened.page.keyboard.press("Tab")
    assert last.evaluate("(element) => document.activeElement === element")
    assert not is_behind()
    last.click()
    opened.button("close").click()
    assert opened.page.evaluate("document.documentElement.scrollHeight - innerHeight") <= int(bottom) + 5


@pytest.mark.parametrize("language", [name for name in MESSAGES if name != "en"])
def test_it_speaks(language, hub, tab):
    hub.ready.close()
    opened = tab(locale={"de": "de-CH", "fr": "fr-CA"}.get(language, language))
    launch(hub, opened)
    expect(opened.text).to_have_text(MESSAGES[language]["will"])
    assert list(MESSAGES[language]) == list(EN)
    for key, message in MESSAGES[language].items():
        assert re.findall(r"{\w+}", message) == re.findall(r"{\w+}", EN[key])


def test_another_language_gets_english(hub, tab):
    hub.ready.close()
    opened = tab(locale="fi")
    launch(hub, opened)
    opened.expect("will")


def moved(opened):
    """Whether anything of the page was moved: by what the browser itself counts as layout shift, or by there being a panel."""
    shifts = opened.page.evaluate(
        """() => new Promise((resolve) => {
          const root = document.getElementById("root");
          let count = 0;
          new PerformanceObserver((list) => {
            for (const { sources } of list.getEntries()) count += sources.some(({ node }) => node && root.contains(node));
          }).observe({ type: "layout-shift", buffered: true });
          setTimeout(() => resolve(count), 200);
        })"""
    )
    places = """() => JSON.stringify(
      Array.from(document.querySelectorAll("#root, #root *"), (element) => element.getBoundingClientRect()),
    )"""
    with_panel = opened.page.evaluate(places)
    opened.page.evaluate("document.getElementById('binder-egress').remove()")
    return shifts > 0 or opened.page.evaluate(places) != with_panel
