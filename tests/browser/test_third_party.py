"""Third-party pages with the script tag, in Chromium: launches go out as without the tag, and servers get egress.

The pages are on another origin and use the real clients. Verifier and Redis are real, BinderHub is a double (`launch_page`).
"""

import fcntl
import json
import os
import re
import subprocess
from functools import partial

import pytest
from playwright.sync_api import expect

from tests.support.apps import PATIENT_UNLOCK_SECONDS, RedisServer, VerifierProcess, make_settings, reconciler, run_pod
from tests.support.browser import MODEST
from tests.support.course import CLIENTS, MODULES, Course
from tests.support.doubles import running
from tests.support.launch_page import TOP, BinderHub, bundle
from tests.support.page_time import STILL
from tests.support.waiting import eventually
from verifier import api_keys as keys
from verifier.decisions.refusals import REFUSALS
from verifier.records import Rule, Server
from verifier.store.connection import connect
from verifier.store.store import Store

MESSAGES = {path.stem: json.loads(path.read_text()) for path in sorted((TOP / "verifier/web/messages/third-party").glob("*.json"))}


@pytest.fixture(scope="module")
def course():
    made = Course()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _clean(course):
    course.pages.clear()
    course.headers.clear()


@pytest.fixture(scope="module")
def _listed(_redis_server, course):
    """A verifier that lists the course's origin."""
    _redis_server.start()
    process = VerifierProcess(_redis_server, PATIENT_UNLOCK_SECONDS, captcha_providers=MODEST, allowed_origins=[course.origin])
    yield process
    process.stop()


@pytest.fixture
def hub(start, _listed):
    return start(_listed)


class Tab:
    """A page, and a record of its errors, messages and requests."""

    def __init__(self, page):
        self.page = page
        self.thrown = []
        self.console = []
        self.requests = []
        self.workers = []
        page.on("worker", lambda worker: self.workers.append(worker.url))
        page.on("pageerror", lambda error: self.thrown.append(str(error)))
        page.on("console", lambda message: self.console.append(message.text) if message.type in ("error", "warning") else None)
        page.on("request", lambda request: self.requests.append(request.url))

    def launch(self, hub, name="cached", times=1):
        """Launch, and wait until the page's client reports the end."""
        before = self.page.evaluate("done")
        self.page.evaluate("(address) => { launch(address); }", f"{hub.url}build/gh/o/{name}/HEAD")
        self.page.wait_for_function("(count) => done >= count", arg=before + times)

    def record(self):
        """The client's reports to the page, without the parts that differ from launch to launch."""
        text = re.sub(r"user-\d+", "user", json.dumps(self.page.evaluate("record")))
        return re.sub(r"http://127\.0\.0\.1:\d+", "hub", text)

    def state(self, expected):
        """Wait until the script reports a state. Returns the details of that event."""
        self.page.wait_for_function("(expected) => states.at(-1)?.state === expected", arg=expected)
        return self.page.evaluate("states.at(-1)")


