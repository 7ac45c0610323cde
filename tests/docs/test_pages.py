"""Pages of Markdown: links and paths lead somewhere, and a line has one sentence."""

import re
import subprocess

import pytest

from tests.support import TOP

TRACKED = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=TOP, check=True, capture_output=True, text=True).stdout.split("\0")
PAGES = [path for path in map(TOP.joinpath, filter(None, TRACKED)) if path.exists()]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(TOP)))


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@every_page
def test_paths_exist(page):
    """Paths from the top of the project or from the page's folder, in code spans and in commands."""
    for path in re.findall(r"(?<![\w./-])((?:ci|chart|docs|tests|verifier|frontend|client|\.github)/[\w./-]*\w)", page.read_text()):
        assert (TOP / path).exists() or (page.parent / path).exists(), path


@every_page
def test_a_line_has_one_sentence(page):
    """So that a diff shows what changed. Tables and blocks of code are left out."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if not line.lstrip().startswith(("|", "#")):
            prose = re.sub(r"`[^`]*`", "`", re.sub(r"^\s*(?:-|\d+\.) ", "", line))
            assert not re.search(r"[.!?][\"”*)_]*\s+[\"“(*\[_]*[A-Z`]", prose), line
