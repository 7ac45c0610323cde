"""The unlock page: its texts, and actions on it."""

import time

from playwright.sync_api import expect

from binder_egress.model.records import KnownServer, Server
from tests.support.apps import carried, reconciler

NO_ACCESS = "Your server has no internet access."
GRANTED = "Your server has internet access."
FAILED = "Your server has no internet access yet."
FROM_NOW_ON = "New connections work from now on."
UNLOCKED = f"{GRANTED} {FROM_NOW_ON}"
RENEWED = f"{GRANTED} The time has been renewed."
ENDED = "This server is not running."

ENDLESS = {"cost": 100_000, "counterMax": 1_000_000}
"""Options of ALTCHA: more work than any site requires."""
PHONE = {"viewport": {"width": 320, "height": 600}}
"""The narrowest screen that WCAG 1.4.10 requires."""


def fails(tab, text):
    """Click, and expect that the page shows a text and lets the user try again, with the keyboard too."""
    tab.requests_fail = True
    tab.button.click()
    expect(tab.state).to_have_text(f"{FAILED} {text}")
    expect(tab.button).to_be_enabled()
    expect(tab.button).to_be_focused()
    expect(tab.page.get_by_role("progressbar")).to_be_hidden()


NO_ANSWER = "The service does not answer. Check your connection and try again in a moment."


# -- a tier that lasts for a while

LEASE = 600


def lasts(store, left, tier="verified", **fields):
    until = None if left is None else int(time.time()) + left
    store.publish(Server("alice"), KnownServer("uid-1", carried(tier, until=until, **fields)))


def press(tab, name):
    """Click a button of the widget, in its frame or in the page."""
    frame = tab.page.locator("#widget iframe")
    expect(tab.state).to_contain_text("Solve the check below.")
    place = frame.content_frame if frame.count() else tab.page.locator("#widget")
    place.get_by_role("button", name=name).click()


def nothing():
    """The page goes on without a click."""


def unlocks(tab, store, said=UNLOCKED, act=None, **how):
    """Click the button, or do something else, and expect what the page says once the reconciler has written the tier."""
    with reconciler(store, **how):
        (act or tab.button.click)()
        expect(tab.state).to_have_text(said)


def solves(tab, store, said=UNLOCKED, **how):
    """Solve the provider's check, and expect what the page says then."""
    unlocks(tab, store, said, lambda: press(tab, "I am a person"), **how)
