"""The examples of docs/detections.md: values, lines, and names, which all exist."""

import json
import re
import subprocess
from pathlib import Path

import jsonschema_rs
import yaml

from binder_egress.detections import reports
from binder_egress.detections.reporters import KEPT_UNREADABLE, REPORTS_PER_MINUTE
from binder_egress.detections.reports import read
from binder_egress.detections.share_limit import ALWAYS, MAX_SHARE, WINDOW_SECONDS
from binder_egress.operators.commands import show
from binder_egress.store.detections import KEPT_DETECTIONS, MAX_REPORTS
from binder_egress.store.reconciler_counters import DetectionOutcome
from binder_egress.web.receiver import MAX_LINES
from tests.support import TOP
from tests.support.doc_examples import section

PAGE = (TOP / "docs/detections.md").read_text()


def test_values_fit_the_schema():
    (text,) = section("docs/detections.md", "Switch it on", "yaml")
    values, schema = yaml.safe_load(text)["detections"], json.loads((TOP / "chart/values.schema.json").read_text())
    assert "internalFrom" in schema["properties"]["verifier"]["properties"]["networkPolicy"]["properties"]
    part = {**schema["properties"]["detections"], "definitions": schema["definitions"]}
    part.pop("required", None)
    jsonschema_rs.validator_for(part).validate({"existingSecret": "", **values})
    assert set(values["sources"]) == {"cryptnono", "falco", "minesweeper"}


def test_own_line_is_a_report():
    (command,) = section("docs/detections.md", "Your own")
    (line,) = re.findall(r"-d '(.*)'", command)
    assert read(line, 1000.0).reason == "disk: a chain of 40 GB"


def test_blocks_of_one_entry_are_removed(tmp_path, capsys):
    """A program's name may look like the rest of a row."""
    (command,) = section("docs/detections.md", "What follows")
    wrong = {"kind": "server", "at": 0, "until": None, "by": "detector cryptnono", "why": "execwhacker: pip"}
    named = {"by": "detector falco", "why": "Miner: /tmp/x  detector cryptnono  execwhacker: pip"}
    others = {"by": "detector minesweeper"}, {"why": "execwhacker: pip2"}, {"why": "other: execwhacker: pip"}, named
    rows = [wrong | {"id": "alice", "what": "alice"}, wrong | {"id": "bob/b", "what": "bob/b"}]
    rows += [wrong | {"id": f"other-{number}", "what": "x"} | other for number, other in enumerate(others)]
    for options, as_json in (("", False), ("--json", True)):
        show(rows, as_json, ["id", "kind", "what", "at", "until", "by", "why"])
        (tmp_path / f"blocks{options}").write_text(capsys.readouterr().out)
    blocks = f"egress() {{ if [ $1 = blocks ]; then cat {tmp_path}/blocks$2; else echo $2; fi; }}"
    removed = subprocess.run(["sh", "-c", f"{blocks}\n{command}"], capture_output=True, text=True, check=True).stdout.split()
    assert removed == ["alice", "bob/b"]


def test_falco_settings_give_the_fields_that_are_read():
    (text,) = section("docs/detections.md", "Falco", "yaml")
    values = yaml.safe_load(text)
    (more,) = values["append_output"]
    source = Path(reports.__file__).read_text()
    assert all(f'"{name}"' in source for name in more["extra_fields"])
    assert values["http_output"]["url"].endswith("/api/detections")


def test_outcomes_and_numbers_are_those_of_the_code():
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \| (?:what follows|it would|the server|no pod|a bug)", PAGE, re.M)
    assert {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)} == set(DetectionOutcome)
    assert (ALWAYS, MAX_SHARE, WINDOW_SECONDS) == (9, 0.1, 600) and "**nine servers, or a tenth of those that run**" in PAGE
    assert f"{MAX_LINES} lines and 1 MiB in a request at most, {REPORTS_PER_MINUTE} lines a minute" in PAGE
    assert f"the last {KEPT_DETECTIONS} reports" in PAGE and f"At most {MAX_REPORTS:,} reports wait" in PAGE
    assert KEPT_UNREADABLE == 3 and "the last three lines of each source" in PAGE
