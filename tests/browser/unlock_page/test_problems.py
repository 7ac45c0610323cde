"""The unlock page describes problems in words."""

import json

import pytest
from playwright.sync_api import expect

from tests.support.unlock_page import fails, unlocks


def test_risen_price_is_paid_without_a_click(page_address, store, open_tab):
    tab = open_tab(page_address)
    tab.requests_fail = True
    answered = []

    def refuse(route):
        if route.request.method == "POST" and not answered:
            answered.append(1)
            return route.fulfill(status=403, content_type="application/problem+json", body='{"type": "https://x#price-risen"}')
        return route.continue_()

    tab.page.route("**/servers/alice/", refuse)
    unlocks(tab, store)
    assert tab.posts == 2


PROBLEMS = {
    "price-risen": (403, {}, "Many checks came from your network, so the calculation takes longer now. Try again."),
    "solution-refused": (403, {}, "The solution was not accepted. Try again."),
    "budget-spent": (429, {"Retry-After": "290"}, "Too many checks came from your network. Try again in 5 minutes."),
    "too-many-rejected": (429, {"Retry-After": "40"}, "Too many wrong solutions came from your network. Try again in 1 minute."),
    "provider-misconfigured": (503, {}, "This check is set up wrong. Tell the operators of this site."),
    "provider-unavailable": (503, {}, "The provider of this check does not answer. Try again in a minute."),
    "internal": (500, {}, "The service cannot decide just now. Try again in a few seconds."),
    "something-new": (418, {}, "The service refused: Some words."),
}


def test_problem_says_what_to_do(page_address, open_tab):
    tab = open_tab(page_address)

    def refuse(route):
        status, headers, _ = PROBLEMS[kind]
        body = json.dumps({"type": f"https://x#{kind}", "detail": "Some words."})
        if route.request.method == "POST":
            route.fulfill(status=status, headers=headers, content_type="application/problem+json", body=body)
        else:
            route.continue_()

    tab.page.route("**/servers/alice/", refuse)
    for kind, (_, _, words) in PROBLEMS.items():
        fails(tab, words)
        # They differ in the sentence alone.
        tab.picture(f"error-{kind}", axe=kind == "internal")


def test_empty_list_of_providers_says_so(page_address, open_tab):
    body = '{"purpose": "unlock", "providers": []}'
    tab = open_tab(page_address, goes=False)
    tab.page.route("**/challenge?*", lambda route: route.fulfill(content_type="application/json", body=body))
    tab.page.goto(page_address)
    expect(tab.state).to_contain_text("There is no check to solve just now. Try again in a few minutes.")
    tab.picture("nothing-to-solve")


@pytest.mark.parametrize("lacks", ["workers", "the worker's file, as during an upgrade of the verifier"])
def test_browser_without_workers_says_so(lacks, page_address, open_tab):
    tab = open_tab(page_address)
    if lacks == "workers":
        tab.page.evaluate("delete globalThis.Worker")
    else:
        tab.page.route("**/worker-*", lambda route: route.fulfill(status=404))
    fails(tab, "The calculation does not start here. Reload the page, or open it in another browser or on a phone.")


@pytest.mark.parametrize("script", ["missing", "not understood"])
def test_page_whose_script_does_not_run_says_so(script, page_address, open_tab):
    """The script is missing during an upgrade of the verifier, and old browsers do not understand it."""
    tab = open_tab(page_address, goes=False)
    tab.requests_fail = True
    answer = {"status": 404} if script == "missing" else {"content_type": "text/javascript", "body": "not understood"}
    tab.page.route("**/server-*.js", lambda route: route.fulfill(**answer))
    tab.page.goto(page_address)
    words = tab.page.get_by_text("Reload the page, or open it in another browser or on another device.")
    expect(words).to_be_hidden()
    tab.page.evaluate("document.getAnimations().forEach((one) => one.finish())")  # They would come after 15 s.
    expect(words).to_be_visible()
    tab.picture(f"script-{script.replace(' ', '-')}")
    assert len(tab.faults) == (script == "not understood")
    tab.faults.clear()
    tab.page.unroute("**/server-*.js")
    tab.page.reload()
    expect(tab.button).to_be_visible()
    expect(words).to_have_count(0)
