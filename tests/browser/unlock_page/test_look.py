"""The look of the server page: nothing jumps, the site's own name and colour, the way back, and problem pages."""

import re

import pytest
from playwright.sync_api import expect

from tests.support.apps import reconciler
from tests.support.browser import MODEST
from tests.support.unlock_page import PHONE, lasts, unlocks
from verifier.records import Server

DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPj/HwADBwIAMCbHYQAAAABJRU5ErkJggg=="
BRANDING = {"name": "Example Hub", "logo": DOT, "accentColor": "#f5a252", "helpUrl": "https://hub.example.org/help"}

ACCENTS = {"#f5a252": "rgb(0, 0, 0)", "#003366": "rgb(255, 255, 255)", "#fff8e0": "rgb(0, 0, 0)"}
"""A site's colour → the colour of the text on it."""

SHIFTS = """() => new Promise((resolve) => {
  let sum = 0;
  const nodes = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      sum += entry.value;
      for (const { node } of entry.sources) nodes.push(node?.outerHTML?.slice(0, 80));
    }
  }).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve([sum, ...nodes]), 300);
})"""
"""The browser's count of movements without a click, and the elements that moved."""

PLACES = """
window.places = new Set();
const look = () => {
  const below = document.getElementById("way");
  if (below) places.add(Math.round(below.getBoundingClientRect().top));
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
"""The position of the text below a widget in each painted frame, in pixels."""

SCREENS = {
    "wide": {"viewport": {"width": 1280, "height": 720}},
    "popup": {"viewport": {"width": 480, "height": 640}},
    "phone": PHONE,
}


@pytest.mark.parametrize(("screen", "ways"), [("wide", 1), ("popup", 2), ("phone", 2)])
def test_nothing_jumps_while_the_page_loads(screen, ways, double, providers, open_tab):
    """Script and challenge come late, after the page has been painted."""
    offered = {"altcha": {**MODEST["altcha"], "order": 0}, "recaptchaV3": {**double.options("recaptchaV3"), "order": 1}}
    address = providers("recaptchaV3", captcha_providers=dict(list(offered.items())[:ways]), branding=BRANDING)
    tab = open_tab(address, goes=False, **SCREENS[screen])
    tab.page.route(re.compile("server-.*js|challenge"), lambda route: (tab.page.wait_for_timeout(400), route.continue_()))
    tab.page.goto(address)
    expect(tab.page.locator("#way")).not_to_be_empty()
    expect(tab.button).to_be_visible()
    if ways == 2:
        expect(tab.page.get_by_text("Another way")).to_be_visible()
    assert tab.page.evaluate(SHIFTS) == [0]
    tab.page.unroute_all(behavior="wait")


@pytest.mark.parametrize(
    ("names", "screen"),
    [(["turnstile"], "wide"), (["turnstile", "recaptchaV3"], "phone"), (["hcaptcha"], "phone"), (["friendlyCaptcha"], "popup")],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_nothing_jumps_when_a_widget_comes(names, screen, double, providers, open_tab):
    """Script, challenge and the provider's script come late, one after the other."""
    address = providers(*names, branding=BRANDING)
    tab = open_tab(address, double.url, **SCREENS[screen])
    shown = tab.page.locator("#widget iframe")
    expect(shown).to_be_visible()
    late = re.compile(rf"server-.*js|challenge\?|^{re.escape(double.url)}")
    tab.page.route(late, lambda route: (tab.page.wait_for_timeout(400), route.continue_()))
    tab.page.add_init_script(PLACES)
    tab.page.reload()
    expect(shown).to_be_visible()
    expect(tab.state).to_contain_text("Solve the check below.")
    expect(tab.page.locator("#way")).not_to_be_empty()
    assert tab.page.evaluate(SHIFTS) == [0]
    assert len(tab.page.evaluate("[...window.places]")) == 1
    tab.page.unroute_all(behavior="wait")


@pytest.fixture
def branded(providers):
    """A function that starts a verifier with a branding, publishes a server, and returns the address of its page."""
    return lambda hub_url="", **branding: providers(captcha_providers=MODEST, branding=branding, hub_url=hub_url)


