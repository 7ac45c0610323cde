"""A third party's page launches in the cluster, in a real browser: its pod has egress with one script tag, and none without it.

thebe is npm's. Before it says that the server is ready, it has talked with it, too.

tests/browser/third_party has all clients, and everything that can happen on such pages. These tests have the tag's purpose.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster.front_door import URL, FrontDoor
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import QUICK, Stage
from tests.support.cluster.timeouts import PAGE_SECONDS
from tests.support.third_party_site import CLIENTS, ThirdPartySite

TAG = f'<script async src="{URL}egress/v1/third-party.js"></script>'


@pytest.fixture(scope="module")
def site() -> Iterator[ThirdPartySite]:
    made = ThirdPartySite()
    yield made
    made.stop()


@pytest.fixture(scope="module", autouse=True)
def _open_to_the_site(stage: Stage, site: ThirdPartySite) -> Iterator[FrontDoor]:
    """BinderHub keeps these settings, because no other test follows that address or comes from another origin."""
    # On a busy machine, a page may need more than its usual four seconds for a solution.
    stage.install_gate(*QUICK, f"--set=allowedOrigins={{{site.origin}}}", "--set=launchPage.hold=60")
    stage.install_binderhub(
        f"--set=config.BinderHub.hub_url={URL}",
        "--set=config.BinderHub.cors_allow_origin=*",
        "--set=jupyterhub.hub.config.BinderSpawner.cors_allow_origin=*",
    )
    door = FrontDoor(stage, b"")
    yield door
    door.close()
    stage.install_gate(*QUICK)


def test_page_with_the_tag_gets_egress(stage, site, page):
    page.goto(site.page(CLIENTS["binderhub-client"], TAG))
    page.wait_for_function("Boolean(window.binderEgress)")
    page.evaluate("(address) => { launch(address); }", f"{URL}build/fake/owner/repo/main")
    page.wait_for_function("done === 1 && ['granted', 'pending'].includes(states.at(-1)?.state)")
    user = page.evaluate("states.at(-1).server").removeprefix(f"{URL}user/").partition("/")[0]
    stage.await_tier(user, "verified")
    assert_reaches(stage, user, egress=True)


def told(record: list[Any]) -> list[list[str]]:
    """The events on a page until the server is ready, without names, tokens, and Kubernetes' messages, which contain times."""
    text = re.sub(r'(token(?:=|[\\": ]+))[\w-]+', r"\1TOKEN", json.dumps(record))
    text = re.sub(r"-[a-z0-9]{8}(?=/)", "-NAME", text)
    said = [each for each in json.loads(text) if not re.search(r"\d{4}-\d\d-\d\dT\d\d:", str(each[-1]))]
    ends = [number for number, each in enumerate(said, 1) if "server-ready" in each]
    return said[: ends[0]] if ends else said


def test_thebe_sees_the_same_events_and_has_egress_with_the_tag_only(stage, site, browser):
    tabs = {}
    for name, head in (("without", ""), ("with", TAG)):
        tabs[name] = browser.new_context().new_page()
        tabs[name].set_default_timeout(PAGE_SECONDS * 1000)
        tabs[name].goto(site.page(CLIENTS["thebe"], head, f"{name}.html"))
    tabs["with"].wait_for_function("Boolean(window.binderEgress)")
    for tab in tabs.values():
        tab.evaluate("(address) => { launch(address); }", f"{URL}build/gh/owner/repo/main")
    for tab in tabs.values():
        tab.wait_for_function("done >= 1")
    tabs["with"].wait_for_function("['granted', 'pending'].includes(states.at(-1)?.state)")
    records = {name: tab.evaluate("record") for name, tab in tabs.items()}
    user = tabs["with"].evaluate("states.at(-1).server").removeprefix(f"{URL}user/").partition("/")[0]
    for tab in tabs.values():
        tab.context.close()

    assert told(records["with"]) == told(records["without"])
    stage.await_tier(user, "verified")
    assert_reaches(stage, user, egress=True)
    (other,) = {pod["metadata"]["annotations"]["hub.jupyter.org/username"] for pod in stage.pods()} - {user}
    assert stage.tier(other) is None
    assert_reaches(stage, other, egress=False)
