"""Captcha providers on the unlock page, against the double of their interfaces and widgets."""

import pytest
from playwright.sync_api import expect

from tests.support.browser import MODEST
from tests.support.unlock_page import FAILED, LEASE, NO_ACCESS, PHONE, RENEWED, lasts, press, solves, unlocks
from tests.support.waiting import eventually

EARLIER = {
    "hcaptcha": "Break",
    "turnstile": "Expire",
    "recaptchaV2": "",
    "friendlyCaptcha": "Break",
    "cap": "Break",
    "mcaptcha": "",
    "prosopo": "Break",
}
"""What happens to a provider's first widget."""


@pytest.mark.parametrize("name", EARLIER)
def test_widget_takes_one_click(name, double, providers, store, open_tab):
    """Also the next one, after one that is broken or expired. The others are in a browser without `AbortSignal.timeout`."""
    address = providers(name)
    tab = open_tab(address, double.url, goes=False)
    if not EARLIER[name]:
        tab.page.add_init_script("delete AbortSignal.timeout")
    tab.page.goto(address)
    if EARLIER[name]:
        press(tab, EARLIER[name])
    if EARLIER[name] == "Break":
        expect(tab.state).to_contain_text("reports a fault. Try again.")
        tab.button.click()
    solves(tab, store)
    expect(tab.page.locator("#widget > *")).to_have_count(0)
    assert tab.posts == 1 + 2 * (name == "cap")


def test_another_way_is_reached_with_the_keyboard(double, providers, store, open_tab):
    """The calculation is the accessible alternative to a widget."""
    tab = open_tab(providers("hcaptcha", "turnstile", altcha=True), double.url, **PHONE)
    expect(tab.state).to_have_text(f"{NO_ACCESS} Solve the check below.")
    expect(tab.page.locator("iframe")).to_be_visible()
    tab.picture("widget-320")
    tab.page.get_by_text("Another way").focus()
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_role("button", name="Use Cloudflare Turnstile")).to_be_visible()
    tab.picture("another-way-320")
    assert not [address for address in tab.strangers if "turnstile" in address]
    unlocks(tab, store, act=lambda: [tab.page.keyboard.press(key) for key in ("Tab", "Tab", "Enter")])


def test_third_party_is_asked_only_when_it_is_chosen(double, providers, store, open_tab):
    order = {"altcha": {**MODEST["altcha"], "order": 0}, "turnstile": {**double.options("turnstile"), "order": 1}}
    tab = open_tab(providers("turnstile", captcha_providers=order), double.url)
    expect(tab.page.get_by_text("Another way")).to_be_visible()
    tab.page.wait_for_timeout(500)
    assert tab.strangers == []
    tab.page.get_by_text("Another way").click()
    tab.page.get_by_role("button", name="Use Cloudflare Turnstile").click()
    solves(tab, store)


def test_wrong_solution_can_be_tried_again(double, providers, store, open_tab):
    tab = open_tab(providers("hcaptcha", altcha=True), double.url)
    tab.requests_fail = True
    press(tab, "Wrong")
    expect(tab.state).to_have_text(f"{FAILED} The solution was not accepted. Try again. Or choose another way.")
    tab.picture("refused")
    # The next click brings a new widget.
    tab.button.click()
    solves(tab, store)


def test_renewal_asks_a_third_party_only_after_a_click(double, providers, store, open_tab):
    address = providers("hcaptcha", tiers={"verified": {"internet": True, "lease": LEASE}})
    lasts(store, 200)
    tab = open_tab(address, double.url)
    expect(tab.button).to_have_text("Renew")
    tab.page.wait_for_timeout(500)
    assert tab.strangers == []
    tab.button.click()
    solves(tab, store, RENEWED, lease=LEASE)


LIMITS = """{
  const real = setTimeout;
  const isWidget = () => Boolean(document.querySelector("#widget > *"));
  globalThis.limits = [];
  setTimeout = (call, ms, ...args) => (ms === 15_000 && isWidget() ? limits.push(call) && 0 : real(call, ms, ...args));
}"""
"""The page's limits for a provider, once its place is there: each passes when the test calls it. The verifier has its own time."""


def open_with_limits(address, double, open_tab):
    tab = open_tab(address, double.url, goes=False)
    tab.page.add_init_script(LIMITS)
    return tab


def end_limit(tab):
    eventually(lambda: tab.page.evaluate("limits.length"), what="no limit")
    tab.page.evaluate("limits.shift()()")


@pytest.mark.parametrize("name", ["turnstile", "mcaptcha"])
def test_script_that_never_comes_says_so(name, double, providers, open_tab):
    address = providers(name)
    tab = open_with_limits(address, double, open_tab)
    tab.page.route(f"{double.url}/**", lambda route: None)
    tab.page.goto(address)
    end_limit(tab)
    expect(tab.state).to_contain_text("did not load.")


def test_widget_without_a_click_that_never_answers_says_so(double, providers, open_tab):
    """As when requests of the provider's script are blocked, but not the script."""
    address = providers("recaptchaV3")
    tab = open_with_limits(address, double, open_tab)
    never = "window.grecaptcha = { execute: () => { globalThis.executed = true; return new Promise(() => {}) } }"
    tab.page.route("**/recaptcha/api.js*", lambda route: route.fulfill(content_type="text/javascript", body=never))
    tab.page.goto(address)
    tab.button.click()
    eventually(lambda: tab.page.evaluate("globalThis.executed"), what="not executed")
    expect(tab.state).to_contain_text("reCAPTCHA is loading.")
    end_limit(tab)
    expect(tab.state).to_contain_text("did not load.")
    expect(tab.button).to_be_enabled()


def test_blocked_script_says_so_and_is_loaded_once_at_the_second_try(double, providers, store, open_tab):
    address = providers("hcaptcha", altcha=True)
    tab = open_with_limits(address, double, open_tab)
    tab.requests_fail = True
    tab.page.route(f"{double.url}/**", lambda route: route.abort(), times=1)
    tab.page.goto(address)
    expect(tab.state).to_have_text(
        f"{FAILED} hCaptcha did not load. If you use a content blocker, allow it here and try again. Or choose another way."
    )
    tab.picture("blocked")
    tab.button.click()
    press(tab, "Break")
    # The limit of the first try passes late.
    end_limit(tab)
    tab.button.click()
    solves(tab, store)
    expect(tab.page.locator("head script[src*=hcaptcha]")).to_have_count(1)
