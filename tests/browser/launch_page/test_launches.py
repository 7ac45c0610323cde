"""Which launch carries which promise, which pass keeps it, and what waits: retries, the back button."""

import json

import pytest
from playwright.sync_api import expect

from binder_egress.model.records import KnownServer, Server
from tests.support.apps import reconciler
from tests.support.launch_tab import (
    CLIENT_ERRORS,
    EN,
    LOADED,
    PROMISE,
    Tab,
    ask_until,
    build_by_script,
    end_wait,
    home,
    launch,
    launch_when_solved,
    launch_while_solving,
    open_checked,
    open_when_solved,
    press_launch,
    show_checked,
    text,
    tier_of,
)
from tests.support.waiting import eventually

# --- the build request ------------------------------------------------------------------------------------------------


PULLED = (
    "git-pull%3Frepo%3Dhttps%253A%252F%252Fgithub.com%252Fo%252Fcontent%26urlpath%3Dlab%252Ftree%252Fa%2520b.ipynb%26branch%3Dmain"
)
"""A link of nbgitpuller's link generator: an address in an address in an address."""


def test_promise_is_kept_before_a_build_that_comes_later(hub, store, tab):
    opened = tab()
    open_when_solved(hub, opened, f"{hub.page()}?urlpath={PULLED}")
    hub.bundle.open()
    pulled = "git-pull?repo=https%3A%2F%2Fgithub.com%2Fo%2Fcontent&urlpath=lab%2Ftree%2Fa+b.ipynb&branch=main"
    opened.page.wait_for_url(f"{hub.url}user/user-1/{pulled}&token=*")
    [build] = hub.builds
    assert build.tier == tier_of(store) == "verified"
    assert json.loads(hub.posted["/egress/passes"])["promise"] == build.token
    assert {"checking", "checked"} >= set(opened.states) - {"has"}


@pytest.mark.parametrize(
    ("how", "late", "cached"),
    [
        ("link", "launch.js", True),
        ("form", "launch.js", False),
        ("link", "challenge", False),
        ("form", "challenge", True),
        ("link", "passes", True),
        ("form", "passes", False),
    ],
)
def test_build_request_goes_out_at_once_with_a_promise_that_is_kept_during_the_build(how, late, cached, hub, store, tab):
    """Until the build is announced, no time passes on the page, and what `late` names does not come."""
    hub.at_once = cached
    hub.gates[late].close()
    hub.ready.close()
    opened = tab()
    opened.page.goto(hub.page() if how == "link" else hub.url, wait_until="commit")
    if how == "form":
        if late != "launch.js":
            opened.page.wait_for_function(LOADED)
        # The home page solves and shows nothing before a launch.
        assert hub.count("GET /egress/challenge") == 0 and opened.panel.count() == 0
        press_launch(opened)
    eventually(lambda: hub.builds and hub.builds[0].tier, what="not announced")
    assert PROMISE.fullmatch(hub.builds[0].token) and hub.builds[0].tier == "unverified"
    opened.expect_phase("idle" if cached else "launching")
    hub.gates[late].open()
    opened.expect("has")
    assert tier_of(store) == "verified"
    hub.ready.open()
    opened.server("user-1")
    eventually(lambda: hub.count("POST /egress/servers/user-1") == 1, what="not presented: BinderHub may have tried again")


def test_tier_of_a_trusted_repository_is_shown_as_it_is_until_the_pass_gives_more(start, store, tab):
    tiers = {"packages": {"direct": False, "hosts": ["python"], "rank": 1}, "verified": {"rank": 2}}
    trusted = dict.fromkeys(("example.com/gh/o/cached/HEAD", "github.com/o/cached"), "packages")
    hub = start(tiers=tiers, trusted_repositories=trusted)
    hub.gates["passes"].close()
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    ask_until(opened, "none")
    expect(opened.text).to_have_text(text("none", access=EN["packages"]))
    hub.gates["passes"].open()
    opened.expect("has")
    assert tier_of(store) == "verified"


# --- the server that is ready -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "slow"])
def test_ready_server_waits_for_the_calculation(cached, hub, store, tab):
    hub.at_once = cached
    hub.ready.close()
    opened = tab()
    launch_while_solving(hub, opened)
    # Only the last event waits, if it comes alone.
    opened.expect_phase("idle" if cached else "launching")
    hub.ready.open()
    opened.expect("holding")
    expect(opened.button("carry_on")).to_be_visible()
    opened.page.wait_for_timeout(500)
    opened.expect_phase("idle" if cached else "launching")
    hub.gates["passes"].open()
    opened.server("user-1")
    assert hub.builds[0].tier == "unverified" and tier_of(store) == "verified"
    eventually(lambda: hub.count("POST /egress/servers/user-1") == 1, what="not presented: BinderHub may have tried again")


