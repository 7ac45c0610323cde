"""The extension in a real JupyterLab: its display, and the way to internet access."""

import json
import time
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from binder_egress.web.pages import MESSAGES
from tests.support import TOP
from tests.support.apps import reconciler, run_pod
from tests.support.browser import ARTIFACTS, AXE
from tests.support.jupyter import FAILING, FINE
from tests.support.unlock_page import lasts
from tests.support.waiting import eventually

WORDS = {path.stem: json.loads(path.read_text()) for path in (TOP / "verifier/binder_egress/web/messages/lab").glob("*.json")}
EN = WORDS["en"]
REACHES_NOTHING = MESSAGES["en"]["reach-nothing"]
"""The verifier's sentence, which it gives in the language that the extension asks for."""
MINUTE = 60

pytestmark = pytest.mark.timeout(400)


def violations(page, selector):
    """The violations that axe-core finds in a part of a page, by WCAG 2.1 A and AA. Its other rules are about the whole page, which
    is Jupyter's."""
    page.evaluate(AXE.read_text())
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    report = page.evaluate("([include, runOnly]) => axe.run({ include }, { runOnly })", [[selector], rules])
    assert report["passes"]
    return [f"{fault['id']}: {fault['nodes'][0]['html']}" for fault in report["violations"]]


def ahead(lab, seconds):
    """Set the clocks of a tab forward."""
    lab.page.evaluate(
        """(ms) => {
          const [now, date] = [performance.now.bind(performance), Date.now];
          performance.now = () => now() + ms;
          Date.now = () => date() + ms;
        }""",
        seconds * 1000,
    )


def look(lab, visibility, event=True):
    """Make a tab consider itself `visible` or `hidden`, and usually send the event."""
    lab.page.evaluate("(is) => Object.defineProperty(document, 'visibilityState', { value: is, configurable: true })", visibility)
    if event:
        lab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_failed_cell_leads_to_access_by_two_clicks(page_address, store, open_lab):
    run_pod(store)
    lab = open_lab(FAILING, FAILING)
    requests = []
    lab.page.on("request", lambda request: requests.append(request) if request.url.startswith(page_address) else None)
    expect(lab.item).to_have_text(EN["none"])
    lab.run()
    expect(lab.notices(EN["failed-none"])).to_be_visible()
    lab.page.screenshot(path=ARTIFACTS / "lab-failed.png")
    small = lab.press(EN["give"])
    # A page sent the visitor there, so nothing begins by itself; the button has the focus.
    expect(small.locator("#unlock")).to_be_focused()
    assert small.url == f"{page_address}#unlock"
    with reconciler(store):
        small.keyboard.press("Enter")
        expect(lab.notices(EN["run-again"])).to_be_visible()
    small.screenshot(path=ARTIFACTS / "lab-window.png")
    expect(lab.item).to_have_text(EN["network"])
    expect(lab.notices(EN["failed-none"])).to_have_count(0)
    if not small.is_closed():
        small.wait_for_event("close", timeout=60_000)
    # A server with access shows nothing.
    lab.run(1)
    lab.page.get_by_title(EN["title"]).first.click()
    expect(lab.dialog).to_contain_text("Programs in it can open connections to the internet")
    expect(lab.dialog.get_by_role("button")).to_have_count(1)
    expect(lab.notices(EN["failed-none"])).to_have_count(0)
    # The verifier learns nothing about the visitor.
    assert requests and all(request.method == "GET" for request in requests if request.frame == lab.page.main_frame)
    told = [request.all_headers() for request in requests if request.frame == lab.page.main_frame]
    assert not any({"cookie", "authorization", "referer"} & set(headers) for headers in told)


