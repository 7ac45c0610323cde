"""The name, logo, colour and links of a site on its pages, and what they add to the Content-Security-Policy."""

import base64
import hashlib
import json
import random
import re
from urllib.parse import urljoin

import pytest

from binder_egress.settings import InvalidSettings
from binder_egress.web.branding import DARK, LIGHT, Brand, contrast
from tests.support import TOP
from tests.support.apps import make_settings, public_client, run_pod

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def brand(redis_server, **branding):
    return Brand.of(make_settings(redis_server, branding=branding))


def page(make_services, store, path="servers/alice/", headers=HTML, **branding):
    run_pod(store)
    client = public_client(make_services(branding=branding))
    return client.get(f"/egress/{path}", headers=headers)


def test_any_colour_can_be_read_and_seen(redis_server):
    """Text on the colour has a contrast of 4.5, and lines in the colour have 3 on the card, in both schemes."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    chance = random.Random(1)
    for colour in ["#000000", "#ffffff", "#767676", "#757575", *(f"#{chance.randrange(1 << 24):06X}" for _ in range(300))]:
        style = brand(redis_server, accentColor=colour).style
        accent, text, light, dark = re.findall("#[0-9a-fA-F]{6}", style)
        assert accent == colour
        assert contrast(text, colour) >= 4.5, colour
        assert contrast(light, LIGHT) >= 3 and contrast(dark, DARK) >= 3, colour


def test_lines_of_the_style_sheet_can_be_seen():
    """In both schemes. Browser tests look at its texts with axe-core."""
    sheet = (TOP / "frontend/src/tokens.css").read_text()
    light, *dark = re.findall(r"\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", sheet, flags=re.S))
    for block, back, written in ((light, LIGHT, "#fff"), *((block, DARK, DARK) for block in dark)):
        assert f"--back: {written};" in block
        assert min(contrast(line, back) for line in re.findall(r"--(?:edge|accent-line): (#\w{6})", block)) >= 3


def test_page_has_the_name_as_text_and_its_policy_allows_the_logo_and_the_style_and_nothing_else(make_services, store):
    plain = page(make_services, store)
    assert not re.search("<(header|footer|style|img)", plain.text)
    plain = plain.headers["Content-Security-Policy"]
    assert "img-src 'self';" in plain and "style-src 'self';" in plain
    chosen = {"name": "<b>Hub & friends</b>", "logo": "https://cdn.example.org/a/logo.svg", "accentColor": "#f5a252"}
    answer = page(make_services, store, **chosen)
    assert "&lt;b&gt;Hub &amp; friends&lt;/b&gt;" in answer.text and "<b>" not in answer.text
    style = re.search("<style>(.*?)</style>", answer.text)[1]
    checksum = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert f"style-src 'self' 'sha256-{checksum}';" in policy
    assert "; img-src 'self' https://cdn.example.org;" in policy and "unsafe" not in policy
    api = page(make_services, store, headers={"Accept": "application/json"}, logo="https://cdn.example.org/a/logo.svg")
    assert "cdn.example.org" not in api.headers["Content-Security-Policy"]


def test_page_has_an_icon_so_that_no_browser_asks_for_one_of_its_own(public):
    (address,) = re.findall('<link rel="icon" href="([^"]*)"', public.get("/egress/servers/a", headers=HTML).text)
    assert public.get(urljoin("/egress/servers/a", address)).mimetype == "image/svg+xml"


@pytest.mark.parametrize(
    ("logo", "source"),
    [
        ("http://127.0.0.1:8080/logo.svg?size=2", "http://127.0.0.1:8080"),
        ("https://[2001:db8::1]:8443/logo.svg", "https://[2001:db8::1]:8443"),
        ("https://cdn.example.org", "https://cdn.example.org"),
        ("/hub/logo/a.png", "'self'"),
        ("data:image/png;base64,AAAA", "data:"),
    ],
)
def test_source_of_a_logo_is_its_origin(logo, source, redis_server):
    assert brand(redis_server, logo=logo).csp == {"img-src": [source]}
    schema = json.loads((TOP / "chart/values.schema.json").read_text())["properties"]["branding"]
    assert re.search(schema["properties"]["logo"]["pattern"], logo)


@pytest.mark.parametrize(
    ("base_path", "start"), [("/egress", "/"), ("/binder/egress/", "/binder/"), ("/", "/"), ("/a/b/egress", "/a/b/")]
)
def test_start_page_is_where_the_path_begins(base_path, start, redis_server):
    assert Brand.of(make_settings(redis_server, base_path=base_path)).start == start
    said = Brand.of(make_settings(redis_server, base_path=base_path, branding={"startUrl": "https://example.org/start"}))
    assert said.start == "https://example.org/start"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accentColor", "red"),
        ("accentColor", "#fff"),
        ("accentColor", "#123456;}body{display:none"),
        ("logo", "javascript:alert(1)"),
        ("logo", "//cdn.example.org/logo.svg"),
        ("logo", "/\\cdn.example.org/logo.svg"),
        ("logo", "https://[x/logo.svg"),
        ("logo", "https://someone@example.org/logo.svg"),
        ("logo", "https://*/logo.svg"),
        ("logo", "https://"),
        ("logo", "https://example.org/a.png; script-src *"),
        ("logo", "data:text/html;base64,AAAA"),
        ("helpUrl", "javascript:alert(1)"),
        ("startUrl", 'https://example.org/"x'),
        ("contact", "the operators"),
        ("contact", "javascript:alert(1)"),
        ("contact", "help@example.org?bcc=all@example.org"),
        ("contact", "https://example.org/hilfe\r\nX: y"),
        ("contact", "https://example.org/\u00fc"),
        ("colour", "#123456"),
    ],
)
def test_wrong_branding_is_refused_by_chart_and_verifier(name, value, redis_server):
    with pytest.raises(InvalidSettings, match="branding"):
        make_settings(redis_server, branding={name: value})
    schema = json.loads((TOP / "chart/values.schema.json").read_text())["properties"]["branding"]
    found = schema["properties"].get(name)
    assert found is None or not re.search(found["pattern"].removesuffix("$") + r"\Z", value)


@pytest.mark.parametrize("path", ["", "server/alice", "nothing", "servers/"])
def test_wrong_address_is_a_page_for_people_and_json_for_scripts(path, make_services, store):
    people = page(make_services, store, path, startUrl="https://example.org/start")
    assert people.status_code == 404 and people.content_type == "text/html; charset=utf-8"
    assert 'href="https://example.org/start"' in people.text and "There is nothing at this address." in people.text
    assert "Accept" in people.headers["Vary"] and people.headers["Cache-Control"] == "no-store"
    scripts = page(make_services, store, path, headers={"Accept": "*/*"})
    assert scripts.status_code == 404 and scripts.content_type == "application/problem+json"
