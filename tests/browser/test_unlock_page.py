"""The unlock page in Chromium, against a verifier that runs.

Each test also fails for what the page throws, errors on the console, breaches of the content security policy, and requests to
another origin (`Tab`).
"""

import base64
import json
import re
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import expect

from tests.support.apps import VerifierProcess, reconciler, run_pod
from tests.support.browser import INSECURE_HOST, MODEST
from tests.support.doubles import running
from tests.support.languages import CHOICES
from verifier.records import KnownServer, Server
from verifier.web.pages import MESSAGES

TOP = Path(__file__).parents[2]

JSQR = TOP / "frontend/node_modules/jsqr/dist/jsQR.js"
"""A reader of QR codes; ci/frontend installs it."""

NO_ACCESS = "Your server has no internet access."
GRANTED = "Your server has internet access."
FAILED = "Your server has no internet access yet."
FROM_NOW_ON = "Connections you open from now on work."
ENDED = "This server is not running."

PHONE = {"viewport": {"width": 320, "height": 600}}
"""The narrowest that WCAG 1.4.10 asks for."""

# Calculating takes seconds on a busy machine, and an unlock may take 2 s on an idle one.
expect.set_options(timeout=30_000)


@pytest.fixture
def start(redis_server):
    """A function that starts a verifier with settings of its own. Name it before `open_tab`: open pages go on asking it."""
    processes = []

    def start(**settings):
        processes.append(VerifierProcess(redis_server, **settings))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()


@pytest.fixture
def page_address(verifier, store):
    """The page of a running server without internet access."""
    run_pod(store)
    return f"{verifier}/egress/servers/alice/"


def test_one_click_unlocks_and_a_reload_shows_it(page_address, store, open_tab):
    tab = open_tab(page_address)
    expect(tab.state).to_have_text(NO_ACCESS)
    tab.picture("blocked")
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_contain_text(GRANTED)
    expect(tab.button).to_be_hidden()
    expect(tab.page.get_by_role("progressbar")).to_be_hidden()
    tab.picture("granted")
    assert store.known(Server("alice")).tier == "verified"
    tab.page.reload()
    expect(tab.page.get_by_text(GRANTED, exact=True)).to_be_visible()
    expect(tab.page.get_by_text("no internet access")).to_have_count(0)
    expect(tab.button).to_be_hidden()
    tab.picture("verified")


def test_the_keyboard_is_enough(page_address, store, open_tab):
    tab = open_tab(page_address)
    tab.page.keyboard.press("Tab")
    expect(tab.button).to_be_focused()
    tab.picture("focus")
    with reconciler(store):
        tab.page.keyboard.press("Enter")
        expect(tab.state).to_contain_text(GRANTED)


def test_a_second_click_does_nothing(page_address, store, open_tab):
    tab = open_tab(page_address)
    with reconciler(store):
        tab.button.dblclick()
        expect(tab.state).to_contain_text(GRANTED)
    assert tab.posts == 1


@pytest.mark.parametrize("algorithm", ["SHA-256", "SHA-384", "SHA-512", "PBKDF2/SHA-384", "PBKDF2/SHA-512"])
def test_the_page_solves_every_algorithm(algorithm, start, store, open_tab):
    options = {"altcha": {"algorithm": algorithm, "cost": 3, "counterMin": 20, "counterMax": 40}}
    process = start(captcha_providers=options)
    run_pod(store)
    tab = open_tab(f"{process.public}/egress/servers/alice")
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_contain_text(GRANTED)


def test_a_named_server_below_another_path(start, store, open_tab):
    process = start(base_path="/hub/gate")
    server = Server("zoë@example.org", "a b+c")
    store.publish(server, KnownServer("uid-1"))
    tab = open_tab(f"{process.public}/hub/gate/servers/zo%C3%AB%40example.org/a%20b+c")
    with reconciler(store, server):
        tab.button.click()
        expect(tab.state).to_contain_text(GRANTED)


@pytest.mark.timeout(60)  # Playwright waits without limit for a page that stands still.
@pytest.mark.parametrize("algorithm", ["PBKDF2/SHA-256", "SHA-256"])
def test_while_it_calculates_the_page_says_so_and_does_not_stand_still(algorithm, start, store, open_tab):
    """With more work than anybody does."""
    options = {"altcha": {"algorithm": algorithm, "counterMin": 900_000, "counterMax": 900_000}}
    process = start(captcha_providers=options)
    run_pod(store)
    tab = open_tab(f"{process.public}/egress/servers/alice/", **PHONE)
    tab.button.click()
    expect(tab.page.get_by_role("progressbar", name="Calculating")).to_be_visible()
    expect(tab.state).to_contain_text("Calculating")
    expect(tab.button).to_be_disabled()
    tab.picture("calculating-320")
    tab.page.reload()
    expect(tab.button).to_be_enabled()


def test_a_silent_reconciler(page_address, open_tab):
    tab = open_tab(page_address)
    tab.button.click()
    expect(tab.state).to_contain_text("It takes a moment longer than usual")
    expect(tab.button).to_be_hidden()
    tab.picture("pending")


def fails(tab, text):
    """Click: the page says a text and lets the user try again, with the keyboard too."""
    tab.requests_fail = True
    tab.button.click()
    expect(tab.state).to_have_text(f"{FAILED} {text}")
    expect(tab.button).to_be_enabled()
    expect(tab.button).to_be_focused()
    expect(tab.page.get_by_role("progressbar")).to_be_hidden()