@pytest.fixture
def tab(browser):
    """A function that opens an address in a new context. The test fails if a page throws."""
    tabs = []

    def tab(address, init=None, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        opened = Tab(context.new_page())
        tabs.append(opened)
        if init:
            opened.page.add_init_script(init)
        opened.page.goto(address)
        return opened

    yield tab
    for one in tabs:
        one.page.context.close()
        assert one.thrown == []


def script_tag(hub, file="third-party.js", **data):
    """The tag, without `async`, so that a test need not wait for it, and without a checksum."""
    attributes = "".join(f' data-{name}="{value}"' for name, value in data.items())
    return f'<script src="{hub.url}egress/v1/{file}"{attributes}></script>'


def await_tier(store, user="user-1", tier="verified"):
    eventually(lambda: store.known(Server(user)).tier == tier, what=f"{user} is not {tier}")


def asked(build):
    """A build request as BinderHub sees it, without the host, which differs between doubles."""
    return build.spec, build.query, {name: value for name, value in build.headers.items() if name.lower() != "host"}


# --- the same launches, with egress -----------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_launch_is_the_same_with_the_tag_and_gets_egress(client, course, hub, store, tab):
    without = tab(course.page(CLIENTS[client]))
    without.launch(hub)
    with_it = tab(course.page(CLIENTS[client], script_tag(hub)))
    with reconciler(store, Server("user-2")):
        with_it.launch(hub)
        said = with_it.state("granted")
    first, second = hub.builds
    assert asked(first) == asked(second) and second.token is None
    assert with_it.record() == without.record() and "ready" in with_it.record()
    assert store.known(Server("user-1")).tier == "unverified"
    assert store.known(Server("user-2")).tier == "verified"
    assert said == {
        "state": "granted",
        "build": f"{hub.url}build/gh/o/cached/HEAD",
        "server": f"{hub.url}user/user-2/",
        "unlock": None,
    }
    assert [each["state"] for each in with_it.page.evaluate("states")] == ["checking", "granted"]
    assert with_it.console == without.console


HELPLESS = ["down", "hang", "404", "garbage", "not listed", "hang later", "garbage later"]


@pytest.mark.parametrize(
    ("what", "client"),
    [
        (what, client)
        for what in HELPLESS
        for client in CLIENTS
        if client in ("EventSource", "fetch") or what in ("down", "not listed", "hang later")
    ],
)
def test_launch_is_the_same_if_the_tag_cannot_help(what, client, course, hub, start, verifier, _verifier, tab):
    without = tab(course.page(CLIENTS[client]))
    without.launch(hub)
    if what == "not listed":
        hub = start(_verifier)
    else:
        hub.fault, _, later = what.partition(" ")
        # Later: the script arrives, and the verifier fails afterwards.
        hub.fault_paths = ("challenge",) if later else ("",)
    tag = script_tag(hub).replace("<script ", "<script async ")
    with_it = tab(course.page(CLIENTS[client], tag) if what != "hang" else "about:blank")
    if what == "hang":
        with_it.page.goto(course.page(CLIENTS[client], tag), wait_until="commit")
        with_it.page.wait_for_function("typeof launch === 'function' && document.scripts.length > 2")
        with_it.page.wait_for_timeout(1000)
    before = hub.count("GET /build/")
    with_it.launch(hub)
    assert hub.count("GET /build/") == before + 1
    if what == "garbage":
        # The script is HTML. The browser reports that, as for any script of the page.
        with_it.thrown = [text for text in with_it.thrown if "Unexpected token '<'" not in text]
    assert with_it.record() == without.record()
    assert hub.builds[-1].token is None
    assert hub.count("POST /egress/") == 0


LACKING = [
    "delete window.Proxy",
    "delete window.Worker; delete crypto.subtle; Object.defineProperty(crypto, 'subtle', { value: undefined })",
    "delete window.CustomEvent",
    "window.URL = undefined",
    "delete AbortSignal.prototype.throwIfAborted",
    "Response.prototype.clone = () => { throw new TypeError('no') }",
    "delete window.AbortController; delete window.TextDecoder",
    "delete navigator.hardwareConcurrency; delete window.performance",
]


@pytest.mark.parametrize("client", ["EventSource", "fetch"])
@pytest.mark.parametrize("lacking", LACKING)
def test_launch_is_the_same_in_a_browser_that_lacks_something(lacking, client, course, hub, tab):
    without = tab(course.page(CLIENTS[client]), init=lacking)
    without.launch(hub)
    with_it = tab(course.page(CLIENTS[client], script_tag(hub)), init=lacking)
    with_it.launch(hub)
    assert with_it.record() == without.record()
    assert asked(hub.builds[0]) == asked(hub.builds[1])


@pytest.mark.parametrize("client", ["EventSource", "fetch"])
@pytest.mark.parametrize("broken", ["window.URL", "window.JSON.parse", "dispatchEvent"])
def test_errors_of_the_script_do_not_reach_the_page(broken, client, course, hub, tab):
    records = []
    for head in ("", script_tag(hub)):
        opened = tab(course.page(CLIENTS[client].replace("JSON.parse(event.data)", "parse(event.data)"), head))
        opened.page.evaluate(f"window.parse = JSON.parse; {broken} = function () {{ throw new Error('broken'); }}; null")
        opened.launch(hub)
        opened.page.wait_for_timeout(300)
        records.append(opened.record())
    assert records[0] == records[1]
    assert asked(hub.builds[0]) == asked(hub.builds[1])


@pytest.mark.parametrize("client", ["EventSource", "fetch", "binderhub-client"])
def test_failed_build_is_the_same_with_the_tag(client, course, hub, tab):
    hub.fails = True
    without = tab(course.page(CLIENTS[client]))
    without.launch(hub)
    with_it = tab(course.page(CLIENTS[client], script_tag(hub)))
    with_it.launch(hub)
    assert with_it.record() == without.record() and "failed" in with_it.record()
    # binderhub-client throws an error of its own.
    assert with_it.thrown == without.thrown
    for opened in (with_it, without):
        opened.thrown.clear()


@pytest.mark.parametrize("failure", ["the build", "a banned repository", "a status"])
@pytest.mark.parametrize("client", ["EventSource", "fetch"])
def test_failure_of_a_launch_is_reported(client, failure, course, hub, tab):
    """Before that, the last state was `checking`."""
    hub.fails = failure == "the build"
    hub.refusal = 429 * (failure == "a banned repository")
    hub.failures = int(failure == "a status")
    opened = tab(course.page(CLIENTS[client], script_tag(hub)))
    opened.page.evaluate("(address) => { launch(address); }", f"{hub.url}build/gh/o/cached/HEAD")
    said = opened.state("failed")
    assert (said["server"], said["unlock"]) == (None, None)
    opened.page.wait_for_timeout(500)
    assert opened.state("failed")
    opened.thrown.clear()


def test_eventsource_reconnects_by_itself_after_a_cut(course, hub, store, tab):
    records = []
    for head in ("", script_tag(hub)):
        hub.cuts = 1
        opened = tab(course.page(CLIENTS["EventSource"], head))
        with reconciler(store, Server("user-4")):
            opened.launch(hub)
            if head:
                opened.state("granted")
        records.append(opened.record())
    assert records[0] == records[1] and '"error", 0' in records[1]
    assert [build.token for build in hub.builds] == [None] * 4
    assert store.known(Server("user-4")).tier == "verified"
    assert hub.count("POST /egress/passes") == 1


def test_stream_left_open_launches_again_and_both_get_egress(course, hub, store, tab):
    page = """<script>
      function launch(address) { new EventSource(address).onmessage = ({ data }) => { done += data.includes('"ready"'); }; }
    </script>"""
    opened = tab(course.page(page, script_tag(hub)))
    with reconciler(store, Server("user-1")), reconciler(store, Server("user-2")):
        opened.launch(hub, times=2)
        await_tier(store, "user-1")
        await_tier(store, "user-2")
    opened.page.evaluate("location.href = 'about:blank'")


@pytest.mark.parametrize("names", [("one", "two"), ("one", "one")], ids=["different", "the same"])
@pytest.mark.parametrize("client", ["EventSource", "fetch"])
def test_two_launches_on_one_page_both_get_egress(client, names, course, hub, store, tab):
    opened = tab(course.page(CLIENTS[client], script_tag(hub)))
    hub.ready.close()
    opened.page.evaluate(
        "(addresses) => { for (const address of addresses) launch(address); }",
        [f"{hub.url}build/gh/o/{name}/HEAD" for name in names],
    )
    eventually(lambda: len(hub.builds) == 2, what="not launched")
    with reconciler(store, Server("user-1")), reconciler(store, Server("user-2")):
        hub.ready.open()
        opened.page.wait_for_function("done === 2")
        await_tier(store, "user-1")
        await_tier(store, "user-2")


def test_challenge_slower_than_the_build_still_unlocks(course, hub, store, tab):
    hub.gates["challenge"].close()
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub)))
    opened.launch(hub)
    assert hub.count("POST /egress/") == 0
    with reconciler(store, Server("user-1")):
        hub.gates["challenge"].open()
        await_tier(store)


