"""A values file with bans added. Existing comments, order and quotes stay as they are (ruamel.yaml)."""

import difflib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.scalarstring import SingleQuotedScalarString as Quoted
from ruamel.yaml.tokens import CommentToken

from ..operators_yaml import NotYaml, load

_STYLES = [(mapping, mapping + offset, offset) for mapping in (2, 4) for offset in (0, 2)]
"""How lists may be indented: ruamel.yaml writes the whole file in one way, so the one that changes the least is used."""


class ProposalRefused(click.ClickException):
    """The request cannot be fulfilled, or is refused. The message is a sentence for people."""

    exit_code = 4


def decoded(content: bytes) -> str:
    """The text of a values file.

    Raises:
        ProposalRefused: the file is encrypted by git-crypt, or is not UTF-8.
    """
    if content.startswith(b"\0GITCRYPT"):
        raise ProposalRefused(
            "The values file is encrypted by git-crypt: unlock the repository, and name the file on this machine."
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ProposalRefused("The values file is not UTF-8.") from error


def with_bans(text: str, where: str, specs: dict[str, list[str]], networks: dict[str, str]) -> str:
    """The text of a values file with bans added. Existing bans are not added again.

    Args:
        text: the text of the file.
        where: the path of BinderHub's configuration in it, such as `binderhub.config`.
        specs: provider → regular expressions for `banned_specs`.
        networks: entries for `ban_networks`.

    Raises:
        ProposalRefused: the file is encrypted by SOPS, is not YAML, or has something else in the place of the bans.
    """
    best, least = text, None
    for style in _STYLES:
        yaml = _yaml(style)
        try:
            plain = _dumped(yaml, load(yaml, text))
            changed = _add(load(yaml, text), where, specs, networks)
        except NotYaml as error:
            raise ProposalRefused(f"The values file is no YAML{error}.") from error
        except _Misplaced as error:
            raise ProposalRefused(f"The values file has something else {error}: bans cannot be added.") from error
        if not changed[0]:
            return text
        distance = sum(line[0] in "+-" for line in difflib.ndiff(text.splitlines(), plain.splitlines()))
        if least is None or distance < least:
            best, least = _dumped(yaml, changed[1]), distance
    return best.replace("\n", "\r\n") if "\r\n" in text else best


def patch(name: str, before: str, after: str) -> str:
    """The change of a file, for `git apply`; `""` if there is none."""
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


class _Misplaced(Exception):
    pass


def _yaml(style: tuple[int, int, int]) -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1_000_000  # lines are not broken
    yaml.indent(*style)
    return yaml


def _dumped(yaml: YAML, values: Any) -> str:
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def _add(values: Any, where: str, specs: dict[str, list[str]], networks: dict[str, str]) -> tuple[bool, Any]:
    """Add the bans. Returns whether anything is new, and the values, which are a new object if the file was empty."""
    values = CommentedMap() if values is None else values
    if isinstance(values, dict) and "sops" in values:
        raise ProposalRefused("The values file is encrypted by SOPS: a change by anything else would break its checksum.")
    new = False
    for provider, patterns in specs.items():
        path = [*where.split("."), provider, "banned_specs"]
        there = _there(values, path, [])
        if missing := [Quoted(one) for one in patterns if one not in there]:
            _put(values, path, CommentedSeq(missing))
            new = True
    path = [*where.split("."), "BinderHub", "ban_networks"]
    there = _there(values, path, {})
    if absent := {Quoted(cidr): Quoted(label) for cidr, label in networks.items() if cidr not in there}:
        _put(values, path, CommentedMap(absent))
        new = True
    return new, values


def _there(values: Any, path: list[str], empty: Any) -> Any:
    for number, part in enumerate(path):
        if not isinstance(values, dict):
            raise _Misplaced(f"at {'.'.join(path[:number])}" if number else "at its top")
        values = values.get(part)
        if values is None:
            return empty
    if not isinstance(values, type(empty)):
        raise _Misplaced(f"at {'.'.join(path)}")
    return values


def _put(values: Any, path: list[str], content: Any) -> None:
    """Add to the list or map at a path, or put content there. Anything absent or empty on the way becomes a map in block style."""
    node, rest = values, path
    while rest and node.get(rest[0]):
        node, rest = node[rest[0]], rest[1:]
    for part in reversed(rest[1:]):
        content = CommentedMap({part: content})
    with _comment_behind(node):
        if rest:
            node[rest[0]] = content
        elif isinstance(node, list):
            node.extend(content)
        else:
            node.update(content)


@contextmanager
def _comment_behind(node: Any) -> Iterator[None]:
    """While a list or map grows, keep the comment after its last line at its end: usually it is about what follows."""
    before = _last(node)
    tokens: Any = before and before[0].ca.items.get(before[1])
    token: Any = tokens and tokens[before[2]]
    own, _, rest = token.value.partition("\n") if token else ("", "", "")
    if rest:
        tokens[before[2]] = CommentToken(f"{own}\n", token.start_mark) if own else None
    yield
    if rest:
        after = _last(node)
        own = own if after[0] is before[0] and after[1] == before[1] else ""
        token = CommentToken(f"{own}\n{rest}", token.start_mark if own else CommentMark(0))
        after[0].ca.items[after[1]] = [token if slot == after[2] else None for slot in range(4)]


def _last(node: Any) -> Any:
    """The innermost list or map at the end of another, its last key, and where ruamel.yaml keeps the comment after it."""
    found = None
    while isinstance(node, CommentedMap | CommentedSeq) and node and not node.fa.flow_style():
        is_map = isinstance(node, CommentedMap)
        key = list(node)[-1] if is_map else len(node) - 1
        found, node = (node, key, 2 if is_map else 0), node[key]
    return found
