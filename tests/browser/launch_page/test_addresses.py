"""Verifiers in other places: below another base URL, on another host, behind a federation."""

import pytest

from tests.support.launch_tab import ask_until, launch, launch_when_solved, tier_of
from tests.support.waiting import eventually


def test_launch_works_below_another_base_url(start, tab, redis_server):
    hub = start(base="/binder/")
    opened = tab()
    launch(hub, opened)
    opened.server("user-1")
    assert hub.count("POST /binder/egress/passes") == 1


def test_verifier_may_be_on_another_host(start, make_hub, tab):
    """A meta element names the verifier, as in the chart's values for a separate release. Workers start across origins."""
    page = make_hub(None)
    origin = page.url.rstrip("/")
    try:
        elsewhere = start(allowed_origins=[origin])
        page.verifier, page.launched = elsewhere.verifier, elsewhere.launched
        page.header_html["binder-egress"] = f'<meta name="binder-egress" content="{elsewhere.url}egress">'
        opened = tab()
        launch_when_solved(page, opened)
        opened.server("user-1")
        assert page.builds[0].tier == "verified"
        assert page.count("GET /egress/") == 0
    finally:
        page.stop()


@pytest.mark.parametrize("late", ["", "challenge", "launch.js"])
def test_redirected_build_gets_its_pass_from_the_page(late, start, make_member, tab):
    """One member serves the page and issues the pass; another one builds, and keeps the promise."""
    page = start()
    member, store = make_member(allowed_origins=[page.url.rstrip("/")])
    page.redirect = member.url
    opened = tab()
    member.ready.close()
    if late:
        page.gates[late].close()
        opened.page.goto(page.page(), wait_until="commit")
    else:
        launch_when_solved(page, opened)
    eventually(lambda: member.builds and member.builds[0].tier, what="not announced")
    for gate in page.gates.values():
        gate.open()
    ask_until(opened, "has")
    assert tier_of(store) == "verified"
    member.ready.open()
    opened.server("user-1")
    [build] = member.builds
    assert member.count(f"POST /egress/promises/{build.token}") == 1
    eventually(lambda: member.count("POST /egress/servers") == 1, what="not presented")
    assert page.count("POST /egress/servers") == 0
    assert page.builds == []