@pytest.mark.parametrize(("language", "theme"), [("en", "Light"), ("ar", "Dark")])
def test_panel_is_reached_by_keyboard_and_accessible(page_address, store, jupyter, open_lab, language, theme):
    run_pod(store)
    jupyter.wear(f"JupyterLab {theme}")
    lab = open_lab(FINE, locale=language)
    words, direction = WORDS[language], "rtl" if language == "ar" else "ltr"
    expect(lab.item).to_have_text(words["none"])
    expect(lab.item).to_have_attribute("dir", direction)
    expect(lab.page.locator("body")).to_have_attribute("data-jp-theme-name", f"JupyterLab {theme}")
    # As large as its neighbours: in JupyterLab 3, what an item inherits is larger.
    size = "(element) => getComputedStyle(element).fontSize"
    assert lab.item.evaluate(size) == lab.page.get_by_text("Mode: Command").evaluate(size)
    assert violations(lab.page, ".binder-egress") == []
    lab.item.focus()
    lab.page.screenshot(path=ARTIFACTS / f"lab-status-{language}.png")
    lab.page.keyboard.press("Enter")
    expect(lab.dialog).to_contain_text(MESSAGES[language]["reach-nothing"])
    expect(lab.dialog).to_have_attribute("lang", language)
    expect(lab.dialog.get_by_role("button", name=words["give"])).to_be_focused()
    lab.page.screenshot(path=ARTIFACTS / f"lab-panel-{language}.png")
    assert violations(lab.page, ".jp-Dialog .binder-egress") == []
    with lab.page.context.expect_page() as opened:
        lab.page.keyboard.press("Enter")
    assert opened.value.url.startswith(page_address)
    # JupyterLab accepts no second item of that name, even if the first is not on the page.
    lab.item.evaluate("(item) => item.parentElement.remove()")
    with lab.page.expect_response(page_address):
        look(lab, "visible")
    lab.page.evaluate("new Promise((done) => setTimeout(done))")


def observed(route):
    """Answers as a verifier in mode observe."""
    answer = route.fetch()
    route.fulfill(response=answer, json=answer.json() | {"access": None})


def test_mode_observe_is_silent_until_it_ends_and_a_lease_is_kept(page_address, store, open_lab):
    run_pod(store)
    lab = open_lab(FAILING, routes=((page_address, observed),))
    lab.run()
    expect(lab.item).to_be_hidden()
    expect(lab.notices("internet")).to_have_count(0)
    lab.page.context.unroute(page_address)
    look(lab, "visible")
    expect(lab.notices(f"Internet access has ended. {REACHES_NOTHING}")).to_be_visible()
    expect(lab.item).to_have_text(EN["none"])
    lasts(store, 12 * MINUTE - 20)
    look(lab, "visible")
    lab.notices(EN["given"]).locator(".jp-Notification-Toast-Close").click()
    expect(lab.item).to_contain_text(" min left")
    expect(lab.notices(EN["keep"])).to_have_count(0)
    question = lab.notices("Are you still there?")
    lasts(store, 4 * MINUTE)
    lab.item.click()
    expect(lab.dialog).to_contain_text("Your server keeps running.")
    lab.dialog.get_by_role("button", name=EN["close"]).click()
    expect(question).to_be_visible()
    lab.page.screenshot(path=ARTIFACTS / "lab-ending.png")
    small = lab.press(EN["keep"])
    with reconciler(store, lease=10 * MINUTE):
        small.locator("#unlock").click()
        expect(lab.notices(EN["renewed"])).to_be_visible()
    expect(question).to_have_count(0)
    if not small.is_closed():
        small.wait_for_event("close", timeout=60_000)
    lasts(store, 4 * MINUTE)
    look(lab, "visible")
    expect(question).to_be_visible()
    lasts(store, None, "unverified", rule="expired", at=1_800_000_000)
    look(lab, "visible")
    told = lab.notices("Internet access has ended. The time ran out at 2027-01-15 08:00 UTC.")
    expect(told).to_be_visible()
    expect(question).to_have_count(0)
    lab.page.screenshot(path=ARTIFACTS / "lab-ended.png")
    small = lab.press(EN["again"])
    expect(small.locator("#unlock")).to_have_text("Restore internet access")
    with reconciler(store, lease=10 * MINUTE):
        small.locator("#unlock").click()
        expect(lab.notices(EN["given"])).to_be_visible()
    expect(told).to_have_count(0)
    # The operators block it: nobody can solve anything then.
    lasts(store, None, "unverified", rule="blocked", at=1_800_000_000)
    look(lab, "visible")
    blocked = "The operators of this site blocked it at 2027-01-15 08:00 UTC."
    told = lab.notices(f"Internet access has ended. {blocked}")
    expect(told).to_be_visible()
    expect(told.get_by_role("button", name=EN["again"])).to_have_count(0)
    lab.item.click()
    expect(lab.dialog).to_contain_text(blocked)
    expect(lab.dialog.get_by_role("link", name="help@example.org")).to_have_attribute("href", "mailto:help@example.org")
    expect(lab.dialog.get_by_role("button", name=EN["again"])).to_have_count(0)
    lab.page.screenshot(path=ARTIFACTS / "lab-blocked.png")


