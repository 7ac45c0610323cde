"""The unlock page begins without a click only if the link asks for it and the page is visible."""

from playwright.sync_api import expect

from tests.support.apps import reconciler
from tests.support.unlock_page import FROM_NOW_ON, GRANTED, PHONE
from verifier.records import Server


def test_unlock_link_needs_no_click(page_address, store, open_tab):
    with reconciler(store):
        tab = open_tab(f"{page_address}#unlock", **PHONE)
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")


def visit(browser, where, script=""):
    """Follow a link on a page of another site, and wait as long as an unlock takes: the requests of the opened page."""
    context = browser.new_context()
    context.add_init_script(script)
    page = context.new_page()
    page.route("https://elsewhere.example/", lambda route: route.fulfill(content_type="text/html", body=f'<a href="{where}">a</a>'))
    page.goto("https://elsewhere.example/")
    asked = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    page.get_by_role("link").click()
    expect(page.locator("#unlock")).to_be_visible()
    page.wait_for_timeout(1_500)
    context.close()
    return asked


def test_unlock_link_on_another_site_begins_nothing(page_address, browser, store):
    """Otherwise another site could let its visitors' browsers work for its own server."""
    asked = visit(browser, f"{page_address}#unlock")
    assert asked and not [request for request in asked if request.startswith("POST")]
    assert store.pending(Server("alice"), set()).unlock is None


def test_hidden_page_begins_nothing(page_address, store, open_tab, browser):
    """A prerendered page is one."""
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
