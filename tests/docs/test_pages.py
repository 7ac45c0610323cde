"""Paths and commands in the decisions and in the pages outside docs/ exist; tests/chart checks the other pages."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = [*(TOP / name for name in ("CONTRIBUTING.md", "RELEASE.md", "SECURITY.md")), *sorted((TOP / "docs/decisions").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_paths_exist(page):
    """Paths from the top of the project, in code spans and in commands."""
    for path in re.findall(r"(?<![\w./-])((?:ci|chart|docs|tests|verifier|frontend|\.github)/[\w./-]*\w)", page.read_text()):
        assert (TOP / path).exists(), path


ALL = [*PAGES, *(TOP / name for name in ("README.md", "CHANGELOG.md", "client/README.md")), *sorted((TOP / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", ALL, ids=lambda path: str(path.relative_to(TOP)))
def test_a_line_has_one_sentence(page):
    """So that a diff shows what changed. Tables and blocks of code are left out."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if not line.lstrip().startswith(("|", "#")):
            prose = re.sub(r"`[^`]*`", "`", re.sub(r"^\s*(?:-|\d+\.) ", "", line))
            assert not re.search(r"[.!?][\"”*)_]*\s+[\"“(*\[_]*[A-Z`]", prose), line
