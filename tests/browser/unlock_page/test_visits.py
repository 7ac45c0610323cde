"""The ways to the unlock page: QR codes, JupyterLab, the browser's history."""

import base64

import pytest
import requests
from playwright.sync_api import expect

from tests.support import TOP
from tests.support.apps import reconciler
from tests.support.browser import MODEST
from tests.support.unlock_page import GRANTED, NO_ACCESS, PHONE, UNLOCKED, lasts
from tests.support.waiting import eventually
from verifier.records import KnownServer, Server

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
    """A phone scans the code, and its address unlocks. The names of user and server need encoding."""
    server = Server("zoë@example.org-k3jd92ms", "lab 2")
    store.publish(server, KnownServer("uid-1"))
    address = f"{start(captcha_providers=MODEST).public}/egress/servers/zo%C3%AB%40example.org-k3jd92ms/lab%202"
    tab = open_tab(address, color_scheme=scheme, viewport={"width": 1280, "height": 800})
    tab.page.get_by_text("Use your phone", exact=True).click()
    scanned = scan(browser, tab.page.screenshot())
    assert scanned == f"{address}#unlock"
    with reconciler(store, server):
        phone = open_tab(scanned, **PHONE)
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


@pytest.fixture
def jupyterlab(browser):
    """A function that opens a JupyterLab on the verifier's own origin, and returns the page."""
    contexts = []

    def serve(address, origin, rel="", features=""):
        context = browser.new_context()
        context.set_default_timeout(60_000)
        contexts.append(context)
        body = JUPYTERLAB.format(page=address, rel=rel, features=features)
        lab = f"{origin}/user/alice/lab/tree/notebook.ipynb?token=secret-token"
        context.route(f"{origin}/user/**", lambda route: route.fulfill(content_type="text/html", body=body))
        page = context.new_page()
        page.goto(lab)
        return page

    yield serve
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("how", "rel", "features", "start_at"),
    [
        pytest.param("button", "", "", "", id="window.open"),
        pytest.param("button", "", "noopener,noreferrer", "#unlock", id="window.open without an opener"),
        pytest.param("#link", 'rel="opener"', "", "#unlock", id="a link with an opener"),
        pytest.param("#link", 'rel="noopener noreferrer"', "", "", id="a link as terminals and notebooks make them"),
    ],
)
def test_tab_opened_by_jupyterlab_unlocks_and_leaks_no_token(how, rel, features, start_at, page_address, jupyterlab, store):
    lab = jupyterlab(page_address + start_at, page_address.partition("/egress/")[0], rel, features)
    sent = []
    lab.context.on("request", lambda request: sent.append(request))
    with reconciler(store):
        with lab.context.expect_page() as opened:
            lab.locator(how).click()
        tab = opened.value
        tab.locator("#unlock").click()
        expect(tab.locator("#state")).to_have_text(UNLOCKED)
    # JupyterLab's address has a token, so no request of the page may have a referrer.
    ours = [request for request in sent if "/egress/" in request.url and not request.is_navigation_request()]
    assert ours and not [request for request in ours if "referer" in request.all_headers()]
    assert not [request.url for request in sent if "secret-token" in request.url]
    assert lab.title() == "JupyterLab", "the page changed its opener"


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
