"""The panel: its states, languages, themes and accessibility."""

import re

import pytest
from playwright.sync_api import expect

from tests.support.browser import ARTIFACTS, MODEST
from tests.support.launch_page import TOP
from tests.support.launch_tab import (
    EN,
    LONG,
    MESSAGES,
    SIZES,
    launch,
    launch_while_solving,
    person,
    text,
    wait_for,
)


def show_checking(hub, opened):
    hub.gates["challenge"].close()


def show_checked(hub, opened):
    hub.gates["challenge"].close()
    opened.page.goto(hub.page())
    wait_for(lambda: hub.builds, "no build")
    hub.gates["challenge"].open()


def show_unanswered(hub, opened):
    hub.fault, hub.fault_paths = "garbage", ("challenge",)


def show_holding(hub, opened):
    """The build goes out after a second. Its server waits."""
    hub.ready.open()
    launch_while_solving(hub, opened)


def show_has(hub, opened):
    hub.page_config["stay"] = True
    opened.page.route("**/egress/servers/**", lambda route: route.fulfill(json={"state": "granted"}))
    show_checked(hub, opened)
    opened.page.wait_for_function("window.binderEgress?.state === 'checked'")
    hub.ready.open()


def show_without(hub, opened):
    launch(hub, opened)
    opened.page.locator("#binder-egress button.carry_on").click()


STATES = {
    "checking": (show_checking, ()),
    "holding": (show_holding, ()),
    "checked": (show_checked, ()),
    "has": (show_has, ()),
    "none": (lambda hub, opened: opened.page.add_init_script("delete window.Worker"), ()),
    "unanswered": (show_unanswered, ()),
    "needed": (lambda hub, opened: hub.page_config.update(apiToken="secret"), ("turnstile",)),
    "confirm": (launch, ("turnstile",)),
    "confirm_running": (launch, ("turnstile", "late")),
    "without": (show_without, ("turnstile",)),
}
"""State → the function that leads to it, and the providers that it needs. `late` gives a person no time before the launch goes."""

SCREENS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "light-320": {"color_scheme": "light", "viewport": SIZES["-320"]},
    "dark-320-ar": {"color_scheme": "dark", "viewport": SIZES["-320"], "locale": "ar"},
}


@pytest.mark.parametrize("state", STATES)
def test_panel_is_accessible_and_moves_nothing_in_every_state(state, double, start, tab):
    lead, providers = STATES[state]
    settings = dict(LONG)
    if providers:
        settings |= double.settings("turnstile", with_altcha=None if state == "needed" else MODEST["altcha"])
    if "late" in providers:
        settings["launch_interactive_hold"] = 0
    process = start(**settings).process
    for screen, options in SCREENS.items():
        hub = start(process)
        hub.ready.close()
        opened = tab(reduced_motion="reduce" if screen == "dark" else "no-preference", **options)
        opened.noise.append("Failed to load resource")
        lead(hub, opened)
        if not opened.requests:
            opened.page.goto(hub.page())
        language = "ar" if screen.endswith("-ar") else "en"
        expect(opened.text).to_have_text(text(state, language, provider="Cloudflare Turnstile"))
        assert opened.text.get_attribute("role") == "status" and opened.text.get_attribute("aria-live") == "polite"
        assert opened.panel.get_attribute("dir") == ("rtl" if language == "ar" else "ltr")
        assert opened.panel.get_attribute("lang") == language
        if "confirm" in state:
            expect(person(opened)).to_be_visible()
        expect(opened.page.get_by_role("heading", name="Binder")).to_be_visible()
        if state in ("checking", "holding"):
            motion = opened.page.locator("#binder-egress .progress").evaluate(
                "(element) => getComputedStyle(element).animationName"
            )
            assert motion == ("none" if screen == "dark" else "turn")
        opened.page.screenshot(path=ARTIFACTS / f"launch-{state}-{screen}.png")
        assert_fits(opened)
        assert_accessible(opened)
        opened.page.locator("#binder-egress button.why").click()
        expect(opened.page.locator("#binder-egress .reason")).to_have_text(MESSAGES[language]["reason"])
        if state == "none":
            opened.page.screenshot(path=ARTIFACTS / f"launch-{state}-{screen}-why.png")
        assert_fits(opened)
        assert_accessible(opened)
        assert not has_moved(opened)
        opened.page.context.close()


