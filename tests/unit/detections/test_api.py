"""`POST /api/detections`: who may send what, and the results. No input causes a fault of the service."""

import base64

import pytest

from binder_egress.detections.reporters import REPORTS_PER_MINUTE, Allowance
from binder_egress.web.problems import TYPE
from binder_egress.web.receiver import MAX_LINES
from tests.support.apps import API_TOKEN
from tests.support.detections import Site, deleted, falco, killed
from tests.support.metrics import value


@pytest.fixture
def site(redis_server, store, tmp_path):
    return Site(redis_server, store, tmp_path)


def waiting(store):
    return [report for _, report in store.waiting_reports(1000)]


def problem(answer):
    return answer.status_code, answer.json["type"].removeprefix(TYPE)


def test_verifier_takes_no_report(site, store):
    """Somebody who captures the verifier has no right to write a report, so the verifier has no endpoint for reports (D-354)."""
    headers = {"Authorization": f"Bearer {site.tokens['cryptnono']}"}
    assert problem(site.internal.post("/api/detections", data=killed(), headers=headers)) == (404, "not-found")
    assert "/api/detections" not in site.internal.get("/openapi.json").json["paths"]
    assert waiting(store) == []


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/grants", "/api/launches", "/egress/challenge"])
def test_receiver_has_nothing_else(site, path):
    assert problem(site.receiver.get(path)) == (404, "not-found")


def test_receiver_is_ready_while_it_may_use_redis(site, redis_server):
    assert (site.receiver.get("/healthz").status_code, site.receiver.get("/readyz").status_code) == (200, 200)
    redis_server.stop()
    assert site.receiver.get("/healthz").status_code == 200
    assert problem(site.receiver.get("/readyz")) == problem(site.send(killed())) == (503, "unavailable")
    assert site.send(killed(), Authorization="Bearer x").status_code == 401


def test_line_of_a_detector_is_entered_with_the_source_of_the_token(site, store):
    answer = site.send(killed(), source="falco")
    assert (answer.status_code, answer.json) == (202, {"source": "falco", "reports": 1, "others": 0, "unreadable": []})
    (report,) = waiting(store)
    assert (report.source, report.list_name, report.label, report.uid) == ("falco", "execwhacker", "xmrig", "uid-1")
    assert "/api/detections" in site.receiver.get("/openapi.json").json["paths"]


def test_token_may_be_a_password_for_programs_that_send_no_header(site, store):
    password = base64.b64encode(f"falco:{site.tokens['falco']}".encode()).decode()
    assert site.send(falco(), Authorization=f"Basic {password}").json["source"] == "falco"
    assert len(waiting(store)) == 1


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer x", f"Bearer {API_TOKEN}", "Basic", "Basic !", "Basic eA==", "Basic /w==", "Digest x", "Bearer \xff"],
)
def test_wrong_token_is_refused(site, store, header):
    answer = site.send(killed(), Authorization=header)
    assert problem(answer) == (401, "unauthorized")
    assert waiting(store) == []
    assert value(site.internal, "binder_egress_detection_reports_total", source="", outcome="wrong-token") == 1


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"falco": 1}', '{"falco": "short"}', "[" * 100_000, "of another source"])
def test_only_tokens_of_a_good_file_for_sources_of_the_values_count(site, content):
    """The file is read again when it changes."""
    good = site.file.read_text()
    assert site.send(killed(), source="falco").status_code == 202
    site.file.unlink()
    if content is not None:
        site.file.write_text(good.replace('"falco"', '"other"') if content == "of another source" else content)
    assert site.send(killed(), source="falco").status_code == 401
    site.file.write_text(good)
    assert site.send(killed(), source="falco").status_code == 202


def test_lines_that_cannot_be_read_are_counted_and_hold_up_no_other_and_a_few_are_shown(site, store, in_redis):
    answer = site.send("\x1b[2J", killed(), killed(action="spared"), deleted(), "", "  ")
    assert answer.status_code == 202
    assert (answer.json["reports"], answer.json["others"], len(answer.json["unreadable"])) == (1, 1, 2)
    assert len(waiting(store)) == 1
    for outcome, number in (("report", 1), ("other", 1), ("unreadable", 2), ("too-many", 0)):
        assert value(site.internal, "binder_egress_detection_reports_total", source="cryptnono", outcome=outcome) == number
    rows = store.unreadable()
    assert [(row["source"], row["line"][:20]) for row in rows] == [("cryptnono", "\\x1b[2J"), ("cryptnono", deleted()[:20])]
    for number in range(20):
        site.send(f"{number}" + "\x00" * 5000)
    site.send("of another", source="falco")
    rows = store.unreadable()
    assert 0 < in_redis.ttl("binder-egress:unreadable") <= 86400
    assert [row["line"][:2] for row in rows] == ["17", "18", "19", "of"] and max(len(row["line"]) for row in rows) == 300


@pytest.mark.parametrize("end", ["\x85", "\u2028"])
def test_stranger_cannot_end_a_line_of_a_detector(site, store, end):
    """Falco does not escape every character that may end a line elsewhere. In two pieces, the line could not be read."""
    line = falco(**{"proc.cmdline": "xmrig MARK"}).replace("MARK", end)
    assert site.send(line, source="falco").json["reports"] == 1
    assert [report.uid for report in waiting(store)] == ["uid-1"]


def test_too_many_lines_and_too_long_bodies_are_refused(site, store):
    assert problem(site.send(*[killed()] * (MAX_LINES + 1))) == (413, "too-large")
    assert problem(site.send("x" * ((1 << 20) + 1))) == (413, "too-large")
    assert waiting(store) == []


def test_source_that_sends_too_many_is_refused_and_no_other(site, store):
    for _ in range(REPORTS_PER_MINUTE // MAX_LINES):
        assert site.send(*["x"] * MAX_LINES).status_code == 202
    answer = site.send(*[killed()] * MAX_LINES)
    assert problem(answer) == (429, "too-many-reports") and 1 <= int(answer.headers["Retry-After"]) <= 10
    assert site.send(killed(), source="falco").status_code == 202
    assert len(waiting(store)) == 1


def test_allowance_comes_back():
    now = [0.0]
    allowance = Allowance(lambda: now[0])
    assert allowance.take("a", REPORTS_PER_MINUTE) is None
    assert allowance.take("a", 10) == 1
    now[0] = 1.0
    assert allowance.take("a", 10) is None
    assert allowance.take("a", 1) == 1
    now[0] = 1000.0
    assert allowance.take("a", REPORTS_PER_MINUTE) is None
    assert allowance.take("a", 1) == 1


def test_reports_that_nobody_reads_are_bounded(site, store, in_redis, monkeypatch):
    monkeypatch.setattr("binder_egress.store.detections.MAX_REPORTS", 5)
    site.send(*(killed(uid=f"uid-{number}") for number in range(9)))
    assert [report.uid for report in waiting(store)] == [f"uid-{number}" for number in range(4, 9)]
    assert 0 < in_redis.ttl("binder-egress:detections") <= 3600
