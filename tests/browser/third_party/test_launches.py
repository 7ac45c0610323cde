"""Third-party pages with the script tag: launches go out as without the tag, and servers get egress."""

import pytest

from binder_egress.model.records import Server
from tests.support.apps import reconciler
from tests.support.third_party import asked, await_tier, script_tag
from tests.support.third_party_site import CLIENTS
from tests.support.waiting import eventually


def launch_both(site, hub, tab, client, init=None):
    """Launch without the tag and with it. Returns both pages."""
    pages = [tab(site.page(CLIENTS[client], head), init=init) for head in ("", script_tag(hub))]
    for page in pages:
        page.launch(hub)
    return pages


@pytest.mark.parametrize("client", CLIENTS)
def test_launch_is_the_same_with_the_tag_and_gets_egress(client, site, hub, store, tab):
    without = tab(site.page(CLIENTS[client]))
    without.launch(hub)
    with_it = tab(site.page(CLIENTS[client], script_tag(hub)))
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


@pytest.mark.parametrize(
    ("what", "client"),
    [
        # The script does not load.
        ("down", "EventSource"),
        ("hang", "EventSource"),
        ("garbage", "fetch"),
        # The script loads. The other clients are written with an EventSource or `fetch`.
        ("not listed", "EventSource"),
        ("not listed", "fetch"),
        ("hang later", "EventSource"),
        ("hang later", "fetch"),
        ("garbage later", "EventSource"),
    ],
)
def test_launch_is_the_same_if_the_tag_cannot_help(what, client, site, hub, start, tab):
    without = tab(site.page(CLIENTS[client]))
    without.launch(hub)
    if what == "not listed":
        hub = start()
    else:
        hub.fault, _, later = what.partition(" ")
        hub.fault_paths = ("challenge",) if later else ("",)
    tag = script_tag(hub).replace("<script ", "<script async ")
    with_it = tab(site.page(CLIENTS[client], tag) if what != "hang" else "about:blank")
    if what == "hang":
        with_it.page.goto(site.page(CLIENTS[client], tag), wait_until="commit")
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


@pytest.mark.parametrize("lacking", LACKING)
def test_launch_is_the_same_in_a_browser_that_lacks_something(lacking, site, hub, tab):
    """The script looks for these before it replaces both ways to launch. Every second page has the other way."""
    client = ("EventSource", "fetch")[LACKING.index(lacking) % 2]
    without, with_it = launch_both(site, hub, tab, client, init=lacking)
    assert with_it.record() == without.record()
    assert asked(hub.builds[0]) == asked(hub.builds[1])


@pytest.mark.parametrize("client", ["EventSource", "fetch"])
@pytest.mark.parametrize("broken", ["window.URL", "window.JSON.parse", "dispatchEvent"])
def test_errors_of_the_script_do_not_reach_the_page(broken, client, site, hub, tab):
    records = []
    for head in ("", script_tag(hub)):
        opened = tab(site.page(CLIENTS[client].replace("JSON.parse(event.data)", "parse(event.data)"), head))
        opened.page.evaluate(f"window.parse = JSON.parse; {broken} = function () {{ throw new Error('broken'); }}; null")
        opened.launch(hub)
        opened.page.wait_for_timeout(300)
        records.append(opened.record())
    assert records[0] == records[1]
    assert asked(hub.builds[0]) == asked(hub.builds[1])


def test_launch_gets_egress_where_a_copy_loses_what_is_unread(site, hub, store, tab):
    """As in Firefox, if the client ends its request at `ready`."""
    silent = "Response.prototype.clone = function () { return new Response(new ReadableStream()); };"
    opened = tab(site.page(CLIENTS["binderhub-client"], script_tag(hub)), init=silent)
    opened.launch_granted(hub, store)


@pytest.mark.parametrize("client", ["EventSource", "fetch", "binderhub-client"])
def test_failed_build_is_the_same_with_the_tag(client, site, hub, tab):
    hub.fails = True
    without, with_it = launch_both(site, hub, tab, client)
    assert with_it.record() == without.record() and "failed" in with_it.record()
    # binderhub-client throws an error of its own.
    assert with_it.thrown == without.thrown
    for opened in (with_it, without):
        opened.thrown.clear()


@pytest.mark.parametrize("failure", ["the build", "a banned repository", "a status", "a cut", "no connection"])
@pytest.mark.parametrize("client", ["EventSource", "fetch"])
def test_failure_of_a_launch_is_reported(client, failure, site, hub, tab):
    """Before that, the last state was `checking`."""
    hub.fails = failure == "the build"
    hub.refusal = 429 * (failure == "a banned repository")
    hub.failures = int(failure == "a status")
    hub.cuts = int(failure == "a cut")
    # An EventSource that is left open connects again, which is no failure. Most clients close it.
    closing = "source.addEventListener('error', () => source.close()); source.onopen"
    opened = tab(site.page(CLIENTS[client].replace("source.onopen", closing), script_tag(hub)))
    if failure == "no connection":
        opened.page.route("**/build/**", lambda route: route.abort())
    opened.page.evaluate("(address) => { launch(address); }", f"{hub.url}build/gh/o/cached/HEAD")
    said = opened.state("failed")
    assert (said["server"], said["unlock"]) == (None, None)
    opened.page.wait_for_timeout(500)
    assert opened.state("failed")
    opened.thrown.clear()


