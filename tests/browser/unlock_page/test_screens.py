"""The unlock page in every language, on narrow and wide screens."""

import json
import subprocess

import pytest
from playwright.sync_api import expect

from tests.support import TOP
from tests.support.apps import carried, run_pod
from tests.support.browser import MODEST
from tests.support.languages import CHOICES
from tests.support.unlock_page import ENDLESS, NO_ACCESS, NO_ANSWER, PHONE, unlocks
from verifier.records import KnownServer, Server
from verifier.web.pages import MESSAGES

LANGUAGES = ["en", "de", "fr", "es", "ja", "ar"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_unlock_page_works_in_every_language_on_a_phone(language, page_address, store, open_tab):
    messages = MESSAGES[language]
    tab = open_tab(page_address, locale=f"{language}-XX" if language != "en" else "en-GB", **PHONE)
    assert tab.page.evaluate("document.documentElement.lang") == language
    expect(tab.state).to_have_text(messages["no-access"])
    tab.picture(f"{language}-320")
    left = tab.state.evaluate("element => getComputedStyle(element).direction")
    assert left == ("rtl" if language == "ar" else "ltr")
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
      if ({json.dumps(LANGUAGES)}.map(direction).join() !== "ltr,ltr,ltr,ltr,ltr,rtl") throw new Error("direction");
    """
    subprocess.run(["node", "--input-type=module", "--eval", script], check=True)


def test_qr_code_is_folded_away_and_not_on_phones(page_address, open_tab):
    """Most people open the page on the device that they use. On a phone or in a narrow window, the code is useless."""
    tab = open_tab(page_address, viewport={"width": 1280, "height": 800})
    code = tab.page.get_by_role("img", name="QR code with the address of this page")
    expect(tab.page.get_by_text("Use your phone", exact=True)).to_be_visible()
    expect(code).to_be_hidden()
    tab.page.get_by_text("Use your phone", exact=True).click()
    expect(code).to_be_visible()
    assert code.bounding_box()["width"] >= 120
    tab.picture("wide")
    tab.page.set_viewport_size(PHONE["viewport"])
    expect(code).to_be_hidden()
    tablet = open_tab(page_address, viewport={"width": 1280, "height": 800}, is_mobile=True, has_touch=True)
    expect(tablet.page.get_by_text("Use your phone", exact=True)).to_be_hidden()


def test_progress_does_not_move_with_reduced_motion(providers, open_tab):
    tab = open_tab(providers(captcha_providers={"altcha": ENDLESS}), reduced_motion="reduce")
    tab.button.click()
    expect(tab.state).to_contain_text("Calculating")
    expect(tab.page.locator("progress")).to_be_hidden()
    assert tab.page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("language", ["fr", "ar"])
def test_packages_alone_are_shown_in_other_languages_on_a_phone(language, providers, store, open_tab):
    messages = MESSAGES[language]
    address = providers(captcha_providers=MODEST, unverified_hosts=["conda", "python", "r"])
    tab = open_tab(address, locale=f"{language}-XX", **PHONE)
    expect(tab.state).to_have_text(messages["packages-only"])
    works = messages["reach-hosts"].format(hosts="pip, conda, R")
    expect(tab.page.locator("#reach")).to_have_text(f"{works} {messages['reach-rest']}")
    tab.picture(f"packages-{language}-320")
    unlocks(tab, store, f"{messages['granted']} {messages['from-now-on']}")


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