NOTE_PASSES = """{
  globalThis.passes = 0;
  const { json } = Response.prototype;
  Response.prototype.json = async function () {
    const body = await json.call(this);
    passes += this.url.endsWith("/passes");
    return body;
  };
}"""
"""Counts the passes that the page has got. The answer alone is not enough: until it is read, the page waits with a limit."""


@pytest.mark.parametrize("cached", [True, False], ids=["before launching", "after launching"])
def test_build_longer_than_a_pass_lives_gets_a_new_pass(cached, course, start, store, tab):
    hub = start(allowed_origins=[course.origin], pass_lifetime=30)
    hub.at_once = cached
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub)), init=NOTE_PASSES)
    opened.page.clock.install()
    hub.ready.close()
    opened.page.evaluate("(address) => { launch(address); }", f"{hub.url}build/gh/o/cached/HEAD")
    eventually(lambda: opened.page.evaluate("passes") == 1, what="no pass")
    opened.page.clock.fast_forward(60_000)
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        await_tier(store)
    assert hub.count("POST /egress/passes") == 2


def test_pass_that_expired_while_the_computer_slept_is_replaced(course, start, store, tab):
    """On most systems performance.now() stands still then."""
    hub = start(allowed_origins=[course.origin], pass_lifetime=30)
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub)), init=NOTE_PASSES)
    opened.page.clock.install()
    hub.ready.close()
    opened.page.evaluate("(address) => { launch(address); }", f"{hub.url}build/gh/o/cached/HEAD")
    eventually(lambda: opened.page.evaluate("passes") == 1, what="no pass")
    opened.page.evaluate("{ const now = performance.now(); performance.now = () => now; }")
    opened.page.clock.fast_forward(60_000)
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        await_tier(store)
    assert hub.count("POST /egress/passes") == 2


@pytest.mark.parametrize("client", ["EventSource", "fetch", "thebe-core"])
def test_redirected_build_is_unlocked_at_the_other_member(client, course, hub, tab):
    """The server belongs to another member, and that member's verifier unlocks it."""
    others = RedisServer()
    others.start()
    process = VerifierProcess(others, captcha_providers=MODEST, allowed_origins=[course.origin])
    member = BinderHub((process.public, process.internal), b"")
    connection = connect(make_settings(others))
    store = Store(connection)
    member.launched = lambda user: run_pod(store, user)
    hub.redirect = member.url
    try:
        without = tab(course.page(CLIENTS[client]))
        without.launch(hub)
        opened = tab(course.page(CLIENTS[client], script_tag(hub)))
        with reconciler(store, Server("user-2")):
            opened.launch(hub)
            await_tier(store, "user-2")
        assert opened.record() == without.record()
        assert member.count("POST /egress/servers/user-2") == 1
        assert hub.count("POST /egress/servers") == 0 and member.count("POST /egress/passes") == 0
    finally:
        member.stop()
        connection.close()
        process.stop()
        others.stop()


