"""The panel: its states, languages, themes and accessibility."""

import re

import pytest
from playwright.sync_api import expect

from binder_egress.web.pages import MESSAGES as PAGE
from tests.support import TOP
from tests.support.browser import ARTIFACTS, AXE, MODEST
from tests.support.launch_page import Gate
from tests.support.launch_tab import (
    EN,
    MESSAGES,
    PANEL_STATES,
    SIZES,
    launch,
    open_checked,
    person,
    show_checked,
    show_without,
    text,
)
from tests.support.waiting import eventually


@pytest.mark.parametrize("state", PANEL_STATES)
def test_panel_is_accessible_and_moves_nothing_in_every_state(state, double, start, tab):
    """Light and wide first, then dark and narrow. Every second state is in Arabic: none has a layout of its own there.

    BinderHub's page has no dark theme: it is light even if the system is dark.
    """
    lead, providers = PANEL_STATES[state]
    settings = {}
    if providers:
        settings = double.settings("turnstile", with_altcha=None if state == "needed" else MODEST["altcha"])
    hub = start(**settings)
    hub.ready.close()
    language = "ar" if list(PANEL_STATES).index(state) % 2 else "en"
    opened = tab(locale=language, color_scheme="dark")
    opened.noise.append("Failed to load resource")
    lead(hub, opened)
    if not opened.requests:
        opened.page.goto(hub.page())
    expect(opened.text).to_have_text(text(state, language))
    expect(opened.panel).to_be_visible()
    assert opened.text.get_attribute("role") == "status" and opened.text.get_attribute("aria-live") == "polite"
    assert opened.panel.get_attribute("dir") == ("rtl" if language == "ar" else "ltr")
    assert opened.panel.get_attribute("lang") == language
    expect(opened.panel).to_have_css("background-color", "rgb(255, 255, 255)")
    if "confirm" in state:
        expect(person(opened)).to_be_visible()
    opened.painted()
    if state in ("checking", "holding"):
        for motion, animation in (("no-preference", "move"), ("reduce", "none")):
            opened.page.emulate_media(reduced_motion=motion)
            progress = opened.page.locator("#binder-egress .progress")
            assert progress.evaluate("(element) => getComputedStyle(element, '::after').animationName") == animation
    opened.page.screenshot(path=ARTIFACTS / f"launch-{state}-light.png")
    assert_fits(opened)
    opened.page.locator("#binder-egress button.why").click()
    texts = MESSAGES[language]
    expect(opened.page.locator("#binder-egress .reason")).to_have_text(f"{texts['without_access']} {texts['reason']}")
    assert_fits(opened)
    assert_accessible(opened)
    opened.page.evaluate("document.documentElement.dataset.bsTheme = 'dark'")
    expect(opened.panel).to_have_css("background-color", "rgb(30, 30, 30)")
    opened.page.set_viewport_size(SIZES["-320"])
    opened.page.screenshot(path=ARTIFACTS / f"launch-{state}-dark-320.png")
    assert_fits(opened)
    assert_accessible(opened)
    assert not makes_room(opened)


def assert_fits(opened):
    """The page is no wider than the screen or the content of BinderHub's script, and the whole panel is on the screen."""
    # The real page is wider than 320 pixels.
    assert opened.page.evaluate("document.documentElement.scrollWidth <= Math.max(innerWidth, root.offsetLeft + root.scrollWidth)")
    box, size = opened.panel.bounding_box(), opened.page.viewport_size
    assert box["x"] >= 0 and box["y"] >= 0
    assert box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"]


def await_room(opened):
    """Wait until the page has room for the panel at its current size: the panel grows first, and the page a moment later."""
    opened.page.wait_for_function(
        "parseFloat(getComputedStyle(document.documentElement).scrollPaddingBottom)"
        " > document.getElementById('binder-egress').shadowRoot.querySelector('section').offsetHeight"
    )


def assert_accessible(opened):
    """axe-core reports no violation outside the content of BinderHub's script."""
    opened.page.evaluate(AXE.read_text())
    # The provider's frame is a double; its accessibility is not ours. BinderHub's page has no such landmark and heading.
    rules = {rule: {"enabled": False} for rule in ("landmark-one-main", "page-has-heading-one")}
    reported = opened.page.evaluate(
        "(rules) => axe.run({ exclude: [['iframe'], ['#root']] }, { rules }).then(({ violations }) => violations)", rules
    )
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in reported] == []