def test_failed_cells_have_one_notification_in_ten_minutes_and_until_access_grows(page_address, store, open_lab):
    """Also if the verifier is silent at first and in between."""
    run_pod(store)
    lab = open_lab(FAILING, FAILING, FINE, routes=((page_address, lambda route: route.abort()),))
    expect(lab.item).to_have_text(EN["unknown"])
    lab.run(0)
    expect(lab.notices(EN["failed-unknown"])).to_be_visible()
    lab.item.click()
    expect(lab.dialog).to_contain_text(EN["reach-unknown"])
    lab.dialog.get_by_role("button", name=EN["close"]).click()
    lab.page.context.unroute(page_address)
    look(lab, "visible")
    notices = lab.notices(EN["failed-none"])
    expect(lab.item).to_have_text(EN["none"])
    ahead(lab, 601)
    lab.run(2)
    expect(notices).to_have_count(0)
    # This computer's clock was a day ahead when the last one came.
    lab.page.evaluate("(address) => localStorage.setItem(`binder-egress:${address}`, Date.now() + 86_400_000)", page_address)
    lab.run(0)
    expect(notices).to_have_count(1)
    notices.locator(".jp-Notification-Toast-Close").click()
    expect(notices).to_have_count(0)
    lab.run(1)
    # The second click of two finds no panel yet. In an open one, it would be a click beside the panel, which closes it.
    held = []
    lab.page.route(page_address, lambda route: held.append(route))
    with lab.page.expect_request(page_address):
        lab.item.dblclick()
    for route in held:
        route.continue_()
    lab.page.unroute(page_address)
    expect(lab.dialog).to_contain_text(REACHES_NOTHING)
    expect(notices).to_have_count(0)
    lab.dialog.get_by_role("button", name=EN["close"]).click()
    expect(lab.dialog).to_have_count(0)
    lab.item.click()
    lab.dialog.get_by_role("button", name=EN["close"]).click()
    for old in ("first", "second"):
        ahead(lab, 601)
        lab.run(1)
        expect(notices.and_(lab.page.locator(":not([data-old])"))).to_have_count(1)
        expect(notices).to_have_count(1)
        notices.evaluate("(notice, old) => { notice.dataset.old = old; }", old)
    lab.page.route(page_address, lambda route: route.abort())
    look(lab, "visible")
    expect(lab.item).to_have_text(EN["unknown"])
    lasts(store, None)
    lab.page.unroute(page_address)
    look(lab, "visible")
    expect(lab.notices(EN["run-again"])).to_be_visible()
    expect(notices).to_have_count(0)


def test_tab_asks_about_the_end_of_a_lease_only_while_visible(page_address, store, open_lab):
    lasts(store, 15 * MINUTE)
    lab = open_lab(FINE)
    expect(lab.item).to_contain_text(" min left")
    asked = []
    lab.page.on("request", lambda request: asked.append(time.monotonic()) if request.url == page_address else None)
    look(lab, "hidden")
    # A renewal has become possible, and the end is near.
    ahead(lab, 11 * MINUTE)
    before = len(asked)
    lab.page.evaluate("new Promise((done) => setTimeout(done, 6_000))")
    assert len(asked) == before
    with lab.page.expect_request(page_address):
        look(lab, "visible", event=False)
    # The pod is about to be stopped, and nothing can be renewed.
    lasts(store, 200, "unverified", rule="expired")
    look(lab, "visible")
    expect(lab.item).to_have_text(EN["none"])
    look(lab, "hidden")
    ahead(lab, 4 * MINUTE)
    with lab.page.expect_request(page_address):
        look(lab, "visible", event=False)
    # The end has passed, and nobody has stopped the pod yet.
    lasts(store, -1, "unverified", rule="expired")
    before = len(asked)
    look(lab, "visible")

    # Less and less often: with a request at each look at the clock, there would be 5 s between two requests.
    def is_rarer():
        lab.page.wait_for_timeout(200)
        return any(later - earlier > 6 for earlier, later in pairwise(asked[before:]))

    eventually(is_rarer, what=asked)


def test_notebook_has_a_command_and_notifications(page_address, store, open_lab):
    run_pod(store)
    lab = open_lab(FAILING, notebook=True)
    # Before a cell fails.
    expect(lab.item).to_have_text(EN["none"])
    place, bar = lab.item.bounding_box(), lab.page.locator("#menu-panel").bounding_box()
    assert bar["y"] <= place["y"] and place["y"] + place["height"] <= bar["y"] + bar["height"]
    lab.run()
    expect(lab.notices(EN["failed-none"])).to_be_visible()
    lab.page.screenshot(path=ARTIFACTS / "notebook-status.png")
    lab.page.get_by_role("menuitem", name="Help").click()
    lab.page.get_by_role("menuitem", name=EN["command"]).click()
    expect(lab.dialog).to_contain_text(REACHES_NOTHING)
    expect(lab.dialog.get_by_role("button", name=EN["give"])).to_be_focused()
