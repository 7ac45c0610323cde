"""The unlock page in Chromium, against a verifier that runs.

Each test also fails for what the page throws, errors on the console, breaches of the content security policy, and requests to
another origin (`Tab`).
"""

import pytest
from apps import VerifierProcess, reconciler, run_pod
from conftest import INSECURE_HOST
from playwright.sync_api import expect

from verifier.store import KnownServer, Server

LOCKED = "Your server has no internet access."
GRANTED = "Your server has internet access."
FAILED = "Your server has no internet access yet."

PHONE = {"viewport": {"width": 320, "height": 600}}
"""The narrowest that WCAG 1.4.10 asks for."""

# Calculating takes seconds on a busy machine, and an unlock may take 2 s on an idle one.
expect.set_options(timeout=30_000)


@pytest.fixture
def page_address(verifier, store):
    """The page of a running server without internet access."""
    run_pod(store)
    return f"{verifier}/egress/servers/alice/"


def test_one_click_unlocks_and_a_reload_shows_it(page_address, store, open_tab):
    tab = open_tab(page_address)
    expect(tab.state).to_have_text(LOCKED)
    tab.picture("locked")
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
    expect(tab.button).to_have_count(0)
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
def test_the_page_solves_every_algorithm(algorithm, redis_server, store, open_tab):
    options = {"altcha": {"algorithm": algorithm, "cost": 3, "counterMin": 20, "counterMax": 40}}
    process = VerifierProcess(redis_server, captcha_providers=options)
    try:
        run_pod(store)
        tab = open_tab(f"{process.public}/egress/servers/alice")
        with reconciler(store):
            tab.button.click()
            expect(tab.state).to_contain_text(GRANTED)
    finally:
        process.stop()


def test_a_named_server_below_another_path(redis_server, store, open_tab):
    process = VerifierProcess(redis_server, base_path="/hub/gate")
    server = Server("zoë@example.org", "a b+c")
    try:
        store.publish(server, KnownServer("uid-1"))
        tab = open_tab(f"{process.public}/hub/gate/servers/zo%C3%AB%40example.org/a%20b+c")
        with reconciler(store, server):
            tab.button.click()
            expect(tab.state).to_contain_text(GRANTED)
    finally:
        process.stop()


@pytest.mark.timeout(60)  # Playwright waits without limit for a page that stands still.
@pytest.mark.parametrize("algorithm", ["PBKDF2/SHA-256", "SHA-256"])
def test_while_it_calculates_the_page_says_so_and_does_not_stand_still(algorithm, redis_server, store, open_tab):
    """With more work than anybody does."""
    options = {"altcha": {"algorithm": algorithm, "counterMin": 900_000, "counterMax": 900_000}}
    process = VerifierProcess(redis_server, captcha_providers=options)
    try:
        run_pod(store)
        tab = open_tab(f"{process.public}/egress/servers/alice/", **PHONE)
        tab.button.click()
        expect(tab.page.get_by_role("progressbar", name="Calculating")).to_be_visible()
        expect(tab.state).to_contain_text("Calculating")
        expect(tab.button).to_be_disabled()
        tab.picture("calculating-320")
        tab.page.reload()
        expect(tab.button).to_be_enabled()
    finally:
        process.stop()


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
    fails(tab, "The service's memory does not answer. Try again in a few seconds.")
    tab.picture("no-redis")
    redis_server.start()
    _verifier.await_ready()
    run_pod(store)
    with reconciler(store):
        tab.page.keyboard.press("Enter")
        expect(tab.state).to_contain_text(GRANTED)


NO_ANSWER = "The service does not answer. Check your connection and try again in a moment."


def test_without_a_verifier(redis_server, store, open_tab):
    process = VerifierProcess(redis_server)
    run_pod(store)
    tab = open_tab(f"{process.public}/egress/servers/alice/")
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
    fails(tab, "No server of this name is running. Check the address, or launch it again.")


def test_without_javascript_the_page_says_what_is_needed(page_address, open_tab):
    tab = open_tab(page_address, java_script_enabled=False)
    expect(tab.state).to_have_text(LOCKED)
    # Not get_by_text, which leaves out what is in a noscript.
    expect(tab.page.locator("noscript p")).to_contain_text("The calculation needs JavaScript")
    expect(tab.page.locator("noscript p")).to_be_visible()
    expect(tab.button).to_be_hidden()
    tab.picture("no-javascript")


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
    tab.picture(f"locked-320-{scheme}")
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
