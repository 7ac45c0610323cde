"""The unlock page: one click unlocks, and the open page follows the state of the server."""

import pytest
from playwright.sync_api import expect

from binder_egress.model.records import KnownServer, Server
from tests.support.apps import carried, reconciler, run_pod
from tests.support.browser import INSECURE_HOST
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


def test_unlock_takes_one_key_and_a_reload_shows_it(page_address, store, open_tab):
    """A second press does nothing."""
    tab = open_tab(page_address)
    expect(tab.state).to_have_text(NO_ACCESS)
    tab.page.keyboard.press("Tab")
    expect(tab.button).to_be_focused()
    tab.picture("focus")
    unlocks(tab, store, act=lambda: [tab.page.keyboard.press("Enter") for _ in range(2)])
    assert tab.posts == 1
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


@pytest.mark.parametrize("algorithm", ["SHA-512", "PBKDF2/SHA-384"])
def test_page_solves_other_algorithms(algorithm, providers, store, open_tab):
    tab = open_tab(providers(captcha_providers={"altcha": {"algorithm": algorithm, "cost": 3, "counterMax": 40}}))
    unlocks(tab, store)


@pytest.mark.parametrize("algorithm", ["PBKDF2/SHA-256", "SHA-256"])
def test_page_stays_responsive_while_it_calculates(algorithm, providers, open_tab):
    tab = open_tab(providers(captcha_providers={"altcha": {"algorithm": algorithm, **ENDLESS}}), **PHONE)
    tab.button.click()
    expect(tab.page.get_by_role("progressbar", name="Calculating")).to_be_visible()
    expect(tab.state).to_contain_text("Calculating")
    expect(tab.button).to_be_disabled()
    tab.picture("calculating-320")
    tab.page.emulate_media(reduced_motion="reduce")
    expect(tab.page.locator("progress")).to_be_hidden()
    assert tab.page.evaluate("document.getAnimations().length") == 0
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


def test_page_follows_its_server(providers, store, open_tab):
    """Unlocked in another tab during a calculation, revoked, stopped, started again."""
    tab = open_tab(providers(captcha_providers={"altcha": ENDLESS}))
    icons = tab.page.locator("#look path")

    def shows(said, icon, button):
        tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # The page asks again at once.
        expect(tab.state).to_have_text(said)
        expect(icons.locator("visible=true")).to_have_count(1)
        expect(tab.page.locator(f"#look path.{icon}")).to_be_visible()
        expect(tab.button).to_be_visible(visible=button)

    shows(NO_ACCESS, "none", button=True)
    tab.button.click()
    expect(tab.state).to_contain_text("Calculating")
    store.publish(Server("alice"), KnownServer("uid-1", carried("verified")))
    shows(UNLOCKED, "network", button=False)
    expect(tab.page.get_by_role("progressbar")).to_be_hidden()
    run_pod(store)
    shows(NO_ACCESS, "none", button=True)
    tab.requests_fail = True
    store.forget(Server("alice"))
    shows(ENDED, "gone", button=False)
    expect(tab.page.get_by_role("link", name="Go to the start page")).to_have_attribute("href", "/")
    run_pod(store)
    shows(NO_ACCESS, "none", button=True)
    assert tab.posts == 0
