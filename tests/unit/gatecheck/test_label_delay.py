"""How long labels take to act: measured with the canary, published, and said by doctor and metrics."""

import socket
import time
from contextlib import closing
from unittest.mock import Mock

import pytest

from binder_egress.gatecheck import probe
from binder_egress.gatecheck.check import Findings
from binder_egress.gatecheck.label_delay import (
    HURRY_SECONDS,
    LIMIT_SECONDS,
    MARK,
    MARK_PORT,
    PERIOD_SECONDS,
    REMEMBERED,
    Canary,
    LabelDelay,
    LabelDelays,
    NotMeasured,
    measure,
)
from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.labels import TIER_LABEL
from tests.support.api_server import ApiServer


class Network:
    """A network plugin that acts on the canary's label late, and a clock that only it and the pauses move. `flaws` has the numbers
    of connections that fail by chance."""

    def __init__(self, on=0.5, off=0.25):
        self.late = {True: on, False: off}
        self.pod = {
            "metadata": {"uid": "u", "name": "canary", "labels": {}},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [{"state": {"running": {}}, "restartCount": 1}]},
        }
        self.now, self.changed_at, self.tries = 100.0, -1000.0, 0
        self.flaws: set[int] = set()

    def read(self):
        return {"metadata": {**self.pod["metadata"], "labels": dict(self.pod["metadata"]["labels"])}, "status": self.pod["status"]}

    def mark(self, pod, value):
        assert pod["metadata"]["uid"] == "u"
        self.pod["metadata"]["labels"] = {TIER_LABEL: value} if value else {}
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
        return measure(self, self.clock, self.sleep)


@pytest.mark.parametrize(
    ("late", "measured"), [((11.0, 25.0), (11, 25)), ((1000.0, 0.25), (LIMIT_SECONDS, LIMIT_SECONDS))], ids=["both", "never acts"]
)
def test_both_times_are_measured_and_the_label_is_off_afterwards(late, measured):
    network = Network(*late)
    network.flaws = {300, 301, 310}  # Connections that fail by chance do not look like a refusal.
    found = network.measured()
    assert (found.on, found.off) == (pytest.approx(measured[0], abs=0.1), pytest.approx(measured[1], abs=0.1))
    assert found.longest <= LIMIT_SECONDS and network.pod["metadata"]["labels"] == {}


def test_refusal_counts_from_the_beginning_of_a_connection(monkeypatch):
    """A plugin that drops packets lets each connection run into its time limit."""
    network = Network(on=0.5, off=3.0)
    before = network.answers

    def answers(pod):
        answered = before(pod)
        network.now += 0 if answered else 2
        return answered

    monkeypatch.setattr(network, "answers", answers)
    assert network.measured().off == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("answers without the label", "no policy keeps the reconciler"),
        ("started again", "started again"),
        ("has the label of a killed reconciler", "earlier"),
        ("cannot be tried", "no route"),
    ],
)
def test_nothing_is_measured_with_a_canary_that_has_a_fault(monkeypatch, fault, says):
    network = Network()
    before = network.answers

    def answers(pod):
        if fault == "started again":
            network.pod["status"] = {"podIP": "10.0.0.1", "containerStatuses": [{"state": {"running": {}}, "restartCount": 2}]}
        if fault == "cannot be tried" and network.pod["metadata"]["labels"]:
            raise NotMeasured("no route")
        return fault == "answers without the label" or before(pod)

    monkeypatch.setattr(network, "answers", answers)
    if fault.startswith("has the label"):
        network.mark(network.pod, MARK)
    with pytest.raises(NotMeasured, match=says):
        network.measured()
    assert network.pod["metadata"]["labels"] == {}


# -- the latest measurements


def test_longest_of_the_latest_measurements_count(store):
    delays = LabelDelays(Network(), store)
    assert delays.findings() == {"reason": ""}
    for found in (LabelDelay(20.0, 1.0), LabelDelay(3.0, 2.0), *[LabelDelay(1.0, 1.0)] * (REMEMBERED - 2)):
        delays.run_once(Network(), lambda _, found=found: found)
    assert delays.findings() == {"on": 20.0, "off": 2.0}
    delays.run_once(Network(), lambda _: LabelDelay(1.0, 1.0))
    assert delays.findings() == {"on": 3.0, "off": 2.0}
    # A restarted reconciler knows what was measured before.
    delays.run_once(Network(), lambda _: LabelDelay(26.4, 2.0))
    store.publish_gatecheck(Findings(1.0, label_delay=delays.findings()).dumps())
    after = LabelDelays(Network(), store)
    assert (after.findings(), after.opening_seconds()) == ({"on": 26.4, "off": 2.0}, 26)


