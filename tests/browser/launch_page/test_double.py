"""The double of BinderHub is compared with the real one."""

import json
import re

import pytest
import requests

from tests.support.apps import run_pod
from tests.support.launch_page import BinderHub
from tests.support.launch_page.real import REASON, RealBinderHub, is_installed
from tests.support.launch_tab import CLIENT_ERRORS, Ignored, home, launch, launch_when_solved, press_launch

pytestmark = pytest.mark.skipif(not is_installed(), reason=REASON)

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def both(verifier, store, script, binderhub):
    """The double and the real one, in front of the same verifier."""
    addresses = (verifier.public, verifier.internal)
    hubs = [BinderHub(addresses, script), RealBinderHub(addresses, binderhub)]
    for hub in hubs:
        hub.launched = lambda user: run_pod(store, user)
    yield hubs
    for hub in hubs:
        hub.stop()


ANSWERS = [
    ("GET", ""),
    ("HEAD", ""),
    ("POST", ""),
    ("OPTIONS", ""),
    ("GET", "v2/gh/o/r/HEAD"),
    ("GET", "v2/none/o/r/HEAD"),
    ("GET", "about"),
    ("GET", "nothing/here"),
    ("GET", "egress/launch.js"),
    ("POST", "egress/passes"),
    ("OPTIONS", "egress/passes"),
    ("GET", "static/dist/bundle.js"),
    ("GET", "static/none.js"),
    ("GET", "build/gh/o/r/HEAD"),
    ("POST", "build/gh/o/r/HEAD"),
    ("OPTIONS", "build/gh/o/r/HEAD"),
]
"""Requests that reach BinderHub, also those for an absent verifier: method and path below the base URL."""


def test_status_and_headers_are_those_of_binderhub(both):
    def answers(hub):
        hub.fault = "unrouted"
        for method, path in ANSWERS:
            answer = requests.request(method, hub.url + path, timeout=30)
            names = ("Content-Type", "Cache-Control", "Access-Control-Allow-Origin", "Access-Control-Allow-Headers")
            # The page, and answers that are as short as an error.
            body = "page" if 'id="root"' in answer.text else len(answer.content) if len(answer.content) < 200 else "long"
            told = None if "build/" in path or path.endswith("bundle.js") else body
            yield method, path, answer.status_code, {name: answer.headers.get(name) for name in names}, told

    double, real = both
    assert list(answers(double)) == list(answers(real))


LAUNCHES = {
    "launched": ("gh/o/r/HEAD", STREAM, {}),
    "with a wrong build token": ("gh/o/r/HEAD?build_token=wrong", STREAM, {}),
    "of an unknown provider": ("none/o/r/HEAD", STREAM, {}),
    "without the header": ("gh/o/r/HEAD", {}, {}),
    "cut": ("gh/o/r/HEAD", STREAM, {"cuts": 1}),
    "of a banned repository": ("gh/o/r/HEAD", STREAM, {"refusal": 403}),
}
"""Path and headers of build requests, and attributes of BinderHub. Neither ends the stream itself after a failed build."""


@pytest.mark.parametrize("which", LAUNCHES)
def test_events_are_those_of_binderhub(which, both):
    path, headers, attributes = LAUNCHES[which]

    def events(hub):
        for name, value in attributes.items():
            setattr(hub, name, value)
        text = requests.get(f"{hub.url}build/{path}", headers=headers, timeout=30).text
        for event in map(json.loads, re.findall(r"^data: (.*)$", text, re.MULTILINE)):
            same = event.get("message") if event["phase"] != "ready" else event["binder_request"]
            yield event["phase"], set(event), event.get("status_code"), same

    double, real = both
    assert list(events(double)) == list(events(real))


def test_page_has_the_order_of_binderhubs_template(both):
    """Its `pageConfig` comes before our snippets, and these before the page's script, whatever other snippets exist."""

    def order(hub, path):
        hub.header_html |= {"B": "<meta name=second>", "a": "<meta name=first>", "zzz": "<meta name=last>"}
        text = requests.get(hub.url + path, timeout=30).text
        parts = ["window.pageConfig = ", *map(str.strip, hub.header_html.values()), "</head>", 'id="root"', "static/dist/bundle.js"]
        assert all(text.count(part) == 1 for part in parts)
        config = json.loads(re.search(r"window\.pageConfig = (.*);\n", text)[1])
        [provider] = config["repoProviders"]
        return sorted(parts, key=text.index), config["baseUrl"], "buildToken" in config, provider["id"], provider["ref"]

    double, real = both
    for path in ("", "v2/gh/o/r/HEAD", "v2/none/o/r/HEAD", "nothing/here"):
        assert order(double, path) == order(real, path)


ELEMENTS = {
    "heading": "#root h4",
    "repository": "input[name=repository]",
    "ref": "#ref",
    "button": "#btn-launch",
    "loader": "#loader",
    "progress": "[role=progressbar]",
    "log": "#terminal",
    "show the log": "#btn-show-log",
    "raw log": "#btn-view-raw-log",
    "preview": "iframe[data-testid=nbviewer-iframe]",
    "error": "#root h1",
}
"""The elements of the page that tests look for."""


def test_elements_are_those_of_binderhub(both, tab):
    """On the home page and a repository's page, during a launch and after a failed one. Only the home page has a button."""

    def look(opened):
        found = {name for name, selector in ELEMENTS.items() if opened.page.locator(selector).count()}
        bar = opened.page.locator("[role=progressbar] .progress-bar:last-child").all_text_contents()
        button = opened.page.locator("#btn-launch")
        told = (button.text_content(), button.is_disabled()) if "button" in found else None
        name = opened.page.locator("input[name=repository]").get_attribute("aria-label") if "repository" in found else None
        return found, bar, told, name

    def looks(hub):
        opened = home(hub, tab)
        yield look(opened)
        hub.ready.close()
        press_launch(opened)
        opened.expect_phase("launching")
        yield look(opened)
        hub.stays = True
        hub.ready.open()
        opened.expect_phase("ready")
        yield look(opened)
        hub.fails = True
        for opened in (home(hub, tab), tab()):
            opened.faults = Ignored(CLIENT_ERRORS)
            if opened.requests:
                press_launch(opened)
            else:
                opened.page.goto(hub.page())
            opened.expect_phase("failed")
            yield look(opened), opened.page.locator("#root h4").first.text_content()
        opened = tab()
        opened.page.goto(f"{hub.url}nothing/here")
        opened.page.locator("#root h1").wait_for()
        yield look(opened)

    double, real = both
    assert list(looks(double)) == list(looks(real))


def test_requests_are_those_of_binderhubs_page(both, tab):
    """The requests have the same order, and the build request has the same query and headers."""

    def asked(hub):
        opened = tab()
        launch_when_solved(hub, opened)
        opened.server("user-1")
        [build] = hub.builds
        own = [line for line in hub.seen if re.search(r" /(v2|static/dist/bundle|build|user)/?", line)]

        accept = requests.structures.CaseInsensitiveDict(build.headers)["Accept"]
        return own, list(build.query), accept, build.spec, build.tier

    double, real = both
    assert asked(double) == asked(real)


def test_template_of_an_operator_keeps_the_snippets(verifier, store, binderhub, tab, tmp_path):
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