def assert_fits(opened):
    """The page is no wider than the screen, and the whole panel is on the screen."""
    assert opened.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    box, size = opened.panel.bounding_box(), opened.page.viewport_size
    assert box["x"] >= 0 and box["y"] >= 0
    assert box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"]


AXE = (TOP / "frontend/node_modules/axe-core/axe.min.js").read_text()


def assert_accessible(opened):
    """axe-core reports no violation."""
    opened.page.evaluate(AXE)
    # The provider's frame is a double; its accessibility is not ours.
    reported = opened.page.evaluate("axe.run({ exclude: [['iframe']] }).then(({ violations }) => violations)")
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in reported] == []


@pytest.mark.parametrize("language", MESSAGES)
@pytest.mark.parametrize(("access", "listed"), [("packages", ["conda", "python"]), ("hosts", ["python", "api.example.org"])])
def test_panel_says_what_the_egress_proxy_gives_without_a_pass(access, listed, language, start, tab):
    process = start(unverified_hosts=listed).process
    hub = start(process)
    hub.ready.close()
    opened = tab(locale=language, viewport=SIZES["-320"])
    opened.page.add_init_script("delete window.Worker")
    launch(hub, opened)
    said = text("none", language, access=MESSAGES[language][access])
    expect(opened.text).to_have_text(said)
    opened.page.screenshot(path=ARTIFACTS / f"launch-{access}-{language}-320.png")
    lines = opened.text.evaluate("(element) => element.offsetHeight / parseFloat(getComputedStyle(element).lineHeight)")
    assert lines < 3.5
    assert_fits(opened)
    assert_accessible(opened)


def test_person_who_goes_on_without_a_check_is_told_of_packages(double, start, tab):
    settings = double.settings("turnstile", with_altcha=MODEST["altcha"])
    hub = start(start(unverified_hosts=["python"], **settings).process)
    hub.ready.close()
    opened = tab()
    show_without(hub, opened)
    expect(opened.text).to_have_text(text("none", access=EN["packages"]))


def test_panel_follows_the_theme_of_the_page(hub, tab):
    """The page's Bootstrap theme wins over the browser's."""
    hub.ready.close()
    opened = tab(color_scheme="light")
    launch(hub, opened)
    opened.expect("checked")
    back = "(element) => getComputedStyle(element).backgroundColor"
    assert opened.panel.evaluate(back) == "rgb(255, 255, 255)"
    opened.page.evaluate("document.documentElement.dataset.bsTheme = 'dark'")
    expect(opened.panel).to_have_css("background-color", "rgb(30, 30, 30)")
    opened.page.evaluate("delete document.documentElement.dataset.bsTheme")
    expect(opened.panel).to_have_css("background-color", "rgb(255, 255, 255)")
    opened.page.emulate_media(color_scheme="dark")
    expect(opened.panel).to_have_css("background-color", "rgb(30, 30, 30)")


def test_panel_is_safe_from_the_style_sheet_of_the_page(hub, tab):
    hub.header_html["a"] = (
        "<style>div, section, p, button { position: static !important; display: inline; color: red !important }</style>"
    )
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    opened.expect("checked")
    assert opened.text.evaluate("(element) => getComputedStyle(element).color") == "rgb(27, 27, 27)"
    expect(opened.panel).to_have_css("position", "fixed")