@pytest.mark.parametrize("why", ["the build took longer", "the calculation takes longer"])
def test_ready_server_waits_for_nothing_after_the_hold(why, start, tab):
    """The verifier answers `hold: 0` if the calculation takes longer on average (D-225)."""
    hub = start(launch_hold=4 if why == "the build took longer" else 0)
    hub.ready.close()
    opened = tab()
    launch_while_solving(hub, opened)
    eventually(lambda: hub.builds, what="no build")
    if why == "the build took longer":
        opened.time.let_pass(4)
    hub.ready.open()
    opened.server("user-1")
    assert "holding" not in opened.states


def test_retry_waits_for_the_rest_of_the_hold(hub, tab):
    """The calculation goes on between two requests of a launch, so its time does, too."""
    hub.failures = 1
    hub.gates["passes"].close()
    opened = home(hub, tab)
    opened.noise += ["503", CLIENT_ERRORS]
    opened.page.wait_for_function(LOADED)
    press_launch(opened)
    opened.expect_phase("failed")
    eventually(lambda: hub.count("POST /egress/passes"), what="nothing is solved")
    opened.time.let_pass(3)
    press_launch(opened)
    opened.expect("holding")
    end_wait(opened, 1)
    opened.server("user-2")


def test_ready_server_of_a_site_that_gives_everybody_access_waits_for_nothing(start, tab):
    hub = start(mode="allow")
    hub.ready.close()
    opened = tab()
    launch_while_solving(hub, opened)
    ask_until(opened, "has")
    hub.ready.open()
    opened.server("user-1")


def test_answer_is_the_browsers_own(hub, tab):
    """Code in the page may read the response in any way. Only a reader of its body waits for `ready`."""
    hub.gates["passes"].close()
    hub.bundle.close()
    opened = tab()
    opened.page.goto(hub.page(), wait_until="commit")
    opened.page.wait_for_function(LOADED)
    read = opened.page.evaluate(
        """async () => {
          const get = () => fetch("/build/gh/o/r/HEAD?mine=x", { headers: { accept: "text/event-stream" } });
          const answer = await get();
          const told = [answer.constructor === Response, answer.url.split("&egress_token")[0], answer.status];
          const texts = [await answer.clone().text(), await answer.text(), await (await get()).text()];
          const lines = (await get()).body.pipeThrough(new TextDecoderStream());
          const piped = await new Response(lines.pipeThrough(new TextEncoderStream())).text();
          globalThis.reads = 0;
          const { body } = await get();
          globalThis.read = (async () => {
            const reader = body.getReader();
            let text = "";
            for (;;) {
              const { done, value } = await reader.read();
              if (done) return text.split("data:").length;
              text += new TextDecoder().decode(value);
            }
          })();
          return [told, [...texts, piped].map((text) => text.split("data:").length)];
        }"""
    )
    assert read == [[True, f"{hub.url}build/gh/o/r/HEAD?mine=x", 200], [6, 6, 6, 6]]
    opened.expect("holding")
    end_wait(opened, 4)
    assert opened.page.evaluate("read") == 6
    # Without an event `ready`, they are one launch to this page.
    assert len({build.token for build in hub.builds}) == 1


# --- what the panel says of the decision ------------------------------------------------------------------------------


def test_page_asks_about_its_promise_until_it_is_decided(hub, tab):
    """Without a pass, nothing follows the announcement."""
    hub.ready.close()
    opened = tab()
    launch_while_solving(hub, opened)

    def asks_no_more():
        if 1 in opened.time.timers:
            opened.time.let_pass(1)
        return opened.page.evaluate("!binderEgress.launches[0].asking")

    eventually(lambda: hub.builds and hub.builds[0].tier and hub.count("GET /egress/promises/") > 0, what="never asked")
    eventually(asks_no_more, what="asks although nothing can follow")
    opened.expect("checking")
    asked = hub.count("GET /egress/promises/")
    hub.gates["passes"].open()
    opened.expect("has")
    assert hub.count("GET /egress/promises/") == asked


