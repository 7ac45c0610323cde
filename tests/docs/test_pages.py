"""Pages of Markdown: links and paths lead somewhere, commands exist, and a line has one sentence."""

import re
import shlex
import subprocess

import click
import pytest

from binder_egress.commands.egress import egress
from tests.support import TOP

TRACKED = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=TOP, check=True, capture_output=True, text=True).stdout.split("\0")
PAGES = [path for path in map(TOP.joinpath, filter(None, TRACKED)) if path.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(TOP)))
def test_links_and_paths_lead_somewhere_and_a_line_has_one_sentence(page):
    """Paths are from the top of the project or from the page's folder, in code spans and in commands."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for path in re.findall(r"(?<![\w./-])((?:ci|chart|docs|tests|verifier|frontend|client|\.github)/[\w./-]*\w)", text):
        assert (TOP / path).exists() or (page.parent / path).exists(), path
    # Tables and blocks of code are left out.
    for line in re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        if not line.lstrip().startswith(("|", "#")):
            prose = re.sub(r"`[^`]*`", "`", re.sub(r"^\s*(?:-|\d+\.) ", "", line))
            assert not re.search(r"[.!?][\"”*)_]*\s+[\"“(*\[_]*[A-Z`]", prose), line


def test_commands_exist_and_have_the_options():
    """Each `egress …` in a block of a page."""
    blocks = [block for page in PAGES for block in re.findall(r"```(?:sh|console|yaml)\n(.*?)```", page.read_text(), re.S)]
    blocks.append((TOP / "docs/propose-bans.yaml").read_text())
    commands = re.findall(r"(?:^|[\s(])egress ([a-z][^\n;|)]*)", "\n".join(blocks).replace("\\\n", ""), re.M)
    assert len(commands) > 20
    for command in commands:
        found, words = egress, shlex.split(command)
        while isinstance(found, click.Group):
            found = found.commands[words.pop(0)]
        found.make_parser(click.Context(found)).parse_args(words)
