"""Decisions have ids, which code cites: each id is given once, every cited id exists, and every decision is cited."""

import re
import subprocess

from tests.support import TOP

FOLDER = TOP / "docs/decisions"


def headings(page):
    return re.findall(r"^###? (D-\d{3}: .+)$", page.read_text(), re.MULTILINE)


PAGES = {page: headings(page) for page in sorted(FOLDER.glob("*.md")) if page.name != "index.md"}
IDS = [heading.partition(":")[0] for found in PAGES.values() for heading in found]


def test_every_decision_has_an_id_of_its_own():
    """A decision is a heading of the lowest level of its page."""
    assert len(IDS) == len(set(IDS)) > 100, sorted(one for one in IDS if IDS.count(one) > 1)
    for page, found in PAGES.items():
        text = page.read_text()
        lowest = "###" if "\n### " in text else "##"
        assert re.findall(rf"^{lowest} (.+)$", text, re.MULTILINE) == found, page


def test_every_cited_decision_exists_and_every_decision_is_cited_where_it_matters():
    """A decision that another one names is not cited by that."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, check=True, capture_output=True, text=True).stdout.split("\0")
    cited = {}
    for name in filter(None, names):
        if (TOP / name).is_file() and not name.endswith((".png", ".gz")):
            for one in re.findall(r"\bD-\d{3}\b", (TOP / name).read_text(errors="replace")):
                cited.setdefault(one, set()).add(name)
    assert not {one: names for one, names in cited.items() if one not in IDS}
    assert not [one for one in IDS if all(name.startswith("docs/decisions/") for name in cited.get(one, ()))]
