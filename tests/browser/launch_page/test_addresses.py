"""Verifiers in other places: below another base URL, on another host, behind a federation; and a page with another template."""

import re

import pytest
import requests

from tests.support.apps import run_pod
from tests.support.launch_page.real import REASON, RealBinderHub, is_installed
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


@pytest.mark.skipif(not is_installed(), reason=REASON)
def test_template_of_binderhubs_operator_keeps_the_snippets(verifier, store, binderhub, tab, tmp_path):
    """It extends BinderHub's own and overrides its blocks, as BinderHub's documentation says."""
    blocks = "".join(
        f"{{% block {name} %}}{{{{ super() }}}}<!-- {name} -->{{% endblock %}}" for name in ("title", "meta_social", "extra_header")
    )
    (tmp_path / "page.html").write_text('{% extends "templates/page.html" %}' + blocks)
    hub = RealBinderHub((verifier.public, verifier.internal), binderhub, templates=str(tmp_path))
    try:
        hub.launched = lambda user: run_pod(store, user)
        text = requests.get(hub.page(), timeout=30).text
        assert re.findall(r"<!-- (\w+) -->", text) == ["title", "meta_social", "extra_header"]
        opened = tab()
        launch(hub, opened)
        opened.server("user-1")
    finally:
        hub.stop()
