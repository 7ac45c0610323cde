"""Reads the comments of chart/values.yaml that begin with `# --`, for the page *Values* of the documentation's site.

A comment is above its value, or after it on the same line. A value without a comment has another value's comment:

- of a map that it is merged from, `<<: *name`;
- of the value with the same path below another map, where a comment above a map around it says: the rest is as in `other.map`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

VALUES = Path(__file__).parents[1] / "chart/values.yaml"

ValuePath = tuple[str, ...]
"""Where a value is: the keys that lead to it."""

LIKE = re.compile(r"The rest is as in `([\w.]+)`")
"""In a comment above a map: the map whose comments apply, as a path from the top, or as the name of a map beside it."""


def comments() -> dict[ValuePath, tuple[str, Any]]:
    """The values with a comment, in the order of the file: path → what it says, with its line ends, and the default."""
    text = VALUES.read_text()
    found = list(_values(yaml.compose(text), text.splitlines()))
    paths = {path for path, _, _ in found}
    likes: dict[ValuePath, ValuePath] = {}
    for path, comment, _ in found:
        if like := LIKE.search(" ".join(comment.split())):
            beside = (*path[:-1], like[1])
            likes[path] = beside if beside in paths - {path} else tuple(like[1].split("."))
    said = {path: comment.removeprefix("-- ") for path, comment, _ in found if comment.startswith("-- ")}

    def text_of(path: ValuePath) -> str | None:
        if path in said:
            return said[path]
        for length in range(len(path) - 1, 0, -1):
            if (like := likes.get(path[:length])) and (text := text_of((*like, *path[length:]))):
                return text
        return None

    return {path: (text, default) for path, _, default in found if (text := text_of(path)) is not None}


def _values(node: yaml.MappingNode, lines: list[str], above: ValuePath = ()) -> Iterator[tuple[ValuePath, str, Any]]:
    """Every value below a map: path, comment ("" without one) and default."""
    for key, value in _merged(node).values():
        path = (*above, key.value)
        yield path, _comment(key, value, lines), yaml.safe_load(yaml.serialize(value))
        if isinstance(value, yaml.MappingNode):
            yield from _values(value, lines, path)


def _merged(node: yaml.MappingNode) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]]:
    """A map's keys and values, with those that it merges: key → both nodes. They know their lines, and so their comments."""
    found: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
    for key, value in node.value:
        found |= _merged(value) if key.tag == "tag:yaml.org,2002:merge" else {key.value: (key, value)}
    return found


def _comment(key: yaml.ScalarNode, value: yaml.Node, lines: list[str]) -> str:
    """The comment of a value."""
    at = key.start_mark.line
    if value.end_mark.line == at and (behind := lines[at][value.end_mark.column :].strip()).startswith("# -- "):
        return behind.removeprefix("# ")
    comment: list[str] = []
    # Keys of a map in one line have no comments of their own.
    while at and lines[at - 1].strip().startswith("#") and not lines[key.start_mark.line][: key.start_mark.column].strip():
        at -= 1
        comment.insert(0, lines[at].strip().removeprefix("#").strip())
    return "\n".join(comment)
