"""Which launch gets which pass, and when: early and late solutions, retries, tabs, the back button."""

import json

import pytest
import requests
from playwright.sync_api import expect

from tests.support.apps import PATIENT_UNLOCK_SECONDS, reconciler, run_pod
from tests.support.launch_tab import (
    CLIENT_ERRORS,
    Ignored,
    Tab,
    build_by_script,
    end_wait,
    home,
    launch,
    launch_when_solved,
    launch_while_solving,
    press_launch,
)
from tests.support.waiting import eventually
from verifier.records import KnownServer, Server


def test_pass_goes_with_a_build_that_comes_later(hub, tab):
    opened = tab()
    launch_when_solved(hub, opened)
    opened.server("user-1")
    [build] = hub.builds
    assert build.tier == "verified"
    assert {"checking", "checked"} >= set(opened.states) - {"has"}
    assert hub.count("POST /egress/servers/user-1") == 1


def test_launch_waits_while_a_challenge_is_solved(hub, tab):
    opened = tab()
    launch_while_solving(hub, opened)
    opened.expect("holding")
    assert hub.builds == []
    hub.gates["passes"].open()
    opened.server("user-1")
    assert [build.tier for build in hub.builds] == ["verified"]
    assert [state for state in opened.states if state != "has"][-2:] == ["holding", "checked"]


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "slow"])
def test_server_waits_for_the_calculation_that_its_build_did_not_wait_for(cached, hub, store, tab):
    hub.at_once = cached
    hub.ready.close()
    opened = tab()
    launch_while_solving(hub, opened)
    end_wait(opened, 1)
    eventually(lambda: hub.builds, what="no build")
    assert hub.builds[0].token is None
    # Only the last event waits, if it comes alone.
    opened.expect_phase("idle" if cached else "launching")
    opened.expect("checking")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.expect("holding")
        opened.page.wait_for_timeout(500)
        opened.expect_phase("idle" if cached else "launching")
        hub.gates["passes"].open()
        opened.server("user-1")
        eventually(lambda: store.known(Server("user-1")).tier == "verified", what="not unlocked")
    assert hub.count("POST /egress/servers/user-1") == 1


def test_server_waits_no_longer_than_the_rest_of_the_hold(start, tab):
    hub = start(launch_hold=6)
    opened = tab()
    launch_while_solving(hub, opened)
    # The build request waits for only one second of the hold.
    end_wait(opened, 1)
    opened.expect("holding")
    eventually(lambda: hub.builds, what="no build")
    end_wait(opened, 5)
    opened.server("user-1")
    assert hub.count("POST /egress/servers/") == 0


def test_server_whose_build_took_longer_than_the_hold_waits_for_nothing(start, tab):
    hub = start(launch_hold=2)
    hub.ready.close()
    opened = tab()
    launch_while_solving(hub, opened)
    end_wait(opened, 1)
    eventually(lambda: hub.builds, what="no build")
    opened.expect("checking")
    opened.time.let_pass(1)
    hub.ready.open()
    opened.server("user-1")


def test_answer_that_waits_is_the_browsers_own(hub, tab):
    """Code in the page may read the response in any way. Code that does not read events from it waits for nothing."""
    hub.gates["passes"].close()
    hub.bundle.close()
    opened = tab()
    opened.page.goto(hub.page(), wait_until="commit")
    eventually(lambda: hub.count("POST /egress/passes"), what="nothing is solved")
    opened.page.evaluate(
        """() => {
          const get = () => fetch("/build/gh/o/r/HEAD?mine=x", { headers: { accept: "text/event-stream" } });
          const read = async () => {
            const answer = await get();
            const told = [answer.constructor === Response, answer.url, answer.status, answer.headers.get("content-type")];
            const texts = [await answer.clone().text(), await answer.text(), await (await get()).text()];
            const lines = (await get()).body.pipeThrough(new TextDecoderStream());
            const piped = await new Response(lines.pipeThrough(new TextEncoderStream())).text();
            return [told, [...texts, piped].map((text) => text.split("data:").length)];
          };
          globalThis.texts = read();
        }"""
    )
    # Three launches, each of which begins when the previous server is ready.
    for _ in range(3):
        end_wait(opened, 1)
    read = opened.page.evaluate("texts")
    assert read == [[True, f"{hub.url}build/gh/o/r/HEAD?mine=x", 200, "text/event-stream"], [6, 6, 6, 6]]


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "slow"])
def test_pass_during_the_build_unlocks_the_server(cached, hub, store, tab):
    """The challenge arrives too late for the launch."""
    hub.at_once = cached
    hub.gates["challenge"].close()
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    end_wait(opened, 1)
    eventually(lambda: hub.builds, what="the build request waits")
    assert hub.builds[0].token is None
    opened.expect("checking")
    hub.gates["challenge"].open()
    opened.expect("checked")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.server("user-1")
        eventually(lambda: store.known(Server("user-1")).tier == "verified", what="not unlocked")
    assert hub.builds[0].tier == "unverified"
    assert hub.count("POST /egress/servers/user-1") == 1


