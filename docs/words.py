"""The page of words: every text that a person may meet, read from the sources, so that it can be read as a whole."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[1]
MESSAGES = TOP / "verifier/binder_egress/web/messages"
LANGUAGES = ("en", *sorted({file.stem for file in MESSAGES.glob("*/*.json")} - {"en"}))

TITLES = {
    "server": "The page of a server, problem pages, and the text for terminals",
    "launch": "The line on the launch page",
    "third-party": "The link on third-party pages",
}
"""Folder of `MESSAGES` → title; a folder without one is told by its name."""

SPOKEN: dict[str, tuple[list[str], dict[str, int | str], set[str]]] = {
    "Answers to requests (JSON, and pages in English)": (
        [
            "verifier/binder_egress/web/*.py",
            "verifier/binder_egress/model/passes.py",
            "verifier/binder_egress/gate/api_keys.py",
            "verifier/binder_egress/decisions/re*.py",
            "verifier/binder_egress/decisions/presented.py",
        ],
        {"Problem": 1, "BadPass": 1, "BadKey": 1},
        {"TITLES", "REFUSALS", "REJECTED_PASSES"},
    ),
    "The egress proxy's refusals": (["verifier/binder_egress/proxy/refusals.py"], {"Refusal": 2, "malformed": 0}, set()),
    "The command-line client": (
        ["client/binder_egress_client/*.py"],
        {"_say": 0, "_fail": 0, "echo": 0, "Outcome": "why", "LaunchFailed": 0, "NoAnswer": 0, "NoGate": 0, "Unsolvable": 0},
        set(),
    ),
}
"""Title → files; calls, with the number or the name of the argument that is a text; and tables and functions of texts. All are in
English."""

HINTS = {"chart/integration/hint_terminal.sh": r"printf '(This.*?)\\n'", "chart/integration/hint_ipython.py": r'text = "(.*?)"'}
"""File → the pattern of its text."""


def _text(node: ast.AST) -> str:
    """A string of the source; what is filled in is in braces. `""` for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (
            part.value if isinstance(part, ast.Constant) else "{" + re.sub(r"\W+", " ", ast.unparse(part.value)).strip() + "}"
            for part in node.values
        )
        return "".join(str(part) for part in parts)
    if isinstance(node, ast.IfExp):
        return " / ".join(found for found in (_text(node.body), _text(node.orelse)) if found)
    return ""


def _spoken(path: Path, calls: dict[str, int | str], named: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = calls.get(name)
            yield from (_text(word.value) for word in node.keywords if word.arg == at)
            if isinstance(at, int) and at < len(node.args):
                yield _text(node.args[at])
        elif isinstance(node, ast.FunctionDef) and node.name in named:
            yield from (_text(part.value) for part in ast.walk(node) if isinstance(part, ast.Return) and part.value)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(getattr(target, "id", "") in named for target in targets):
                yield from (_text(value.elts[-1] if isinstance(value, ast.Tuple) else value) for value in node.value.values)


def spoken() -> dict[str, list[str]]:
    """The texts in English alone: title → texts, in the order of the sources."""
    hints = [re.search(pattern, (TOP / file).read_text()) for file, pattern in HINTS.items()]
    found = {"Hints inside servers": [hint[1] for hint in hints]}  # type: ignore[index]
    for title, (patterns, calls, tables) in SPOKEN.items():
        paths = sorted({path for pattern in patterns for path in TOP.glob(pattern)})
        texts = (text for path in paths for text in _spoken(path, calls, tables))
        # A text of one word is a name, and no sentence for people.
        found[title] = list(dict.fromkeys(text for text in texts if " " in text))
    return found


def catalogues() -> dict[str, dict[str, dict[str, str]]]:
    """The texts in every language: title → key → language → text."""
    found = {}
    for folder in sorted(MESSAGES.iterdir()):
        texts = {one: json.loads((folder / f"{one}.json").read_text()) for one in LANGUAGES}
        found[TITLES.get(folder.name, folder.name)] = {key: {one: texts[one][key] for one in LANGUAGES} for key in texts["en"]}
    return found


def _cell(text: str) -> str:
    return re.sub(r"([|\\`*_<>\[\]{}$~])", r"\\\1", text).replace("\n", " ")


def words_page() -> str:
    """The page, in Markdown."""
    out = [
        "# Words",
        "",
        "This page lists every text that a person may see, read from the sources: where it appears, and in each of its languages.",
        "A name in braces is filled in.",
        "A text is short, blames nobody, and says how things are, then what to do.",
        "",
        "| where | " + " | ".join(LANGUAGES) + " |",
        "|---" * (len(LANGUAGES) + 1) + "|",
    ]
    for title, texts in catalogues().items():
        out.append(f"| **{title}** |" + " |" * len(LANGUAGES))
        out += [f"| `{key}` | " + " | ".join(_cell(by[one]) for one in LANGUAGES) + " |" for key, by in texts.items()]
    for title, english in spoken().items():
        out.append(f"| **{title}** |" + " |" * len(LANGUAGES))
        out += [f"| | {_cell(text)} |" + " |" * (len(LANGUAGES) - 1) for text in english]
    return "\n".join([*out, ""])