def test_binderhub_may_be_at_another_address_than_the_verifier(course, hub, start, _listed, store, tab):
    front = start(_listed)
    opened = tab(course.page(CLIENTS["fetch"], script_tag(hub, binderhub=front.url)))
    opened.launch(hub)
    assert opened.page.evaluate("states") == []
    front.redirect = hub.url
    with reconciler(store, Server("user-2")):
        opened.launch(front)
        await_tier(store, "user-2")


def test_other_requests_pass_through_untouched(course, hub, start, _listed, tab):
    other = start(_listed)
    opened = tab(course.page("", script_tag(hub)))
    results = opened.page.evaluate(
        """async ({ hub, other }) => {
          const results = {};
          const text = async (...args) => (await fetch(...args)).text();
          const source = (address) => new Promise((resolve) => {
            const made = new EventSource(address);
            made.addEventListener("message", ({ data }) => { if (data.includes('"ready"')) { made.close(); resolve(data); } });
          });
          results.other = (await text(`${other}build/gh/o/r/HEAD`)).includes("phase");
          results.otherSource = Boolean(await source(`${other}build/gh/o/r/HEAD`));
          results.post = (await text(`${hub}build/gh/o/r/HEAD`, { method: "POST" })).includes("phase");
          results.token = (await text(`${hub}build/gh/o/r/HEAD?egress_token=mine`)).includes("phase");
          results.only = Boolean(await source(`${hub}build/gh/o/r/HEAD?build_only=true`));
          results.data = (await text("data:,x")) === "x";
          results.request = (await text(new Request(location.href))).includes("course");
          results.url = (await text(new URL(location.href))).includes("course");
          for (const [name, call] of Object.entries({
            empty: () => fetch(), bad: () => fetch("http://"), illegal: () => fetch.call({}, "/"), called: () => EventSource("/"),
            nothing: () => new EventSource(), wrong: () => new EventSource("http://["),
          })) {
            results[name] = await (async () => call())().then(() => "no error", (error) => error.name);
          }
          results.statics = [EventSource.CONNECTING, EventSource.OPEN, EventSource.CLOSED, EventSource.name, EventSource.length];
          class Mine extends EventSource {}
          const mine = new Mine("data:,");
          results.sub = [mine instanceof Mine, mine instanceof EventSource, Object.getPrototypeOf(mine) === Mine.prototype];
          mine.close();
          results.global = [Object.keys(window).includes("EventSource"), String(fetch).includes("[native code]")];
          return results;
        }""",
        {"hub": hub.url, "other": other.url},
    )
    assert results == {
        "other": True, "otherSource": True, "post": True, "token": True, "only": True, "data": True, "request": True, "url": True,
        "empty": "TypeError", "bad": "TypeError", "illegal": "TypeError", "called": "TypeError", "nothing": "TypeError",
        "wrong": "SyntaxError", "statics": [0, 1, 2, "EventSource", 1], "sub": [True, True, True], "global": [False, True],
    }  # fmt: skip
    assert opened.page.evaluate("states") == []
    assert hub.count("GET /egress/challenge") == 0


def test_tag_defines_one_global_name(course, hub, tab):
    names = "Object.getOwnPropertyNames(window)"
    page = course.page("", "", "without.html")
    before = tab(page).page.evaluate(names)
    opened = tab(course.page("", script_tag(hub)))
    assert set(opened.page.evaluate(names)) - set(before) == {"binderEgress"}
    assert opened.page.evaluate("Object.keys(binderEgress)") == ["verifier", "binderhub", "getPass", "withEgress"]
    assert opened.page.evaluate("[binderEgress.verifier, binderEgress.binderhub]") == [f"{hub.url}egress/", hub.url]
    # Nothing is requested before a launch.
    assert hub.count("GET /egress/challenge") == 0


# --- links ------------------------------------------------------------------------------------------------------------

PULLED = (
    "git-pull%3Frepo%3Dhttps%253A%252F%252Fgithub.com%252Fo%252Fcontent%26urlpath%3Dlab%252Ftree%252Fa%2520b.ipynb%26branch%3Dmain"
)
"""A link of nbgitpuller's link generator: an address in an address in an address."""


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("", "?token=server-token"),
        (
            f"?urlpath={PULLED}",
            "git-pull?repo=https%3A%2F%2Fgithub.com%2Fo%2Fcontent&urlpath=lab%2Ftree%2Fa+b.ipynb&branch=main&token=server-token",
        ),
        ("?urlpath=%2Frstudio%2F", "rstudio/?token=server-token"),
        ("?labpath=a%20b.ipynb", "doc/tree/a%20b.ipynb?token=server-token"),
        ("?filepath=a.ipynb", "tree/a.ipynb?token=server-token"),
    ],
    ids=["badge", "nbgitpuller", "urlpath", "labpath", "filepath"],
)
def test_link_or_badge_leads_to_the_same_place(query, path, course, hub, tab):
    """The link opens the launch page, whose own script sends the pass."""
    hub.script = bundle()
    link = f"<a href='{hub.page()}{query}'><img alt='launch binder' src='data:,'></a>"
    ends = []
    for header in ({}, hub.header_html):
        hub.header_html = header
        opened = tab(course.page(link))
        # As in production, where the page's own script is large and comes last.
        hub.bundle.close()
        opened.page.get_by_role("link").click(no_wait_after=True)
        if header:
            opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
        hub.bundle.open()
        opened.page.wait_for_url("**/user/**")
        ends.append(opened.page.url)
    without, with_us = hub.builds
    assert ends == [f"{hub.url}user/user-1/{path}", f"{hub.url}user/user-2/{path}"]
    assert (without.tier, with_us.tier) == ("unverified", "verified")
    assert with_us.query.pop("egress_token") and with_us.query == without.query


