"""The unlock page begins without a click only if the link asks for it and the page is visible."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.support.apps import reconciler
from tests.support.unlock_page import FROM_NOW_ON, PHONE, UNLOCKED
from verifier.records import Server


def test_unlock_link_needs_no_click(page_address, store, open_tab):
    with reconciler(store):
        tab = open_tab(f"{page_address}#unlock", **PHONE)
        expect(tab.state).to_have_text(UNLOCKED)


@pytest.mark.parametrize("go", ["link", "script", "reload"])
@pytest.mark.parametrize("place", ["another site", "another host of the site", "a notebook of the hub"])
def test_unlock_link_on_a_page_begins_with_a_click(place, go, page_address, browser, store):
    """Otherwise any page, also a stranger's notebook, could make its visitors' browsers work for its own server."""
    origin = page_address.partition("/egress/")[0]
    port = urlsplit(origin).port
    address = {
        "another site": "https://elsewhere.example/",
        "another host of the site": f"http://127.0.0.1:{port - 1}/",
        "a notebook of the hub": f"{origin}/user/mallory/notebook",
    }[place]
    context = browser.new_context()
    page = context.new_page()
    body = f'<!doctype html><title>a</title><a href="{page_address}#unlock">a</a>'
    page.route(address, lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto(address)
    asked = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    if go == "link":
        page.get_by_role("link").click()
    else:
        # Later, or the page may be gone before Playwright hears of the end of the script.
        page.evaluate("void setTimeout(() => { location.href = document.querySelector('a').href; })")
    expect(page.locator("#unlock")).to_be_visible()
    if go == "reload":
        page.evaluate("globalThis.isOld = true, void setTimeout(() => location.reload())")
        page.wait_for_function("!globalThis.isOld")
        expect(page.locator("#unlock")).to_be_visible()
    page.wait_for_timeout(1_500)
    assert asked and not [request for request in asked if request.startswith("POST")]
    assert store.pending(Server("alice"), set()).unlock is None
    with reconciler(store):
        page.keyboard.press("Enter")  # The button already has the focus.
        expect(page.locator("#state")).to_have_text(UNLOCKED)
    context.close()


def test_hidden_page_begins_nothing(page_address, store, open_tab, browser):
    """A prerendered page is hidden."""
    hidden = "Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true})"
    context = browser.new_context()
    context.add_init_script(hidden)
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{page_address}#unlock")
    expect(page.locator("#unlock")).to_be_visible()
    page.wait_for_timeout(1_500)
    assert not [address for address in asked if "challenge" in address]
    with reconciler(store):
        page.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'visible', configurable: true})")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#state")).to_contain_text(FROM_NOW_ON)
    context.close()
