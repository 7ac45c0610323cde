"""`egress detect` and `egress detections`: detectors' lines entered by hand, and the outcomes of all reports."""

import json
import time

import pytest

from binder_egress.detections.reporters import Reporters
from tests.support.detections import Site, deleted, killed
from tests.support.egress_command import run_egress
from tests.support.reconciling import granted, make_grant, running

SOURCES = {"cryptnono": {"on_match": "revoke"}, "minesweeper": {}}


@pytest.fixture
def egress(redis_server, store, monkeypatch, capsys):

    def run(*arguments, lines="", sources=SOURCES):
        settings = {"BINDER_EGRESS_REDIS_URL": redis_server.url, "BINDER_EGRESS_DETECTIONS": json.dumps(sources)}
        return run_egress(monkeypatch, capsys, *arguments, lines=lines, **settings)

    return run


@pytest.fixture
def serving(make_reconciler, cluster, monkeypatch):
    """A reconciler that acts on reports in the background, on a pod that has egress. On a busy machine it takes its time."""
    monkeypatch.setattr("binder_egress.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 60)
    cluster.add(**granted(make_grant()))
    with running(make_reconciler(detections=SOURCES, steady=time.monotonic)):
        yield


def test_lines_are_entered_and_each_is_answered(egress, serving, tmp_path):
    lines = [
        "Total processes for node-1: 345",
        killed(),
        killed(action="spared"),
        "[pod/minesweeper-x] 2020-01-01T00:00:00Z " + deleted("jupyter-nobody--"),
    ]
    code, out, err = egress("detect", "--from", "-", lines="\n".join(lines))
    assert (code, out) == (0, "jupyter-alice--: revoked\njupyter-nobody--: unknown-pod\n")
    assert "Line 1: It does not begin with a JSON object. Total processes" in err
    assert "Lines that report nothing: 1. Lines that cannot be read: 1." in err
    code, out, _ = egress("detections", "list")
    assert code == 0 and [line.split()[1:5] for line in out.splitlines()[1:]] == [
        ["minesweeper", "minesweeper", "cpu", "and"],
        ["cryptnono", "execwhacker", "xmrig", "revoked"],
    ]
    assert "detector cryptnono: execwhacker: xmrig" in egress("explain", "alice")[1]
    file = tmp_path / "lines"
    file.write_text(killed(uid="uid-9"))
    code, out, _ = egress("detect", "--from", str(file), "--source", "minesweeper", "--json")
    assert code == 0 and (json.loads(out)["outcome"], json.loads(out)["source"]) == ("unknown-pod", "minesweeper")


def test_cut_that_is_not_seen_to_act_is_said(egress, make_reconciler, cluster, store, monkeypatch):
    monkeypatch.setattr("binder_egress.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 60)
    monkeypatch.setattr("binder_egress.operators.actions.confirmation.WAIT_SECONDS", 0.2)
    cluster.add(node="n1", **granted(make_grant()))
    with running(make_reconciler(detections=SOURCES, steady=time.monotonic)):
        store.publish_measured("n1", {"off": 0.1, "at": 1.0, "since": time.time() - 180})
        code, out, err = egress("detect", "--from", "-", lines=killed())
    assert (code, out) == (5, "jupyter-alice--: revoked\n")
    assert err.splitlines()[-1].startswith("alice: written; the network plugin of n1 has not acted on labels for 3 min: ")


@pytest.mark.parametrize(("sources", "more"), [({}, []), ({"falco": {}}, ["--source", "other"])])
def test_source_that_is_not_in_the_values_is_refused(egress, store, sources, more):
    code, _, err = egress("detect", "--from", "-", *more, lines=killed(), sources=sources)
    assert code == 4 and "in detections.sources" in err
    assert store.waiting_reports(1) == []


def test_line_of_a_source_that_is_not_in_the_values_ends_nothing(egress):
    """A stranger may have written it into a detector's log."""
    lines = '{"pod": "a", "source": "other"}\n{"pod": "a"}\n' + killed()
    code, out, err = egress("detect", "--from", "-", lines=lines)
    # Nor is there a reconciler that reads the report.
    assert (code, out) == (5, "jupyter-alice--: pending\n") and "is recorded" in err and "Line 1: There is no source 'other'" in err
    assert "Line 2: The report names no source" in err


def test_line_without_an_end_is_no_fault(egress):
    code, out, err = egress("detect", "--from", "-", lines="x" * (1 << 21) + killed() + "\n" + "\x1b[2J\xff")
    assert (code, out) == (0, "") and "longer than" in err and "\\x1b[2J" in err and "\x1b" not in err


def test_unreadable_lines_of_the_receiver_are_listed(egress, redis_server, store, tmp_path):
    site = Site(redis_server, store, tmp_path)
    site.send("\x1b]0;title")
    code, out, _ = egress("detections", "unreadable")
    assert code == 0 and "cryptnono" in out and "\\x1b]0;title" in out and "\x1b" not in out


def test_created_token_is_good_with_its_hash(egress, tmp_path):
    made = json.loads(egress("detections", "create-token", "falco", "--json")[1])
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"falco": made["values"]["detections"]["sources"]["falco"]["tokenHash"]}))
    assert Reporters(str(file), ["falco"]).find(made["token"]) == "falco"
    code, out, _ = egress("detections", "create-token", "falco")
    assert code == 0 and "binder_egress_reporter_" in out and "tokenHash:" in out


@pytest.mark.parametrize("source", ["Falco", "falco/x", "", "x" * 41, "agent"])
def test_no_token_is_made_for_a_source_that_the_values_cannot_have(egress, source):
    code, out, err = egress("detections", "create-token", source)
    assert (code, out) == (2, "") and "source: " in err
