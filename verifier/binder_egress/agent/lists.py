"""The operator's lists: files of SHA-256 hashes, and of YARA rules, in folders that a ConfigMap or a Secret fills."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MAX_LIST_BYTES = 4 << 20
"""The largest file that is read. A ConfigMap or a Secret holds 1 MiB at most."""

HASHES, RULES = ".sha256", (".yar", ".yara")
"""The endings of file names: lists of hashes, and YARA rules. Other files are ignored."""

_LINE = re.compile(r"(?P<sum>[0-9A-Fa-f]{64})(?:\s+\*?(?P<label>.*))?")


@dataclass(frozen=True)
class Match:
    """A match of a file.

    Attributes:
        list_name: the name of the list, which is its file's name without the ending.
        label: the label of the hash, or the name of the rule.
    """

    list_name: str
    label: str


@dataclass
class Lists:
    """The content of the files.

    Attributes:
        hashes: SHA-256 in hexadecimal → the matches.
        rules: YARA rules by the name of the list.
        broken: what is wrong, in one sentence each, by the name of the list; the rest of a list counts.
    """

    hashes: dict[str, list[Match]] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    broken: dict[str, list[str]] = field(default_factory=dict)

    def note(self, name: str, problem: str) -> None:
        """Note a problem with a list."""
        self.broken.setdefault(name, []).append(problem)


def signature(folders: Iterable[Path]) -> tuple[object, ...]:
    """A value that changes when a list does. The kubelet replaces a symbolic link at each change, so the files behind it differ."""
    return tuple(
        (str(file), found.st_ino, found.st_size, found.st_mtime_ns) for file in _files(folders) for found in (file.stat(),)
    )


def read(folders: Iterable[Path]) -> Lists:
    """Read all lists. A problem with one does not keep the others out.

    A line of hashes is what `sha256sum` writes: the hash, spaces and a label. Empty lines and comments (`#`) are skipped.
    """
    lists = Lists()
    for file in _files(folders):
        name = file.stem
        try:
            if file.stat().st_size > MAX_LIST_BYTES:
                raise ValueError(f"it has more than {MAX_LIST_BYTES} bytes")
            text = file.read_text()
        except (OSError, ValueError) as error:
            lists.note(name, f"{file.name}: cannot be read: {error}")
            continue
        if file.suffix in RULES:
            if name in lists.rules:
                lists.note(name, f"{file.name}: there is another list of rules of this name; rename it")
            else:
                lists.rules[name] = text
            continue
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if found := _LINE.fullmatch(line):
                label = (found["label"] or "").strip() or found["sum"][:12].lower()
                lists.hashes.setdefault(found["sum"].lower(), []).append(Match(name, label))
            else:
                lists.note(name, f"{file.name}, line {number}: is not a SHA-256 in hexadecimal, spaces and a label")
    return lists


def _files(folders: Iterable[Path]) -> list[Path]:
    """The lists, sorted by name. Names that begin with a dot are the kubelet's own."""
    found = (file for folder in folders if folder.is_dir() for file in folder.iterdir())
    return sorted(file for file in found if file.name[0] != "." and file.suffix in (HASHES, *RULES) and file.is_file())
