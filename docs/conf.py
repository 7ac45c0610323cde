"""Sphinx: the documentation as a site. `ci/test docs` builds it; the references are made from their sources by `reference.py`."""

import re
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
TOP = DOCS.parent
sys.path[:0] = [str(DOCS), str(TOP / "verifier")]

import reference  # noqa: E402

project = "binder-egress"
author = "the binder-egress contributors"
version = release = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx_copybutton", "sphinx_design"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["images", "_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
# Links to a heading by its text, as on GitHub.
myst_heading_anchors = 4

html_theme = "pydata_sphinx_theme"
html_title = project
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 4,
}
html_sidebars = {"index": []}
html_show_copyright = False
html_show_sourcelink = False

# Pages outside docs/ that are part of the site, by where they are.
PARTS = {
    TOP / "chart/README.md": "generated/chart",
    TOP / "client/README.md": "generated/client",
    TOP / "CHANGELOG.md": "generated/changelog",
    TOP / "CONTRIBUTING.md": "generated/contributing",
    TOP / "RELEASE.md": "generated/release",
    TOP / "SECURITY.md": "generated/security",
}


def _links(text: str, at: Path, page: str) -> str:
    """The text of a page with those links changed that work on GitHub and would not here.

    Args:
        text: Markdown.
        at: the folder that its links are relative to.
        page: where it is in the site.
    """
    up = "../" * page.count("/")

    def change(found: re.Match[str]) -> str:
        label, target, anchor = found[1], found[2], found[3] or ""
        path = (at / target).resolve()
        if path in PARTS:
            return f"[{label}]({up}{PARTS[path]}.md{anchor})"
        if path.is_dir():  # There is nothing to show of it here.
            return label
        if path.is_relative_to(DOCS):
            return f"[{label}]({up}{path.relative_to(DOCS)}{anchor})"
        return f"[{label}]({up}../{path.relative_to(TOP)})"

    return re.sub(r"\[([^\]]*)\]\(((?!\w+:|#)[^)#\s]+)(#[^)]*)?\)", lambda found: change(found), text)


def _generate(app: object) -> None:
    """Write the pages that are made of something else; a page that has not changed is left alone, so that it is not built again."""
    pages = {page: _links(path.read_text(), path.parent, page) for path, page in PARTS.items()}
    pages |= {f"generated/{name}": text for name, text in reference.pages().items()}
    for page, text in pages.items():
        path = DOCS / f"{page}.md"
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _read(app: object, page: str, content: list[str]) -> None:
    if not page.startswith("generated/"):
        content[0] = _links(content[0], (DOCS / f"{page}.md").parent, page)


def setup(app: object) -> None:
    """Sphinx calls this."""
    app.connect("builder-inited", _generate)
    app.connect("source-read", _read)