@pytest.mark.parametrize(
    ("access", "language", "listed", "works"),
    [
        ("packages", "de", ["conda", "python"], "pip, conda"),
        ("hosts", "ar", ["python", "api.example.org"], "pip; api.example.org"),
    ],
)
def test_panel_says_what_the_egress_proxy_gives_without_a_pass(access, listed, works, language, start, tab):
    hub = start(unverified_hosts=listed)
    hub.ready.close()
    opened = tab(locale=language, viewport=SIZES["-320"])
    opened.page.add_init_script("delete window.Worker")
    launch(hub, opened)
    said = text("none", language, access=MESSAGES[language][access])
    expect(opened.text).to_have_text(said)
    expect(opened.panel).to_be_visible()
    opened.page.screenshot(path=ARTIFACTS / f"launch-{access}-{language}-320.png")
    reached = " ".join((PAGE[language]["reach-hosts"].format(hosts=works), PAGE[language]["reach-rest"]))
    expect(opened.page.locator("#binder-egress .reason")).to_have_text(f"{reached} {MESSAGES[language]['reason']}")
    lines = opened.text.evaluate("(element) => element.offsetHeight / parseFloat(getComputedStyle(element).lineHeight)")
    assert lines < 2.5
    assert_fits(opened)
    assert_accessible(opened)


def test_person_who_goes_on_without_a_check_is_told_of_packages(double, start, tab):
    settings = double.settings("turnstile", with_altcha=MODEST["altcha"])
    hub = start(unverified_hosts=["python"], **settings)
    hub.ready.close()
    opened = tab()
    show_without(hub, opened)
    expect(opened.text).to_have_text(text("none", access=EN["packages"]))


@pytest.mark.parametrize("solved", [True, False], ids=["solved", "closed"])
def test_panel_says_nothing_about_internet_access_if_the_site_only_watches(solved, double, start, tab):
    """Nothing is closed there. A check still happens, so that the operator sees who would have passed it."""
    hub = start(mode="observe", **double.settings("turnstile"))
    opened = tab()
    launch(hub, opened)
    opened.expect("confirm_holding")
    expect(opened.button("carry_on")).to_be_hidden()
    expect(opened.button("why")).to_be_hidden()
    hub.stays = True
    if solved:
        person(opened).click()
    else:
        opened.button("close").click()
    opened.expect_phase("ready")
    expect(opened.panel).to_have_count(0)
    assert set(opened.states) <= {"checking", "holding", "confirm", "confirm_holding"}


NOTE_WORDS = """{
  globalThis.words = [];
  const { attachShadow } = Element.prototype;
  Element.prototype.attachShadow = function (...args) {
    const root = attachShadow.apply(this, args);
    new MutationObserver((changes) => {
      for (const { target } of changes) {
        if (target.className === "text") words.push([target.textContent, root.querySelector("section").hidden]);
      }
    }).observe(root, { subtree: true, childList: true });
    return root;
  };
}"""
"""Notes each text of the panel, and whether the panel is invisible when it comes."""


def test_first_words_come_after_the_panel_is_visible(hub, tab):
    """Screen readers do not announce what was in a live region when it appeared."""
    hub.ready.close()
    hub.gates |= {"static": Gate()}
    hub.gates["static"].close()
    opened = tab()
    opened.page.add_init_script(NOTE_WORDS)
    show_checked(hub, opened)
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("words") == []
    hub.gates["static"].open()
    opened.expect("checked")
    words = opened.page.evaluate("words")
    assert words and not any(hidden for _, hidden in words)


@pytest.mark.parametrize("fails", [True, False], ids=["blocked", "hanging"])
def test_panel_appears_without_its_style_sheet(fails, double, start, tab):
    """The server waits for the person, who must see the widget and the buttons."""
    hub = start(**double.settings("turnstile"))
    opened = tab()
    opened.noise.append("Failed to load resource")
    opened.page.route("**/panel-*.css", lambda route: route.abort() if fails else None)
    launch(hub, opened)
    eventually(lambda: 60 in opened.time.timers, what="the server does not wait for a person")
    if not fails:
        opened.time.let_pass(2)
    opened.expect("confirm_holding")
    opened.button("carry_on").click()
    opened.server("user-1")


def test_panel_links_to_the_page_of_a_server_without_access(hub, tab):
    hub.stays = True
    opened = tab()
    opened.page.add_init_script("delete window.Worker")
    launch(hub, opened)
    link = opened.panel.get_by_role("link", name=EN["get"])
    expect(link).to_have_attribute("href", f"{hub.url}egress/servers/user-1")
    opened.expect("none")
    assert_accessible(opened)
    with opened.page.context.expect_page() as page:
        link.click()
    expect(page.value.locator("#state")).to_have_text("Your server has no internet access.")


def test_panel_is_safe_from_the_style_sheet_of_the_page(hub, tab):
    hub.header_html["a"] = (
        "<style>div, section, p, button { position: static !important; display: inline; color: red !important }</style>"
    )
    opened = open_checked(hub, tab)
    assert opened.text.evaluate("(element) => getComputedStyle(element).color") == "rgb(27, 27, 27)"
    expect(opened.panel).to_have_css("position", "fixed")


