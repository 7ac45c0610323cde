"""The reconciler's response to reports: the pod, the values, and the limits."""

import json
import logging
import time
from dataclasses import replace

import pytest

from binder_egress.detections.reports import Report
from binder_egress.detections.share_limit import ALWAYS, WINDOW_SECONDS
from binder_egress.model.records import Server
from binder_egress.operators import actions
from binder_egress.operators.actions import CommandOperators
from binder_egress.store.errors import StoreUnavailable
from tests.support.apps import make_settings
from tests.support.detections import NAMESPACE
from tests.support.metrics import value
from tests.support.reconciling import ALICE, converge_due, granted, list_and_converge, make_grant

SOURCES = {"cryptnono": {"on_match": "revoke", "lists": {"watched": "observe", "worst": "stop"}}, "falco": {}}
OF_ALICE = Report("cryptnono", "execwhacker", "xmrig", 1000.0, uid="uid-1", pod="jupyter-alice--", namespace=NAMESPACE)


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def worker(make_reconciler, now):
    return make_reconciler(may_stop_pods=True, detections=SOURCES, clock=lambda: now[0])


@pytest.fixture
def alice(worker, cluster):
    cluster.add(**granted(make_grant()))
    list_and_converge(worker)


def report(worker, store, *reports):
    """Enter reports, and let the reconciler act, which needs no notification. Returns the outcomes."""
    entered = [store.add_report(one) for one in reports]
    worker.respond()
    converge_due(worker)
    worker.heartbeat()
    outcomes = {row["report"]: row["outcome"] for row in store.detected()}
    assert store.waiting_reports(1) == []
    return [outcomes.get(identity) for identity in entered]


def add_many(cluster, number, name="user", **fields):
    for one in range(number):
        cluster.add(f"{name}{one}", f"{name}-{one}", **({**granted(make_grant())} | fields))


def about(uid, **changes):
    return replace(OF_ALICE, uid=uid, pod="", **changes)


def test_reported_server_loses_its_egress_and_its_neighbour_does_not(worker, cluster, store, internal, caplog):
    caplog.set_level(logging.INFO)
    cluster.add(**granted(make_grant()))
    cluster.add("bob", "uid-2", **granted(make_grant()))
    list_and_converge(worker)
    assert report(worker, store, OF_ALICE) == ["revoked"]
    assert cluster.labelled() == {Server("bob")}
    explained = internal.get("/api/servers/alice").json
    assert explained["because"] == "No network: blocked by detector cryptnono: execwhacker: xmrig."
    assert [(row["outcome"], row["list"], row["label"]) for row in explained["detections"]] == [("revoked", "execwhacker", "xmrig")]
    assert internal.get("/api/servers/bob").json["detections"] == []
    labels = {"source": "cryptnono", "list": "", "outcome": "revoked"}
    assert value(internal, "binder_egress_detections_total", **labels) == 1
    lines = [record.fields for record in caplog.records if record.getMessage() in ("detection", "revoke")]
    assert [line.get("outcome", line.get("why")) for line in lines] == ["execwhacker: xmrig", "revoked"]


@pytest.mark.parametrize("hangs", [True, False])
def test_server_that_a_detection_cut_off_on_a_node_that_hangs_is_named_once(make_reconciler, cluster, store, now, caplog, hangs):
    labels, asked = {"n1": {"off": 0.1, "at": 990.0}}, []
    seen = {"soon": asked.extend, "labels": lambda node: labels.get(node, {})}
    worker = make_reconciler(detections=SOURCES, clock=lambda: now[0], seen=seen)
    cluster.add(node="n1", **granted(make_grant()))
    list_and_converge(worker)
    assert report(worker, store, OF_ALICE) == ["revoked"] and asked == ["n1"]
    labels["n1"] = {"off": 0.1, "at": 990.0, "since": 1000.0} if hangs else {"off": 0.1, "at": 1000.3}
    for seconds in (1, 4, 5, 9):
        now[0] = 1000 + seconds
        worker.respond()
    said = [record.fields for record in caplog.records if "may still open connections" in record.getMessage()]
    assert [(fields["pod"], fields["node"]) for fields in said] == [("jupyter-alice--", "n1")] * hangs
    assert all(fields["why"] == "the network plugin of n1 has not acted on labels for 5 s" for fields in said)


def test_report_is_only_observed_by_default(worker, alice, cluster, store, caplog):
    caplog.set_level(logging.INFO)
    # The last is no longer in the values.
    observed = [replace(OF_ALICE, source="falco"), replace(OF_ALICE, list_name="watched"), replace(OF_ALICE, source="gone")]
    assert report(worker, store, *observed, *observed) == ["observed"] * 6
    assert cluster.labelled() == {ALICE} and cluster.patches == [] and store.blocks() == []
    assert [record.getMessage() for record in caplog.records].count("detection") == 3


