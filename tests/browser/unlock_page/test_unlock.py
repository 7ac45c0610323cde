"""The unlock page: one click unlocks, and the open page follows the state of the server."""

import pytest
from playwright.sync_api import expect

from tests.support.apps import VerifierProcess, carried, make_settings, reconciler, run_pod
from tests.support.browser import INSECURE_HOST, MODEST
from tests.support.unlock_page import (
    ENDED,
    ENDLESS,
    FAILED,
    FROM_NOW_ON,
    GRANTED,
    NO_ACCESS,
    NO_ANSWER,
    PHONE,
    UNLOCKED,
    fails,
    nothing,
    unlocks,
)
from verifier.captcha.altcha import Altcha
from verifier.records import KnownServer, Server


def test_unlock_takes_one_click_and_a_reload_shows_it(page_address, store, open_tab):
    tab = open_tab(page_address)
    expect(tab.state).to_have_text(NO_ACCESS)
    tab.picture("blocked")
    unlocks(tab, store)
    expect(tab.button).to_be_hidden()
    expect(tab.page.get_by_role("progressbar")).to_be_hidden()
    tab.picture("granted")
    assert store.known(Server("alice")).tier == "verified"
    tab.page.reload()
    expect(tab.page.get_by_text(GRANTED, exact=True)).to_be_visible()
    expect(tab.page.get_by_text("no internet access")).to_have_count(0)
    expect(tab.button).to_be_hidden()
    tab.picture("verified")


def test_tier_that_opens_late_is_not_called_access_before(page_address, store, open_tab):
    tab = open_tab(page_address)
    with reconciler(store, late=4):
        tab.button.click()
        expect(tab.state).to_contain_text(f"{NO_ACCESS} Access has been granted, and opens within")
        expect(tab.state).to_have_text(UNLOCKED)
    assert tab.posts == 1


def test_keyboard_is_enough(page_address, store, open_tab):
    tab = open_tab(page_address)
    tab.page.keyboard.press("Tab")
    expect(tab.button).to_be_focused()
    tab.picture("focus")
    unlocks(tab, store, act=lambda: tab.page.keyboard.press("Enter"))


def test_second_click_does_nothing(page_address, store, open_tab):
    tab = open_tab(page_address)
    unlocks(tab, store, act=tab.button.dblclick)
    assert tab.posts == 1


@pytest.mark.parametrize("algorithm", ["SHA-256", "SHA-384", "SHA-512", "PBKDF2/SHA-384", "PBKDF2/SHA-512"])
def test_page_solves_every_algorithm(algorithm, providers, store, open_tab):
    tab = open_tab(providers(captcha_providers={"altcha": {"algorithm": algorithm, "cost": 3, "counterMax": 40}}))
    unlocks(tab, store)


@pytest.mark.parametrize("answer", [0, 1, 2])
def test_calculation_begins_at_0(answer, page_address, redis_server, store, open_tab, monkeypatch):
    """In the page's two workers, whichever has the answer."""
    monkeypatch.setattr("secrets.randbelow", lambda bound: answer)
    altcha = Altcha.from_options(MODEST["altcha"], make_settings(redis_server).challenge_keys)

    def exchange(route):
        """Replaces the challenge with another one of the verifier."""
        answer = route.fetch()
        offers = answer.json()
        offers["providers"][0]["challenge"] = altcha.challenge("unlock", "", 1)
        route.fulfill(response=answer, json=offers)

    tab = open_tab(page_address)
    tab.page.route("**/egress/challenge?*", exchange)
    unlocks(tab, store)


def test_named_server_is_unlocked_below_another_path(start, store, open_tab):
    process = start(base_path="/hub/gate")
    server = Server("zoë@example.org", "a b+c")
    store.publish(server, KnownServer("uid-1"))
    tab = open_tab(f"{process.public}/hub/gate/servers/zo%C3%AB%40example.org/a%20b+c")
    unlocks(tab, store, server=server)


@pytest.mark.parametrize("algorithm", ["PBKDF2/SHA-256", "SHA-256"])
def test_page_stays_responsive_while_it_calculates(algorithm, providers, open_tab):
    tab = open_tab(providers(captcha_providers={"altcha": {"algorithm": algorithm, **ENDLESS}}), **PHONE)
    tab.button.click()
    expect(tab.page.get_by_role("progressbar", name="Calculating")).to_be_visible()
    expect(tab.state).to_contain_text("Calculating")
    expect(tab.button).to_be_disabled()
    tab.picture("calculating-320")
    tab.page.reload()
    expect(tab.button).to_be_enabled()


def test_access_is_promised_only_after_the_reconciler_confirmed_it(page_address, store, open_tab):
    tab = open_tab(page_address)
    tab.button.click()
    expect(tab.state).to_contain_text("Accepted. This is taking a little longer than usual")
    assert FROM_NOW_ON not in tab.state.text_content()
    expect(tab.button).to_be_hidden()
    tab.picture("pending")
    unlocks(tab, store, act=nothing)
    assert tab.posts == 1


def test_page_works_again_after_redis_was_down(page_address, redis_server, verifier, store, open_tab):
    tab = open_tab(page_address)
    redis_server.stop()
    fails(tab, "The service cannot decide just now. Try again in a few seconds.")
    tab.picture("no-redis")
    redis_server.start()
    verifier.await_ready()
    run_pod(store)
    unlocks(tab, store, act=lambda: tab.page.keyboard.press("Enter"))