# --- pages with a Content-Security-Policy, and without workers --------------------------------------------------------


def csp(hub, *more, left_out=()):
    """The Content-Security-Policy of docs/third-party-pages.md, for a page with scripts of its own."""
    document = (TOP / "docs/third-party-pages.md").read_text()
    (documented,) = re.findall(r"```text\n(.*?)```", document, re.DOTALL)
    host = hub.url.rstrip("/")
    parts = {
        line.split()[0]: line for line in documented.replace("https://hub.example.org", host).strip().replace(";", "").splitlines()
    }
    parts["script-src"] += " 'unsafe-inline'"
    return "; ".join([*(line for name, line in parts.items() if name not in left_out), *more])


def test_documented_csp_is_enough(course, hub, store, tab):
    course.headers["Content-Security-Policy"] = csp(hub)
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub)))
    with reconciler(store, Server("user-1")):
        opened.launch(hub)
        opened.state("granted")
    assert opened.console == []
    assert opened.workers


@pytest.mark.parametrize("how", ["worker-src 'none'", "no Worker"])
def test_challenge_is_solved_in_the_page_without_workers(how, course, hub, store, tab):
    init = "delete window.Worker" if how == "no Worker" else None
    if not init:
        course.headers["Content-Security-Policy"] = csp(hub, "worker-src 'none'", left_out=["worker-src"])
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub)), init=init)
    with reconciler(store, Server("user-1")):
        opened.launch(hub)
        opened.state("granted")
    assert opened.workers == []


def test_csp_that_blocks_the_verifier_leaves_the_launch_alone(course, hub, tab):
    course.headers["Content-Security-Policy"] = csp(hub, f"connect-src {hub.url}build/", left_out=["connect-src"])
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub)))
    opened.launch(hub)
    opened.state("unanswered")
    assert hub.count("GET /egress/challenge") == 0


@pytest.mark.parametrize("algorithm", ["SHA-256", "SCRYPT", "ARGON2ID"])
def test_tag_solves_other_algorithms(algorithm, course, start, store, tab):
    cost = {"SHA-256": {"cost": 10}, "SCRYPT": {"cost": 16, "memoryCost": 8}, "ARGON2ID": {"cost": 1, "memoryCost": 64}}[algorithm]
    altcha = {"altcha": {"algorithm": algorithm, "counterMax": 5, **cost}}
    hub = start(captcha_providers=altcha, allowed_origins=[course.origin], unlock_wait_seconds=PATIENT_UNLOCK_SECONDS)
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub)))
    with reconciler(store, Server("user-1")):
        opened.launch(hub)
        opened.state("granted")


# --- when a person is needed -----------------------------------------------------------------------------------------


@pytest.fixture
def double():
    with running() as double:
        yield double


LINK = '<p id="egress"></p>' + CLIENTS["EventSource"]


def test_unlock_link_is_shown_if_a_widget_is_needed(double, course, start, tab):
    hub = start(**double.settings("turnstile"), allowed_origins=[course.origin])
    opened = tab(course.page(LINK, script_tag(hub, link="#egress")))
    opened.launch(hub)
    detail = opened.state("needed")
    assert detail["unlock"] == f"{hub.url}egress/servers/user-1"
    link = opened.page.get_by_role("link", name=MESSAGES["en"]["unlock"], exact=True)
    expect(link).to_have_attribute("href", detail["unlock"])
    with opened.page.expect_popup() as popup:
        link.click()
    expect(popup.value.locator("#state")).to_be_visible()
    # The page has loaded nothing from the captcha provider.
    assert not any(double.url in url for url in opened.requests)


def test_tier_that_is_not_enough_is_not_solved_for(course, start, tab):
    tiers = {"verified": {"internet": True}, "small": {"internet": False}}
    hub = start(tiers=tiers, captcha_providers={"altcha": {**MODEST["altcha"], "tier": "small"}}, allowed_origins=[course.origin])
    opened = tab(course.page(LINK, script_tag(hub, tiers="verified other", link="#egress")))
    opened.launch(hub)
    assert opened.state("needed")["unlock"]
    assert hub.count("POST /egress/") == 0


def test_tier_that_is_enough_is_solved_for(course, hub, store, tab):
    opened = tab(course.page(LINK, script_tag(hub, tiers="other verified", link="#egress")))
    with reconciler(store, Server("user-1")):
        opened.launch(hub)
        opened.state("granted")
    assert opened.page.locator("#egress a").count() == 0