def test_pass_is_presented_if_the_launch_was_not_announced(hub, store, tab):
    """BinderHub's hook rests after failures of the verifier."""
    hub.stays = True
    opened = open_checked(hub, tab)
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.expect("has")
    assert store.known(Server("user-1")).tier == "verified"


def test_server_that_the_verifier_does_not_know_yet_keeps_its_chance(hub, tab):
    hub.launched = lambda user: None
    hub.stays = True
    opened = tab()
    opened.noise.append("404")
    show_checked(hub, opened)
    opened.expect_phase("ready")
    eventually(lambda: hub.count("POST /egress/servers/user-1"), what="not presented")
    opened.page.wait_for_timeout(500)
    opened.expect("checked")


def test_refusal_of_a_launch_with_a_kept_promise_is_shown(start, store, tab):
    hub = start(blocked_repositories=["example.com/gh/*", "github.com/o/*"])
    hub.stays = True
    hub.ready.close()
    hub.launched = lambda user: store.publish(Server(user), KnownServer("uid-1", repository="https://example.com/gh/o"))
    opened = tab()
    launch_when_solved(hub, opened)
    ask_until(opened, "none")
    opened.expect("none")
    assert hub.builds[0].tier == "unverified"
    hub.ready.open()
    opened.expect_phase("ready")
    assert hub.count("POST /egress/servers/") == 0


@pytest.mark.parametrize("failure", ["the build", "a banned repository", "429", "cut"])
def test_launch_that_fails_is_promised_nothing(failure, hub, tab):
    hub.fails = failure == "the build"
    hub.refusal = 403 * (failure == "a banned repository")
    hub.failures = int(failure == "429")
    hub.cuts = int(failure == "cut")
    # The page of a repository has no button. People who launch from the home page press its button again.
    opened = home(hub, tab)
    # The page's client throws errors of its own.
    opened.noise += ["503", CLIENT_ERRORS]
    opened.page.wait_for_function(LOADED)
    hub.gates["challenge"].close()
    press_launch(opened)
    opened.expect_phase("failed")
    expect(opened.panel).to_have_count(0)
    assert opened.page.evaluate("binderEgress.state") == "failed"
    # Late results show nothing, either.
    with opened.page.expect_response("**/passes"):
        hub.gates["challenge"].open()
    opened.page.wait_for_timeout(500)
    expect(opened.panel).to_have_count(0)
    hub.fails, hub.refusal = False, 0
    press_launch(opened)
    opened.server("user-2")
    first, second = hub.builds
    assert first.token == second.token and second.tier == "verified"


def test_failed_launch_does_not_hide_the_panel_of_the_next(hub, tab):
    hub.failures = 1
    hub.rests = True
    opened = home(hub, tab)
    opened.noise += ["503", CLIENT_ERRORS]
    opened.page.wait_for_function(LOADED)
    held = []
    opened.page.route("**/egress/challenge?*", lambda route: held.append(route), times=1)
    press_launch(opened, "o/one")
    opened.expect_phase("failed")
    expect(opened.panel).to_have_count(0)
    hub.ready.close()
    press_launch(opened, "o/two")
    opened.expect("checked")
    # The check of the first launch goes on, for a retry.
    with opened.page.expect_response("**/egress/passes"):
        held[0].continue_()
    opened.page.wait_for_timeout(500)
    opened.expect("checked")
    assert opened.page.evaluate("binderEgress.state") == "checked"
    assert hub.builds[0].token != hub.builds[1].token


def test_page_from_the_browser_cache_launches_again(hub, store, kept_browser):
    """The script of the restored page goes on: the old launch is over, and the next launch is a new one."""
    context = kept_browser.new_context()
    context.set_default_timeout(60_000)
    opened = Tab(context.new_page())
    opened.page.add_init_script("addEventListener('pageshow', (event) => { globalThis.kept = event.persisted; })")
    launch(hub, opened)
    opened.server("user-1")
    opened.page.go_back(wait_until="commit")
    eventually(lambda: opened.page.evaluate("globalThis.kept"), what="the page was not kept")
    expect(opened.panel).to_have_count(0)
    assert len(hub.builds) == 1, "the page launched by itself"
    build_by_script(opened)
    eventually(lambda: len(hub.builds) == 2, what="no build")
    ask_until(opened, "has")
    first, second = hub.builds
    assert first.token != second.token
    assert tier_of(store, "user-2") == "verified"
    assert store.known(Server("user-1")).uid, "the first server is still there"
    context.close()
    opened.check()