def test_build_sent_before_launch_js_is_unlocked_too(hub, store, tab):
    hub.gates["launch.js"].close()
    hub.ready.close()
    opened = tab()
    opened.page.goto(hub.page(), wait_until="commit")
    eventually(lambda: hub.builds, what="the build request waits")
    assert hub.builds[0].token is None
    hub.gates["launch.js"].open()
    opened.expect("checked")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.server("user-1")
        eventually(lambda: store.known(Server("user-1")).tier == "verified", what="not unlocked")


def test_panel_says_that_the_unlocked_server_has_access(hub, store, tab):
    hub.gates["challenge"].close()
    hub.ready.close()
    opened = tab()
    hub.stays = True
    launch(hub, opened)
    end_wait(opened, 1)
    eventually(lambda: hub.builds, what="no build")
    hub.gates["challenge"].open()
    opened.expect("checked")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.expect("has")


def test_refused_unlock_shows_no_access(hub, tab):
    """The verifier knows no pod of this name."""
    hub.launched = lambda user: None
    hub.gates["challenge"].close()
    hub.ready.close()
    opened = tab()
    opened.noise.append("404")
    hub.stays = True
    launch(hub, opened)
    end_wait(opened, 1)
    eventually(lambda: hub.builds, what="no build")
    hub.gates["challenge"].open()
    opened.expect("checked")
    hub.ready.open()
    opened.expect("none")


def test_pass_is_presented_again_when_the_server_is_ready(hub, store, tab):
    """BinderHub's hook rests after failures of the verifier: the pass went with the launch, and nobody checked it."""
    hub.rests = True
    hub.stays = True
    hub.ready.close()
    opened = tab()
    launch_when_solved(hub, opened)
    eventually(lambda: hub.builds, what="no build")
    assert hub.builds[0].token
    opened.expect("checked")
    with reconciler(store, Server("user-1")):
        hub.ready.open()
        opened.expect("has")
    assert store.known(Server("user-1")).tier == "verified"


def test_pass_that_is_presented_twice_is_spent_once(start, store, tab):
    """A pass for two servers is valid for another server after its launch."""
    hub = start(pass_servers=2, unlock_wait_seconds=PATIENT_UNLOCK_SECONDS)
    opened = tab()
    launch_when_solved(hub, opened)
    with reconciler(store, Server("user-1")):
        opened.server("user-1")
        eventually(lambda: store.known(Server("user-1")).tier == "verified", what="not presented")
    run_pod(store, "other", "uid-2")
    with reconciler(store, Server("other")):
        answer = requests.post(f"{hub.url}egress/servers/other/", json={"token": hub.builds[0].token}, timeout=60)
    assert (answer.status_code, answer.json()["state"]) == (200, "granted")


def test_refusal_of_a_launch_with_a_pass_is_shown(start, store, tab):
    hub = start(blocked_repositories=["example.com/gh/*", "github.com/o/*"])
    hub.stays = True
    hub.ready.close()
    hub.launched = lambda user: store.publish(Server(user), KnownServer("uid-1", repository="https://example.com/gh/o"))
    opened = tab()
    opened.noise.append("403")
    launch_when_solved(hub, opened)
    opened.expect("checked")
    hub.ready.open()
    opened.expect("none")
    assert hub.builds[0].token and hub.builds[0].tier == "unverified"


