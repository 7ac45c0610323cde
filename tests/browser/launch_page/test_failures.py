"""Launches go on when the verifier fails, and in browsers and pages without something that launch.js needs."""

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.support.browser import INSECURE_HOST
from tests.support.launch_tab import PROMISE, end_wait, launch, launch_when_solved, raise_price
from tests.support.waiting import eventually

# --- the verifier fails -----------------------------------------------------------------------------------------------


MISSING = "A part of this page did not load, so no server gets internet access through it."
"""What the snippet says if launch.js does not load."""


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        (fault, path)
        for fault in ("down", "hang", "404", "garbage", "unrouted")
        for path in ("challenge", "passes", "promises")
        # One function reads the answers to all requests of launch.js.
        if fault in ("down", "hang") or path == "passes"
    ],
)
def test_failing_verifier_does_not_delay_a_launch(fault, path, hub, tab):
    hub.fault, hub.fault_paths = fault, (path,)
    # One event at a time.
    hub.at_once = fault != "hang"
    opened = tab()
    opened.noise += ["Failed to load resource"]
    launch(hub, opened)
    if fault == "hang" and path in ("challenge", "passes"):
        # The page cannot know that no answer comes. The request has gone out, and the server waits for the hold.
        eventually(lambda: hub.builds, what="the build request waits")
        end_wait(opened, 4)
    opened.server("user-1")
    assert PROMISE.fullmatch(hub.builds[0].token)
    if path != "promises":
        assert hub.count("POST /egress/servers/") == 0 and {"checked", "has"}.isdisjoint(opened.states)


@pytest.mark.parametrize("fault", ["down", "404", "garbage", "unrouted", "blocked"])
def test_page_says_that_launch_js_is_missing(fault, hub, tab):
    """BinderHub answers every unknown path with its page and status 200. An ad blocker blocks all requests."""
    hub.fault = fault
    hub.ready.close()
    opened = tab()
    # The second is about a script that is HTML. It is not run.
    opened.noise += ["Failed to load resource", "Failed to load module script"]
    if fault == "blocked":
        opened.page.route("**/egress/**", lambda route: route.abort("blockedbyclient"))
    opened.page.goto(hub.page(), wait_until="commit")
    expect(opened.page.get_by_text(MISSING)).to_be_visible()
    eventually(lambda: hub.builds, what="no build")
    assert PROMISE.fullmatch(hub.builds[0].token)
    hub.ready.open()
    opened.server("user-1")


def test_requests_of_the_page_keep_their_order(hub, tab):
    """The verifier hangs. The page makes the requests that it makes without us, in the same order."""

    def own(requests):
        paths = [re.sub(r"user-\d", "user", urlsplit(url).path) for url in requests if not url.startswith("data:")]
        # Browsers ask for icons and fonts when they have time.
        return [path for path in paths if "/egress/" not in path and not path.endswith((".ico", ".woff2"))]

    hub.fault = "hang"
    with_us = tab()
    with_us.page.goto(hub.page(), wait_until="commit")
    with_us.server("user-1")
    hub.header_html = {}
    without = tab()
    without.page.goto(hub.page())
    without.server("user-2")
    assert own(with_us.requests) == own(without.requests)
    # A build token says when it was made.
    assert [list(build.query) for build in hub.builds] == [["build_token", "egress_token"], ["build_token"]]


def test_risen_price_is_paid(hub, tab):
    opened = tab()
    raise_price(opened, times=3)
    launch_when_solved(hub, opened)
    opened.server("user-1")
    assert (hub.count("GET /egress/challenge"), hub.count("POST /egress/passes")) == (4, 1)
    assert hub.builds[0].tier == "verified"


def test_price_that_keeps_rising_is_given_up(hub, tab):
    opened = tab()
    raise_price(opened)
    hub.ready.close()
    opened.page.goto(hub.page())
    opened.expect("none")
    assert hub.count("GET /egress/challenge") == 4


# --- browsers and pages that cannot -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "blocked",
    [
        "delete window.Worker",
        "window.Worker = class { constructor() { throw new DOMException('no', 'SecurityError'); } }",
        "delete window.CSSStyleSheet",
        "Element.prototype.attachShadow = undefined",
        "Object.defineProperty(crypto, 'subtle', { value: undefined })",
        "Object.defineProperty(window, 'crypto', { value: undefined })",
        "delete window.Request",
        "const { get } = Object.getOwnPropertyDescriptor(Response.prototype, 'body');"
        "Object.defineProperty(Response.prototype, 'body', { get() { return Object.freeze(get.call(this)); } })",
        "Object.defineProperty(document, 'cookie', { get() { throw new DOMException('no', 'SecurityError'); } })",
        "Object.defineProperty(document, 'head', { value: null })",
    ],
)
def test_launch_goes_on_in_a_browser_that_lacks_something(blocked, hub, tab):
    """No time passes, so a launch that waits for something that never comes does not end."""
    opened = tab()
    opened.page.add_init_script(f"if (location.pathname.startsWith('/v2/')) {{ {blocked} }}")
    opened.page.goto(hub.page())
    opened.server("user-1")


@pytest.mark.parametrize("policy", ["script-src 'unsafe-inline'", "style-src 'none'", "worker-src 'none'"])
def test_launch_goes_on_if_the_csp_blocks_us(policy, hub, tab):
    # 'unsafe-inline' alone would block the page's bundle too, so the policy allows the bundle's address.
    hub.headers = {"Content-Security-Policy": policy.replace("'unsafe-inline'", f"'unsafe-inline' {hub.url}static/")}
    opened = tab()
    opened.noise.append("Content Security Policy|violates|Refused")
    if policy.startswith("script-src"):
        opened.page.goto(hub.page())
    else:
        launch(hub, opened)
    opened.server("user-1")
    assert PROMISE.fullmatch(hub.builds[0].token)


def test_launch_goes_on_over_an_insecure_connection(hub, tab):
    hub.ready.close()
    opened = tab()
    opened.page.goto(hub.page().replace("127.0.0.1", INSECURE_HOST))
    assert opened.page.evaluate("isSecureContext") is False
    opened.expect("none")
    eventually(lambda: hub.builds, what="no build")


def test_page_without_javascript_says_so(hub, tab):
    opened = tab(java_script_enabled=False)
    opened.page.goto(hub.page())
    # Text inside a `noscript` of the head moves to the body.
    expect(opened.page.locator("body > p")).to_contain_text("Without JavaScript nothing can be launched")
    expect(opened.page.locator("body > p")).to_be_visible()