def test_panel_hides_nothing_of_the_page_for_good(hub, tab):
    """In a window as high as the page, its last button lies behind the panel. BinderHub's page ends with such buttons."""
    hub.ready.close()
    opened = tab()
    launch(hub, opened)
    opened.expect("checked")
    bottom = opened.page.evaluate(
        """() => {
          document.getElementById("root").insertAdjacentHTML("beforeend", "<button id=last>view raw</button>");
          return document.getElementById("last").getBoundingClientRect().bottom;
        }"""
    )
    opened.page.set_viewport_size({"width": 900, "height": int(bottom) + 5})
    last = opened.page.locator("#last")

    def is_behind():
        return last.bounding_box()["y"] + last.bounding_box()["height"] > opened.panel.bounding_box()["y"]

    assert is_behind()
    # By scrolling and by keyboard the whole button comes into view, and a click hits it and nothing else.
    opened.button("why").click()
    # The panel grows first, and the page a moment later.
    opened.page.wait_for_function(
        "parseFloat(getComputedStyle(document.documentElement).scrollPaddingBottom)"
        " > document.getElementById('binder-egress').shadowRoot.querySelector('section').offsetHeight"
    )
    opened.page.get_by_role("button", name="launch").focus()
    opened.page.keyboard.press("Tab")
    assert last.evaluate("(element) => document.activeElement === element")
    assert not is_behind()
    last.click()
    opened.button("close").click()
    assert opened.page.evaluate("document.documentElement.scrollHeight - innerHeight") <= int(bottom) + 5


@pytest.mark.parametrize("language", MESSAGES)
def test_line_without_a_pass_is_short_on_a_phone(language, hub, tab):
    """At most three lines, and nothing of environment variables: that is behind *More*."""
    opened = tab(locale=language, viewport=SIZES["-320"])
    opened.page.add_init_script("delete window.Worker")
    hub.ready.close()
    launch(hub, opened)
    for state in ("none", "unanswered", "without"):
        message = text(state, language)
        opened.text.evaluate("(element, message) => { element.textContent = message }", message)
        lines = opened.text.evaluate("(element) => element.offsetHeight / parseFloat(getComputedStyle(element).lineHeight)")
        assert lines < 3.5 and "BINDER_EGRESS_URL" not in message, (state, lines)
    assert "BINDER_EGRESS_URL" in MESSAGES[language]["reason"]


@pytest.mark.parametrize("language", [name for name in MESSAGES if name != "en"])
def test_panel_speaks_every_language(language, hub, tab):
    hub.ready.close()
    opened = tab(locale={"de": "de-CH", "fr": "fr-CA"}.get(language, language))
    launch(hub, opened)
    expect(opened.text).to_have_text(MESSAGES[language]["checked"])
    assert list(MESSAGES[language]) == list(EN)
    for key, message in MESSAGES[language].items():
        assert re.findall(r"{\w+}", message) == re.findall(r"{\w+}", EN[key])


def test_panel_speaks_english_for_other_languages(hub, tab):
    hub.ready.close()
    opened = tab(locale="fi")
    launch(hub, opened)
    opened.expect("checked")


def has_moved(opened):
    """Whether anything in the page moved: by the browser's count of layout shifts, or compared with the page without a panel."""
    shifts = opened.page.evaluate(
        """() => new Promise((resolve) => {
          const root = document.getElementById("root");
          let count = 0;
          new PerformanceObserver((list) => {
            for (const { sources } of list.getEntries()) count += sources.some(({ node }) => node && root.contains(node));
          }).observe({ type: "layout-shift", buffered: true });
          setTimeout(() => resolve(count), 200);
        })"""
    )
    places = """() => JSON.stringify(
      Array.from(document.querySelectorAll("#root, #root *"), (element) => element.getBoundingClientRect()),
    )"""
    with_panel = opened.page.evaluate(places)
    opened.page.evaluate("document.getElementById('binder-egress').remove()")
    return shifts > 0 or opened.page.evaluate(places) != with_panel
