"""A page of somebody else launches in the cluster, in a real browser: with one script tag its pod has egress, without it none.

tests/browser/test_third_party.py has all that can happen on such pages; these have what the tag is for.
"""

from collections.abc import Iterator

import pytest
from front_door import URL, FrontDoor
from stage import QUICK, Stage
from test_launches import expect

from tests.browser.course import CLIENTS, Course

TAG = f'<script async src="{URL}egress/v1/third-party.js"></script>'


@pytest.fixture(scope="module")
def course() -> Iterator[Course]:
    made = Course()
    yield made
    made.stop()


@pytest.fixture(scope="module", autouse=True)
def _open_to_the_course(stage: Stage, course: Course) -> Iterator[FrontDoor]:
    """BinderHub stays as it is set here; no other test follows that address or comes from another origin."""
    stage.install_gate(*QUICK, f"--set=allowedOrigins={{{course.origin}}}")
    stage.install_binderhub(f"--set=config.BinderHub.hub_url={URL}", "--set=config.BinderHub.cors_allow_origin=*")
    door = FrontDoor(stage, b"")
    yield door
    door.close()
    stage.install_gate(*QUICK)


@pytest.mark.parametrize("client", ["EventSource", "fetch", "binderhub-client"])
def test_a_page_elsewhere_gets_egress_for_its_server_with_one_tag(client, stage, course, browser):
    context = browser.new_context()
    context.set_default_timeout(90_000)
    page = context.new_page()
    page.goto(course.page(CLIENTS[client], TAG))
    page.wait_for_function("Boolean(window.binderEgress)")
    page.evaluate("(address) => { launch(address); }", f"{URL}build/fake/owner/repo/main")
    page.wait_for_function("done === 1 && ['granted', 'pending'].includes(states.at(-1)?.state)")
    user = page.evaluate("states.at(-1).server").removeprefix(f"{URL}user/").partition("/")[0]
    context.close()
    stage.await_tier(user, "verified", 60)
    expect(stage, user, egress=True)


def test_without_the_tag_it_launches_and_has_none(stage, course, browser):
    context = browser.new_context()
    context.set_default_timeout(90_000)
    page = context.new_page()
    page.goto(course.page(CLIENTS["EventSource"]))
    page.evaluate("(address) => { launch(address); }", f"{URL}build/fake/owner/repo/main")
    page.wait_for_function("done === 1")
    context.close()
    (pod,) = stage.pods()
    user = pod["metadata"]["annotations"]["hub.jupyter.org/username"]
    assert stage.tier(user) is None
    expect(stage, user, egress=False)
