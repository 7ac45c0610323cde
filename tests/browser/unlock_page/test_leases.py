"""The unlock page of a server whose tier lasts for a limited time."""

import re

import pytest
from playwright.sync_api import expect

from binder_egress.model.grants import Block
from binder_egress.model.records import Server
from binder_egress.model.serialization import read_origin
from binder_egress.web.pages import MESSAGES
from tests.support.apps import reconciler
from tests.support.browser import MODEST
from tests.support.unlock_page import ENDED, GRANTED, LEASE, NO_ACCESS, NO_ANSWER, PHONE, RENEWED, lasts, unlocks


@pytest.fixture
def leased(start, store):
    """A function that starts a verifier, publishes a server whose tier ends in `left` seconds, and returns its page's address."""

    def publish(left, on_expiry="end", **fields):
        tiers = {"verified": {"internet": True, "lease": LEASE, "on_expiry": on_expiry}}
        hub = "https://hub.example.org/jupyter"
        process = start(tiers=tiers, may_stop_pods=True, captcha_providers=MODEST, hub_url=hub)
        lasts(store, left, **fields)
        return f"{process.public}/egress/servers/alice/"

    return publish


OVER = f"{NO_ACCESS} The time ran out at 1970-01-01 00:00 UTC. Connections that were open may go on."
"""What the page says of a lease that ended at the time that `carried` gives."""

WATCH_STATE = """() => {
  globalThis.said = [];
  new MutationObserver(() => said.push(document.getElementById("state").textContent))
    .observe(document.getElementById("state"), { childList: true, characterData: true, subtree: true });
}"""


def test_renewal_is_possible_from_the_second_half_on(leased, store, open_tab):
    """The time left is shown each second, and not read aloud."""
    tab = open_tab(leased(3_715))
    left = tab.page.get_by_role("timer")
    expect(left).to_have_text(re.compile(r"^Time left: 1:0[01]:\d\d$"))
    expect(tab.page.locator("#after")).to_contain_text("until you give it access again")
    expect(tab.page.locator("#after")).to_contain_text("half of the time")
    expect(tab.button).to_be_hidden()
    assert left.evaluate("element => element.closest('[aria-live]')") is None
    tab.picture("lease")
    tab.page.evaluate(WATCH_STATE)
    for _ in range(3):
        expect(left).not_to_have_text(left.text_content())
    assert tab.page.evaluate("said") == []
    # The page hears of that within a few seconds, and counts from then on.
    lasts(store, LEASE // 2 + 10)
    expect(left).to_have_text(re.compile(r"^Time left: [45]:\d\d$"))
    expect(tab.button).to_be_visible()
    expect(tab.page.get_by_text("half of the time")).to_have_count(0)
    tab.page.keyboard.press("Tab")
    expect(tab.button).to_be_focused()
    unlocks(tab, store, RENEWED, lambda: tab.page.keyboard.press("Enter"), lease=LEASE)
    assert tab.posts == 1


def test_renewal_takes_one_click(leased, store, open_tab):
    """Also after one that failed."""
    tab = open_tab(leased(290))
    expect(tab.button).to_have_text("Renew")
    expect(tab.state).to_have_text(f"{GRANTED} The time is almost up. Renew it now to keep internet access.")
    tab.picture("lease-renewable")
    # Nothing failed, so nothing is to be retried. The way back comes second.
    retry, back = tab.page.locator("#retry"), tab.page.get_by_role("link", name="Back to your server")
    expect(retry).to_be_hidden()
    assert tab.button.bounding_box()["y"] < back.bounding_box()["y"]
    tab.requests_fail = True
    tab.page.route("**/challenge?*", lambda route: route.abort())
    tab.button.click()
    expect(tab.state).to_have_text(f"The time has not been renewed yet. {NO_ANSWER}")
    tab.page.unroute("**/challenge?*")
    tab.page.evaluate(WATCH_STATE)
    unlocks(tab, store, RENEWED, lease=LEASE)
    assert "Solved. The time is being renewed." in tab.page.evaluate("said")
    expect(tab.page.get_by_role("timer")).to_have_text(re.compile(r"^Time left: (10:00|9:\d\d)$"))
    expect(tab.button).to_be_hidden()
    expect(retry).to_be_hidden()
    expect(back).to_be_visible()
    tab.picture("lease-renewed")
    # Old news goes.
    expect(tab.state).to_have_text(GRANTED)
    assert tab.posts == 1


def test_end_of_the_time_is_shown_on_the_open_page(leased, store, open_tab):
    """Nothing begins by itself, neither before the end nor after it, even if the address ends in `#unlock`."""
    address = leased(3)
    tab = open_tab(f"{address}#unlock")
    expect(tab.button).to_be_visible()
    expect(tab.page.get_by_role("timer")).to_have_text("Time left: 0:00")
    with reconciler(store, lease=LEASE):
        lasts(store, None, "unverified", rule="expired")
        expect(tab.state).to_have_text(OVER)
        expect(tab.page.get_by_role("timer")).to_be_hidden()
        expect(tab.button).to_have_text("Restore internet access")
        tab.picture("lease-over")
        tab.page.wait_for_timeout(1_500)
    assert tab.posts == 0
    tab.page.goto(address)
    expect(tab.state).to_have_text(OVER)
    expect(tab.button).to_have_text("Restore internet access")
    unlocks(tab, store, lease=LEASE)
    expect(tab.page.get_by_role("timer")).to_be_visible()


def test_server_that_will_be_stopped_can_be_saved(leased, store, open_tab):
    tab = open_tab(leased(100, "stop", tier="unverified", rule="expired", may_stop=True), **PHONE)
    expect(tab.page.get_by_role("timer")).to_have_text(
        re.compile(r"^Your server will be stopped in [01]:\d\d, unless you give it internet access again\.")
    )
    tab.picture("lease-stopping-320")
    unlocks(tab, store, lease=LEASE)
    expect(tab.page.locator("#after")).to_contain_text("two minutes later it is stopped")
    tab.requests_fail = True
    store.forget(Server("alice"))
    expect(tab.state).to_have_text(ENDED)
    expect(tab.page.get_by_role("timer")).to_be_hidden()


def test_time_left_is_shown_without_javascript(leased, open_tab):
    tab = open_tab(leased(3_715), java_script_enabled=False)
    expect(tab.page.get_by_role("timer")).to_have_text(re.compile(r"^Time left: 1:0[01]:\d\d, until \d\d:\d\d:\d\d UTC\.$"))
    tab.picture("lease-no-javascript", axe=False)


def test_time_left_is_shown_in_arabic_on_a_phone(leased, store, open_tab):
    messages = MESSAGES["ar"]
    tab = open_tab(leased(200, "stop"), locale="ar-XX", **PHONE)
    expect(tab.page.get_by_role("timer")).to_contain_text(messages["left"].partition("{")[0].strip())
    expect(tab.button).to_have_text(messages["renew"])
    expect(tab.state).to_have_text(f"{messages['granted']} {messages['ends-soon']}")
    tab.picture("lease-ar-320")
    unlocks(tab, store, f"{messages['granted']} {messages['renewed']}", lease=LEASE)


def test_block_before_the_tier_is_taken_says_nothing_of_connections(leased, store, open_tab):
    tab = open_tab(leased(LEASE))
    expect(tab.state).to_have_text(GRANTED)
    store.add_block(Block("b", "server", Server("alice").key, read_origin("eve"), "", 0, uid="uid-1"), [])
    expect(tab.state).to_have_text(f"{NO_ACCESS} The operators of this site blocked it at 1970-01-01 00:00 UTC.")