def test_request_that_another_one_replaces_is_no_failure(site, hub, store, tab):
    page = """<script>
      let controller;
      function launch(address) {
        controller?.abort();
        controller = new AbortController();
        // Past the browser's cache, where the second request would wait for the first one, and be sent once more after its end.
        fetch(address, { cache: "no-store", headers: { accept: "text/event-stream" }, signal: controller.signal })
          .then((answer) => answer.text())
          .then(() => { done += 1; }, () => {});
      }
    </script>"""
    hub.ready.close()
    opened = tab(site.page(page, script_tag(hub)))
    for builds in (1, 2):
        opened.page.evaluate("(address) => { launch(address); }", f"{hub.url}build/gh/o/cached/HEAD")
        eventually(lambda builds=builds: len(hub.builds) == builds, what="not launched")
    with reconciler(store, Server("user-2")):
        hub.ready.open()
        opened.state("granted")
    assert [each["state"] for each in opened.page.evaluate("states")] == ["checking", "granted"]


def test_eventsource_reconnects_by_itself_after_a_cut(site, hub, store, tab):
    records = []
    for head in ("", script_tag(hub)):
        hub.cuts = 1
        opened = tab(site.page(CLIENTS["EventSource"], head))
        with reconciler(store, Server("user-4")):
            opened.launch(hub)
            if head:
                opened.state("granted")
        records.append(opened.record())
    assert records[0] == records[1] and '"error", 0' in records[1]
    assert [build.token for build in hub.builds] == [None] * 4
    assert store.known(Server("user-4")).tier == "verified"
    assert hub.count("POST /egress/passes") == 1


def test_stream_left_open_launches_again_and_both_get_egress(site, hub, store, tab):
    page = """<script>
      function launch(address) { new EventSource(address).onmessage = ({ data }) => { done += data.includes('"ready"'); }; }
    </script>"""
    opened = tab(site.page(page, script_tag(hub)))
    with reconciler(store, Server("user-1")), reconciler(store, Server("user-2")):
        opened.launch(hub, times=2)
        await_tier(store, "user-1")
        await_tier(store, "user-2")
    opened.page.evaluate("location.href = 'about:blank'")


@pytest.mark.parametrize(("client", "names"), [("EventSource", ("one", "one")), ("fetch", ("one", "two"))])
def test_two_launches_on_one_page_both_get_egress(client, names, site, hub, store, tab):
    opened = tab(site.page(CLIENTS[client], script_tag(hub)))
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


def test_challenge_slower_than_the_build_still_unlocks(site, hub, store, tab):
    hub.gates["challenge"].close()
    opened = tab(site.page(CLIENTS["EventSource"], script_tag(hub)))
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


@pytest.mark.parametrize("when", ["before launching", "after launching", "while the computer slept"])
def test_pass_that_expires_during_a_build_is_replaced(when, site, start, store, tab):
    """On most systems performance.now() stands still while the computer sleeps."""
    hub = start(allowed_origins=[site.origin], pass_lifetime=30)
    hub.at_once = when == "before launching"
    opened = tab(site.page(CLIENTS["EventSource"], script_tag(hub)), init=NOTE_PASSES)
    opened.page.clock.install()
    hub.ready.close()
    opened.page.evaluate("(address) => { launch(address); }", f"{hub.url}build/gh/o/cached/HEAD")
    eventually(lambda: opened.page.evaluate("passes") == 1, what="no pass")
    if when == "while the computer slept":
        opened.page.evaluate("{ const now = performance.now(); performance.now = () => now; }")
    opened.page.clock.fast_forward(60_000)
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        await_tier(store)
    assert hub.count("POST /egress/passes") == 2


@pytest.mark.parametrize("client", ["EventSource", "fetch"])
def test_redirected_build_is_unlocked_at_the_other_member(client, site, hub, make_member, tab):
    """The server belongs to another member, and that member's verifier unlocks it."""
    member, store = make_member(allowed_origins=[site.origin])
    hub.redirect = member.url
    without = tab(site.page(CLIENTS[client]))
    without.launch(hub)
    opened = tab(site.page(CLIENTS[client], script_tag(hub)))
    with reconciler(store, Server("user-2")):
        opened.launch(hub)
        await_tier(store, "user-2")
    assert opened.record() == without.record()
    assert member.count("POST /egress/servers/user-2") == 1
    assert hub.count("POST /egress/servers") == 0 and member.count("POST /egress/passes") == 0


def test_binderhub_may_be_at_another_address_than_the_verifier(site, hub, start_listed, store, tab):
    front = start_listed()
    opened = tab(site.page(CLIENTS["fetch"], script_tag(hub, binderhub=front.url)))
    opened.launch(hub)
    assert opened.page.evaluate("states") == []
    front.redirect = hub.url
    with reconciler(store, Server("user-2")):
        opened.launch(front)
        await_tier(store, "user-2")


def test_other_requests_pass_through_untouched(site, hub, start_listed, tab):
    other = start_listed()
    opened = tab(site.page("", script_tag(hub)))
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


def test_tag_defines_one_global_name(site, hub, tab):
    names = "Object.getOwnPropertyNames(window)"
    page = site.page("", "", "without.html")
    before = tab(page).page.evaluate(names)
    opened = tab(site.page("", script_tag(hub)))
    assert set(opened.page.evaluate(names)) - set(before) == {"binderEgress"}
    assert opened.page.evaluate("Object.keys(binderEgress)") == ["verifier", "binderhub", "getPass", "withEgress"]
    assert opened.page.evaluate("[binderEgress.verifier, binderEgress.binderhub]") == [f"{hub.url}egress/", hub.url]
    # Nothing is requested before a launch.
    assert hub.count("GET /egress/challenge") == 0