@pytest.mark.parametrize("language", MESSAGES)
def test_unlock_link_has_the_language_of_the_page(language, course, hub, tab):
    hub.fault, hub.fault_paths = "down", ("challenge",)
    body = f"<script>document.documentElement.lang = '{language}-XX'</script>{LINK}"
    opened = tab(course.page(body, script_tag(hub, link="#egress")), locale="fr-FR")
    opened.launch(hub)
    opened.state("unanswered")
    link = opened.page.locator("#egress a")
    assert link.text_content() == MESSAGES[language]["unlock"]
    assert link.get_attribute("dir") == ("rtl" if language == "ar" else "ltr")


def test_unlock_link_is_shown_for_an_unknown_server(course, hub, tab):
    """The script tries four times, and then shows the link."""
    hub.launched = lambda user: None
    opened = tab(course.page(LINK, script_tag(hub, link="#egress")))
    opened.launch(hub)
    assert opened.state("none")["unlock"]
    assert hub.count("POST /egress/servers/user-1") == 4


def test_unlock_without_an_answer_is_told(course, hub, tab):
    hub.gates["servers"].close()
    opened = tab(course.page(LINK, script_tag(hub, link="#egress")), init=STILL)
    opened.launch(hub)
    for tries, pause in enumerate((1, 2, 4, None), start=1):
        # The preflight has no answer.
        eventually(lambda tries=tries: hub.count("OPTIONS /egress/servers/user-1") == tries, what=f"no {tries} requests")
        opened.page.evaluate("passTime(10)")
        if pause:
            eventually(lambda pause=pause: opened.page.evaluate("timersLeft()") == [pause], what=f"no pause of {pause} s")
            opened.page.evaluate("(pause) => passTime(pause)", pause)
    assert opened.state("unanswered")["unlock"]


# --- with an API key --------------------------------------------------------------------------------------------------


@pytest.fixture
def make_key(course, start, tmp_path):
    """A function that gives a BinderHub whose verifier has a key for two servers a day on the course's pages; and the key."""

    def make_key(*repositories):
        key, entry = keys.create("keyed", 2, "2999-12-31", [course.origin], list(repositories))
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({"course": entry.model_dump()}))
        tiers = {"verified": {"internet": True}, "keyed": {"internet": True}}
        own = {"api_keys_file": str(file), "tiers": tiers, "allowed_origins": [course.origin]}
        return start(unlock_wait_seconds=PATIENT_UNLOCK_SECONDS, **own), key

    return make_key


@pytest.fixture
def with_key(make_key):
    return make_key()


def test_key_replaces_calculation_until_it_is_spent(course, with_key, store, tab):
    hub, key = with_key
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub, key=key)))
    for user, tier in (("user-1", "keyed"), ("user-2", "keyed"), ("user-3", "verified")):
        with reconciler(store, Server(user)):
            opened.launch(hub)
            opened.page.wait_for_function("(server) => states.at(-1).server === server", arg=f"{hub.url}user/{user}/")
            await_tier(store, user, tier)
        assert hub.count("GET /egress/challenge") == (user == "user-3")
    assert [said["state"] for said in opened.page.evaluate("states")] == ["checking", "granted"] * 3
    assert not any(key in url for url in opened.requests)


def test_key_gives_a_pass_to_pages_that_wait(course, with_key, tab):
    hub, key = with_key
    opened = tab(course.page(CLIENTS["fetch"], script_tag(hub, key=key)))
    address = f"{hub.url}build/gh/o/cached/HEAD"
    opened.page.evaluate("async (address) => launch(await binderEgress.withEgress(address))", address)
    opened.page.wait_for_function("done === 1")
    assert opened.page.evaluate("binderEgress.getPass()")
    assert hub.builds[0].tier == "keyed" and hub.count("GET /egress/challenge") == 0


@pytest.mark.parametrize("wrong", ["binder_egress_0123456789abcdef_" + 40 * "0", "ü\n"])
def test_wrong_key_counts_as_no_key(wrong, course, with_key, store, tab):
    hub, _ = with_key
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub, key=wrong)))
    with reconciler(store, Server("user-1")):
        opened.launch(hub)
        opened.state("granted")
    assert store.known(Server("user-1")).tier == "verified"
    assert [text for text in opened.console if text.startswith("binder-egress: the key gives no pass: ")]


def test_key_for_other_repositories_counts_as_no_key(course, make_key, store, tab):
    hub, key = make_key("example.com/elsewhere/*")
    opened = tab(course.page(CLIENTS["EventSource"], script_tag(hub, key=key)))
    with reconciler(store, Server("user-1")):
        opened.launch(hub)
        opened.state("granted")
    assert store.known(Server("user-1")).tier == "verified"
    assert any("The pass was issued for a key that is for other repositories." in text for text in opened.console)


# --- pages that wait --------------------------------------------------------------------------------------------------