def test_server_that_the_verifier_does_not_know_yet_keeps_its_chance(hub, tab):
    """Its pass went with the launch, so it may have access."""
    hub.launched = lambda user: None
    hub.stays = True
    opened = tab()
    opened.noise.append("404")
    launch_when_solved(hub, opened)
    opened.expect_phase("ready")
    eventually(lambda: hub.count("POST /egress/servers/user-1"), what="not presented")
    opened.page.wait_for_timeout(500)
    opened.expect("checked")


@pytest.mark.parametrize("failure", ["the build", "a banned repository", "429", "cut"])
@pytest.mark.parametrize("solved", [True, False], ids=["with a pass", "without a pass"])
def test_launch_that_fails_is_promised_nothing(failure, solved, hub, tab):
    hub.fails = failure == "the build"
    hub.refusal = 403 * (failure == "a banned repository")
    hub.failures = int(failure == "429")
    hub.cuts = int(failure == "cut")
    # The page of a repository has no button. People who launch from the home page press its button again.
    opened = home(hub, tab)
    opened.noise.append("503")
    # The page's client throws errors of its own.
    opened.faults = Ignored(CLIENT_ERRORS)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    if not solved:
        hub.gates["challenge"].close()
    press_launch(opened)
    if not solved:
        end_wait(opened, 1)
    opened.expect_phase("failed")
    assert bool(hub.builds[0].token) == solved
    expect(opened.panel).to_have_count(0)
    assert opened.page.evaluate("binderEgress.state") == "failed"
    # Late results show nothing, either.
    if not solved:
        with opened.page.expect_response("**/passes"):
            hub.gates["challenge"].open()
    opened.page.wait_for_timeout(500)
    expect(opened.panel).to_have_count(0)
    hub.fails, hub.refusal = False, 0
    press_launch(opened)
    opened.server("user-2")
    assert hub.builds[1].token
    if solved:
        assert hub.builds[0].token == hub.builds[1].token


def test_failed_launch_does_not_hide_the_panel_of_the_next(hub, tab):
    hub.failures = 1
    opened = home(hub, tab)
    opened.noise.append("503")
    opened.faults = Ignored(CLIENT_ERRORS)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    held = []
    opened.page.route("**/egress/challenge?*", lambda route: held.append(route), times=1)
    press_launch(opened, "o/one")
    end_wait(opened, 1)
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


def test_challenge_after_the_launch_is_unused_and_delays_nothing(hub, tab):
    hub.gates["challenge"].close()
    opened = tab()
    launch(hub, opened)
    end_wait(opened, 1)
    opened.server("user-1")
    assert hub.builds[0].tier == "unverified"
    assert hub.count("POST /egress/") == 0
    assert {"checked", "has"}.isdisjoint(opened.states)


@pytest.mark.parametrize("hold", [0, 4])
def test_launch_waits_no_longer_than_the_hold_and_a_second(hold, start, tab):
    hub = start(launch_hold=hold)
    hub.ready.close()
    opened = tab()
    launch_while_solving(hub, opened)
    if hold:
        end_wait(opened, 1)
    eventually(lambda: hub.builds, what="no build")
    assert hub.builds[0].token is None
    opened.expect("checking")
    hub.gates["passes"].open()
    opened.expect("checked")


def test_home_page_solves_and_shows_nothing_before_a_launch(hub, tab):
    opened = home(hub, tab)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    assert hub.count("GET /egress/challenge") == 0
    assert opened.panel.count() == 0
    hub.ready.close()
    press_launch(opened)
    opened.expect("checked")
    eventually(lambda: hub.builds and hub.builds[0].tier, what="not announced")
    assert hub.builds[0].tier == "verified"


