"""A person launches in a real browser: BinderHub's page with the chart's addition, and pods of a real kubelet.

tests/browser has everything that can happen on the page. These tests have its purpose.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.support.cluster.front_door import URL, FrontDoor
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import Stage
from tests.support.doc_examples import HUB
from tests.support.launch_page import bundle

LINKS = re.findall(rf"\]\({HUB}/(v2/[^)]+)\)", (Path(__file__).parents[2] / "docs/api-users.md").read_text())
"""The badge and the link of the documentation."""


@pytest.fixture(scope="module")
def _hub_behind_the_door(stage: Stage) -> None:
    """BinderHub sends browsers to the front door's address. No other test follows it."""
    stage.install_binderhub(f"--set=config.BinderHub.hub_url={URL}")


@pytest.fixture
def door(stage: Stage, _hub_behind_the_door: None) -> Iterator[FrontDoor]:
    door = FrontDoor(stage, bundle())
    yield door
    door.close()


def launch(page: Page, link: str = "v2/fake/owner/repo/main") -> tuple[str, str]:
    """Open the launch page and wait until it has left for the server.

    Returns:
        The user of the server, and the address that the page left for. The page's own address soon changes, because Jupyter removes
        the token from it.
    """
    with page.expect_request(lambda request: request.is_navigation_request() and request.url.startswith(f"{URL}user/")) as left:
        page.goto(f"{URL}{link}")
    page.wait_for_url(f"{URL}user/**", wait_until="commit")
    address = left.value.url
    return address.removeprefix(f"{URL}user/").partition("/")[0], address


def test_launch_without_a_click_has_egress(stage, door, page):
    user, _ = launch(page)
    stage.await_tier(user, "verified")
    assert_reaches(stage, user, egress=True)


def test_launch_without_workers_is_unlocked_in_one_step(stage, door, page):
    door.headers["Content-Security-Policy"] = "worker-src 'none'"
    said: list[str] = []
    page.expose_function("panelSays", lambda line: said.append(line))
    page.add_init_script(
        """addEventListener("DOMContentLoaded", () => setInterval(() => {
             for (const element of document.querySelectorAll("*")) {
               const line = element.shadowRoot?.querySelector("[role=status]")?.textContent;
               if (line) panelSays(line);
             }
           }, 20))"""
    )
    user, _ = launch(page)
    assert_reaches(stage, user, egress=False)
    assert any("No internet access." in line for line in said), said

    page.goto(stage.page_address(user))
    page.locator("#unlock").click()
    expect(page.get_by_text("New connections work from now on")).to_be_visible()
    assert stage.tier(user) == "verified"
    assert_reaches(stage, user, egress=True)


def at(link: str, user: str) -> str:
    """The path in a server that a link leads to; a token follows."""
    (path,) = parse_qs(urlsplit(link).query)["urlpath"]
    return f"{URL}user/{user}/{path}{'&' if '?' in path else '?'}token="


@pytest.mark.parametrize("link", LINKS, ids=["badge", "nbgitpuller"])
def test_badge_or_link_leads_to_its_path_in_a_server_with_egress(stage, door, page, link):
    user, address = launch(page, link)
    assert address.startswith(at(link, user))
    stage.await_tier(user, "verified")


def test_launch_without_the_verifier_goes_on(stage, door, page):
    stage.scale("verifier", 0)
    try:
        user, address = launch(page, LINKS[1])
    finally:
        stage.scale("verifier", 1)
        stage.await_address("binder-egress", 8081, "/healthz")
    assert address.startswith(at(LINKS[1], user))
    assert stage.tier(user) is None
    assert_reaches(stage, user, egress=False)