@pytest.mark.parametrize("language", MESSAGES)
def test_panel_has_two_lines_at_most_on_a_phone(language, hub, tab):
    """And 72 pixels if no person is needed. Environment variables are not mentioned: they are behind *More*."""
    messages = MESSAGES[language]
    opened = tab(locale=language, viewport=SIZES["-320"])
    opened.page.add_init_script("delete window.Worker")
    hub.ready.close()
    launch(hub, opened)
    expect(opened.panel).to_be_visible()
    measure = """(element, message) => {
      element.textContent = message;
      const lines = element.offsetHeight / parseFloat(getComputedStyle(element).lineHeight);
      return [lines, element.closest("section").offsetHeight];
    }"""
    long = []
    for width in (320, 390):
        opened.page.set_viewport_size({"width": width, "height": 640})
        for state in ("checking", "holding", "checked", "has", "none", "unanswered", "needed", "without"):
            for access in ("nothing", "packages", "hosts"):
                message = text(state, language, access=messages[access])
                lines, height = opened.text.evaluate(measure, message)
                if lines > 2.5 or height > 72 or "BINDER_EGRESS_URL" in message:
                    long.append((width, message, lines, height))
    assert long == []
    assert "BINDER_EGRESS_URL" in messages["reason"]
    assert list(messages) == list(EN)
    for key, message in messages.items():
        assert re.findall(r"{\w+}", message) == re.findall(r"{\w+}", EN[key])


@pytest.mark.parametrize("viewport", [False, True], ids=["as it is", "with a viewport element"])
def test_panel_has_the_width_of_the_page_on_a_phone(viewport, hub, tab):
    """BinderHub's page has no such element, and is 980 pixels wide there."""
    if viewport:
        launch_page = (TOP / "docs/launch-page.md").read_text()
        hub.header_html["viewport"] = re.search(r"^ +viewport: (<meta .*>)$", launch_page, re.MULTILINE)[1]
    opened = open_checked(hub, tab, viewport={"width": 390, "height": 740}, is_mobile=True, has_touch=True)
    opened.painted()
    width, most = opened.page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    box = opened.panel.bounding_box()
    assert (width, most) == ((390, 390) if viewport else (980, 980))
    assert (box["width"] == 390 and box["height"] <= 72) if viewport else box["width"] == pytest.approx(736)


def makes_room(opened):
    """Whether anything on the page is in another place without the panel. The sign of loading never stands still."""
    places = """() => JSON.stringify(
      Array.from(document.querySelectorAll("#root, #root :not(#loader)"), (element) => element.getBoundingClientRect()),
    )"""
    with_panel = opened.page.evaluate(places)
    opened.page.evaluate("document.getElementById('binder-egress').remove()")
    return opened.page.evaluate(places) != with_panel


FORM = """<div style="max-width: 600px; margin: 0 auto">
  <h1>Binder</h1> <p style="height: 300px">Turn a Git repo into a collection of interactive notebooks</p>
  <form onsubmit="clicked = true; return false">
    <label>Repository <input id="repository" style="width: 90%; height: 40px"></label>
    <label>Git ref <input id="ref" style="width: 90%; height: 40px"></label>
    <button id="btn-launch" style="width: 100%; height: 40px">launch</button>
  </form>
  <p style="height: 200px">Badges for your README</p> <button id="last" type="button">show</button>
</div>"""
"""The content of BinderHub's page in order: text, a form, its button, and a button at the end."""


@pytest.mark.parametrize("state", ["checked", "confirm"])
@pytest.mark.parametrize("size", ["phone", "low"])
def test_panel_never_covers_the_form_of_the_page_once_scrolled_to(size, state, double, start, tab):
    settings = double.settings("turnstile", with_altcha=MODEST["altcha"]) if state == "confirm" else {}
    hub = start(**settings)
    hub.ready.close()
    hub.rests = True
    opened = tab(viewport={"phone": {"width": 390, "height": 660}, "low": {"width": 1280, "height": 480}}[size])
    launch(hub, opened)
    opened.expect(state)
    if state == "confirm":
        expect(person(opened)).to_be_visible()
    else:
        opened.button("why").click()
    await_room(opened)
    # Without the elements that the page's own script redraws whenever it hears from the build.
    opened.page.evaluate("html => { root.style.display = 'none'; root.insertAdjacentHTML('beforebegin', html) }", FORM)

    def is_uncovered(element):
        box = element.bounding_box()
        return box["y"] >= 0 and box["y"] + box["height"] <= opened.panel.bounding_box()["y"]

    for name in ("repository", "ref", "btn-launch", "last"):
        element = opened.page.locator(f"#{name}")
        element.evaluate("(element) => element.scrollIntoView({ block: 'nearest', behavior: 'instant' })")
        assert is_uncovered(element), name
    opened.page.locator("#btn-launch").click()
    assert opened.page.evaluate("clicked")
    # By keyboard, too. Bootstrap lets pages scroll smoothly.
    opened.page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    opened.page.keyboard.press("Tab")
    expect(element).to_be_focused()
    eventually(lambda: is_uncovered(element), what="the focused button is behind the panel")
    # The page keeps no room for a panel that is closed.
    height = "document.documentElement.scrollHeight"
    before = opened.page.evaluate(height)
    opened.button("close").click()
    assert opened.page.evaluate(height) < before