@pytest.mark.parametrize("text", ["[]", "{}", '{"label_delay": {"reason": "no canary"}}', '{"label_delay": {"on": [], "off": 1}}'])
def test_findings_without_a_measurement_say_nothing(store, redis_server, text):
    store.publish_gatecheck(text)
    assert LabelDelays(Network(), store).worst() is None
    redis_server.stop()
    assert LabelDelays(Network(), store).worst() is None


@pytest.mark.parametrize(("on", "said"), [(0.2, 0), (5.0, 0), (26.4, 26), (LIMIT_SECONDS, 0)])
def test_people_wait_where_labels_are_slow(on, said, store):
    delays = LabelDelays(Network(), store)
    delays.run_once(Network(), lambda _: LabelDelay(on, 0.1))
    assert delays.opening_seconds() == said


@pytest.mark.parametrize(
    "error", [NotMeasured("the canary does not run"), ApiServerUnavailable("403 Forbidden"), KeyError("podIP")]
)
def test_failed_measurement_says_why_and_keeps_what_was_measured(error, store):
    delays, fails = LabelDelays(Network(), store), Mock(side_effect=error)
    delays.run_once(Network(), fails)
    assert delays.findings()["reason"]
    delays.run_once(Network(), lambda _: LabelDelay(9.0, 1.0))
    delays.run_once(Network(), fails)
    assert delays.findings() == {"on": 9.0, "off": 1.0}


def test_late_labels_are_logged_once(caplog, store):
    delays = LabelDelays(Network(), store)
    for on in (1.0, 9.0, 12.0):
        delays.run_once(Network(), lambda _, on=on: LabelDelay(on, 1.0))
    assert [record.message for record in caplog.records] == ["labels act late: docs/gatecheck.md says what to do"]


def test_first_measurements_are_in_quick_succession(monkeypatch, store):
    delays, sleep = LabelDelays(Network(), store), Mock(side_effect=[None] * REMEMBERED + [KeyboardInterrupt])
    monkeypatch.setattr(delays, "run_once", lambda canary: delays._measured.append(LabelDelay(1, 1)))
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        delays.run()
    assert [call.args[0] for call in sleep.call_args_list] == [HURRY_SECONDS] * (REMEMBERED - 1) + [PERIOD_SECONDS] * 2


def test_without_a_canary_nothing_is_measured(store):
    store.publish_gatecheck('{"label_delay": {"on": 26.4, "off": 2.0}}')
    delays = LabelDelays(None, store)
    delays.run()
    assert delays.findings() == {"reason": "there is no canary"} and delays.opening_seconds() == 0


# -- the canary's pod


def test_canary_listens_over_both_families():
    port = probe.listen(0)
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, port), 5).close()


def test_running_canary_is_found_and_marked_by_its_uid():
    ending = {"metadata": {"name": "old", "uid": "o", "deletionTimestamp": "now"}, "status": {}}
    ended = {"metadata": {"name": "ended", "uid": "e"}, "status": {"containerStatuses": [{"state": {"terminated": {}}}]}}
    runs = {"metadata": {"name": "c", "uid": "u"}, "status": {"containerStatuses": [{"state": {"running": {}}}]}}
    with closing(ApiServer()) as api:
        api.answer = lambda *_: (200, {"items": [ending, ended, runs]})
        canary = Canary("hub", api.client)
        canary.mark(canary.read(), MARK)
        canary.mark(runs, None)
        api.answer = lambda *_: (200, {"items": [ending, ended]})
        with pytest.raises(NotMeasured, match="does not run"):
            canary.read()
    listed = ("GET", "/api/v1/namespaces/hub/pods", {"labelSelector": "binder-egress/gatecheck=canary"})
    assert api.asked == [listed, *[("PATCH", "/api/v1/namespaces/hub/pods/c", {})] * 2, listed]
    assert api.bodies == [{"metadata": {"uid": "u", "labels": {TIER_LABEL: value}}} for value in (MARK, None)]


def test_canary_answers_at_the_port_that_the_mark_opens(monkeypatch):
    tried = []
    monkeypatch.setattr("binder_egress.pods.start_guard.connects", lambda target, timeout: tried.append(target) or True)
    assert Canary("hub", object()).answers({"status": {"podIP": "10.0.0.1"}}) is True
    assert tried == [("10.0.0.1", MARK_PORT)]