def test_retry_keeps_its_pass_and_another_launch_gets_another(hub, tab):
    opened = home(hub, tab)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    hub.failures = 1
    hub.cuts = 1
    opened.noise += ["503"]
    # binderhub-client 0.5.0 says that it tries again, but does not. A person presses the button.
    opened.faults = Ignored(CLIENT_ERRORS)
    for count in (1, 2, 3):
        hub.ready.close()
        press_launch(opened, "o/one")
        eventually(lambda count=count: len(hub.builds) == count, what="no build")
        if count < 3:
            opened.expect_phase("failed")
    # The button is disabled while the page launches.
    build_by_script(opened, "gh/o/two/HEAD")
    eventually(lambda: len(hub.builds) == 4 and hub.builds[3].tier, what="no build")
    first, second, third, other = (build.token for build in hub.builds)
    assert first and first == second == third
    assert other and other != first
    # The launch whose stream was cut had been announced. The retry takes over its use of the pass.
    assert [build.tier for build in hub.builds[1:]] == ["verified"] * 3


def test_repeated_request_keeps_the_pass(hub, tab):
    hub.failures = 1
    opened = tab()
    opened.noise.append("503")
    hub.bundle.close()
    opened.page.goto(hub.page(), wait_until="commit")
    opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
    tokens = opened.page.evaluate(
        """async () => {
          for (;;) {
            const headers = { accept: "text/event-stream" };
            const answer = await fetch(new URL("/build/gh/o/cached/HEAD", location.href), { headers });
            await answer.text();
            if (answer.ok) return;
          }
        }"""
    )
    assert tokens is None
    assert len({build.token for build in hub.builds}) == 1 and len(hub.builds) == 2
    assert hub.builds[1].tier == "verified"


def test_retried_launch_waits_only_once(start, tab):
    hub = start(launch_hold=2)
    hub.failures = 1
    opened = tab()
    opened.noise.append("503")
    hub.bundle.close()
    hub.gates["passes"].close()
    opened.page.goto(hub.page(), wait_until="commit")
    eventually(lambda: hub.count("POST /egress/passes"), what="nothing is solved")
    opened.page.evaluate(
        """() => {
          const launch = async () => {
            const answer = await fetch("/build/gh/o/cached/HEAD", { headers: { accept: "text/event-stream" } });
            await answer.text();
            return answer.status;
          };
          globalThis.launched = launch().then(async (status) => [status, await launch()]);
        }"""
    )
    end_wait(opened, 1)
    # The pass does not come, and no more time passes.
    assert opened.page.evaluate("launched") == [503, 200]
    assert [build.token for build in hub.builds] == [None, None]


def test_same_address_is_another_launch_after_ready(hub, tab):
    hub.stays = True
    opened = home(hub, tab)
    opened.page.wait_for_function("Boolean(window.binderEgress?.send)")
    press_launch(opened)
    opened.expect_phase("ready")
    build_by_script(opened)
    eventually(lambda: len(hub.builds) == 2, what="no build")
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
        opened.page.wait_for_url("**/user/*/?token=*")
    assert len({build.token for build in hub.builds}) == 2
    assert [build.tier for build in hub.builds] == ["verified"] * 2


def test_going_back_is_a_new_launch(hub, tab):
    """The browser takes the page's script from its cache, so the build may go out before launch.js has loaded."""
    opened = tab()
    launch(hub, opened)
    opened.server("user-1")
    hub.ready.close()
    opened.page.go_back(wait_until="commit")
    opened.expect("checked")
    eventually(lambda: len(hub.builds) == 2, what="no build")
    hub.ready.open()
    opened.server("user-2")
    # Seen where it arrives: the browser does not report every request that a page sends while it leaves.
    eventually(lambda: "/egress/servers/user-2" in hub.posted, what="no pass was presented")
    first, second = hub.builds
    again = json.loads(hub.posted["/egress/servers/user-2"])["token"]
    assert first.token and again and again != first.token
    assert second.token in (None, again)


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
    eventually(lambda: len(hub.builds) == 2 and hub.builds[1].tier, what="not announced")
    first, second = hub.builds
    assert first.token and second.token and second.token != first.token
    assert [build.tier for build in hub.builds] == ["verified"] * 2
    assert store.known(Server("user-1")).uid, "the first server is still there"
    context.close()
    opened.check()
