"""The ways to the unlock page: QR codes, JupyterLab, links, the browser's history. It begins without a click only if the link asks
for it, no other page has it, and the page is visible."""

import base64
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import expect

from binder_egress.model.records import KnownServer, Server
from tests.support import TOP
from tests.support.apps import reconciler
from tests.support.browser import MODEST
from tests.support.unlock_page import FROM_NOW_ON, GRANTED, NO_ACCESS, PHONE, UNLOCKED, lasts
from tests.support.waiting import eventually

JSQR = TOP / "frontend/node_modules/jsqr/dist/jsQR.js"
"""A reader of QR codes. ci/frontend installs it."""


def scan(browser, picture):
    """The text that an independent QR reader reads from a PNG."""
    page = browser.new_page()
    page.evaluate(JSQR.read_text())
    scanned = page.evaluate(
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
    return scanned


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_qr_code_on_the_page_is_scanned(scheme, start, store, open_tab, browser):
    """A phone scans the code, and its address unlocks. The names of user and server need encoding.

    Most people open the page on the device that they use. On a phone or in a narrow window, the code is useless.
    """
    server = Server("zoë@example.org-k3jd92ms", "lab 2+c")
    store.publish(server, KnownServer("uid-1"))
    process = start(captcha_providers=MODEST, base_path="/hub/gate")
    address = f"{process.public}/hub/gate/servers/zo%C3%AB%40example.org-k3jd92ms/lab%202+c"
    tab = open_tab(address, color_scheme=scheme, viewport={"width": 1280, "height": 800})
    code = tab.page.get_by_role("img", name="QR code with the address of this page")
    fold = tab.page.get_by_text("Use your phone", exact=True)
    expect(code).to_be_hidden()
    fold.click()
    expect(code).to_be_visible()
    scanned = scan(browser, tab.page.screenshot())
    assert scanned == f"{address.replace('+', '%2B')}#unlock"
    tab.picture(f"wide-{scheme}")
    tab.page.set_viewport_size(PHONE["viewport"])
    expect(code).to_be_hidden()
    with reconciler(store, server):
        phone = open_tab(scanned, viewport={"width": 1280, "height": 800}, is_mobile=True, has_touch=True)
        expect(phone.page.get_by_text("Use your phone", exact=True)).to_be_hidden()
        expect(phone.state).to_have_text(UNLOCKED)


@pytest.mark.parametrize("colors", ["#000 on #fff", "#eee on #111"])
def test_qr_code_in_a_terminal_is_scanned(colors, page_address, browser):
    ours = requests.get(f"{page_address}?qr", headers={"Accept": "text/plain"}, timeout=60).text
    code = [line.removeprefix("\x1b[38;5;16;48;5;231m").removesuffix("\x1b[0m") for line in ours.splitlines() if "\x1b" in line]
    foreground, background = colors.split(" on ")
    page = browser.new_page()
    # The cells of a terminal are twice as high as wide, and lines have no gaps.
    cells = "".join(
        f'<div style="background:#fff;color:#000;width:max-content;font:16px/16px DejaVu Sans Mono">{line}</div>' for line in code
    )
    page.set_content(f'<body style="background:{background};color:{foreground};margin:40px;white-space:pre">{cells}</body>')
    scanned = scan(browser, page.screenshot(full_page=True))
    page.close()
    assert scanned == f"{page_address}#unlock"


JUPYTERLAB = """<!doctype html><html lang=en><title>JupyterLab</title><link rel=icon href="data:,">
<a id=link href="{page}" target=_blank {rel}>{page}</a>
<button onclick="globalThis.opened = open('{page}', '_blank', '{features}')">open</button>"""


@pytest.mark.parametrize(
    ("how", "rel", "features", "start_at"),
    [
        pytest.param("button", "", "", "", id="window.open"),
        pytest.param("button", "", "noopener,noreferrer", "#unlock", id="window.open without an opener"),
        pytest.param("#link", 'rel="opener"', "", "#unlock", id="a link with an opener"),
        pytest.param("#link", 'rel="noopener noreferrer"', "", "", id="a link as terminals and notebooks make them"),
    ],
)
def test_tab_opened_by_jupyterlab_unlocks_and_leaks_no_token(how, rel, features, start_at, page_address, browser, store):
    """JupyterLab is on the verifier's own origin."""
    origin = page_address.partition("/egress/")[0]
    context = browser.new_context()
    body = JUPYTERLAB.format(page=page_address + start_at, rel=rel, features=features)
    context.route(f"{origin}/user/**", lambda route: route.fulfill(content_type="text/html", body=body))
    lab = context.new_page()
    lab.goto(f"{origin}/user/alice/lab/tree/notebook.ipynb?token=secret-token")
    sent = []
    context.on("request", lambda request: sent.append(request))
    with reconciler(store):
        with context.expect_page() as opened:
            lab.locator(how).click()
        tab = opened.value
        tab.locator("#unlock").click()
        expect(tab.locator("#state")).to_have_text(UNLOCKED)
    # JupyterLab's address has a token, so no request of the page may have a referrer.
    ours = [request for request in sent if "/egress/" in request.url and not request.is_navigation_request()]
    assert ours and not [request for request in ours if "referer" in request.all_headers()]
    assert not [request.url for request in sent if "secret-token" in request.url]
    assert lab.title() == "JupyterLab", "the page changed its opener"
    context.close()


@pytest.mark.parametrize("go", ["script", "reload"])
@pytest.mark.parametrize("place", ["another site", "another host of the site", "a notebook of the hub"])
def test_unlock_link_on_a_page_begins_with_a_click(place, go, page_address, browser, store):
    """Otherwise any page, also a stranger's notebook, could make its visitors' browsers work for its own server."""
    origin = page_address.partition("/egress/")[0]
    port = urlsplit(origin).port
    address = {
        "another site": "https://elsewhere.example/",
        "another host of the site": f"http://127.0.0.1:{port - 1}/",
        "a notebook of the hub": f"{origin}/user/mallory/notebook",
    }[place]
    context = browser.new_context()
    page = context.new_page()
    body = f'<!doctype html><title>a</title><a href="{page_address}#unlock">a</a>'
    page.route(address, lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto(address)
    asked = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    # Later, or the page may be gone before Playwright hears of the end of the script.
    page.evaluate("void setTimeout(() => { location.href = document.querySelector('a').href; })")
    expect(page.locator("#unlock")).to_be_visible()
    if go == "reload":
        page.evaluate("globalThis.isOld = true, void setTimeout(() => location.reload())")
        page.wait_for_function("!globalThis.isOld")
        expect(page.locator("#unlock")).to_be_visible()
    page.wait_for_timeout(1_500)
    assert asked and not [request for request in asked if request.startswith("POST")]
    assert store.pending(Server("alice"), set()).unlock is None
    with reconciler(store):
        page.keyboard.press("Enter")  # The button already has the focus.
        expect(page.locator("#state")).to_have_text(UNLOCKED)
    context.close()


def test_hidden_page_begins_nothing_and_sends_no_requests(page_address, store, open_tab):
    """A prerendered page is hidden."""
    is_now = "Object.defineProperty(document, 'visibilityState', {value: '%s', configurable: true})"
    tab = open_tab(page_address, goes=False)
    tab.page.add_init_script(is_now % "hidden")
    sent = []
    tab.page.on("request", lambda request: sent.append(request.url))
    tab.page.goto(f"{page_address}#unlock")
    expect(tab.button).to_be_visible()
    loaded = len(sent)
    tab.page.wait_for_timeout(4_500)  # A visible page asks again after 3.6 s.
    assert len(sent) == loaded and not [address for address in sent if "challenge" in address]
    with reconciler(store):
        tab.page.evaluate(is_now % "visible")
        tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(tab.state).to_contain_text(FROM_NOW_ON)


def test_page_is_not_shown_in_a_frame(page_address, browser, store):
    """Not even on the site itself: a notebook's output could cover the button with something else."""
    context = browser.new_context()
    page = context.new_page()
    origin = page_address.partition("/egress/")[0]
    sandboxes = ("", "sandbox", 'sandbox="allow-scripts"', 'sandbox="allow-scripts allow-same-origin"')
    body = "<!doctype html>" + "".join(f'<iframe {sandbox} src="{page_address}#unlock"></iframe>' for sandbox in sandboxes)
    page.route(f"{origin}/user/**", lambda route: route.fulfill(content_type="text/html", body=body))
    messages, posts = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.goto(f"{origin}/user/alice/lab")

    def refused():
        return len([text for text in messages if "frame-ancestors" in text])

    def is_done():
        page.wait_for_timeout(50)
        return refused() >= len(sandboxes) and all(frame.url.startswith("chrome-error:") for frame in page.frames[1:])

    eventually(is_done, what=lambda: (messages, page.frames))
    page.wait_for_timeout(1_500)
    assert refused() == len(sandboxes) == len(page.frames) - 1
    assert posts == [] and store.pending(Server("alice"), set()).unlock is None
    context.close()


def test_going_back_to_the_page_shows_the_current_state(page_address, store, kept_browser):
    """The browser may restore the page from its cache or load it again."""
    page = kept_browser.new_page()
    page.goto(page_address)
    expect(page.locator("#state")).to_have_text(NO_ACCESS)
    page.goto(f"{page_address.partition('/egress/')[0]}/egress/openapi.json")
    lasts(store, None)
    page.go_back(wait_until="commit")
    expect(page.locator("#state")).to_contain_text(GRANTED)
    expect(page.locator("#unlock")).to_be_hidden()
    page.close()