def test_without_redis_the_page_says_so_and_works_again_afterwards(page_address, redis_server, _verifier, store, open_tab):
    tab = open_tab(page_address)
    redis_server.stop()
    fails(tab, "The service cannot decide just now. Try again in a few seconds.")
    tab.picture("no-redis")
    redis_server.start()
    _verifier.await_ready()
    run_pod(store)
    with reconciler(store):
        tab.page.keyboard.press("Enter")
        expect(tab.state).to_contain_text(GRANTED)


NO_ANSWER = "The service does not answer. Check your connection and try again in a moment."


def test_without_a_verifier(start, store, open_tab):
    process = start()
    run_pod(store)
    tab = open_tab(f"{process.public}/egress/servers/alice/")
    tab.requests_fail = True
    process.stop()
    fails(tab, NO_ANSWER)
    tab.picture("no-verifier")


@pytest.mark.parametrize("path", ["**/challenge?*", "**/servers/alice/"], ids=["challenge", "unlock"])
def test_an_error_page_of_a_proxy(path, page_address, open_tab):
    tab = open_tab(page_address)
    tab.page.route(path, lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad Gateway</h1>"))
    fails(tab, NO_ANSWER)


def test_a_verifier_that_never_answers(page_address, open_tab):
    tab = open_tab(page_address)
    # A hundredth of the page's patience.
    tab.page.evaluate("{ const real = AbortSignal.timeout; AbortSignal.timeout = (ms) => real.call(AbortSignal, ms / 100); }")
    tab.page.route("**/challenge?*", lambda route: None)
    fails(tab, NO_ANSWER)


def test_a_server_that_has_stopped_meanwhile(page_address, redis_server, _verifier, open_tab):
    tab = open_tab(page_address)
    redis_server.wipe()
    _verifier.await_ready()
    tab.requests_fail = True
    tab.button.click()
    expect(tab.state).to_have_text(ENDED)
    expect(tab.page.get_by_text("Launch it again")).to_be_visible()
    expect(tab.button).to_be_hidden()
    tab.picture("ended")


def test_without_javascript_the_page_says_what_is_needed(page_address, open_tab):
    tab = open_tab(page_address, java_script_enabled=False)
    expect(tab.state).to_have_text(NO_ACCESS)
    # Not get_by_text, which leaves out what is in a noscript.
    expect(tab.page.locator("noscript p")).to_contain_text("The check needs JavaScript")
    expect(tab.page.locator("noscript p")).to_be_visible()
    expect(tab.button).to_be_hidden()
    tab.picture("no-javascript", axe=False)  # It needs JavaScript itself.


def test_an_insecure_connection(page_address, open_tab):
    tab = open_tab(page_address.replace("127.0.0.1", INSECURE_HOST), **PHONE)
    assert tab.page.evaluate("isSecureContext") is False
    expect(tab.state).to_contain_text("Open this page with https.")
    expect(tab.button).to_be_hidden()
    tab.picture("insecure")


@pytest.mark.parametrize("scheme, color", [("light", "rgb(0, 0, 0)"), ("dark", "rgb(255, 255, 255)")])
def test_a_narrow_screen(scheme, color, page_address, store, open_tab):
    tab = open_tab(page_address, color_scheme=scheme, **PHONE)
    assert tab.page.evaluate("getComputedStyle(document.body).color") == color
    tab.picture(f"blocked-320-{scheme}")
    tab.requests_fail = True
    tab.page.route("**/challenge?*", lambda route: route.abort())
    tab.button.click()
    expect(tab.state).to_contain_text(FAILED)
    tab.picture(f"failed-320-{scheme}")
    tab.page.unroute("**/challenge?*")
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_contain_text(GRANTED)
    tab.picture(f"granted-320-{scheme}")


# -- what becomes of the server while the page is open


def test_another_tab_unlocks_it(page_address, store, open_tab):
    tab = open_tab(page_address)
    expect(tab.button).to_be_visible()
    store.publish(Server("alice"), KnownServer("uid-1", "verified"))
    expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    expect(tab.button).to_be_hidden()
    assert tab.posts == 0


def test_another_tab_unlocks_it_while_this_one_calculates(start, store, open_tab):
    options = {"altcha": {"counterMin": 900_000, "counterMax": 900_000}}
    process = start(captcha_providers=options)
    run_pod(store)
    tab = open_tab(f"{process.public}/egress/servers/alice/")
    tab.button.click()
    expect(tab.state).to_contain_text("Calculating")
    store.publish(Server("alice"), KnownServer("uid-1", "verified"))
    expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    expect(tab.page.get_by_role("progressbar")).to_be_hidden()
    expect(tab.button).to_be_hidden()
    assert tab.posts == 0


def test_access_that_is_taken_away_can_be_had_again(page_address, store, open_tab):
    store.publish(Server("alice"), KnownServer("uid-1", "verified"))
    tab = open_tab(page_address)
    expect(tab.state).to_have_text(GRANTED)
    run_pod(store)
    expect(tab.state).to_have_text(NO_ACCESS)
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_contain_text(FROM_NOW_ON)


def test_a_server_that_ends_and_comes_back(page_address, store, open_tab):
    tab = open_tab(page_address)
    tab.requests_fail = True
    store.forget(Server("alice"))
    expect(tab.state).to_have_text(ENDED)
    expect(tab.button).to_be_hidden()
    run_pod(store)
    expect(tab.state).to_have_text(NO_ACCESS)
    expect(tab.button).to_be_visible()


def test_it_is_promised_only_once_the_reconciler_confirmed_it(page_address, store, open_tab):
    tab = open_tab(page_address)
    tab.button.click()
    expect(tab.state).to_contain_text("Accepted.")
    assert FROM_NOW_ON not in tab.state.text_content()
    with reconciler(store):
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    assert tab.posts == 1


def test_a_page_that_nobody_looks_at_asks_nothing(page_address, open_tab):
    tab = open_tab(page_address)
    with tab.page.expect_response(page_address):
        pass  # It asks.
    asked = []
    tab.page.on("request", lambda request: asked.append(request.url))
    look = "state => { Object.defineProperty(document, 'visibilityState', {value: state, configurable: true});"
    look += "document.dispatchEvent(new Event('visibilitychange')) }"
    tab.page.evaluate(look, "hidden")
    tab.page.wait_for_timeout(4_500)  # It would have asked again after 3.6 s.
    assert asked == []
    with tab.page.expect_request(page_address):
        tab.page.evaluate(look, "visible")


# -- a tier that lasts for a while

LEASE = 600


@pytest.fixture
def leased(start, store):
    """A function that publishes a server whose tier lasts some seconds more, and starts a verifier: the address of its page."""

    def publish(left, on_expiry="end", **fields):
        tiers = {"verified": {"internet": True, "lease": LEASE, "on_expiry": on_expiry}}
        process = start(tiers=tiers, may_stop_pods=True, captcha_providers=MODEST)
        lasts(store, left, **fields)
        return f"{process.public}/egress/servers/alice/"

    return publish


def lasts(store, left, tier="verified", **fields):
    store.publish(Server("alice"), KnownServer("uid-1", tier, until=None if left is None else int(time.time()) + left, **fields))


WATCH_STATE = """() => {
  globalThis.said = [];
  new MutationObserver(() => said.push(document.getElementById("state").textContent))
    .observe(document.getElementById("state"), { childList: true, characterData: true, subtree: true });
}"""


def test_the_time_left_is_seen_each_second_and_not_read_aloud(leased, open_tab):
    tab = open_tab(leased(3_700))
    left = tab.page.get_by_role("timer")
    expect(left).to_have_text(re.compile(r"^Time left: 1:01:\d\d$"))
    expect(tab.page.locator("#after")).to_contain_text("until you give it some again")
    expect(tab.page.locator("#after")).to_contain_text("in the second half")
    expect(tab.button).to_be_hidden()
    assert left.evaluate("element => element.closest('[aria-live]')") is None
    tab.picture("lease")
    tab.page.evaluate(WATCH_STATE)
    before = left.text_content()
    tab.page.wait_for_timeout(3_000)
    assert left.text_content() != before
    assert tab.page.evaluate("said") == []
    assert tab.posts == 0


def test_the_time_is_renewed_by_one_click(leased, store, open_tab):
    tab = open_tab(leased(290))
    expect(tab.button).to_have_text("Renew")
    expect(tab.state).to_have_text(f"{GRANTED} The time is over soon. Renew it now to keep internet access.")
    tab.picture("lease-renewable")
    tab.page.evaluate(WATCH_STATE)
    with reconciler(store, lease=LEASE):
        tab.button.click()
        expect(tab.state).to_have_text(f"{GRANTED} The time is renewed.")
    assert "Solved. The time is being renewed." in tab.page.evaluate("said")
    expect(tab.page.get_by_role("timer")).to_have_text(re.compile(r"^Time left: (10:00|9:5\d)$"))
    expect(tab.button).to_be_hidden()
    assert tab.posts == 1
    tab.picture("lease-renewed")


def test_it_can_be_renewed_from_the_second_half_on(leased, store, open_tab):
    tab = open_tab(leased(LEASE // 2 + 12))
    expect(tab.page.get_by_text("in the second half")).to_be_visible()
    expect(tab.button).to_be_hidden()
    expect(tab.button).to_be_visible()
    expect(tab.page.get_by_text("in the second half")).to_have_count(0)
    tab.page.keyboard.press("Tab")
    expect(tab.button).to_be_focused()
    with reconciler(store, lease=LEASE):
        tab.page.keyboard.press("Enter")
        expect(tab.state).to_have_text(f"{GRANTED} The time is renewed.")


def test_a_renewal_that_takes_a_while(leased, store, open_tab):
    tab = open_tab(leased(100))
    tab.button.click()
    expect(tab.state).to_contain_text("Accepted.")
    with reconciler(store, lease=LEASE):
        expect(tab.state).to_have_text(f"{GRANTED} The time is renewed.")
    assert tab.posts == 1


def test_a_renewal_that_fails_says_so_and_can_be_tried_again(leased, store, open_tab):
    tab = open_tab(leased(100))
    expect(tab.button).to_be_visible()
    tab.requests_fail = True
    tab.page.route("**/challenge?*", lambda route: route.abort())
    tab.button.click()
    expect(tab.state).to_have_text(f"The time is not renewed yet. {NO_ANSWER}")
    tab.page.unroute("**/challenge?*")
    with reconciler(store, lease=LEASE):
        tab.button.click()
        expect(tab.state).to_contain_text("renewed.")


def test_another_tab_renews_it(leased, store, open_tab):
    tab = open_tab(leased(100))
    expect(tab.button).to_be_visible()
    lasts(store, LEASE)
    expect(tab.state).to_have_text(f"{GRANTED} The time is renewed.")
    expect(tab.button).to_be_hidden()
    assert tab.posts == 0


def test_the_time_is_over_while_the_page_is_open(leased, store, open_tab):
    tab = open_tab(leased(8))
    expect(tab.page.get_by_role("timer")).to_have_text("Time left: 0:00")
    lasts(store, None, "unverified", rule="expired")
    expect(tab.state).to_have_text(f"The time is over. {NO_ACCESS}")
    expect(tab.page.get_by_role("timer")).to_be_hidden()
    expect(tab.button).to_have_text("Give it internet access")
    tab.picture("lease-over")
    with reconciler(store, lease=LEASE):
        tab.button.click()
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    expect(tab.page.get_by_role("timer")).to_be_visible()


def test_a_server_that_will_be_stopped_can_be_saved(leased, store, open_tab):
    tab = open_tab(leased(100, "stop", tier="unverified", rule="expired"), **PHONE)
    expect(tab.page.get_by_role("timer")).to_have_text(
        re.compile(r"^Your server will be stopped in 1:\d\d, unless you give it internet access again\.")
    )
    tab.picture("lease-stopping-320")
    with reconciler(store, lease=LEASE):
        tab.button.click()
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    expect(tab.page.locator("#after")).to_contain_text("two minutes later it is stopped")
    tab.requests_fail = True
    store.forget(Server("alice"))
    expect(tab.state).to_have_text(ENDED)
    expect(tab.page.get_by_role("timer")).to_be_hidden()


def test_nothing_is_renewed_for_somebody_who_is_gone(leased, store, open_tab):
    """Whatever the address says: not before the end, nor after it."""
    tab = open_tab(f"{leased(8)}#unlock")
    expect(tab.button).to_be_visible()
    expect(tab.page.get_by_role("timer")).to_have_text("Time left: 0:00")
    with reconciler(store, lease=LEASE):
        lasts(store, None, "unverified", rule="expired")
        expect(tab.state).to_have_text(f"The time is over. {NO_ACCESS}")
        tab.page.wait_for_timeout(1_500)
    assert tab.posts == 0


def test_without_javascript_the_page_says_until_when(leased, open_tab):
    tab = open_tab(leased(3_700), java_script_enabled=False)
    expect(tab.page.get_by_role("timer")).to_have_text(re.compile(r"^Time left: 1:01:\d\d, until \d\d:\d\d:\d\d UTC\.$"))
    tab.picture("lease-no-javascript", axe=False)


@pytest.mark.parametrize("language", ["de", "fr", "es", "ja", "ar"])
def test_the_time_left_in_every_language_on_a_phone(language, leased, store, open_tab):
    messages = MESSAGES[language]
    tab = open_tab(leased(200, "stop"), locale=f"{language}-XX", **PHONE)
    expect(tab.page.get_by_role("timer")).to_contain_text(messages["left"].partition("{")[0].strip())
    expect(tab.button).to_have_text(messages["renew"])
    expect(tab.state).to_have_text(f"{messages['granted']} {messages['ends-soon']}")
    tab.picture(f"lease-{language}-320")
    with reconciler(store, lease=LEASE):
        tab.button.click()
        expect(tab.state).to_have_text(f"{messages['granted']} {messages['renewed']}")


# -- without a click


def test_a_link_that_says_so_needs_no_click(page_address, store, open_tab):
    with reconciler(store):
        tab = open_tab(f"{page_address}#unlock", **PHONE)
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")


def visit(browser, where, script=""):
    """Follow a link on a page of another site, and wait as long as an unlock takes: the requests that the page then made."""
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


def test_a_link_on_another_site_begins_nothing(page_address, browser, store):
    """Its visitors' browsers must not work for somebody's server."""
    asked = visit(browser, f"{page_address}#unlock")
    assert asked and not [request for request in asked if request.startswith("POST")]
    assert store.pending(Server("alice"), set()).unlock is None


def test_a_page_that_is_not_shown_begins_nothing(page_address, store, open_tab, browser):
    """As with a prerendered page."""
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


# -- what can go wrong, in words


def test_a_price_that_has_risen_is_paid_without_asking(page_address, store, open_tab):
    tab = open_tab(page_address)
    tab.requests_fail = True
    answered = []

    def refuse(route):
        if route.request.method == "POST" and not answered:
            answered.append(1)
            return route.fulfill(status=403, content_type="application/problem+json", body='{"type": "https://x#price-risen"}')
        return route.continue_()

    tab.page.route("**/servers/alice/", refuse)
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_contain_text(FROM_NOW_ON)
    assert tab.posts == 2


def test_a_browser_that_knows_no_time_limit(page_address, store, open_tab):
    """Such as Safari 15."""
    tab = open_tab(page_address)
    tab.page.add_init_script("delete AbortSignal.timeout")
    tab.page.reload()
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_contain_text(FROM_NOW_ON)


PROBLEMS = {
    "price-risen": (403, {}, "Many checks came from your network, so the calculation takes longer now. Try again."),
    "solution-refused": (403, {}, "The solution was not accepted. Try again."),
    "budget-spent": (429, {"Retry-After": "290"}, "Too many checks came from your network. Try again in 5 minutes."),
    "too-many-rejected": (429, {"Retry-After": "40"}, "Too many wrong solutions came from your network. Try again in 1 minute."),
    "provider-misconfigured": (503, {}, "This check is set up wrong. Tell the operators of this site."),
    "something-new": (418, {}, "The service refused: Some words."),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_refusal_says_what_to_do(kind, page_address, open_tab):
    status, headers, words = PROBLEMS[kind]
    body = json.dumps({"type": f"https://x#{kind}", "detail": "Some words."})
    tab = open_tab(page_address)
    tab.page.route(
        "**/servers/alice/",
        lambda route: (
            route.fulfill(status=status, headers=headers, content_type="application/problem+json", body=body)
            if route.request.method == "POST"
            else route.continue_()
        ),
    )
    fails(tab, words)
    tab.picture(f"error-{kind}")


def test_a_network_that_has_spent_its_budget(start, store, open_tab):
    """The real thing."""
    process = start(captcha_providers=MODEST, fairness_budget=1)
    for name in ("alice", "bob"):
        run_pod(store, name)
    here = {"extra_http_headers": {"X-Forwarded-For": "198.51.100.7"}}
    first = open_tab(f"{process.public}/egress/servers/alice/", **here)
    with reconciler(store):
        first.button.click()
        expect(first.state).to_contain_text(FROM_NOW_ON)
    second = open_tab(f"{process.public}/egress/servers/bob/", **here)
    second.requests_fail = True
    second.button.click()
    expect(second.state).to_contain_text(re.compile("Too many checks came from your network. Try again in 6[0-9] minutes."))


def test_nothing_to_solve(page_address, open_tab):
    body = '{"purpose": "unlock", "providers": []}'
    tab = open_tab("about:blank")
    tab._origins.append(urlsplit(page_address)[:2])
    tab.page.route("**/challenge?*", lambda route: route.fulfill(content_type="application/json", body=body))
    tab.page.goto(page_address)
    expect(tab.state).to_contain_text("There is no check to solve just now. Try again in a few minutes.")
    tab.picture("nothing-to-solve")


def test_a_browser_without_workers(page_address, open_tab):
    tab = open_tab(page_address)
    tab.page.evaluate("delete globalThis.Worker")
    fails(tab, "This browser does not let the page calculate. Open it in another browser or on a phone.")


def test_a_worker_that_is_gone(page_address, open_tab):
    """As while the verifier is replaced by another version, whose files have other names."""
    tab = open_tab(page_address)
    tab.page.route("**/worker-*", lambda route: route.fulfill(status=404))
    fails(tab, "This browser does not let the page calculate. Open it in another browser or on a phone.")


def test_the_page_of_a_server_that_never_was(verifier, open_tab):
    tab = open_tab("about:blank")
    tab.requests_fail = True
    tab._origins.append(urlsplit(verifier)[:2])
    tab.page.goto(f"{verifier}/egress/servers/nobody/")
    expect(tab.page.get_by_role("heading", name=ENDED)).to_be_visible()
    tab.picture("no-such-server")


# -- captcha providers, against the double of their interfaces and widgets

INTERACTIVE = ["hcaptcha", "turnstile", "recaptchaV2", "friendlyCaptcha", "cap", "mcaptcha", "prosopo"]
TITLES = {"hcaptcha": "hCaptcha", "turnstile": "Cloudflare Turnstile", "recaptchaV3": "reCAPTCHA"}


@pytest.fixture(scope="module")
def double():
    with running() as double:
        yield double


@pytest.fixture
def providers(double, start, store):
    """A function that starts a verifier with some providers, and gives the address of a server's page."""

    def start_with(*names, altcha=False, **options):
        settings = {**double.settings(*names, with_altcha=MODEST["altcha"] if altcha else None), **options}
        run_pod(store)
        return f"{start(**settings).public}/egress/servers/alice/"

    yield start_with
    double.behaviour.update(dict.fromkeys(double.behaviour, "right"))


def press(tab, name):
    """Click a button of the widget, in its frame or in the page."""
    frame = tab.page.locator("#widget iframe")
    expect(tab.state).to_contain_text("Solve the check below.")
    place = frame.content_frame if frame.count() else tab.page.locator("#widget")
    place.get_by_role("button", name=name).click()


@pytest.mark.parametrize("name", INTERACTIVE)
def test_a_widget_is_one_click(name, double, providers, store, open_tab):
    tab = open_tab(providers(name), double.url)
    with reconciler(store):
        press(tab, "I am a person")
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    expect(tab.page.locator("#widget > *")).to_have_count(0)
    assert tab.posts == 1 + 2 * (name == "cap")


def test_a_widget_without_a_click_waits_for_ours(double, providers, store, open_tab):
    tab = open_tab(providers("recaptchaV3"), double.url)
    expect(tab.page.get_by_text("The check is reCAPTCHA.")).to_be_visible()
    assert tab.strangers == []
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    assert double.calls[-1][1]["response"]


def test_another_way(double, providers, store, open_tab):
    """The calculation is the accessible way beside a widget, and reached with the keyboard."""
    tab = open_tab(providers("hcaptcha", "turnstile", altcha=True), double.url, **PHONE)
    expect(tab.state).to_have_text(f"{NO_ACCESS} Solve the check below.")
    expect(tab.page.locator("iframe")).to_be_visible()
    tab.picture("widget-320")
    tab.page.get_by_text("Another way").focus()
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_role("button", name="Use Cloudflare Turnstile")).to_be_visible()
    tab.picture("another-way-320")
    assert not [address for address in tab.strangers if "turnstile" in address]
    with reconciler(store):
        for key in ("Tab", "Tab", "Enter"):
            tab.page.keyboard.press(key)
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")


def test_a_third_party_is_asked_only_when_it_is_chosen(double, providers, store, open_tab):
    order = {"altcha": {**MODEST["altcha"], "order": 0}, "turnstile": {**double.options("turnstile"), "order": 1}}
    tab = open_tab(providers("turnstile", captcha_providers=order), double.url)
    expect(tab.page.get_by_text("Another way")).to_be_visible()
    tab.page.wait_for_timeout(500)
    assert tab.strangers == []
    tab.page.get_by_text("Another way").click()
    tab.page.get_by_role("button", name="Use Cloudflare Turnstile").click()
    with reconciler(store):
        press(tab, "I am a person")
        expect(tab.state).to_contain_text(FROM_NOW_ON)


def test_a_wrong_solution_and_then_another_way(double, providers, store, open_tab):
    tab = open_tab(providers("hcaptcha", altcha=True), double.url)
    tab.requests_fail = True
    press(tab, "Wrong")
    expect(tab.state).to_have_text(f"{FAILED} The solution was not accepted. Try again. Or choose another way.")
    tab.picture("refused")
    # Again: a new widget, and one click.
    tab.button.click()
    with reconciler(store):
        press(tab, "I am a person")
        expect(tab.state).to_contain_text(FROM_NOW_ON)


def test_a_widget_that_expired_can_be_solved_nevertheless(double, providers, store, open_tab):
    tab = open_tab(providers("turnstile"), double.url)
    press(tab, "Expire")
    with reconciler(store):
        press(tab, "I am a person")
        expect(tab.state).to_contain_text(FROM_NOW_ON)


@pytest.mark.parametrize("name", ["hcaptcha", "friendlyCaptcha", "cap", "prosopo"])
def test_a_widget_that_breaks(name, double, providers, open_tab):
    tab = open_tab(providers(name), double.url)
    press(tab, "Break")
    expect(tab.state).to_contain_text("reports a fault. Try again.")
    expect(tab.button).to_be_enabled()


def test_a_renewal_asks_a_third_party_only_after_a_click(double, providers, store, open_tab):
    address = providers("hcaptcha", tiers={"verified": {"internet": True, "lease": LEASE}})
    lasts(store, 200)
    tab = open_tab(address, double.url)
    expect(tab.button).to_have_text("Renew")
    tab.page.wait_for_timeout(500)
    assert tab.strangers == []
    tab.button.click()
    with reconciler(store, lease=LEASE):
        press(tab, "I am a person")
        expect(tab.state).to_have_text(f"{GRANTED} The time is renewed.")


def test_a_script_that_is_blocked(double, providers, store, open_tab):
    tab = open_tab("about:blank", double.url)
    address = providers("hcaptcha", altcha=True)
    tab._origins.insert(0, urlsplit(address)[:2])
    tab.requests_fail = True
    tab.page.route(f"{double.url}/**", lambda route: route.abort())
    tab.page.goto(address)
    expect(tab.state).to_have_text(
        f"{FAILED} hCaptcha did not load. If you use a content blocker, allow it here and try again. Or choose another way."
    )
    tab.picture("blocked")
    tab.page.unroute(f"{double.url}/**")
    tab.button.click()
    with reconciler(store):
        press(tab, "I am a person")
        expect(tab.state).to_contain_text(FROM_NOW_ON)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["turnstile", "mcaptcha"])
def test_a_script_that_never_comes(name, double, providers, open_tab):
    tab = open_tab("about:blank", double.url)
    address = providers(name)
    tab._origins.insert(0, urlsplit(address)[:2])
    # A hundredth of the page's patience for scripts; what it asks the verifier for has as little.
    tab.page.add_init_script("{ const real = AbortSignal.timeout; AbortSignal.timeout = (ms) => real.call(AbortSignal, ms / 10); }")
    tab.page.route(f"{double.url}/**", lambda route: None)
    tab.page.goto(address)
    expect(tab.state).to_contain_text("did not load.")


def test_a_provider_that_is_down(double, providers, open_tab):
    tab = open_tab(providers("hcaptcha", altcha=True), double.url)
    tab.requests_fail = True
    double.behaviour["hcaptcha"] = "down"
    press(tab, "I am a person")
    expect(tab.state).to_have_text(
        f"{FAILED} The provider of this check does not answer. Try again in a minute. Or choose another way."
    )


# -- more than it has

RANKS = {"small": {"internet": True, "ports": ["443"]}, "verified": {"internet": True, "rank": 1}}
SMALL = "Programs in it can open connections to the internet on these ports only: 443."
ALL = "Programs in it can open connections to the internet, but not to this site's private network."
MORE = "Another short check gives your server more access. It keeps running."


@pytest.fixture
def ranked(double, providers):
    """A function that starts a verifier where proof of work earns `small` and a provider `verified`: the address of a page."""

    def start_ranked(name, first=True, **options):
        calculation = {"altcha": {**MODEST["altcha"], "tier": "small", "order": 0 if first else 2}}
        return providers(name, captcha_providers=calculation | {name: {**double.options(name), "order": 1}}, tiers=RANKS, **options)

    return start_ranked


def test_whoever_has_less_sees_what_more_there_is_and_gets_it_by_one_click(ranked, double, store, open_tab):
    tab = open_tab(ranked("recaptchaV3"), double.url)
    expect(tab.page.locator("#way")).to_contain_text(f"Then: {SMALL}")
    tab.page.get_by_text("Another way").click()
    expect(tab.page.get_by_text(f"Then: {ALL}")).to_be_visible()
    tab.picture("ways-differ")
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
        expect(tab.page.locator("#reach")).to_have_text(SMALL)
        expect(tab.page.locator("#why")).to_have_text(f"{MORE} Then: {ALL}")
        expect(tab.button).to_have_text("Get more access")
        expect(tab.page.get_by_text("Another way")).to_be_hidden()
        tab.picture("more")
        tab.page.wait_for_timeout(500)
        assert (tab.strangers, tab.posts) == ([], 1)
        tab.button.click()
        expect(tab.page.locator("#reach")).to_have_text(ALL)
    expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    expect(tab.button).to_be_hidden()
    assert tab.posts == 2 and store.known(Server("alice")).tier == "verified"
    tab.picture("more-granted")


def test_a_reload_shows_it_too_and_a_widget_comes_only_when_it_is_asked_for(ranked, double, store, open_tab):
    address = ranked("hcaptcha", first=False)
    lasts(store, None, "small")
    tab = open_tab(f"{address}#unlock", double.url, **PHONE)
    expect(tab.state).to_have_text(GRANTED)
    expect(tab.page.locator("#why")).to_have_text(f"{MORE} Then: {ALL}")
    expect(tab.button).to_be_visible()
    tab.page.wait_for_timeout(500)
    assert (tab.strangers, tab.posts) == ([], 0), "nothing begins by itself"
    expect(tab.button).to_be_focused()  # The address names it.
    tab.page.keyboard.press("Enter")
    expect(tab.state).to_have_text(f"{GRANTED} Solve the check below.")
    tab.picture("more-widget-320")
    with reconciler(store):
        press(tab, "I am a person")
        expect(tab.page.locator("#reach")).to_have_text(ALL)
    expect(tab.page.locator("#widget > *")).to_have_count(0)


def test_more_that_fails_takes_nothing(ranked, double, store, open_tab):
    address = ranked("hcaptcha")
    lasts(store, None, "small")
    tab = open_tab(address, double.url)
    tab.requests_fail = True
    tab.button.click()
    press(tab, "Wrong")
    expect(tab.state).to_have_text("Your server has no more access than before. The solution was not accepted. Try again.")
    assert store.known(Server("alice")).tier == "small"
    with reconciler(store):
        tab.button.click()
        press(tab, "I am a person")
        expect(tab.page.locator("#reach")).to_have_text(ALL)


def test_more_that_takes_a_while(ranked, double, store, open_tab):
    address = ranked("recaptchaV3")
    lasts(store, None, "small")
    tab = open_tab(address, double.url)
    tab.button.click()
    expect(tab.state).to_contain_text("Accepted.")
    with reconciler(store):
        expect(tab.page.locator("#reach")).to_have_text(ALL)
    expect(tab.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")


def test_nothing_is_offered_that_cannot_be_had(ranked, double, store, open_tab):
    """The provider of more is down, and proof of work earns what the server has already."""
    address = ranked("hcaptcha")
    lasts(store, None, "small")
    tab = open_tab("about:blank")
    tab._origins.append(urlsplit(address)[:2])
    offer = {"name": "altcha", "kind": "proof-of-work", "tier": "small", "challenge": {}}
    body = json.dumps({"purpose": "unlock", "providers": [offer]})
    tab.page.route("**/challenge?*", lambda route: route.fulfill(content_type="application/json", body=body))
    tab.page.goto(address)
    expect(tab.state).to_have_text(GRANTED)
    expect(tab.page.locator("#how")).to_be_hidden()


@pytest.mark.parametrize("language", ["de", "fr", "es", "ja", "ar"])
def test_more_in_every_language_on_a_phone(language, ranked, double, store, open_tab):
    messages = MESSAGES[language]
    address = ranked("recaptchaV3")
    lasts(store, None, "small")
    tab = open_tab(address, double.url, locale=f"{language}-XX", **PHONE)
    expect(tab.button).to_have_text(messages["button-more"])
    expect(tab.page.locator("#why")).to_contain_text(messages["why-more"])
    tab.picture(f"more-{language}-320")


# -- where people come from


def scan(browser, picture):
    """What a QR reader that knows nothing of ours sees in a picture, a PNG."""
    page = browser.new_page()
    page.evaluate(JSQR.read_text())
    found = page.evaluate(
        """async (data) => {
          const image = new Image();
          image.src = `data:image/png;base64,${data}`;
          await image.decode();
          const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          return jsQR(context.getImageData(0, 0, image.width, image.height).data, image.width, image.height)?.data;
        }""",
        base64.b64encode(picture).decode(),
    )
    page.close()
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_code_on_the_page_is_scanned(scheme, start, store, open_tab, browser):
    """As a phone sees it, with a name that needs encoding; and what it says opens the page and unlocks."""
    server = Server("zoë@example.org-k3jd92ms", "lab 2")
    store.publish(server, KnownServer("uid-1"))
    address = f"{start(captcha_providers=MODEST).public}/egress/servers/zo%C3%AB%40example.org-k3jd92ms/lab%202"
    tab = open_tab(address, color_scheme=scheme, viewport={"width": 1280, "height": 800})
    found = scan(browser, tab.page.screenshot())
    assert found == f"{address}#unlock"
    with reconciler(store, server):
        phone = open_tab(found, **PHONE)
        expect(phone.state).to_have_text(f"{GRANTED} {FROM_NOW_ON}")


@pytest.mark.parametrize("colors", ["#000 on #fff", "#eee on #111"])
def test_the_code_in_a_terminal_is_scanned(colors, page_address, browser):
    ours = requests.get(f"{page_address}?qr", headers={"Accept": "text/plain"}, timeout=10).text
    code = [line.removeprefix("\x1b[38;5;16;48;5;231m").removesuffix("\x1b[0m") for line in ours.splitlines() if "\x1b" in line]
    foreground, background = colors.split(" on ")
    page = browser.new_page()
    # A terminal's cells, twice as high as wide, without gaps between lines.
    cells = "".join(
        f'<div style="background:#fff;color:#000;width:max-content;font:16px/16px DejaVu Sans Mono">{line}</div>' for line in code
    )
    page.set_content(f'<body style="background:{background};color:{foreground};margin:40px;white-space:pre">{cells}</body>')
    found = scan(browser, page.screenshot(full_page=True))
    page.close()
    assert found == f"{page_address}#unlock"


JUPYTERLAB = """<!doctype html><html lang=en><title>JupyterLab</title><link rel=icon href="data:,">
<a id=link href="{page}" target=_blank {rel}>{page}</a>
<button onclick="globalThis.opened = open('{page}', '_blank', '{features}')">open</button>"""


@pytest.fixture
def jupyterlab(browser):
    """A function that serves a JupyterLab of the site itself, and opens it: the page."""
    contexts = []

    def serve(address, origin, rel="", features=""):
        context = browser.new_context()
        context.set_default_timeout(30_000)
        contexts.append(context)
        body = JUPYTERLAB.format(page=address, rel=rel, features=features)
        lab = f"{origin}/user/alice/lab/tree/notebook.ipynb?token=secret-token"
        context.route(f"{origin}/user/**", lambda route: route.fulfill(content_type="text/html", body=body))
        page = context.new_page()
        page.goto(lab)
        return page

    yield serve
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("how", "rel", "features", "start_at"),
    [
        pytest.param("button", "", "", "", id="window.open"),
        pytest.param("button", "", "noopener,noreferrer", "#unlock", id="window.open without an opener"),
        pytest.param("#link", 'rel="opener"', "", "#unlock", id="a link with an opener"),
        pytest.param("#link", 'rel="noopener noreferrer"', "", "", id="a link as terminals and notebooks make them"),
    ],
)
def test_a_tab_that_jupyterlab_opened(how, rel, features, start_at, page_address, jupyterlab, store):
    lab = jupyterlab(page_address + start_at, page_address.partition("/egress/")[0], rel, features)
    sent = []
    lab.context.on("request", lambda request: sent.append(request))
    with reconciler(store):
        with lab.context.expect_page() as opened:
            lab.locator(how).click()
        tab = opened.value
        if not start_at:
            tab.locator("#unlock").click()
        expect(tab.locator("#state")).to_have_text(f"{GRANTED} {FROM_NOW_ON}")
    # What the page asks for says nothing of where it was opened, and JupyterLab's address has a token.
    ours = [request for request in sent if "/egress/" in request.url and not request.is_navigation_request()]
    assert ours and not [request for request in ours if "referer" in request.all_headers()]
    assert not [request.url for request in sent if "secret-token" in request.url]
    assert lab.title() == "JupyterLab", "the page did something to who opened it"


def test_the_page_is_not_shown_in_a_frame(page_address, browser, store):
    """Of the site itself neither: a notebook's output could lay something else over the button."""
    context = browser.new_context()
    page = context.new_page()
    origin = page_address.partition("/egress/")[0]
    sandboxes = ("", "sandbox", 'sandbox="allow-scripts"', 'sandbox="allow-scripts allow-same-origin"')
    body = "<!doctype html>" + "".join(f'<iframe {sandbox} src="{page_address}#unlock"></iframe>' for sandbox in sandboxes)
    page.route(f"{origin}/user/**", lambda route: route.fulfill(content_type="text/html", body=body))
    said, posts = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.goto(f"{origin}/user/alice/lab")
    page.wait_for_timeout(1_500)
    assert len([text for text in said if "frame-ancestors" in text]) == len(sandboxes), said
    assert [frame.url[:13] for frame in page.frames[1:]] == ["chrome-error:"] * len(sandboxes)
    assert posts == [] and store.pending(Server("alice"), set()).unlock is None
    context.close()


def test_going_back_to_the_page_shows_how_things_are_now(page_address, store, kept_browser):
    """Whether the browser kept the page as it was, or loads it again."""
    page = kept_browser.new_page()
    page.goto(page_address)
    expect(page.locator("#state")).to_have_text(NO_ACCESS)
    page.goto(f"{page_address.partition('/egress/')[0]}/egress/openapi.json")
    lasts(store, None)
    page.go_back(wait_until="commit")
    expect(page.locator("#state")).to_contain_text(GRANTED)
    expect(page.locator("#unlock")).to_be_hidden()
    page.close()


# -- languages and screens

LANGUAGES = ["en", "de", "fr", "es", "ja", "ar"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_on_a_phone(language, page_address, store, open_tab):
    messages = MESSAGES[language]
    tab = open_tab(page_address, locale=f"{language}-XX" if language != "en" else "en-GB", **PHONE)
    assert tab.page.evaluate("document.documentElement.lang") == language
    expect(tab.state).to_have_text(messages["no-access"])
    tab.picture(f"{language}-320")
    left = tab.state.evaluate("element => getComputedStyle(element).direction")
    assert left == ("rtl" if language == "ar" else "ltr")
    with reconciler(store):
        tab.button.click()
        expect(tab.state).to_have_text(f"{messages['granted']} {messages['from-now-on']}")


def test_the_front_end_chooses_languages_as_the_server_does():
    def languages(header):
        """As `navigator.languages` would have them."""
        return [part.split(";")[0].strip() for part in header.split(",") if not part.endswith(";q=0")]

    table = [[languages(header), chosen] for header, chosen in CHOICES]
    script = f"""
      import {{ chooseLanguage, direction }} from {json.dumps((TOP / "frontend/src/language.js").as_uri())};
      for (const [languages, chosen] of {json.dumps(table)}) {{
        const found = chooseLanguage(languages, {json.dumps(LANGUAGES)});
        if (found !== chosen) throw new Error(`${{languages}}: ${{found}}`);
      }}
      if ({json.dumps(LANGUAGES)}.map(direction).join() !== "ltr,ltr,ltr,ltr,ltr,rtl") throw new Error("direction");
    """
    subprocess.run(["node", "--input-type=module", "--eval", script], check=True)


def test_a_wide_screen_has_a_code_for_the_phone(page_address, open_tab):
    tab = open_tab(page_address, viewport={"width": 1280, "height": 800})
    code = tab.page.get_by_role("img", name="QR code with the address of this page")
    expect(code).to_be_visible()
    assert code.bounding_box()["width"] >= 120
    tab.picture("wide")
    tab.page.set_viewport_size(PHONE["viewport"])
    expect(code).to_be_hidden()


def test_nothing_moves_for_those_who_do_not_want_it(start, store, open_tab):
    options = {"altcha": {"counterMin": 900_000, "counterMax": 900_000}}
    process = start(captcha_providers=options)
    run_pod(store)
    tab = open_tab(f"{process.public}/egress/servers/alice/", reduced_motion="reduce")
    tab.button.click()
    expect(tab.state).to_contain_text("Calculating")
    expect(tab.page.locator("progress")).to_be_hidden()
    assert tab.page.evaluate("document.getAnimations().length") == 0
