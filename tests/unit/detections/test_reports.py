"""Reports are read from detectors' lines, and nothing else becomes a report."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_egress.detections import reports
from binder_egress.detections.reports import Report, Unreadable, read
from tests.support.detections import NAMESPACE, deleted, falco, killed, killed_by_flowkiller

NOW = 2000.0
ALICE = {"pod": "jupyter-alice--"}
OF_ALICE = {**ALICE, "uid": "uid-1", "namespace": NAMESPACE}


@pytest.mark.parametrize(
    ("line", "report"),
    [
        (killed(), Report("cryptnono", "execwhacker", "xmrig", 1000.0, **OF_ALICE)),
        (killed_by_flowkiller(addresses={"a": 1}), Report("cryptnono", "flowkiller", "scan", 1000.0, **OF_ALICE)),
        (killed_by_flowkiller(**{"banned-ip": "203.0.113.7"}), Report("cryptnono", "flowkiller", "banned-ip", 1000.0, **OF_ALICE)),
        ("1970-01-01T00:16:40.5Z " + deleted(), Report("minesweeper", "minesweeper", "cpu and name", 1000.5, **ALICE)),
        (killed(timestamp="yesterday"), Report("cryptnono", "execwhacker", "xmrig", NOW, **OF_ALICE)),
        (falco(), Report("falco", "Detect crypto miners", "/tmp/xmrig", 1000.123456, **OF_ALICE)),
        (falco(**{"proc.exepath": "<NA>", "k8s.pod.name": None}), {"label": "xmrig", "pod": "", "uid": "uid-1"}),
        ('{"pod": "a", "list": "l", "label": "x"}', Report("", "l", "x", NOW, pod="a")),
        ('{"uid": "u", "source": "agent"}', Report("agent", "", "", NOW, uid="u")),
        ('{"server": "alice/lab", "time": "1970-01-01T00:16:40Z"}', Report("", "", "", 1000.0, user="alice", server="lab")),
    ],
)
def test_report_is_read_from_each_kind_of_line(line, report):
    found = read(line, NOW)
    if isinstance(report, dict):
        assert {name: getattr(found, name) for name in report} == report
    else:
        assert found == report


@pytest.mark.parametrize(
    "around",
    [
        "1970-01-01T00:16:40Z {}",
        "[pod/cryptnono-x7/minesweeper] 1970-01-01T00:16:40.000000001Z {}",
        '{{"date": 1000.0, "log": {quoted}}}',
        '{{"timestamp": "1970-01-01T00:16:40Z", "message": {quoted}, "kubernetes": {{}}}}',
    ],
)
def test_time_is_taken_from_what_log_shippers_write_around_a_line(around):
    line = deleted()
    assert read(around.format(line, quoted=json.dumps(line + "\n")), NOW).at == 1000.0


@pytest.mark.parametrize("field", ["log", "message"])
@pytest.mark.parametrize("line", [killed(), falco(), '{"pod": "jupyter-alice--", "uid": "uid-1"}'])
@pytest.mark.parametrize("quoted", [killed(pod="jupyter-bob--", uid="uid-2"), "{x pool"])
def test_quoted_text_does_not_replace_a_report(line, field, quoted):
    """A stranger chooses what a detector quotes."""
    assert read(json.dumps(json.loads(line) | {field: quoted}), NOW) == read(line, NOW)


BUILD = {"container_type": "docker", "labels": {"repo2docker.version": "2025.8.0"}}


@pytest.mark.parametrize(
    "line",
    [
        killed(action="spared"),
        '{"event": "Found config", "level": "info"}',
        killed(**BUILD),
        killed(**BUILD | {"labels": None}),
        json.dumps(json.loads(killed_by_flowkiller()) | {"container": BUILD}),
    ],
)
def test_other_lines_of_detectors_are_no_report(line):
    assert read(line, NOW) is None


def test_alert_about_the_node_or_about_falco_itself_is_no_report():
    assert read(falco(**{"container.id": "host", "k8s.pod.name": None, "k8s.pod.uid": None}), NOW) is None
    drops = {"rule": "Falco internal: syscall event drop", "output_fields": {"ebpf_enabled": "1", "n_drops": "815508"}}
    assert read(json.dumps(json.loads(falco()) | drops), NOW) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Total processes for node-1: 345", "does not begin with"),
        ("    " + killed(), "does not begin with"),  # the log of a pod, in minesweeper's
        ("1970-01-01T00:16:40.0Z stdout F " + killed(), "does not begin with"),
        (killed()[:-5], "not JSON"),
        (killed() + " " + killed(), "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"pid":' + "1" * 10_000 + "}", "not JSON"),
        ("[]", "does not begin with"),
        ("{}", "no known kind"),
        (killed(labels=None), "did not find the pod"),
        (killed(container_type="docker"), "from Docker are not trusted"),  # a Dockerfile may set them
        (
            json.dumps(json.loads(killed_by_flowkiller()) | {"container": json.loads(killed(container_type="docker"))}),
            "not trusted",
        ),
        (killed(pod="../../etc"), "Its pod is not well-formed"),
        (killed(pod=["a"]), "names is not a text"),
        (killed(uid="uid 1"), "Its uid is not well-formed"),
        (deleted(), "neither the pod's uid nor a time"),
        (killed(uid="", timestamp="yesterday"), "neither the pod's uid nor a time"),
        (killed(uid="", at=NOW + 3600), "in the future"),
        (killed(uid="", timestamp="1969-12-31T23:59:59Z"), "neither the pod's uid nor a time"),
        (falco(**{"k8s.pod.name": "<NA>", "k8s.pod.uid": None}), "neither k8s.pod.uid nor k8s.pod.name"),
        ('{"pod": ""}', "names no pod"),
        ('{"pod": "a", "time": "now"}', "Its time is not one"),
        ('{"pod": "a", "source": "Me & you"}', "not the name of a source"),
        ('{"server": "a\\u001b[2J"}', "Its server is not well-formed"),
        ('{"server": "/user/alice/"}', "begins with a slash"),
        ('{"server": "/"}', "begins with a slash"),
        ('{"uid": "u", "server": "/lab"}', "begins with a slash"),
        ("x" * (reports.MAX_LINE_CHARACTERS + 1), "longer than"),
    ],
)
def test_unreadable_line_says_why(line, why):
    with pytest.raises(Unreadable, match=why):
        read(line, NOW)


def test_text_of_strangers_becomes_short_and_printable():
    report = read(killed(matched="\x1b[2J\u202e" + "x" * 10_000), NOW)
    assert report.label.startswith("\\x1b[2J\\u202exxx") and report.label.isprintable()
    assert len(report.label) == reports.MAX_LABEL_CHARACTERS
    assert len(read(falco(rule="r" * 500), NOW).list_name) == reports.MAX_LIST_CHARACTERS


def test_report_survives_its_way_as_json():
    report = read(killed(), NOW)
    assert Report.loads(report.dumps()) == report
    newer = json.dumps(json.loads(report.dumps()) | {"node": "node-1"})
    assert Report.loads(newer) == report
    for broken in ("", "[]", "{}", json.dumps({"source": "a", "list_name": "", "label": "", "at": "x", "uid": "u"})):
        assert Report.loads(broken) is None


ENTRY = {"source": "a", "list_name": "l", "label": "x", "at": 1.0, "uid": "u"}


@pytest.mark.parametrize(
    "changes",
    [
        *({"at": at} for at in (10**400, 1e11, 0, True, float("inf"), "1970-01-01T00:16:40Z")),
        *({"label": label} for label in ("x" * (reports.MAX_LABEL_CHARACTERS + 1), "\x1b[2J", "\ud800", ["x"])),
        {"list_name": "l" * (reports.MAX_LIST_CHARACTERS + 1)},
        {"source": "Me & you"},
        {"uid": "u" * 65},
        {"pod": "../../etc"},
        {"namespace": "n" * 300},
        {"user": "u" * 256},
        {"user": "u", "server": "a\nb"},
        {"sender": "1" * 65},
        {"uid": ""},
        {"uid": "", "server": "lab"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_entry_that_no_line_becomes_is_no_report(changes):
    """Somebody who captures the receiver may enter anything."""
    assert Report.loads(json.dumps(ENTRY)) and Report.loads(json.dumps(ENTRY | changes)) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
WORDS = ["action", "pod", "uid", "server", "source", "list", "label", "time", "rule", "output_fields", "labels", "log"]


@given(st.dictionaries(st.sampled_from(WORDS), JSON | st.sampled_from(["killed", "delete", killed(), deleted()])) | JSON)
def test_any_json_is_a_report_or_nothing_or_says_why(content):
    try:
        report = read(json.dumps(content), NOW)
    except Unreadable as error:
        assert str(error)
        return
    if report:
        assert report.about and report.reason.isprintable() and report.at and Report.loads(report.dumps()) == report


@given(st.dictionaries(st.sampled_from([*ENTRY, "pod", "user", "server", "sender"]), JSON | st.integers()) | JSON)
def test_any_json_in_redis_is_a_report_or_none(content):
    for entry in (content, ENTRY | content if isinstance(content, dict) else content):
        found = Report.loads(json.dumps(entry))
        assert found is None or len(found.reason) <= reports.MAX_LIST_CHARACTERS + reports.MAX_LABEL_CHARACTERS + 2
