"""A third party's page launches in the cluster, in a real browser: its pod has egress with one script tag.

thebe is npm's. Before it says that the server is ready, it has talked with it, too.

tests/browser/third_party has all clients, and everything that can happen on such pages. This test has the tag's purpose.
"""

from collections.abc import Iterator

import pytest

from tests.support.cluster.front_door import URL, FrontDoor
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import JUPYTER, QUICK, Stage
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
        JUPYTER,
    )
    door = FrontDoor(stage, b"")
    yield door
    door.close()
    stage.install_gate(*QUICK)


def test_page_with_the_tag_gets_egress(stage, site, page):
    page.goto(site.page(CLIENTS["thebe"], TAG))
    page.wait_for_function("Boolean(window.binderEgress)")
    page.evaluate("(address) => { launch(address); }", f"{URL}build/gh/owner/repo/main")
    page.wait_for_function("done >= 1 && ['granted', 'pending'].includes(states.at(-1)?.state)")
    user = page.evaluate("states.at(-1).server").removeprefix(f"{URL}user/").partition("/")[0]
    stage.await_tier(user, "verified")
    assert_reaches(stage, user, egress=True)
