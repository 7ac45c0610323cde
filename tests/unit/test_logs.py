"""docs/logs.md lists each event of the logs, and the fields and messages that do not explain themselves."""

import json
import logging
import re
from dataclasses import replace

from binder_egress import logs
from binder_egress.model.records import PassOutcome
from tests.support import TOP
from tests.support.apps import get_pass, internal_client, public_client, run_pod
from tests.support.clock import Clock
from tests.support.metrics import value

DOCUMENT = (TOP / "docs/logs.md").read_text()
SOURCES = sorted(path for path in TOP.glob("verifier/binder_egress/**/*.py") if path.name not in ("start_guard.py", "probe.py"))


def section(title, end="## "):
    """Returns what the first cells of the table below a heading or a sentence name, without the marks of code spans."""
    (text,) = re.findall(rf"^{title}\n(.*?)(?=^{end}|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    found = [one for cell in re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE) for one in cell.split("`, `")]
    assert len(found) == len(set(found))
    return set(found)


SOURCE = "\n".join(path.read_text() for path in SOURCES)
EVENTS = set(re.findall(r'\b(?:decision|log_decision|log_refusal|_Attempt|operators\.log)\(\s*"([a-z -]+)"', SOURCE))


def test_line_cannot_send_terminal_escapes():
    """Strangers choose names of users and repositories, and operators read lines in a terminal, which obeys some of C1 too."""
    made = logs.configuration("info")["formatters"]["json"]["()"]()
    repository = "https://\x9b2J@github.com/x/\x1b[2J\u202ename"
    line = made.format(logging.makeLogRecord({"msg": "launch", "fields": {"repository": repository}}))
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["repository"] == repository


def test_documented_events_outcomes_messages_and_fields_are_the_logged_ones():
    """Other messages say themselves what to do. In place of each … in one, the code fills something in."""
    assert section("## Decisions", "These fields") == EVENTS
    (outcomes,) = re.findall(r"^\| `pass_outcome` \|(.*)", DOCUMENT, re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", outcomes)) | {"lease-given", "outranked"} == set(PassOutcome)
    for message in section("## Messages"):
        assert re.search(r"%[sd]".join(map(re.escape, message.split("…"))) + '"', SOURCE), message
    for field in section("These fields .*:"):
        assert re.search(rf'\b{field}=|"{field}": ', SOURCE), field


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


def test_rubbish_of_one_network_is_logged_up_to_a_limit_and_counted_always(services, store, caplog):
    run_pod(store)
    clock, more = Clock(), 3
    services = replace(services, refusals=logs.Refusals(clock))
    client = public_client(services)
    with caplog.at_level(logging.INFO):
        for _ in range(logs.MAX_LINES + more):
            assert client.post("/egress/servers/alice", json={"token": "rubbish"}).status_code == 403
            assert client.post("/egress/passes", json={"provider": "altcha", "solution": "rubbish"}).status_code == 403
        for event in ("unlock", "solution"):
            last = f"{event}: further lines of this kind are not logged for 600 s"
            assert messages(caplog, event) == (logs.MAX_LINES, [last])
        (fields,) = [record.fields for record in caplog.records if record.getMessage().startswith("unlock: ")]
        assert fields["rule"] == "invalid"
        public_client(services, "203.0.113.8").post("/egress/servers/alice", json={"token": "rubbish"})
        # What is given out is logged whatever its network sent before.
        get_pass(client)
        clock.now += logs.LINES_WINDOW_SECONDS
        client.post("/egress/servers/alice", json={"token": "rubbish"})
    assert messages(caplog, "unlock")[0] == logs.MAX_LINES + 2 and messages(caplog, "pass")[0] == 1
    labels = {"provider": "altcha", "purpose": "launch", "outcome": "rejected"}
    assert value(internal_client(services), "binder_egress_solutions_total", **labels) == logs.MAX_LINES + more


def test_error_of_redis_is_logged_once_in_some_seconds(internal, redis_server, caplog):
    redis_server.stop()
    for _ in range(5):
        answer = internal.post("/api/launches", json={"user": "alice", "image": "image:1"})
        assert answer.status_code == 503
    assert len([record for record in caplog.records if record.name == "binder_egress.web.problems"]) == 1