@pytest.mark.parametrize(
    ("sources", "outcome"), [({"proxy": {}}, "observed"), ({"proxy": {"lists": {"scan": "revoke"}}}, "revoked")]
)
def test_proxy_names_pods_that_go_beyond_its_limit(make_reconciler, cluster, store, internal, sources, outcome):
    cluster.add(**granted(make_grant()))
    worker = make_reconciler(detections=sources, clock=lambda: 1000.0)
    list_and_converge(worker)
    store.report_scans(["uid-1", "gone", "no uid\n"])
    assert report(worker, store) == []
    assert {(row["source"], row["list"], row["uid"], row["outcome"]) for row in store.detected()} == {
        ("proxy", "scan", "uid-1", outcome),
        ("proxy", "scan", "gone", "unknown-pod"),
    }
    assert (cluster.labelled() == {ALICE}) == (outcome == "observed")
    listed = "scan" if sources["proxy"] else ""
    assert value(internal, "binder_egress_detections_total", source="proxy", list=listed, outcome=outcome) == 1


def test_blocked_server_is_stopped_by_a_worse_report(worker, alice, cluster, store):
    cluster.add("bob", "uid-2", **granted(make_grant()))
    assert report(worker, store, OF_ALICE, OF_ALICE) == ["revoked", "repeated"]
    assert report(worker, store, replace(OF_ALICE, list_name="worst")) == ["stopped"]
    assert cluster.pods["jupyter-alice--"].ended and not cluster.pods["jupyter-bob--"].ended
    assert len(store.blocks()) == 1


def test_nothing_is_taken_in_mode_observe(make_reconciler, cluster, store):
    worker = make_reconciler(mode="observe", may_stop_pods=True, detections=SOURCES)
    cluster.add(**granted(make_grant()))
    list_and_converge(worker)
    assert report(worker, store, replace(OF_ALICE, list_name="worst")) == ["observed"]
    assert cluster.labelled() == {ALICE} and store.blocks() == []


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"uid": "uid-0"}, "unknown-pod"),  # the pod of that name before
        ({"pod": "jupyter-bob--"}, "unknown-pod"),
        ({"uid": "", "pod": "jupyter-nobody--"}, "unknown-pod"),
        ({"uid": "", "at": 499.0}, "outdated"),
        ({"uid": "", "at": 500.0}, "revoked"),
        ({"at": 1.0}, "revoked"),
        ({"namespace": "elsewhere"}, "elsewhere"),
        ({"namespace": ""}, "revoked"),
        ({"uid": "", "pod": "", "user": "alice"}, "revoked"),
        ({"uid": "", "pod": "", "user": "alice", "server": "lab"}, "unknown-pod"),
        ({"user": "bob"}, "unknown-pod"),
        ({"server": "lab"}, "unknown-pod"),
        ({"uid": "", "pod": "", "server": "lab"}, None),  # nobody's, so it is not a report
    ],
)
def test_report_is_about_one_pod(worker, cluster, store, changes, outcome):
    cluster.add(created=500.0, **granted(make_grant()))
    cluster.add("bob", "uid-2", **granted(make_grant()))
    list_and_converge(worker)
    assert report(worker, store, replace(OF_ALICE, **changes)) == [outcome]
    assert cluster.labelled() == ({Server("bob")} if outcome == "revoked" else {ALICE, Server("bob")})


def test_report_without_a_pod_is_about_the_one_that_runs(worker, cluster, store):
    pod = cluster.add(created=500.0, **granted(make_grant()))
    cluster.pods["earlier"] = replace(pod, name="earlier", uid="uid-0", created=600.0, ended=True)
    list_and_converge(worker)
    assert report(worker, store, replace(OF_ALICE, uid="", pod="", user="alice"), about("uid-0")) == ["revoked", "ended"]
    assert cluster.labelled() == set()


def test_reports_wait_until_the_pods_are_known(worker, cluster, store):
    cluster.add(**granted(make_grant()))
    store.add_report(OF_ALICE)
    worker.respond()
    assert len(store.waiting_reports(9)) == 1
    list_and_converge(worker)
    worker.respond()
    assert store.waiting_reports(9) == [] and [row["outcome"] for row in store.detected()] == ["revoked"]


