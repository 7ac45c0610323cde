"""What the comments of chart/values.yaml say, those that begin with `# --`: for its README and for the documentation's site."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

VALUES = Path(__file__).parents[1] / "chart/values.yaml"


def explained() -> dict[tuple[str, ...], tuple[str, Any]]:
    """The values with a comment, in the order of the file: path → what it says, with its line ends, and the default."""
    text = VALUES.read_text()
    return {path: (comment, default) for path, comment, default in _commented(yaml.compose(text), text.splitlines())}


def _commented(node: yaml.MappingNode, lines: list[str], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    for key, value in node.value:
        path = (*above, key.value)
        at = key.start_mark.line
        comment: list[str] = []
        while at and lines[at - 1].strip().startswith("#"):
            at -= 1
            comment.insert(0, lines[at].strip().removeprefix("#").strip())
        if comment and comment[0].startswith("-- "):
            yield path, "\n".join(comment).removeprefix("-- "), yaml.safe_load(yaml.serialize(value))
        if isinstance(value, yaml.MappingNode):
            yield from _commented(value, lines, path)
