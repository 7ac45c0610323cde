"""How long labels take to act on each node: measured with the canaries, published, and said by doctor and metrics."""

import socket
import subprocess
import sys
import time
from contextlib import closing
from unittest.mock import Mock

import pytest

from binder_egress.gatecheck import probe
from binder_egress.gatecheck.canaries import SELECTOR, Canaries
from binder_egress.gatecheck.check import Findings
from binder_egress.gatecheck.label_delay import (
    LIMIT_SECONDS,
    MARK,
    PATCH_SECONDS,
    REMEMBERED,
    LabelDelays,
    NotMeasured,
    measure,
)
from binder_egress.gatecheck.probe import MARK_PORT
from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.labels import TIER_LABEL
from binder_egress.model.records import Node
from tests.support.api_server import ApiServer
from tests.support.canaries import pod


class Network:
    """A network plugin that acts on the canary's label late, and a clock that only it and the pauses move. `flaws` has the numbers
    of connections that fail by chance."""

    def __init__(self, on=0.5, off=0.25):
        self.late = {True: on, False: off}
        self.pod = pod()
        self.now, self.changed_at, self.tries, self.stuck = 100.0, -1000.0, 0, False
        self.flaws: set[int] = set()

    def running(self, node=""):
        return [self.pod]

    def mark(self, pod, value):
        assert pod["metadata"]["uid"] == self.pod["metadata"]["uid"]
        labels = {key: kept for key, kept in self.pod["metadata"]["labels"].items() if key != TIER_LABEL}
        self.pod["metadata"]["labels"] = labels | ({TIER_LABEL: value} if value else {})
        self.changed_at = self.now

    def answers(self, pod):
        self.tries += 1
        if self.tries in self.flaws:
            return False
        marked = TIER_LABEL in self.pod["metadata"]["labels"]
        return marked == (self.now - self.changed_at >= self.late[marked])

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def measured(self):
        return measure(self, self.pod, self.clock, self.sleep)


def test_each_turn_measures_one_direction_with_one_change():
    network = Network(11.0, 25.0)
    network.flaws = {300, 301, 310}  # Connections that fail by chance do not look like a refusal.
    for way, seconds in (("on", 11), ("off", 25), ("on", 11)):
        measured_way, measured_seconds = network.measured()
        assert (measured_way, measured_seconds) == (way, pytest.approx(seconds, abs=0.1))


@pytest.mark.parametrize("way", ["on", "off"])
def test_label_that_never_acts_ends_at_the_limit_and_is_not_changed_again(way):
    network = Network()
    if way == "off":
        network.measured()
    network.late[way == "on"] = 1000.0
    assert network.measured() == (way, LIMIT_SECONDS)
    before = dict(network.pod["metadata"]["labels"])
    with pytest.raises(NotMeasured):
        network.measured()
    assert network.pod["metadata"]["labels"] == before
    network.now += 1000  # The plugin goes on.
    assert network.measured()[0] == {"on": "off", "off": "on"}[way]


def test_refusal_counts_from_the_beginning_of_a_connection(monkeypatch):
    """A plugin that drops packets lets each connection run into its time limit."""
    network = Network(on=0.5, off=3.0)
    network.measured()
    before = network.answers

    def answers(pod):
        answered = before(pod)
        network.now += 0 if answered else 2
        return answered

    monkeypatch.setattr(network, "answers", answers)
    assert network.measured() == ("off", pytest.approx(3, abs=0.1))


def test_open_port_of_an_unmarked_canary_is_no_measurement():
    network = Network()
    network.answers = lambda pod: True
    with pytest.raises(NotMeasured, match="nothing keeps the reconciler"):
        network.measured()
    assert TIER_LABEL not in network.pod["metadata"]["labels"]


# -- the latest measurements


def measured(delays, *results, node="n1"):
    for result in results:
        delays.measure(node, Network(), Mock(side_effect=[result]))


