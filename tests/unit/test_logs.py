"""docs/logs.md lists each event of the logs, and the fields and messages that do not explain themselves."""

import ast
import json
import logging
import re
from pathlib import Path

from tests.support.apps import get_pass, internal_client, public_client, run_pod
from tests.support.metrics import value
from verifier import logs
from verifier.records import PassOutcome

TOP = Path(__file__).parents[2]
DOCUMENT = (TOP / "docs/logs.md").read_text()
SOURCES = sorted(path for path in TOP.glob("verifier/**/*.py") if path.name not in ("start_guard.py", "probe.py"))
LEVELS = ("info", "warning", "error", "exception")


def section(title, end="## "):
    """Returns what the first cells of the table below a heading or a sentence name, without the marks of code spans."""
    (text,) = re.findall(rf"^{title}\n(.*?)(?=^{end}|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    found = [one for cell in re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE) for one in cell.split("`, `")]
    assert len(found) == len(set(found))
    return set(found)


def name(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def text(node):
    """Returns a constant text, with … in place of filled-in parts; None for anything else. No text is formatted before."""
    assert not isinstance(node, ast.JoinedStr), ast.unparse(node)
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
        deciding = [call for call in calls if name(call) in ("decision", "log_decision", "log_refusal", "_Attempt")]
        deciding += [call for call in calls if ast.unparse(call.func) == "operators.log"]
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
        if function.name == "log":
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
    assert section("## Decisions", "These fields") == EVENTS


def test_documented_outcomes_of_a_pass_are_those_of_the_code():
    (outcomes,) = re.findall(r"^\| `pass_outcome` \|(.*)", DOCUMENT, re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", outcomes)) | {"lease-given", "outranked"} == set(PassOutcome)


def test_documented_messages_are_logged():
    """Others say themselves what to do."""
    assert section("## Messages") < MESSAGES


def test_documented_fields_are_logged():
    assert section("These fields .*:") < FIELDS


def test_documented_lines_of_binderhub_and_the_hub_are_the_logged_ones():
    """The lines of chart/integration, which BinderHub and the hub run."""
    said, filled = set(), r"%\.?\d*[sd]|\{.*?\}"
    for source in (TOP / "chart/integration").glob("*.py"):
        for line in re.findall(r'"binder-egress: (.*?)"[,)\n]', source.read_text()):
            said.add(re.sub(filled, "…", line))
    # launch_hook.py fills the last place with one text, which begins with "not announced".
    said = {re.sub(r"…/… …", "…/… not announced, …", line) for line in said}
    shown = section("## BinderHub and the hub")
    assert len(said) > 8 and shown == said


# -- refusals that anybody can cause


def messages(caplog, event):
    """Returns how many lines an event has, and the lines which say that further ones are not logged."""
    found = [record.getMessage() for record in caplog.records]
    return found.count(event), [line for line in found if line.startswith(f"{event}: ")]


def test_refusals_are_logged_up_to_a_limit_for_each(caplog):
    now = [1000.0]
    refusals = logs.Refusals(lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(3 * logs.MAX_LINES):
            refusals.decision("unlock", "a", rule="invalid")
        assert messages(caplog, "unlock") == (logs.MAX_LINES, ["unlock: further lines of this kind are not logged for 600 s"])
        assert caplog.records[-1].fields == {"rule": "invalid"}
        refusals.decision("unlock", "b")
        refusals.decision("solution", "a")
        now[0] += logs.LINES_WINDOW_SECONDS
        refusals.decision("unlock", "a")
    assert (messages(caplog, "unlock")[0], messages(caplog, "solution")[0]) == (logs.MAX_LINES + 2, 1)


def test_rubbish_of_one_network_is_logged_up_to_a_limit_and_counted_always(services, store, caplog):
    run_pod(store)
    client, more = public_client(services), 3
    with caplog.at_level(logging.INFO):
        for _ in range(logs.MAX_LINES + more):
            assert client.post("/egress/servers/alice", json={"token": "rubbish"}).status_code == 403
            assert client.post("/egress/passes", json={"provider": "altcha", "solution": "rubbish"}).status_code == 403
        for event in ("unlock", "solution"):
            assert (messages(caplog, event)[0], len(messages(caplog, event)[1])) == (logs.MAX_LINES, 1)
        public_client(services, "203.0.113.8").post("/egress/servers/alice", json={"token": "rubbish"})
        # What is given out is logged whatever its network sent before.
        get_pass(client)
    assert messages(caplog, "unlock")[0] == logs.MAX_LINES + 1 and messages(caplog, "pass")[0] == 1
    labels = {"provider": "altcha", "purpose": "launch", "outcome": "rejected"}
    assert value(internal_client(services), "binder_egress_solutions_total", **labels) == logs.MAX_LINES + more


def test_error_of_redis_is_logged_once_in_some_seconds(internal, redis_server, caplog):
    redis_server.stop()
    for _ in range(5):
        answer = internal.post("/api/launches", json={"user": "alice", "image": "image:1"})
        assert answer.status_code == 503
    assert len([record for record in caplog.records if record.name == "verifier.web.problems"]) == 1
