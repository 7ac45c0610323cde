"""The agent's reports to the receiver."""

from threading import Thread

import pytest
from werkzeug.serving import make_server

from binder_egress.agent.lists import Match
from binder_egress.agent.reporting import LINES, POD_REPORTS, REPEAT_SECONDS, Reporter
from binder_egress.settings import ReceiverSettings, load
from binder_egress.web.receiver import create_receiver_app, create_receiver_services
from tests.support.ports import free_port

ONE = ("7c2a4bd3-1a2b-4c3d-9e8f-0a1b2c3d4e5f", Match("miners", "xmrig"))
AGENTS = {"127.0.0.1": "node-1"}


@pytest.fixture
def port(store):
    """The port of a receiver for which this machine is a node with an agent."""
    store.publish_agents(AGENTS)
    app = create_receiver_app(create_receiver_services(load(ReceiverSettings, detections={"agent": {}}), store))
    with make_server("127.0.0.1", 0, app) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def received(store):
    return [(report.uid, report.list_name, report.label) for _, report in store.waiting_reports(1000)]


@pytest.fixture
def reporter(port, steady):
    return Reporter("127.0.0.1", port, steady)


def test_match_is_reported_until_it_is_accepted_and_again_after_a_while(store, reporter, steady):
    store.publish_agents({})
    assert reporter.report([ONE], {ONE[0]}) == {"failed": 1}
    store.publish_agents(AGENTS)
    assert [reporter.report([ONE], {ONE[0]}) for _ in range(3)] == [{"sent": 1}, {}, {}]
    steady.now += REPEAT_SECONDS
    assert reporter.report([ONE], {ONE[0]}) == {"sent": 1}
    assert received(store) == [(ONE[0], "miners", "xmrig")] * 2


def test_receiver_that_does_not_answer_costs_one_attempt():
    reporter = Reporter("127.0.0.1", free_port())
    many = [(f"{number:08}", Match("a", "b")) for number in range(3 * LINES)]
    assert reporter.report(many, {pod for pod, _ in many}) == {"failed": LINES}


def test_matches_go_in_several_requests(store, reporter):
    """The receiver refuses one that has more."""
    many = [(f"{number:08}", Match("a", "b")) for number in range(LINES + 1)]
    assert reporter.report(many, {pod for pod, _ in many}) == {"sent": LINES + 1}
    assert [pod for pod, *_ in received(store)] == [pod for pod, _ in many]


@pytest.mark.parametrize("decoys", [POD_REPORTS, 300])
def test_matches_of_one_list_do_not_hide_that_of_another(store, reporter, decoys):
    """A match of a list that sorts earlier, and that the values may only observe."""
    found = [("x", Match("decoys", f"{number:03}")) for number in range(decoys)] + [("x", Match("miners", "xmrig"))]
    reporter.report(found, {"x"})
    assert {list_name for _, list_name, _ in received(store)} == {"decoys", "miners"}


def test_all_matches_of_a_pod_are_reported_in_the_end(store, reporter):
    found = [("x", Match("a", str(number))) for number in range(3 * POD_REPORTS)]
    assert [reporter.report(found, {"x"}) for _ in range(4)] == [{"sent": POD_REPORTS}] * 3 + [{}]
    assert sorted(label for *_, label in received(store)) == sorted(what.label for _, what in found)


def test_label_can_end_no_line(store, reporter):
    reporter.report([("x", Match("a", 'b\n{"uid": "y"}'))], {"x"})
    assert [pod for pod, *_ in received(store)] == ["x"]