def test_longest_of_the_latest_measurements_count_on_each_node(store):
    delays = LabelDelays(Network(), store)
    assert delays.worst() == {} and delays.of("n1") == {}
    measured(delays, ("on", 20.0), ("on", 3.0), *[("on", 1.0)] * (REMEMBERED - 2), ("off", 2.0))
    measured(delays, ("on", 4.0), node="n2")
    assert (delays.of("n1")["on"], delays.of("n2")["on"], delays.worst()) == (20.0, 4.0, {"on": 20.0, "off": 2.0})
    measured(delays, ("on", 1.0))
    assert delays.worst() == {"on": 4.0, "off": 2.0}
    # A restarted reconciler knows what was measured before.
    measured(delays, ("on", 26.4))
    seen = {"state": "shut", "since": 1.0, "why": "", "user_pods": 0, "guards": {}, "said": None, "targets": {}, "proxy": ""}
    nodes = {node: Node(**seen, agent=None, labels=delays.of(node)) for node in ("n1", "n2")}
    store.publish_gatecheck(Findings(1.0, nodes=nodes).dumps())
    after = LabelDelays(Network(), store)
    assert (after.worst(), after.of("n2")["on"], after.opening_seconds()) == ({"on": 26.4, "off": 2.0}, 4.0, 26)


@pytest.mark.parametrize("text", ["[]", "{}", '{"nodes": {"n": 1}}', '{"nodes": {"n": {"labels": {"on": []}}}}', '{"nodes": []}'])
def test_findings_without_a_measurement_say_nothing(store, redis_server, text):
    store.publish_gatecheck(text)
    assert LabelDelays(Network(), store).worst() == {}
    redis_server.stop()
    assert LabelDelays(Network(), store).worst() == {}


@pytest.mark.parametrize(("on", "said"), [(0.2, 0), (5.0, 0), (26.4, 26), (LIMIT_SECONDS, 0)])
def test_people_wait_where_labels_are_slow(on, said, store):
    delays = LabelDelays(Network(), store)
    measured(delays, ("on", on))
    assert delays.opening_seconds() == said


@pytest.mark.parametrize("error", [NotMeasured("not acted"), ApiServerUnavailable("403 Forbidden"), KeyError("podIP")])
def test_failed_measurement_says_why_and_keeps_what_was_measured(error, store):
    delays = LabelDelays(Network(), store)
    measured(delays, ("on", 9.0), error)
    known = delays.of("n1")
    assert known["on"] == 9.0 and known["reason"] and known["at"]
    measured(delays, ("off", 1.0))
    assert "reason" not in delays.of("n1")


def test_late_labels_are_logged_once(caplog, store):
    measured(LabelDelays(Network(), store), ("on", 1.0), ("on", 9.0), ("on", 12.0))
    assert [record.message for record in caplog.records] == ["labels act late: docs/gatecheck.md says what to do"]


def test_nodes_are_measured_one_change_a_second_and_a_stuck_one_holds_up_no_other(store):
    network, changes, pauses = Network(), [], []
    network.running = lambda: [pod(f"c{number}", f"n{number}") for number in range(3)]
    delays = LabelDelays(network, store)
    delays.begin = lambda node, _: (changes.append(node), delays._measuring.add(node))
    delays.turn(network, pauses.append)
    assert changes == ["n0", "n1", "n2"] and pauses == [PATCH_SECONDS] * 3
    delays._measuring -= {"n0", "n2"}
    delays.turn(network, pauses.append)
    assert changes[3:] == ["n0", "n2"]


def test_node_that_somebody_waits_for_has_every_second_turn(store):
    """Whoever takes over a verifier may ask all the time, and for nodes that are not there."""
    network, changes, pauses = Network(), [], []
    network.running = lambda: [pod(f"c{number}", f"n{number}") for number in range(4)]
    delays = LabelDelays(network, store)
    delays.begin = lambda node, _: (changes.append(node), delays.soon(["n3", "nowhere"]))
    delays.soon(["n3"])  # before the first list
    delays.turn(network, pauses.append)
    assert changes == ["n0", "n3", "n1", "n3", "n2", "n3", "n3", "n3"] and pauses == [PATCH_SECONDS] * 8
    assert delays._asked == {"n3"} and delays._is_asked.is_set()
    delays._measuring.add("n3")  # It has its result soon.
    delays.begin_asked(network, pauses.append)
    assert len(changes) == 8 and not delays._is_asked.is_set()