def test_with_egress_adds_the_pass_to_the_launch(course, hub, tab):
    opened = tab(course.page(CLIENTS["fetch"], script_tag(hub)))
    opened.page.evaluate(
        "async (address) => launch(await binderEgress.withEgress(address))", f"{hub.url}build/gh/o/cached/HEAD?labpath=%2Fa+b"
    )
    opened.page.wait_for_function("done === 1")
    [build] = hub.builds
    assert build.tier == "verified" and build.query["labpath"] == ["/a b"]
    assert hub.count("POST /egress/servers") == 0


def test_get_pass_gives_a_pass_that_a_launch_can_use(course, hub, store, tab):
    opened = tab(course.page(CLIENTS["fetch"], script_tag(hub)))
    token = opened.page.evaluate("binderEgress.getPass()")
    assert opened.page.evaluate(
        "(address) => fetch(address, { headers: { accept: 'text/event-stream' } }).then((answer) => answer.text())",
        f"{hub.url}build/gh/o/cached/HEAD?egress_token={token}",
    )
    assert hub.builds[0].tier == "verified"


def test_get_pass_says_why_there_is_none(course, start, tab):
    hub = start(allowed_origins=[course.origin], self_networks=["127.0.0.0/8"])
    opened = tab(course.page("", script_tag(hub)))
    said = opened.page.evaluate("binderEgress.getPass().catch(String)")
    assert said == f"Error: binder-egress: no pass: none: {REFUSALS[Rule.OWN_NETWORK]}"


@pytest.mark.parametrize(
    "address", ["https://other.example/build/gh/o/r/HEAD", "{hub}v2/gh/o/r/HEAD", "{hub}build/gh/o/r/HEAD?egress_token=x"]
)
def test_with_egress_changes_only_builds_of_this_binderhub(address, course, hub, tab):
    opened = tab(course.page("", script_tag(hub)))
    address = address.format(hub=hub.url)
    assert opened.page.evaluate("(address) => binderEgress.withEgress(address)", address) == address
    assert hub.count("GET /egress/challenge") == 0


@pytest.mark.parametrize("fault", ["down", "hang", "garbage"])
def test_with_egress_returns_the_same_address_without_a_pass(fault, course, hub, tab):
    opened = tab(course.page("", script_tag(hub)), init=STILL)
    hub.fault = fault
    address = f"{hub.url}build/gh/o/r/HEAD"
    opened.page.evaluate("(address) => { globalThis.got = binderEgress.withEgress(address, { timeout: 3 }); }", address)
    if fault == "hang":
        assert min(opened.page.evaluate("timersLeft()")) == 3
        opened.page.evaluate("passTime(3)")
    assert opened.page.evaluate("got") == address
    if fault != "hang":
        assert "unanswered" in opened.page.evaluate("binderEgress.getPass().catch(String)")


# --- the tag, the module, the package ---------------------------------------------------------------------------------


def test_tag_listed_by_the_verifier_works(course, hub, store, tab):
    page = tab(course.page(""))
    listed = page.page.evaluate("(url) => fetch(url).then((answer) => answer.json())", f"{hub.url}egress/v1/third-party.json")
    opened = tab(course.page(CLIENTS["EventSource"], listed["tag"]))
    opened.page.wait_for_function("Boolean(window.binderEgress)")
    with reconciler(store, Server("user-1")):
        opened.launch(hub)
        opened.state("granted")


def test_script_changed_in_transit_does_not_run(course, hub, tab):
    page = tab(course.page(""))
    tag = page.page.evaluate("(url) => fetch(url).then((answer) => answer.json())", f"{hub.url}egress/v1/third-party.json")["tag"]
    opened = tab("about:blank")
    headers = {"access-control-allow-origin": "*", "content-type": "text/javascript"}
    opened.page.route(
        "**/v1/third-party-*.js",
        lambda route: route.fulfill(body=route.fetch().text() + ";window.changed = true;", headers=headers),
    )
    opened.page.goto(course.page(CLIENTS["EventSource"], tag))
    opened.launch(hub)
    assert opened.page.evaluate("[Boolean(window.changed), Boolean(window.binderEgress)]") == [False, False]


def test_module_unlocks_without_a_global_name(course, hub, store, tab):
    module = f"""<script type="module">
      import {{ connect }} from "{hub.url}egress/v1/third-party.mjs";
      window.egress = connect({{ verifier: "{hub.url}egress" }});
      window.same = connect({{ verifier: "{hub.url}egress/" }}) === egress;
    </script>"""
    opened = tab(course.page(CLIENTS["EventSource"] + module))
    opened.page.wait_for_function("window.same === true")
    assert opened.page.evaluate("typeof binderEgress") == "undefined"
    with reconciler(store, Server("user-1")):
        opened.launch(hub)
        opened.state("granted")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of the npm package, packed and then installed into an empty project. The package has no dependencies."""
    project = tmp_path_factory.mktemp("project")
    run = partial(subprocess.run, check=True, stdout=subprocess.PIPE, text=True)
    source = TOP / "frontend/pages"
    # One process at a time: packing writes the package's files, which another one may just be reading.
    with (source / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        archive = run(["npm", "pack", "--silent", "--pack-destination", project], cwd=source).stdout.split()[-1]
    run(["npm", "init", "--yes", "--silent"], cwd=project)
    run(["npm", "install", "--offline", "--no-audit", "--no-fund", "--silent", project / archive], cwd=project)
    assert [path.name for path in (project / "node_modules").iterdir() if path.name[0] != "."] == ["binder-egress-pages"]
    # The TypeScript example also imports the client.
    (project / "node_modules/@jupyterhub").symlink_to(MODULES / "@jupyterhub")
    return project / "node_modules/binder-egress-pages"


def blocks(language):
    """The examples of docs/third-party-pages.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (TOP / "docs/third-party-pages.md").read_text(), re.MULTILINE | re.DOTALL)


