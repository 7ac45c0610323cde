"""The agent's reports to a made-up verifier."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.support.ports import free_port
from verifier.agent.lists import Match
from verifier.agent.reporting import LINES, POD_REPORTS, REPEAT_SECONDS, Reporter

ONE = ("7c2a4bd3-1a2b-4c3d-9e8f-0a1b2c3d4e5f", Match("miners", "xmrig"))


class Verifier(HTTPServer):
    def __init__(self):
        self.reports, self.status = [], 202
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert self.path == "/api/detections" and "Authorization" not in self.headers
        self.server.reports.append([json.loads(line) for line in body.split("\n")])
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def verifier():
    server = Verifier()
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def reporter(verifier, now):
    return Reporter("127.0.0.1", verifier.server_port, lambda: now[0])


def test_match_is_reported_until_it_is_accepted_and_again_after_a_while(verifier, reporter, now):
    verifier.status = 503
    assert reporter.report([ONE], {ONE[0]}) == {"failed": 1}
    verifier.status = 202
    assert [reporter.report([ONE], {ONE[0]}) for _ in range(3)] == [{"sent": 1}, {}, {}]
    now[0] += REPEAT_SECONDS
    assert reporter.report([ONE], {ONE[0]}) == {"sent": 1}
    assert verifier.reports == [[{"uid": ONE[0], "list": "miners", "label": "xmrig"}]] * 3


def test_verifier_that_does_not_answer_costs_one_attempt():
    reporter = Reporter("127.0.0.1", free_port())
    many = [(f"{number:08}", Match("a", "b")) for number in range(3 * LINES)]
    assert reporter.report(many, {pod for pod, _ in many}) == {"failed": LINES}


def test_matches_go_in_several_requests(verifier, reporter):
    many = [(f"{number:08}", Match("a", "b")) for number in range(LINES + 1)]
    assert reporter.report(many, {pod for pod, _ in many}) == {"sent": LINES + 1}
    assert [len(lines) for lines in verifier.reports] == [LINES, 1]


@pytest.mark.parametrize("decoys", [POD_REPORTS, 300])
def test_matches_of_one_list_do_not_hide_that_of_another(verifier, reporter, decoys):
    """A match of a list that sorts earlier, and that the values may only observe."""
    found = [("x", Match("decoys", f"{number:03}")) for number in range(decoys)] + [("x", Match("miners", "xmrig"))]
    reporter.report(found, {"x"})
    assert {line["list"] for line in verifier.reports[0]} == {"decoys", "miners"}


def test_all_matches_of_a_pod_are_reported_in_the_end(verifier, reporter):
    found = [("x", Match("a", str(number))) for number in range(3 * POD_REPORTS)]
    assert [reporter.report(found, {"x"}) for _ in range(4)] == [{"sent": POD_REPORTS}] * 3 + [{}]
    assert sorted(line["label"] for lines in verifier.reports for line in lines) == sorted(what.label for _, what in found)


def test_label_can_end_no_line(verifier, reporter):
    reporter.report([("x", Match("a", 'b\n{"uid": "y"}'))], {"x"})
    assert len(verifier.reports[0]) == 1
