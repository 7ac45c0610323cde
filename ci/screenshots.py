"""Screenshots of the pages in every state: a server's page, problem pages, the launch page's panel (`ci/screenshots`)."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from binder_egress.model.records import KnownServer, Server
from binder_egress.store.connection import connect
from tests.support.apps import RedisServer, VerifierProcess, carried, make_settings, run_pod
from tests.support.browser import ARTIFACTS, MODEST, launch
from tests.support.doubles import running
from tests.support.launch_page import BinderHub, bundle
from tests.support.launch_page.real import Process, RealBinderHub, is_installed
from tests.support.launch_tab import PANEL_STATES, Tab, text
from tests.support.store import Store

TOP = Path(__file__).parents[1]
FOLDER = ARTIFACTS / "screenshots"
SCREENS = {
    f"{scheme}-{width}": {"color_scheme": scheme, "viewport": {"width": width, "height": height}}
    for scheme in ("light", "dark")
    for width, height in ((1280, 720), (390, 700))
}
POPUP = {"popup": {"color_scheme": "light", "viewport": {"width": 480, "height": 640}}}
LOGO = (
    "data:image/svg+xml;base64,"
    "PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHZpZXdCb3g9IjAgMCA0OCA0OCI+PHJlY3Qgd2lkdGg9IjQ4IiBoZWlnaH"
    "Q9IjQ4IiByeD0iMTAiIGZpbGw9IiM1NzlhY2EiLz48Y2lyY2xlIGN4PSIyNCIgY3k9IjI0IiByPSIxMiIgZmlsbD0ibm9uZSIgc3Ryb2tlPSIj"
    "ZmZmIiBzdHJva2Utd2lkdGg9IjYiLz48L3N2Zz4="
)
BRANDING = {"name": "Example Hub", "logo": LOGO, "helpUrl": "https://hub.example.org/help"}
HARD = {"altcha": {"cost": 100_000, "counterMax": 1_000_000}}
"""A calculation that does not end while somebody takes a picture."""

DARK_PAGE = "<script>document.documentElement.dataset.bsTheme = 'dark'</script>"
"""A snippet for BinderHub's page that gives it Bootstrap's dark theme. It needs no style of its own for that."""

FOR_DOCS = {
    "server-none-light-1280": "unlock-locked",
    "server-granted-light-1280": "unlock-granted",
    "server-accent-light-1280": "unlock-branded",
    "panel-has-light-1280": "launch-has-light",
    "panel-confirm-light-1280": "launch-confirm-light",
}
"""Screenshot → the name of its copy in docs/images."""


def publish(store: Store, tier: str = "unverified", left: int | None = None, **fields: Any) -> None:
    """Publish the server, as the reconciler does."""
    until = None if left is None else int(time.time()) + left
    store.publish(Server("alice"), KnownServer("uid-1", carried(tier, until=until, **fields)))


def calculate(page: Page) -> None:
    """Click, and wait until the page calculates."""
    page.locator("#unlock").click()
    expect(page.get_by_role("progressbar")).to_be_visible()


def wait_for_grant(page: Page) -> None:
    """Click, and wait until the page says that the unlock takes longer than usual."""
    page.locator("#unlock").click()
    expect(page.locator("#state")).to_contain_text("Accepted")


def fail(page: Page) -> None:
    """Click while the verifier does not answer."""
    page.route("**/challenge?*", lambda route: route.abort())
    page.locator("#unlock").click()
    expect(page.locator("#state")).to_contain_text("does not answer")


def unfold(page: Page) -> None:
    """Show the QR code."""
    if page.locator("#phone summary").is_visible():
        page.locator("#phone summary").click()


LEASE = {"verified": {"internet": True, "lease": 1800}}
SERVER_PAGES: dict[str, tuple[dict[str, Any], Callable[[Store], object], Callable[[Page], object]]] = {
    "none": ({}, publish, lambda page: None),
    "phone": ({}, publish, unfold),
    "packages": ({"unverified_hosts": ["conda", "python", "r"]}, publish, lambda page: None),
    "hosts": ({"unverified_hosts": ["python", "git", "api.example.org"]}, publish, lambda page: None),
    "calculating": ({"captcha_providers": HARD}, publish, calculate),
    "pending": ({}, publish, wait_for_grant),
    "failed": ({}, publish, fail),
    "granted": ({}, lambda store: publish(store, "verified"), lambda page: None),
    "time-left": ({"tiers": LEASE}, lambda store: publish(store, "verified", 1500), lambda page: None),
    "renewable": ({"tiers": LEASE}, lambda store: publish(store, "verified", 500), lambda page: None),
    "blocked": ({}, lambda store: publish(store, rule="blocked"), lambda page: None),
    "observed": ({"mode": "observe"}, publish, lambda page: None),
    "ended": ({}, lambda store: store.forget(Server("alice")), lambda page: None),
    "unbranded": ({"branding": {}}, publish, lambda page: None),
    "accent": ({"branding": BRANDING | {"accentColor": "#f5a252"}}, publish, lambda page: None),
}
"""Name → the verifier's settings, what is known of the server, and what is done on its page."""