def test_page_says_that_the_verifier_is_down(redis_server, store, open_tab):
    process = VerifierProcess(redis_server)
    run_pod(store)
    tab = open_tab(f"{process.public}/egress/servers/alice/")
    tab.requests_fail = True
    process.stop()
    fails(tab, NO_ANSWER)
    tab.picture("no-verifier")


@pytest.mark.parametrize(
    ("path", "hangs"), [("**/challenge?*", False), ("**/servers/alice/", False), ("**/challenge?*", True)], ids=str
)
def test_error_page_of_a_proxy_and_silence_count_as_no_answer(path, hangs, page_address, open_tab):
    tab = open_tab(page_address)
    # A hundredth of the page's timeout.
    tab.page.evaluate("{ const real = AbortSignal.timeout; AbortSignal.timeout = (ms) => real.call(AbortSignal, ms / 100); }")
    tab.page.route(path, lambda route: hangs or route.fulfill(status=502, content_type="text/html", body="<h1>Bad Gateway</h1>"))
    fails(tab, NO_ANSWER)


def test_server_that_stopped_before_the_click_has_ended(page_address, redis_server, verifier, open_tab):
    tab = open_tab(page_address)
    tab.requests_fail = True
    # The page also asks by itself from time to time.
    tab.page.route(page_address, lambda route: route.continue_() if route.request.method == "POST" else route.abort())
    redis_server.wipe()
    verifier.await_ready()
    tab.button.click()
    expect(tab.state).to_have_text(ENDED)
    expect(tab.page.get_by_text("Launch it again")).to_be_visible()
    expect(tab.button).to_be_hidden()
    tab.picture("ended")


def test_page_without_javascript_says_what_is_needed(page_address, open_tab):
    tab = open_tab(page_address, java_script_enabled=False)
    expect(tab.state).to_have_text(NO_ACCESS)
    # get_by_text leaves out text in a `noscript`.
    expect(tab.page.locator("noscript p")).to_contain_text("The check needs JavaScript")
    expect(tab.page.locator("noscript p")).to_be_visible()
    expect(tab.button).to_be_hidden()
    tab.picture("no-javascript", axe=False)  # axe-core itself needs JavaScript.


def test_insecure_connection_says_so_and_has_no_button(page_address, open_tab):
    tab = open_tab(page_address.replace("127.0.0.1", INSECURE_HOST), **PHONE)
    assert tab.page.evaluate("isSecureContext") is False
    expect(tab.state).to_contain_text("Open this page with https.")
    expect(tab.button).to_be_hidden()
    tab.picture("insecure")


def test_narrow_screen_in_both_color_schemes(page_address, store, open_tab):
    tab = open_tab(page_address, **PHONE)

    def pictures(name):
        for scheme, color in (("light", "rgb(27, 27, 27)"), ("dark", "rgb(242, 242, 242)")):
            tab.page.emulate_media(color_scheme=scheme)
            expect(tab.page.locator("body")).to_have_css("color", color)
            tab.picture(f"{name}-320-{scheme}")

    pictures("blocked")
    tab.requests_fail = True
    tab.page.route("**/challenge?*", lambda route: route.abort())
    tab.button.click()
    expect(tab.state).to_contain_text(FAILED)
    pictures("failed")
    tab.page.unroute("**/challenge?*")
    unlocks(tab, store)
    pictures("granted")


# -- the server changes while the page is open


def test_unlock_in_another_tab_ends_the_calculation(providers, store, open_tab):
    tab = open_tab(providers(captcha_providers={"altcha": ENDLESS}))
    tab.button.click()
    expect(tab.state).to_contain_text("Calculating")
    store.publish(Server("alice"), KnownServer("uid-1", carried("verified")))
    expect(tab.state).to_have_text(UNLOCKED)
    expect(tab.page.get_by_role("progressbar")).to_be_hidden()
    expect(tab.button).to_be_hidden()
    assert tab.posts == 0


def test_revoked_access_can_be_unlocked_again(page_address, store, open_tab):
    store.publish(Server("alice"), KnownServer("uid-1", carried("verified")))
    tab = open_tab(page_address)
    expect(tab.state).to_have_text(GRANTED)
    run_pod(store)
    expect(tab.state).to_have_text(NO_ACCESS)
    unlocks(tab, store)


def test_server_that_ends_and_starts_again(page_address, store, open_tab):
    tab = open_tab(page_address)
    tab.requests_fail = True
    store.forget(Server("alice"))
    expect(tab.state).to_have_text(ENDED)
    expect(tab.button).to_be_hidden()
    run_pod(store)
    expect(tab.state).to_have_text(NO_ACCESS)
    expect(tab.button).to_be_visible()


def test_hidden_page_sends_no_requests(page_address, open_tab):
    tab = open_tab(page_address)
    with tab.page.expect_response(page_address):
        pass
    set_visibility = "state => { Object.defineProperty(document, 'visibilityState', {value: state, configurable: true});"
    set_visibility += "document.dispatchEvent(new Event('visibilitychange')) }"
    tab.page.evaluate(set_visibility, "hidden")
    sent = []
    tab.page.on("request", lambda request: sent.append(request.url))
    tab.page.wait_for_timeout(4_500)  # A visible page asks again after 3.6 s.
    assert sent == []
    with tab.page.expect_request(page_address):
        tab.page.evaluate(set_visibility, "visible")