@pytest.mark.parametrize(("accent", "written"), ACCENTS.items())
def test_page_has_name_logo_and_colour_of_the_site(accent, written, branded, open_tab):
    tab = open_tab(branded(**BRANDING | {"accentColor": accent}))
    expect(tab.page.get_by_role("link", name="Example Hub")).to_have_attribute("href", "/")
    assert tab.page.locator("header img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 1
    expect(tab.page.get_by_role("link", name="Help")).to_have_attribute("href", "https://hub.example.org/help")
    red, green, blue = (int(accent[at : at + 2], 16) for at in (1, 3, 5))
    for scheme in ("light", "dark"):
        tab.page.emulate_media(color_scheme=scheme)
        expect(tab.button).to_have_css("color", written)
        expect(tab.button).to_have_css("background-color", f"rgb({red}, {green}, {blue})")
        tab.picture(f"branded-{accent[1:]}-{scheme}")


def test_state_has_an_icon_of_its_own_shape(branded, store, open_tab):
    tab = open_tab(branded())
    icons = tab.page.locator("#look path")
    expect(icons.locator("visible=true")).to_have_count(1)
    expect(tab.page.locator("#look path.none")).to_be_visible()
    with reconciler(store):
        tab.button.click()
        expect(tab.page.locator("#look path.network")).to_be_visible()
    expect(icons.locator("visible=true")).to_have_count(1)
    tab.requests_fail = True
    store.forget(Server("alice"))
    expect(tab.page.locator("#look path.gone")).to_be_visible()
    expect(tab.page.get_by_role("link", name="Go to the start page")).to_have_attribute("href", "/")


@pytest.mark.parametrize("running", [True, False], ids=["server", "problem"])
def test_page_reads_well_without_its_style_sheet(running, branded, store, open_tab):
    address = branded(**BRANDING)
    if not running:
        store.forget(Server("alice"))
    tab = open_tab(address, goes=False)
    tab.requests_fail = not running
    tab.page.route(re.compile(r"server-.*\.css"), lambda route: route.fulfill(content_type="text/css", body=""))
    tab.page.goto(address)
    expect(tab.page.locator(".state path").locator("visible=true")).to_have_count(1)
    action = tab.button if running else tab.page.get_by_role("link", name="Go to the start page")
    expect(action).to_be_in_viewport(ratio=1)
    tab.picture(f"without-style-{'server' if running else 'problem'}")


def test_success_says_what_to_do_next_and_leads_back(branded, store, open_tab):
    address = branded(hub_url="https://hub.example.org/jupyter")
    tab = open_tab(address)
    back = tab.page.get_by_role("link", name="Back to your server")
    expect(back).to_be_hidden()
    unlocks(tab, store)
    expect(tab.page.get_by_text("retry whatever failed")).to_be_visible()
    expect(back).to_have_attribute("href", "https://hub.example.org/jupyter/user/alice/")
    tab.picture("back")
    tab.page.keyboard.press("Tab")
    expect(back).to_be_focused()
    phone = open_tab(address, is_mobile=True, has_touch=True, **PHONE)
    expect(phone.page.get_by_text("retry whatever failed")).to_be_visible()
    expect(phone.page.get_by_role("link", name="Back to your server")).to_be_hidden()


def test_way_back_closes_a_window_that_was_opened_for_the_page(page_address, store, browser):
    """The page tells its opener nothing, and needs no address of JupyterHub."""
    lasts(store, None)
    context = browser.new_context()
    lab = context.new_page()
    origin = page_address.partition("/egress/")[0]
    lab.route(f"{origin}/user/**", lambda route: route.fulfill(content_type="text/html", body="<!doctype html><title>a</title>"))
    lab.goto(f"{origin}/user/alice/lab")
    with context.expect_page() as opened:
        lab.evaluate(f"void open('{page_address}', '_blank', 'width=480,height=640')")
    with opened.value.expect_event("close"):
        back = opened.value.get_by_role("button", name="Back to your server")
        expect(back).to_be_visible()
        # Not `click`, which fails if the window is gone before the click has been reported.
        back.evaluate("(button) => { setTimeout(() => button.click()); }")
    context.close()


@pytest.mark.parametrize("path", ["server/alice", "servers/nobody/", ""])
def test_wrong_address_leads_to_the_start_page(path, start, open_tab):
    process = start(captcha_providers=MODEST, base_path="/binder/egress", branding=BRANDING)
    tab = open_tab(process.public, goes=False)
    tab.requests_fail = True
    tab.page.goto(f"{process.public}/binder/egress/{path}")
    link = tab.page.get_by_role("link", name="Go to the start page")
    expect(link).to_have_attribute("href", "/binder/")
    expect(tab.page.get_by_role("heading")).to_be_visible()
    tab.picture(f"wrong-address-{path.count('e')}")