def with_addresses(example, hub):
    """An example with the addresses of this test."""
    return (
        example.replace("https://hub.example.org", hub.url.rstrip("/"))
        .replace("https://unpkg.com/thebe@0.9.3/", "/npm/thebe/")
        .replace("https://unpkg.com/thebe-core@0.5.0/", "/npm/thebe-core/")
        .replace('src="tag.js"', 'src="/tag.js"')
    )


def test_npm_package_holds_exactly_the_named_files(package):
    files = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    named = {"dist/index.js", "dist/tag.js", "index.d.ts", "package.json", "README.md", "LICENSE", "LICENSE-altcha"}
    assert files == named
    version = json.loads((package / "package.json").read_text())["version"]
    assert f'\nversion = "{version}"\n' in (TOP / "pyproject.toml").read_text()
    # It can be imported outside a page, as bundlers and servers that render pages do.
    code = "import * as all from 'binder-egress-pages'; console.log(Object.keys(all).join(), typeof all.connect)"
    command = ["node", "--input-type=module", "-e", code]
    said = subprocess.run(command, cwd=package.parents[1], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert said == "connect function\n"


def test_typescript_example_compiles_and_runs(package, course, hub, store, tab):
    (example,) = blocks("ts")
    project = package.parents[1]
    (project / "page.ts").write_text(with_addresses(example, hub))
    # The client has no types.
    (project / "client.d.ts").write_text('declare module "@jupyterhub/binderhub-client/client.js";\n')
    command = ["node", MODULES / "typescript/bin/tsc", "--noEmit", "--strict", "--target", "es2022", "--module", "esnext"]
    command += ["--moduleResolution", "bundler", "--lib", "es2022,dom,dom.iterable"]
    checked = subprocess.run([*command, "client.d.ts", "page.ts"], cwd=project, stdout=subprocess.PIPE, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")
    (project / "wrong.ts").write_text('import { connect } from "binder-egress-pages";\nconnect({ verifier: 1 }).getPass("x");\n')
    refused = subprocess.run([*command, "wrong.ts"], cwd=project, stdout=subprocess.PIPE, text=True, check=False)
    assert refused.stdout.count("error TS") == 2
    bundled = subprocess.run(
        [MODULES / ".bin/esbuild", "page.ts", "--bundle", "--format=esm"],
        cwd=project, check=True, stdout=subprocess.PIPE, env={**os.environ, "NODE_PATH": str(MODULES)},
    ).stdout  # fmt: skip
    course.pages["/page.mjs"] = bundled
    use = '<script type=module>import * as page from "/page.mjs"; window.page = page;</script>'
    opened = tab(course.page(use))
    opened.page.wait_for_function("Boolean(window.page)")
    assert "egress_token=" in opened.page.evaluate("page.address")
    with reconciler(store, Server("user-1")):
        assert opened.page.evaluate("page.launch('gh/o/cached/HEAD')") == f"{hub.url}user/user-1/"
        opened.state("granted")


@pytest.mark.parametrize("number", range(8))
def test_documented_examples_launch_with_egress(number, package, course, hub, store, tab):
    assert len(blocks("html")) == 8, "say above how many there are"
    example = blocks("html")[number]
    course.pages["/tag.js"] = (package / "dist/tag.js").read_bytes()
    opened = tab(course.page("" if "<button" in example else CLIENTS["EventSource"], with_addresses(example, hub)))
    if 'type="module"' not in example:
        opened.page.wait_for_function("Boolean(window.binderEgress)")
    with reconciler(store, Server("user-1")):
        opened.page.get_by_role("button").first.click()
        eventually(lambda: hub.builds, what="not launched")
        if "withEgress" in example:
            eventually(lambda: hub.builds[0].tier, what="not announced")
            assert hub.builds[0].tier == "verified"
        else:
            opened.state("granted")
            assert hub.builds[0].token is None


def test_documented_command_prints_the_tag(hub):
    (command,) = re.findall(r"^curl .*$", (TOP / "docs/third-party-pages.md").read_text(), re.MULTILINE)
    printed = subprocess.run(["bash", "-c", with_addresses(command, hub)], check=True, stdout=subprocess.PIPE, text=True).stdout
    address = rf"{hub.url}egress/v1/third-party-\w+\.js"
    assert re.fullmatch(rf'<script async src="{address}" integrity="sha384-\S+" crossorigin="anonymous"></script>\n', printed)
