"""docs/logs.md lists each event, message and field of the logs."""

import ast
import json
import logging
import re
from pathlib import Path

from verifier import logs

TOP = Path(__file__).parents[2]
DOCUMENT = (TOP / "docs/logs.md").read_text()
SOURCES = sorted(path for path in TOP.glob("verifier/**/*.py") if path.name not in ("logs.py", "start_guard.py", "probe.py"))
LEVELS = ("info", "warning", "error", "exception")


def section(title):
    """Returns the first cells of the table below a heading, without the marks of code spans."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)
    assert len(found) == len(set(found))
    return set(found)


def name(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def text(node):
    """Returns a constant text, with … in place of filled-in parts; None for anything else."""
    found = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return re.sub(r"%[sd]", "…", node.value) if found else None


def is_logging(call):
    logger = getattr(call.func, "value", None)
    ours = getattr(logger, "id", "") == "log" or (isinstance(logger, ast.Call) and name(logger) == "getLogger")
    return ours and name(call) in LEVELS


def keys(tree):
    """Returns the keys of all dictionaries in a part of the code."""
    found = (key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys)
    return {key.value for key in found if isinstance(key, ast.Constant)}


def functions():
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node, [call for call in ast.walk(node) if isinstance(call, ast.Call)]


def logged():
    """Returns the events, messages and fields that the code logs."""
    events, messages, fields = set(), set(), {"user", "server"}  # log_decision adds the path's arguments
    for function, calls in functions():
        deciding = [call for call in calls if name(call) in ("decision", "log_decision", "_log", "_Attempt")]
        telling = [call for call in calls if is_logging(call) or name(call) == "_log_change"]
        events.update(text(call.args[0]) for call in deciding if call.args)
        messages.update(text(call.args[2] if name(call) == "_log_change" else call.args[0]) for call in telling)
        fields.update(word.arg for call in deciding for word in call.keywords)
        fields.update(word.arg for call in telling if name(call) == "_log_change" for word in call.keywords)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and {"fields", "where"} & {getattr(target, "id", "") for target in node.targets}:
                fields.update(keys(node.value))
        # Fields after ** as well, and those in a dictionary.
        for call in deciding + telling:
            fields.update(key for argument in call.args for key in keys(argument))
            fields.update(key for word in call.keywords if word.arg in (None, "extra") for key in keys(word.value))
        if function.name == "_log":
            fields.update(keys(function))
    return events - {None}, messages - {None, "…"}, fields - {None, "fields", "event"}


EVENTS, MESSAGES, FIELDS = logged()


def test_line_cannot_send_terminal_escapes():
    """Strangers choose names of users and repositories, and operators read lines in a terminal, which obeys some of C1 too."""
    made = logs.configuration("info")["formatters"]["json"]["()"]()
    repository = "https://\x9b2J@github.com/x/\x1b[2J\u202ename"
    line = made.format(logging.makeLogRecord({"msg": "launch", "fields": {"repository": repository}}))
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["repository"] == repository


def test_logged_names_are_found_in_the_code():
    assert {"launch", "pass", "solution", "unlock", "pod", "block"} <= EVENTS
    assert {"pod without launch record", "policies open the gate", "list: …"} <= MESSAGES
    assert {"client_network", "repository", "granted_image", "pass_outcome", "why", "targets"} <= FIELDS


def test_documented_events_are_the_logged_ones():
    assert section("Decisions") == EVENTS


def test_documented_messages_are_the_logged_ones():
    assert section("Messages") == MESSAGES


def test_documented_fields_are_the_logged_ones():
    assert section("Fields") == FIELDS


def test_documented_lines_of_binderhub_and_the_hub_are_the_logged_ones():
    """The lines of chart/integration, which BinderHub and the hub run."""
    said, filled = set(), r"%\.?\d*[sd]|\{.*?\}"
    for source in (TOP / "chart/integration").glob("*.py"):
        for line in re.findall(r'"binder-egress: (.*?)"[,)\n]', source.read_text()):
            said.add(re.sub(filled, "…", line))
    # launch_hook.py fills the last place with one text, which begins with "not announced".
    said = {re.sub(r"…/… …", "…/… not announced, …", line) for line in said}
    shown = section("BinderHub and the hub")
    assert len(said) > 8 and shown == said
