"""The files that `egress plan` writes. A YAML library writes them, so that what was read in the cluster stays data."""

import io
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted

from .findings import Finding, Setting, shown

OURS, BINDERHUBS, HUBS = "your-egress-values.yaml", "your-values.yaml", "your-hub-values.yaml"
"""The files' names, as the documentation has them: ours, BinderHub's or a parent chart's, and JupyterHub's if that is another."""

SEEN = "# seen, "
"""The beginning of a line of our file that says what was seen, for `--check`."""

PLAIN = re.compile(r"(?!(?:true|false|yes|no|on|off|null|y|n)$)[a-z][a-z0-9_-]*(?:[./][a-z0-9_-]+)*", re.IGNORECASE)
"""Texts that mean themselves in every version of YAML. All others are quoted."""


def our_values(findings: Iterable[Finding], fixed: Iterable[tuple[Setting, str]], top: str = "") -> str:
    """Our values file: what differs from the defaults, with a comment that says what was seen.

    Args:
        findings: all findings.
        fixed: settings that follow from the command line, each with its comment; their paths begin with `top`, if any.
        top: the key of our chart in a parent chart; empty without one.
    """
    findings = list(findings)
    values = CommentedMap()
    last: tuple[tuple[str, ...], str] = (), ""
    above = (top,) if top else ()
    seen = [(Setting((*above, *each.path), each.value), finding.seen) for finding in findings for each in finding.settings]
    for setting, comment in [*fixed, *seen]:
        here = setting.path[:-1], shown(comment)
        _put(values, setting.path, setting.value, here[1] if here != last else None)
        last = here
    lines = "".join(f"{SEEN}{finding.id}: {shown(finding.seen)}\n" for finding in findings)
    head = "# Written by `egress plan`, which reads only. What is not here has the chart's default.\n"
    return f"{head}{_dump(values)}\n# What `egress plan --check` compares.\n{lines}"


def _put(values: CommentedMap, path: tuple[str, ...], value: Any, comment: str | None) -> None:
    for key in path[:-1]:
        if key not in values:
            values[key] = CommentedMap()
        values = values[key]
    values[path[-1]] = _quoted(value)
    if comment:
        values.yaml_set_comment_before_after_key(path[-1], before=comment, indent=2 * (len(path) - 1))


def their_values(values: Mapping[str, Any]) -> str:
    """A values file of BinderHub's, JupyterHub's or a parent chart's."""
    head = "# Written by `egress plan`: your values, with variables as the wiring needs them, and without the rest of the wiring.\n"
    return f"{head}{_dump(_quoted(values), unicode=True)}"


def _quoted(value: Any) -> Any:
    """A value whose texts are quoted wherever some version of YAML could read something else."""
    if isinstance(value, Mapping):
        return CommentedMap((_quoted(key), _quoted(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_quoted(item) for item in value]
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        return Quoted(value.encode(errors="replace").decode())
    return value


def _dump(values: Mapping[str, Any], unicode: bool = False) -> str:
    yaml = YAML()
    yaml.allow_unicode = unicode
    yaml.width = 10_000
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files that only their owner may read: BinderHub's values may have tokens in them.

    A file that exists is replaced whole. Whoever could read the old one, or has it open, cannot read the new one.

    Args:
        folder: where to.
        files: name → content.

    Raises:
        OSError: they cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".egress-plan-") as beside:
        for name, text in files.items():
            made = Path(beside, name)
            made.touch(0o600)
            made.write_text(text, encoding="utf-8")
        for name in files:
            os.replace(Path(beside, name), folder / name)


def changes(text: str, findings: Iterable[Finding]) -> list[str]:
    """What differs from the findings that a values file of ours was written with, one sentence each (D-487).

    Args:
        text: the file.
        findings: today's findings.
    """
    before = {line.removeprefix(SEEN) for line in text.splitlines() if line.startswith(SEEN)}
    now = {f"{finding.id}: {shown(finding.seen)}" for finding in findings}
    return [*(f"no longer: {line}" for line in sorted(before - now)), *(f"new: {line}" for line in sorted(now - before))]
