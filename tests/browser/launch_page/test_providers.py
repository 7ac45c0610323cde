"""Captcha providers on the launch page, against the double of their interfaces and widgets."""

import json
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.support.browser import ARTIFACTS, MODEST
from tests.support.launch_tab import (
    CLIENT_ERRORS,
    EN,
    LOADED,
    build_by_script,
    end_wait,
    home,
    launch,
    launch_when_solved,
    launch_while_solving,
    person,
    press_launch,
    raise_price,
    tier_of,
)
from tests.support.waiting import eventually


def presented(double):
    """The providers that were asked about a solution. The verifier's check of its own secrets does not count."""
    return [name for name, fields in double.calls if "self-check" not in fields["response"]]


def calculation_first(double):
    """Settings of a site whose second way is a widget."""
    return {
        "captcha_providers": {"altcha": {"order": 0} | MODEST["altcha"], "turnstile": {"order": 1} | double.options("turnstile")},
        "captcha_secret_turnstile": double.settings("turnstile")["captcha_secret_turnstile"],
    }


def test_person_can_confirm_while_the_launch_goes_on(double, start, store, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm")
    eventually(lambda: hub.builds and hub.builds[0].tier, what="not announced")
    person(opened).click()
    opened.expect("has")
    assert hub.builds[0].tier == "unverified" and tier_of(store) == "verified"
    hub.ready.open()
    opened.server("user-1")
    assert presented(double) == ["turnstile"]


def test_ready_server_waits_for_a_person(double, start, store, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm_holding")
    expect(opened.button("carry_on")).to_be_visible()
    # A minute; a calculation has four seconds.
    eventually(lambda: 60 in opened.time.timers, what="the server does not wait for a person")
    opened.time.let_pass(59)
    opened.expect("confirm_holding")
    person(opened).click()
    opened.server("user-1")
    assert tier_of(store) == "verified"
    assert presented(double) == ["turnstile"]


@pytest.mark.parametrize(("when", "how"), [("confirm", "carry_on"), ("confirm_holding", "close"), ("holding", "carry_on")])
def test_person_can_continue_without_solving(when, how, double, start, tab):
    hub = start(**double.settings("hcaptcha"))
    if when == "confirm":
        hub.ready.close()
    opened = tab()
    if when == "holding":
        opened.page.route(f"{double.url}/hcaptcha/**", lambda route: None)
    launch(hub, opened)
    opened.expect(when)
    opened.button(how).click()
    if when == "confirm":
        expect(opened.page.locator("#binder-egress iframe")).to_have_count(0)
        hub.ready.open()
    opened.server("user-1")
    assert opened.states[-1] == (when if how == "close" else "without")
    assert hub.count("POST /egress/passes") == 0


@pytest.mark.parametrize("rises", [False, True], ids=["", "at a risen price"])
def test_another_way_gives_a_pass(rises, double, start, store, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    opened = tab()
    if rises:
        raise_price(opened, times=1)
    launch(hub, opened)
    opened.expect("confirm_holding")
    opened.button("another").click()
    opened.server("user-1")
    assert tier_of(store) == "verified"
    assert presented(double) == []


def test_another_way_replaces_a_calculation_that_does_not_begin(double, start, store, tab):
    """The worker's file does not arrive."""
    hub = start(**calculation_first(double))
    opened = tab()
    opened.page.route("**/worker-*", lambda route: None)
    launch(hub, opened)
    opened.expect("holding")
    opened.button("another").click()
    opened.expect("confirm_holding")
    person(opened).click()
    opened.server("user-1")
    assert tier_of(store) == "verified"


def test_ready_server_waits_for_the_widget_after_a_failed_calculation(double, start, tab):
    hub = start(**calculation_first(double))
    opened = tab()
    opened.noise.append("404")
    launch_while_solving(hub, opened)
    opened.expect("holding")
    hub.fault, hub.fault_paths = "404", ("passes",)
    hub.gates["passes"].open()
    opened.expect("confirm_holding")
    opened.button("carry_on").click()
    opened.server("user-1")


def press_tab_until(opened, target):
    for _ in range(20):
        opened.page.keyboard.press("Tab")
        if target.evaluate("(element) => element.getRootNode().activeElement === element"):
            return
    raise AssertionError("not reached")


def test_keyboard_is_enough(double, start, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    hub.ready.close()
    hub.rests = True
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm")
    expect(person(opened)).to_be_visible()
    press_tab_until(opened, person(opened))
    press_tab_until(opened, opened.button("why"))
    opened.page.screenshot(path=ARTIFACTS / "launch-focus.png")
    opened.page.keyboard.press("Enter")
    expect(opened.panel.get_by_text(EN["reason"])).to_be_visible()
    opened.page.keyboard.press("Space")
    expect(opened.panel.get_by_text(EN["reason"])).to_be_hidden()
    press_tab_until(opened, opened.button("another"))
    opened.page.keyboard.press("Enter")
    opened.expect("checked")
    press_tab_until(opened, opened.button("close"))
    opened.page.keyboard.press("Enter")
    expect(opened.panel).to_have_count(0)
    hub.ready.open()
    opened.server("user-1")


@pytest.mark.parametrize("why", ["another way", "broken", "price-risen"])
def test_second_widget_gets_the_rest_of_the_time_for_people(why, double, start, tab):
    hub = start(**double.settings("hcaptcha", "turnstile"), launch_interactive_hold=30)
    hub.stays = True
    opened = tab()
    launch(hub, opened)
    expect(person(opened)).to_be_visible()
    eventually(lambda: 30 in opened.time.timers, what="the server does not wait for a person")
    opened.time.let_pass(10)
    opened.page.locator("#binder-egress iframe").evaluate("(frame) => frame.classList.add('first')")
    if why == "another way":
        opened.button("another").click()
    elif why == "broken":
        opened.page.frame_locator("#binder-egress iframe").get_by_role("button", name="Break").click()
    else:
        raise_price(opened, times=1)
        person(opened).click()
    expect(opened.page.locator("#binder-egress iframe:not(.first)")).to_be_visible()
    eventually(lambda: 20 in opened.time.timers, what="the server does not wait for a person any more")
    opened.time.let_pass(19)
    opened.expect("confirm_holding")
    end_wait(opened, 1)
    opened.expect("none")
    opened.expect_phase("ready")
    expect(opened.page.locator("#binder-egress iframe")).to_have_count(0)


def test_retry_after_the_pass_has_expired_asks_the_person_again(double, redis_server, start, store, tab):
    """Unless the promise is kept still: here Redis has forgotten it."""
    hub = start(**double.settings("turnstile"))
    hub.fails = True
    opened = home(hub, tab)
    opened.noise.append(CLIENT_ERRORS)
    opened.page.wait_for_function(LOADED)
    held = []
    opened.page.route("**/build/**", lambda route: held.append(route), times=1)
    press_launch(opened)
    person(opened).click()
    opened.expect("checked")
    held[0].continue_()
    opened.expect_phase("failed")
    redis_server.wipe()
    hub.fails = False
    opened.time.let_pass(3600)
    press_launch(opened)
    opened.expect("confirm_holding")
    person(opened).click()
    opened.server("user-2")
    first, second = hub.builds
    assert first.token == second.token and tier_of(store, "user-2") == "verified"


def test_provider_that_does_not_load_gives_way_to_the_next(double, start, store, tab):
    hub = start(**double.settings("turnstile", with_altcha=MODEST["altcha"]))
    opened = tab()
    opened.noise.append("Failed to load resource")
    opened.page.route(f"{double.url}/**", lambda route: route.abort("blockedbyclient"))
    launch(hub, opened)
    opened.server("user-1")
    assert tier_of(store) == "verified"


def test_provider_without_a_click_gives_a_pass(double, start, store, tab):
    hub = start(**double.settings("recaptchaV3"))
    opened = tab()
    launch_when_solved(hub, opened)
    opened.server("user-1")
    assert hub.builds[0].tier == "verified"


def test_next_launch_asks_again_after_the_panel_was_closed(double, start, tab):
    hub = start(**double.settings("hcaptcha"))
    hub.stays = True
    opened = home(hub, tab)
    opened.page.wait_for_function(LOADED)
    press_launch(opened)
    opened.expect("confirm_holding")
    opened.button("close").click()
    opened.expect_phase("ready")
    expect(opened.panel).to_have_count(0)
    # The same address, after `ready`, is another launch.
    build_by_script(opened)
    opened.expect("confirm")
    person(opened).click()
    eventually(lambda: "/egress/passes" in hub.posted, what="no pass")
    assert json.loads(hub.posted["/egress/passes"])["promise"] == hub.builds[1].token != hub.builds[0].token


@pytest.mark.parametrize(
    ("how", "altcha"), [("apiToken", None), ("cookie", MODEST["altcha"])], ids=["a provider alone", "and proof of work"]
)
def test_signed_in_user_gets_proof_of_work_and_loads_nothing_from_third_parties(altcha, how, double, start, tab):
    """With auth_enabled, the page has, or can use, its user's token for the hub."""
    hub = start(**double.settings("turnstile", with_altcha=altcha))
    opened = tab()
    if how == "cookie":
        opened.page.context.add_cookies([{"name": "_xsrf", "value": "2|x", "url": hub.url}])
    else:
        hub.page_config["apiToken"] = "secret"
    if altcha:
        launch_when_solved(hub, opened)
        opened.server("user-1")
        assert hub.builds[0].tier == "verified"
    else:
        hub.ready.close()
        launch(hub, opened)
        opened.expect("needed")
        eventually(lambda: hub.builds, what="no build")
    assert opened.asked == {urlsplit(hub.url).netloc}


def test_launch_goes_on_without_any_provider(hub, tab):
    hub.ready.close()
    opened = tab()
    opened.page.route("**/egress/challenge?*", lambda route: route.fulfill(json={"purpose": "launch", "providers": []}))
    launch(hub, opened)
    opened.expect("none")
    eventually(lambda: hub.builds, what="no build")