def test_wrong_rule_does_not_empty_the_hub(worker, cluster, store, internal, now, caplog):
    caplog.set_level(logging.INFO)
    add_many(cluster, 40)
    list_and_converge(worker)
    outcomes = report(worker, store, *(about(f"user-{one}") for one in range(40)))
    assert outcomes.count("revoked") == ALWAYS and outcomes.count("limited") == 40 - ALWAYS
    assert len(cluster.labelled()) == 40 - ALWAYS
    assert value(internal, "binder_egress_detections_total", source="cryptnono", list="", outcome="limited") == 31
    # A miner among them is reported again, and then cut off.
    now[0] += WINDOW_SECONDS
    assert report(worker, store, about("user-39", at=now[0])) == ["revoked"]


def test_miner_cannot_switch_a_rule_off_by_servers_that_cost_nothing(worker, cluster, store):
    add_many(cluster, 300, "free", grant=None, annotated=False, label=None)
    add_many(cluster, 20)
    list_and_converge(worker)
    outcomes = report(worker, store, *(about(f"free-{one}") for one in range(100)))
    assert outcomes.count("limited") > 0
    assert report(worker, store, about("user-0")) == ["revoked"]


def test_limit_outlives_the_process(worker, make_reconciler, cluster, store, now, redis_server):
    add_many(cluster, 20)
    list_and_converge(worker)
    assert report(worker, store, *(about(f"user-{one}") for one in range(ALWAYS))) == ["revoked"] * ALWAYS

    def outcome_of_a_new_process():
        again = make_reconciler(may_stop_pods=True, detections=SOURCES, clock=lambda: now[0])
        list_and_converge(again)
        return report(again, store, about("user-19"))

    assert outcome_of_a_new_process() == ["limited"]
    redis_server.wipe()  # The pods remember.
    assert outcome_of_a_new_process() == ["limited"]


def test_operator_who_is_called_as_a_detector_uses_up_no_share(make_reconciler, cluster, store, redis_server, impatient):
    worker = make_reconciler(may_stop_pods=True, detections=SOURCES, clock=time.time)
    add_many(cluster, 20)
    list_and_converge(worker)
    for one in range(ALWAYS):
        actions.revoke(CommandOperators(make_settings(redis_server), store), Server(f"user{one}"), "detector agent", "mining")
    worker.take(store.woken(0.01))
    converge_due(worker)
    assert report(worker, store, about("user-19", at=time.time())) == ["revoked"]


def test_unreadable_or_failing_report_holds_up_nothing(worker, alice, store, in_redis, internal, monkeypatch, caplog):
    in_redis.xadd("binder-egress:detections", {"report": "{"})
    in_redis.xadd("binder-egress:detections", {"other": "x"})
    in_redis.xadd("binder-egress:detections", {"report": OF_ALICE.dumps().replace('"at":1000.0', '"at":1' + "0" * 400)})
    cut_off = store.cut_off
    monkeypatch.setattr(store, "cut_off", lambda *args: 1 / 0 if "fault" in args[2].why else cut_off(*args))
    assert report(worker, store, replace(OF_ALICE, label="fault"), OF_ALICE) == ["failed", "revoked"]
    assert "reports that this version cannot read, and ignores: 3" in caplog.messages
    assert [row["uid"] for row in store.detected() if row["outcome"] == "failed"] == ["uid-1"]
    assert value(internal, "binder_egress_detections_total", source="", list="", outcome="failed") == 3
    assert value(internal, "binder_egress_detections_total", source="cryptnono", list="", outcome="failed") == 1


def test_report_that_is_read_twice_is_followed_once(worker, alice, store, monkeypatch):
    """Redis fails, or the reconciler ends, before the report is taken out of the stream."""

    def fail(*_):
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "answer_reports", fail)
        store.add_report(OF_ALICE)
        with pytest.raises(StoreUnavailable):
            worker.respond()
    worker.respond()
    assert [row["outcome"] for row in store.detected()] == ["repeated"]
    assert len(store.blocks()) == 1 and store.waiting_reports(1) == []


def test_lists_that_reporters_invent_make_no_time_series(worker, alice, store, in_redis):
    report(
        worker, store, *(replace(OF_ALICE, list_name=f"list {one}") for one in range(20)), replace(OF_ALICE, list_name="watched")
    )
    counted = {json.loads(name.partition(":")[2])[1] for name in in_redis.hkeys("binder-egress:counters") if "detections" in name}
    assert counted == {"", "watched"}


@pytest.mark.parametrize(("ends_in", "outcome", "by"), [(None, "repeated", "eve"), (60, "revoked", "detector cryptnono")])
def test_block_by_an_operator_stays_alone_if_it_has_no_end(worker, alice, store, redis_server, impatient, ends_in, outcome, by):
    until = ends_in and time.time() + ends_in
    actions.block(CommandOperators(make_settings(redis_server), store), "server", "alice", "eve", "mining", until=until)
    assert report(worker, store, OF_ALICE) == [outcome]
    assert [block.origin.text for block in store.blocks() if block.until is None] == [by]