def test_result_is_published_when_it_is_there_and_a_change_that_does_not_act_when_it_is_made(store):
    now, seen, published = [100.0], [], lambda: store.measured().get("n1", {})
    delays = LabelDelays(Network(), store, lambda: now[0])

    def acts(way, seconds):
        def measure(*_):
            seen.append(published())
            now[0] += seconds
            return way, seconds

        return measure

    delays.measure("n1", Network(), acts("on", 0.5))
    assert (seen.pop(), published()) == ({"since": 100.0}, {"on": 0.5, "at": 100.5})
    delays.measure("n1", Network(), acts("off", LIMIT_SECONDS))
    reason = "the network plugin has not acted on the label"
    hangs = {"on": 0.5, "off": LIMIT_SECONDS, "at": 100.5, "since": 100.5, "reason": reason}
    assert (seen.pop(), published()) == ({"on": 0.5, "at": 100.5, "since": 100.5}, hangs)
    now[0] += 100
    delays.measure("n1", Network(), Mock(side_effect=NotMeasured("x")))
    assert published() == {**hangs, "reason": "x"}
    # Another reconciler knows since when, and forgets the node once it is gone.
    row = {"state": "shut", "since": 1.0, "why": "", "user_pods": 0, "guards": {}, "said": None, "targets": {}, "proxy": ""}
    store.publish_gatecheck(Findings(1.0, nodes={"n1": Node(**row, agent=None, labels=delays.of("n1"))}).dumps())
    after = LabelDelays(Network(), store, lambda: now[0])
    assert (published(), after.of("n1")["since"]) == ({}, 100.5)
    after.measure("n1", Network(), acts("off", 1.0))
    assert published()["at"] == now[0] and "since" not in published()
    network = Network()
    network.running = list
    after.turn(network, Mock())
    assert published() == {}


def test_attempt_that_tried_nothing_accuses_no_plugin(store):
    delays, nobody = LabelDelays(Network(), store), Network()
    nobody.running = lambda node="": []
    delays.measure("n1", nobody)
    assert delays.of("n1") == {"reason": "no canary runs there"}


def test_node_that_ended_is_forgotten(store):
    network = Network()
    delays = LabelDelays(network, store)
    delays.begin = Mock()
    measured(delays, ("on", 9.0), node="gone")
    measured(delays, ("on", 1.0), NotMeasured("x"), node="n1")
    delays.turn(network, Mock())
    assert delays.of("gone") == {} and delays.of("n1")["on"] == 1.0 and delays.worst() == {"on": 1.0}


STUCK = """
import threading
from unittest.mock import Mock
from binder_egress.gatecheck.label_delay import LabelDelays
begun = threading.Event()
canaries = Mock()
canaries.running.return_value = [{"metadata": {"labels": {}}, "spec": {"nodeName": "n"}}]
canaries.answers.return_value = False
canaries.mark.side_effect = lambda *_: begun.set()
threading.Thread(target=LabelDelays(canaries, Mock(gatecheck=dict)).run, daemon=True).start()
assert begun.wait(20)
"""
"""A process that ends while the network plugin of a node does not act on a label."""


def test_process_ends_while_a_label_does_not_act():
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", STUCK], check=True, timeout=LIMIT_SECONDS / 2)
    assert time.monotonic() - began < LIMIT_SECONDS / 4


def test_without_a_canary_nothing_is_measured(store):
    store.publish_gatecheck('{"nodes": {"n": {"labels": {"on": 26.4, "off": 2.0}}}}')
    delays = LabelDelays(None, store)
    delays.run()
    assert delays.worst() == {} and delays.opening_seconds() == 0


# -- the canaries' pods


def test_canary_listens_over_both_families():
    port = probe.listen(0)
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, port), 5).close()


def test_running_canaries_are_found_and_marked_by_their_uid():
    pods = [
        pod("old", "n1", deletionTimestamp="now"),
        pod("ended", "n2", state="terminated"),
        pod("single", "n3", "canary"),
        pod("single-beside", "n4", "canary"),
        pod("own", "n4"),
    ]
    with closing(ApiServer()) as api:
        api.answer = lambda *_: (200, {"items": pods})
        canaries = Canaries("hub", api.client)
        running = canaries.running()
        assert [one["metadata"]["name"] for one in running] == ["single", "own"]
        canaries.mark(running[0], MARK)
        canaries.mark(running[0], None)
    listed = ("GET", "/api/v1/namespaces/hub/pods", {"labelSelector": SELECTOR})
    assert api.asked == [listed, *[("PATCH", "/api/v1/namespaces/hub/pods/single", {})] * 2]
    assert api.bodies == [{"metadata": {"uid": "uid-single", "labels": {TIER_LABEL: value}}} for value in (MARK, None)]


def test_canary_answers_at_the_port_that_the_mark_opens(monkeypatch):
    tried = []
    monkeypatch.setattr("binder_egress.pods.start_guard.connects", lambda target, timeout: tried.append(target) or True)
    assert Canaries("hub", object()).answers({"status": {"podIP": "10.0.0.1"}}) is True
    assert tried == [("10.0.0.1", MARK_PORT)]
