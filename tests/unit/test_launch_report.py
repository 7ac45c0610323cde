"""What agents say of pods, put together with what is known of their launches."""

import json
import time

import pytest

from binder_egress.model.records import NetworkUse, Record, ReportedLaunch, Server
from binder_egress.reconciler.launch_report import LAST_WORD_SECONDS
from binder_egress.settings import ReceiverSettings, load
from binder_egress.store import uses
from binder_egress.web.receiver import MAX_LINES, create_receiver_app, create_receiver_services
from tests.support.reconciling import SAYS_NOTHING, Agents, converge_due, list_and_converge, make_grant, record_decision

AGENT, OTHER = "10.42.0.7", "10.42.1.7"
ROW = {"uid": "uid-1"} | SAYS_NOTHING
WHAT = {"first": 12.5, "ports": ["tcp/443", "udp"], "seen": 3}
USED = ROW | WHAT | {"used": True}
NOW = float(int(time.time()))


@pytest.fixture
def receiver(store):
    store.publish_agents({AGENT: "node-1", OTHER: "node-2"})
    app = create_receiver_app(create_receiver_services(load(ReceiverSettings, detections={"agent": {}}), store)).test_client()

    def send(*rows, sender=AGENT):
        lines = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
        return app.post("/api/uses", data=lines, environ_base={"REMOTE_ADDR": sender})

    return send


@pytest.fixture
def worker(make_reconciler):
    return make_reconciler(agents=Agents(), report_days=7, clock=lambda: NOW, detections={"agent": {}})


@pytest.fixture
def over(worker, cluster, store, steady):
    """Lets a pod end, and returns the launches of the report."""

    def over(seconds=LAST_WORD_SECONDS + 2):
        for name in list(cluster.pods):
            worker.observe("DELETED", cluster.pods.pop(name))
        converge_due(worker)
        for later in (1, seconds):
            steady.now += later
            worker.take_uses()
        return list(store.launches(0))

    return over


def add(cluster, worker, **fields):
    cluster.add(**{"node": "node-1", "created": NOW, "repository": "https://github.com/Owner/Name", "guard": ("off", 0.0)} | fields)
    list_and_converge(worker)


def test_launch_that_used_the_network_is_kept_when_it_is_over(worker, cluster, store, receiver, over, internal):
    record_decision(store, Server("alice"), Record(make_grant("unverified", "default"), image="image:1", came="script"))
    add(cluster, worker)
    assert receiver(USED | {"ended": False}).json == {"uses": 1}
    worker.take_uses()
    assert list(store.launches(0)) == []
    receiver(USED)
    (launch,) = over()
    kept = ReportedLaunch(at=NOW, came="script", had_tier=False, repository="github.com/owner/name", use="used", why="", **WHAT)
    assert launch == kept
    worker.heartbeat()
    labels = 'binder_egress_reported_launches_total{came="script",had_tier="no",use="used"} 1.0'
    assert labels in internal.get("/metrics").text
    assert over() == [launch], "once"


@pytest.mark.parametrize(
    ("row", "guard", "use", "why"),
    [
        (ROW, "off", "not used", ""),
        (ROW, "blocked", "not used", ""),
        (ROW | {"missed": 1}, "off", "not known", "between looks"),
        (ROW | {"missed": 1}, "blocked", "not known", "start guard"),
        (ROW | {"datagrams": 1}, "absent", "not known", "between looks"),
        (ROW | {"ended": False}, "off", "not known", "agent ended"),
        (USED | {"missed": 1, "ended": False}, "off", "used", ""),
        (None, "off", "not known", "no agent"),
    ],
)
def test_not_used_is_said_only_if_the_agent_saw_it_to_the_end(worker, cluster, receiver, over, row, guard, use, why):
    add(cluster, worker, guard=(guard, 0.1))
    if row:
        receiver(row)
        worker.take_uses()
    (launch,) = over()
    assert (launch.use, launch.why) == (use, why)


def test_agent_is_believed_about_its_own_node_alone(worker, cluster, receiver, over, store):
    add(cluster, worker)
    assert receiver(USED, sender=OTHER).status_code == 202
    store.publish_agents({})
    assert receiver(USED).status_code == 401
    (launch,) = over()
    assert (launch.use, launch.why) == ("not known", "no agent")


def test_last_word_of_an_agent_is_awaited(worker, cluster, receiver, over):
    add(cluster, worker)
    assert over(LAST_WORD_SECONDS - 5) == []
    receiver(ROW)
    assert [launch.use for launch in over(0)] == ["not used"]


WRONG = ["x", "[]", "{}", *(json.dumps(ROW | {name: wrong}) for name in ROW for wrong in ([[]], -1, 10**30, "x" * 300, {}))]


def test_what_is_no_row_is_left_out(receiver, store):
    assert receiver(*WRONG[:90], ROW).json == {"uses": 1}
    assert [use.sender for use in store.take_uses(10)] == [AGENT]
    assert receiver(*[ROW] * (MAX_LINES + 1)).status_code == 413
    answers = [receiver(*[ROW] * MAX_LINES) for _ in range(6)]
    assert (answers[-1].status_code, answers[-1].json["type"].rpartition("#")[2]) == (429, "too-many-reports")


def test_longest_row_is_read(store):
    texts = {"uid": "x" * 64, "ports": ["tcp/65535"] * 16, "sender": "x" * 64}
    longest = NetworkUse(**USED | texts | dict.fromkeys(("seen", "missed", "datagrams"), 10**12))
    store.add_uses([longest])
    assert store.take_uses(9) == [longest] and store.take_uses(9) == []


def test_what_is_kept_is_bounded_in_number_and_time(store, over, worker, cluster, monkeypatch, in_redis):
    monkeypatch.setattr(uses, "MAX_USES", 2)
    store.add_uses([NetworkUse(**ROW)] * 3)
    assert len(store.take_uses(9)) == 2
    monkeypatch.setattr(uses, "MAX_LAUNCHES", 2)
    monkeypatch.setattr(uses, "TEXTS_AT_ONCE", 1)
    for user in ("alice", "bob", "eve"):
        add(cluster, worker, user=user, uid=user)
    assert len(over()) == 2
    assert 0 < in_redis.ttl("binder-egress:report") <= 7 * 86_400
    store.keep_launches([], in_redis.time()[0] + 8 * 86_400, 7)
    assert list(store.launches(0)) == []
