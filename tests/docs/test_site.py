"""The documentation as a site: it builds without a warning, every link in it leads somewhere, and the references are complete."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.support import TOP

SITE = TOP / "build/docs"

pytestmark = pytest.mark.timeout(600)


class Page(HTMLParser):
    """The targets of a page's links, its anchors, and its text."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.text = set(), set(), ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        self.links.update(found[name] for name in ("href", "src") if found.get(name))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site():
    """The pages of the site, by path."""
    shutil.rmtree(SITE, ignore_errors=True)
    sphinx = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--fresh-env", "--write-all", "--quiet"]
    done = subprocess.run([*sphinx, TOP / "docs", SITE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in SITE.rglob("*.html") if "_static" not in path.parts}


def test_every_document_is_a_page_that_the_contents_lead_to(site):
    def linked(*pages):
        return {unquote(urlsplit(link).path) for page in pages for link in site[SITE / f"{page}.html"].links}

    contents, decisions = linked("index", "operators", "visitors", "reference", "contribute"), linked("decisions/index")
    for document in (TOP / "docs").rglob("*.md"):
        page = str(document.relative_to(TOP / "docs").with_suffix(".html"))
        # Pages of decisions are in the contents of their index.
        found = {f"decisions/{link}" for link in decisions} if page.startswith("decisions/") else contents
        assert SITE / page in site and page in found | {"index.html", "decisions/index.html"}, page


def test_every_link_leads_somewhere(site):
    wrong = []
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (parts.fragment and target in site and unquote(parts.fragment) not in site[target].anchors):
                wrong.append((str(path.relative_to(SITE)), link))
    assert not wrong


def test_nothing_is_loaded_from_elsewhere(site):
    """Readers of the page about privacy are reported to nobody."""
    for path in site:
        assert not re.search(r'<(?:script|img|iframe)[^>]+src="https?:', path.read_text()), path
        assert not re.search(r'<link[^>]+rel="(?:stylesheet|preload|icon)"[^>]+href="https?:', path.read_text()), path


def test_the_reference_of_values_has_every_value_that_is_explained_with_its_default(site):
    text, values = " ".join(site[SITE / "generated/values.html"].text.split()), (TOP / "chart/values.yaml").read_text()
    comments = re.findall(r"(?:^|  ) *# -- ", values, re.MULTILINE)
    sys.path.insert(0, str(TOP / "docs"))
    from reference import comments as explained

    # Some comments explain several values.
    assert len(explained()) > len(comments) > 150
    assert not [path for path in explained() if ".".join(path) not in text]
    shown = text[text.index("logClientNetwork.ipv4PrefixBits of an IPv4 address") :]
    default = yaml.safe_load(values)["logClientNetwork"]["ipv4Prefix"]
    assert shown[shown.index("Default: ") :].startswith(f"Default: {default}")


def test_the_reference_of_http_has_every_call(site):
    from ci.openapi_documents import DOCUMENTS

    text = site[SITE / "generated/http.html"].text
    for document in DOCUMENTS.values():
        for path, operations in document["paths"].items():
            for method in operations:
                assert method == "parameters" or f"{method.upper()} {path}" in text, path
    for field in ("on_expiry", "interactive_hold", "servers_per_day", "blocks[].only_on_pods", "keys[].used"):
        assert field in text, field


def test_the_references_of_checks_and_of_redis_have_rows(site):
    checks, redis = (" ".join(site[SITE / f"generated/{name}.html"].text.split()) for name in ("checks", "redis"))
    assert re.search(r"bypass Policies add up: [^|]*? after the gate is shut egress plan, egress doctor", checks), checks
    for row in ("blocks read write HSETNX read, write", "detections read, write write XADD EXPIRE", "hub read, write read"):
        assert row in redis, row