@contextmanager
def opened(browser: Browser, address: str, options: dict[str, Any]) -> Iterator[Page]:
    """A page in a context of its own."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()


def shoot_server_pages(browser: Browser, redis: RedisServer, store: Store, names: list[str]) -> None:
    """The page of a server, and the problem pages: those with these names."""
    for name in names:
        settings, prepare, act = SERVER_PAGES[name]
        redis.wipe()
        own = {"captcha_providers": MODEST, "branding": BRANDING, "hub_url": "https://hub.example.org/"}
        process = VerifierProcess(redis, **own | settings)
        for screen, options in (SCREENS | POPUP).items():
            prepare(store)
            with opened(browser, f"{process.public}/egress/servers/alice/", options) as page:
                page.wait_for_load_state("networkidle")
                act(page)
                page.screenshot(path=FOLDER / f"server-{name}-{screen}.png", full_page=True)
                if name == "ended":
                    page.goto(f"{process.public}/egress/server/alice")
                    page.screenshot(path=FOLDER / f"server-not-found-{screen}.png", full_page=True)
        process.stop()


def shoot_panels(browser: Browser, redis: RedisServer, store: Store, states: list[str]) -> None:
    """The launch page's panel in these states, on BinderHub's own page if its package is installed."""
    binderhub = Process() if is_installed() and states else None
    make_hub = partial(RealBinderHub, process=binderhub) if binderhub else partial(BinderHub, script=bundle())
    with running() as double:
        for state in states:
            lead, providers = PANEL_STATES[state]
            redis.wipe()
            settings: dict[str, Any] = {"captcha_providers": MODEST}
            if providers:
                settings |= double.settings("turnstile", with_altcha=None if state == "needed" else MODEST["altcha"])
            process = VerifierProcess(redis, **settings)
            for screen, options in SCREENS.items():
                hub = make_hub((process.public, process.internal))
                hub.launched = lambda user: run_pod(store, user)
                hub.ready.close()
                context = browser.new_context(**options)
                tab = Tab(context.new_page())
                if screen.startswith("dark"):
                    hub.header_html["a"] = DARK_PAGE
                lead(hub, tab)
                if not tab.requests:
                    tab.page.goto(hub.page())
                expect(tab.text).to_have_text(text(state))
                expect(tab.panel).to_be_visible()
                tab.painted()
                tab.page.screenshot(path=FOLDER / f"panel-{state}-{screen}.png")
                context.close()
                hub.stop()
            process.stop()
    if binderhub:
        binderhub.stop()


def main(arguments: list[str]) -> None:
    """Make the screenshots whose names begin with an argument, or all. `--docs` copies the documentation's."""
    wanted = [argument for argument in arguments if argument != "--docs"]

    def chosen(kind: str, names: Iterable[str]) -> list[str]:
        return [name for name in names if not wanted or any(f"{kind}-{name}".startswith(one) for one in wanted)]

    FOLDER.mkdir(parents=True, exist_ok=True)
    redis = RedisServer()
    redis.start()
    client = connect(make_settings(redis))
    with sync_playwright() as playwright:
        browser = launch(playwright)
        shoot_server_pages(browser, redis, Store(client), chosen("server", SERVER_PAGES))
        shoot_panels(browser, redis, Store(client), chosen("panel", PANEL_STATES))
        browser.close()
    client.close()
    redis.stop()
    if "--docs" in arguments:
        for name, target in FOR_DOCS.items():
            shutil.copy(FOLDER / f"{name}.png", TOP / f"docs/images/{target}.png")
    print(FOLDER)


if __name__ == "__main__":
    main(sys.argv[1:])
