"""The unlock page offers a server a larger tier than it has."""

import json

import pytest
from playwright.sync_api import expect

from binder_egress.model.records import Server
from tests.support.apps import reconciler
from tests.support.browser import MODEST
from tests.support.unlock_page import GRANTED, LEASE, PHONE, RENEWED, UNLOCKED, lasts, nothing, press, unlocks

RANKS = {"small": {"internet": True, "ports": ["443"]}, "verified": {"internet": True, "rank": 1}}
SMALL = "Programs in it can open connections to the internet on these ports only: 443."
ALL = "Programs in it can open connections to the internet, but not to this site's private network."
MORE = "Another short check gives your server more access. It keeps running."


@pytest.fixture
def ranked(double, providers):
    """A function that starts a verifier, where proof of work earns `small` and a provider `verified`, and returns a page's
    address."""

    def start_ranked(name, first=True, tiers=RANKS, **options):
        calculation = {"altcha": {**MODEST["altcha"], "tier": "small", "order": 0 if first else 2}}
        return providers(name, captcha_providers=calculation | {name: {**double.options(name), "order": 1}}, tiers=tiers, **options)

    return start_ranked


def test_larger_tier_is_offered_and_takes_one_click(ranked, double, store, open_tab):
    tab = open_tab(ranked("recaptchaV3"), double.url)
    expect(tab.page.locator("#way")).to_contain_text(f"Then: {SMALL}")
    tab.page.get_by_text("Another way").click()
    expect(tab.page.get_by_text(f"Then: {ALL}")).to_be_visible()
    tab.picture("ways-differ")
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_have_text(UNLOCKED)
        expect(tab.page.locator("#reach")).to_have_text(SMALL)
        expect(tab.page.locator("#why")).to_have_text(f"{MORE} Then: {ALL}")
        expect(tab.button).to_have_text("Get more access")
        expect(tab.page.get_by_text("Another way")).to_be_hidden()
        tab.picture("more")
        tab.page.wait_for_timeout(500)
        assert (tab.strangers, tab.posts) == ([], 1)
        tab.button.click()
        expect(tab.page.locator("#reach")).to_have_text(ALL)
    expect(tab.state).to_have_text(UNLOCKED)
    expect(tab.button).to_be_hidden()
    assert tab.posts == 2 and store.known(Server("alice")).tier == "verified"
    tab.picture("more-granted")


def test_larger_tier_shows_its_widget_only_after_a_click(ranked, double, store, open_tab):
    address = ranked("hcaptcha", first=False)
    lasts(store, None, "small")
    tab = open_tab(f"{address}#unlock", double.url, **PHONE)
    expect(tab.state).to_have_text(GRANTED)
    expect(tab.page.locator("#why")).to_have_text(f"{MORE} Then: {ALL}")
    expect(tab.button).to_be_visible()
    tab.page.wait_for_timeout(500)
    assert (tab.strangers, tab.posts) == ([], 0), "nothing begins by itself"
    expect(tab.button).to_be_focused()  # `#unlock` in the address names the button.
    tab.page.keyboard.press("Enter")
    expect(tab.state).to_have_text(f"{GRANTED} Solve the check below.")
    tab.picture("more-widget-320")
    with reconciler(store):
        press(tab, "I am a person")
        expect(tab.page.locator("#reach")).to_have_text(ALL)
    expect(tab.page.locator("#widget > *")).to_have_count(0)


@pytest.mark.parametrize("answer", ["granted", "pending"])
def test_larger_tier_is_offered_after_a_renewal(answer, ranked, double, store, open_tab):
    address = ranked("recaptchaV3", tiers={name: {**tier, "lease": LEASE} for name, tier in RANKS.items()})
    lasts(store, 100, "small")
    tab = open_tab(address, double.url)
    expect(tab.page.get_by_text("Another way")).to_be_visible()
    expect(tab.button).to_have_text("Renew")
    if answer == "pending":
        tab.button.click()
        expect(tab.state).to_contain_text("Accepted.")
    unlocks(tab, store, RENEWED, tab.button.click if answer == "granted" else nothing, lease=LEASE)
    expect(tab.button).to_have_text("Get more access")
    expect(tab.button).to_be_visible()
    expect(tab.button).to_be_focused()
    expect(tab.page.locator("#why")).to_have_text(f"{MORE} Then: {ALL}")
    assert tab.posts == 1


def test_larger_tier_without_a_provider_is_not_offered(ranked, double, store, open_tab):
    """The provider of the larger tier is down, and proof of work earns only the tier that the server has."""
    address = ranked("hcaptcha")
    lasts(store, None, "small")
    tab = open_tab(address, goes=False)
    offer = {"name": "altcha", "kind": "proof-of-work", "tier": "small", "challenge": {}}
    body = json.dumps({"purpose": "unlock", "providers": [offer]})
    tab.page.route("**/challenge?*", lambda route: route.fulfill(content_type="application/json", body=body))
    tab.page.goto(address)
    expect(tab.state).to_have_text(GRANTED)
    expect(tab.page.locator("#how")).to_be_hidden()
