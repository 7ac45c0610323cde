"""The look of the server page: nothing jumps, the languages, the site's own name and colour, the way back, and problem pages."""

import json
import re
import subprocess

import pytest
from playwright.sync_api import expect

from binder_egress.model.records import KnownServer, Server
from binder_egress.web.pages import LANGUAGES, MESSAGES, direction
from tests.support import TOP
from tests.support.apps import carried, run_pod
from tests.support.browser import MODEST
from tests.support.languages import CHOICES
from tests.support.unlock_page import ENDED, NO_ACCESS, NO_ANSWER, PHONE, lasts, unlocks

DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPj/HwADBwIAMCbHYQAAAABJRU5ErkJggg=="
BRANDING = {"name": "Example Hub", "logo": DOT, "accentColor": "#f5a252", "helpUrl": "https://hub.example.org/help"}

ACCENTS = {"#f5a252": "rgb(0, 0, 0)", "#003366": "rgb(255, 255, 255)"}
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

SCREENS = {
    "wide": {"viewport": {"width": 1280, "height": 720}},
    "popup": {"viewport": {"width": 480, "height": 640}},
    "phone": PHONE,
}


@pytest.mark.parametrize(
    ("names", "screen"),
    [
        (["altcha"], "wide"),
        (["altcha", "recaptchaV3"], "popup"),
        (["turnstile"], "wide"),
        (["turnstile", "recaptchaV3"], "phone"),
        (["friendlyCaptcha"], "popup"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_nothing_jumps_while_the_page_loads_and_when_a_widget_comes(names, screen, double, providers, open_tab):
    """Script, challenge and the provider's script come late, one after the other, after the page has been painted."""
    offered = [MODEST["altcha"] if name == "altcha" else double.options(name) for name in names]
    ways = {name: options | {"order": order} for order, (name, options) in enumerate(zip(names, offered, strict=True))}
    address = providers(*(name for name in names if name != "altcha"), captcha_providers=ways, branding=BRANDING)
    tab = open_tab(address, double.url, goes=False, **SCREENS[screen])
    late = re.compile(rf"server-.*js|challenge\?|^{re.escape(double.url)}")
    tab.page.route(late, lambda route: (tab.page.wait_for_timeout(400), route.continue_()))
    tab.page.goto(address)
    expect(tab.page.locator("#way")).not_to_be_empty()
    if "altcha" in names:
        expect(tab.button).to_be_visible()
    else:
        expect(tab.page.locator("#widget iframe")).to_be_visible()
        expect(tab.state).to_contain_text("Solve the check below.")
    if len(names) == 2:
        expect(tab.page.get_by_text("Another way")).to_be_visible()
    assert tab.page.evaluate(SHIFTS) == [0]
    tab.page.unroute_all(behavior="wait")


@pytest.mark.parametrize("language", LANGUAGES)
def test_unlock_page_works_in_every_language_on_a_phone(language, providers, store, open_tab):
    messages = MESSAGES[language]
    address = providers(captcha_providers=MODEST, unverified_hosts=["conda", "python", "r"])
    tab = open_tab(address, locale=f"{language}-XX" if language != "en" else "en-GB", **PHONE)
    assert tab.page.evaluate("document.documentElement.lang") == language
    expect(tab.state).to_have_text(messages["packages-only"])
    works = messages["reach-hosts"].format(hosts="pip, conda, R")
    expect(tab.page.locator("#reach")).to_have_text(f"{works} {messages['reach-rest']}")
    tab.picture(f"{language}-320")
    left = tab.state.evaluate("element => getComputedStyle(element).direction")
    assert left == direction(language)
    unlocks(tab, store, f"{messages['granted']} {messages['from-now-on']}")


def test_front_end_chooses_languages_as_the_server_does():
    def languages(header):
        """The header as `navigator.languages`."""
        return [part.split(";")[0].strip() for part in header.split(",") if not part.endswith(";q=0")]

    table = [[languages(header), chosen] for header, chosen in CHOICES]
    script = f"""
      import {{ chooseLanguage, direction }} from {json.dumps((TOP / "frontend/src/language.js").as_uri())};
      for (const [languages, chosen] of {json.dumps(table)}) {{
        const language = chooseLanguage(languages, {json.dumps(LANGUAGES)});
        if (language !== chosen) throw new Error(`${{languages}}: ${{language}}`);
      }}
      const directions = {json.dumps(LANGUAGES)}.map(direction).join();
      if (directions !== {json.dumps(",".join(map(direction, LANGUAGES)))}) throw new Error(directions);
    """
    subprocess.run(["node", "--input-type=module", "--eval", script], check=True)


def test_limited_access_is_shown_until_a_block_ends_it(providers, store, open_tab):
    hosts, branding = ["python", "api.example.org"], {"contact": "help@example.org"}
    address = providers(captcha_providers=MODEST, unverified_hosts=hosts, branding=branding)
    tab = open_tab(address, viewport={"width": 1280, "height": 800})
    expect(tab.state).to_have_text("Your server has limited internet access.")
    expect(tab.page.locator("#reach")).to_have_text("What works: pip; api.example.org. Nothing else works yet.")
    tab.picture("hosts")
    tab.requests_fail = True
    tab.page.route("**/challenge?*", lambda route: route.abort())
    tab.button.click()
    expect(tab.state).to_have_text(f"Your server has no more access than before. {NO_ANSWER}")
    store.publish(Server("alice"), KnownServer("uid-1", carried(rule="blocked", at=1_800_000_000)))
    blocked = f"{NO_ACCESS} The operators of this site blocked it at 2027-01-15 08:00 UTC."
    for _ in range(2):
        expect(tab.state).to_have_text(blocked)
        expect(tab.page.locator("#reach")).to_have_text("Programs in it cannot open connections to the internet.")
        expect(tab.button).to_be_hidden()
        expect(tab.page.get_by_text("Solving a check would not change that.")).to_be_visible()
        expect(tab.page.get_by_role("link", name="help@example.org")).to_have_attribute("href", "mailto:help@example.org")
        tab.picture("blocked-by-operators")
        tab.page.reload()
    # The page follows the server.
    run_pod(store)
    expect(tab.button).to_be_visible()
    expect(tab.page.locator("#closed")).to_be_hidden()


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


def test_page_reads_well_without_its_style_sheet(branded, open_tab):
    address = branded(**BRANDING)
    tab = open_tab(address, goes=False)
    tab.page.route(re.compile(r"server-.*\.css"), lambda route: route.fulfill(content_type="text/css", body=""))
    tab.page.goto(address)
    expect(tab.page.locator(".state path").locator("visible=true")).to_have_count(1)
    expect(tab.button).to_be_in_viewport(ratio=1)
    tab.picture("without-style")


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


@pytest.mark.parametrize(("path", "heading"), [("server/alice", "This page cannot be shown"), ("servers/nobody/", ENDED)])
def test_wrong_address_leads_to_the_start_page(path, heading, start, open_tab):
    process = start(captcha_providers=MODEST, base_path="/binder/egress", branding=BRANDING)
    tab = open_tab(process.public, goes=False)
    tab.requests_fail = True
    tab.page.goto(f"{process.public}/binder/egress/{path}")
    expect(tab.page.get_by_role("link", name="Go to the start page")).to_have_attribute("href", "/binder/")
    expect(tab.page.get_by_role("heading", name=heading)).to_be_visible()
    tab.picture(f"wrong-address-{path.count('e')}")
