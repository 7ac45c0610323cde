"""What the reconciler publishes, forgets and counts."""

import time
from dataclasses import replace

import pytest

import binder_egress.reconciler.loop
from binder_egress.model.grants import Egress, Rule
from binder_egress.model.ping import WAYS
from binder_egress.model.records import Server
from binder_egress.reconciler.cache import PodCache
from binder_egress.store.errors import StoreUnavailable
from binder_egress.store.reconciler_counters import (
    ACCESS,
    ACCESS_TIMES,
    ANNOUNCED_LATE,
    NOT_COVERED,
    PING,
    START_GUARD,
    START_GUARD_TIME,
    WITHOUT_RECORD,
    WITHOUT_RECORD_AT,
)
from tests.support.metrics import families, value
from tests.support.reconciling import (
    ALICE,
    converge_due,
    granted,
    known,
    list_and_converge,
    make_grant,
    record_launch,
    record_unlock,
)


def test_where_labels_act_late_it_is_published_when_they_will(make_reconciler, cluster, store):
    now, measured = [1000.5], [26]
    cluster.add()
    reconciler = make_reconciler(clock=lambda: now[0], seen={"opening_seconds": lambda: measured[0]})
    list_and_converge(reconciler)
    assert store.known(ALICE).opens_at == 0, "it has no label"
    record_unlock(store, make_grant())
    list_and_converge(reconciler)
    assert store.known(ALICE).opens_at == 1027
    # What is measured later, and a renewal, change nothing for a label that stays.
    now[0], measured[0] = 2000.0, 9
    record_unlock(store, make_grant(rule="renewal"))
    list_and_converge(make_reconciler(clock=lambda: now[0], seen={"opening_seconds": lambda: measured[0]}))
    assert (store.known(ALICE).grant.rule, store.known(ALICE).opens_at) == ("renewal", 1027)
    record_unlock(store, Egress.new("small", Rule.OPERATOR, time.time() + 5))
    list_and_converge(reconciler)
    assert store.known(ALICE).opens_at == 2009
    # The next pod of the name waits again, and a tier behind the egress proxy alone waits for no label.
    now[0] = 3000.0
    cluster.add("alice", "uid-2", **granted(make_grant()))
    list_and_converge(reconciler)
    assert (store.known(ALICE).uid, store.known(ALICE).opens_at) == ("uid-2", 3009)
    tiers = {"small": {"direct": False, "hosts": ["python"], "internet": False}}
    cluster.add("alice", "uid-3", **granted(make_grant("small")))
    list_and_converge(make_reconciler(seen={"opening_seconds": lambda: 26}, tiers=tiers, allow_tier="small"))
    assert (store.known(ALICE).uid, store.known(ALICE).opens_at) == ("uid-3", 0)


def test_restart_with_an_empty_redis_publishes_every_pod_and_patches_none(make_reconciler, cluster, store, redis_server):
    grant = make_grant()
    cluster.add("alice", **granted(grant))
    cluster.add("bob", "uid-2")
    list_and_converge(make_reconciler())
    redis_server.wipe()
    reconciler = make_reconciler(started=time.time())
    list_and_converge(reconciler)
    assert cluster.patches == []
    assert store.known(ALICE) == known("uid-1", grant)
    assert store.known(Server("bob")) == known("uid-2", pod="jupyter-bob--")
    assert without_record(reconciler, store) == 0


def test_notified_server_is_not_forgotten_before_the_first_list(make_reconciler, cluster, store):
    cluster.add()
    list_and_converge(make_reconciler())
    restarted = make_reconciler()
    restarted.queue.put(ALICE)
    converge_due(restarted)
    assert store.known(ALICE)


def test_second_pod_of_a_server_is_converged_by_a_fresh_answer_of_redis(reconciler, cluster, store):
    """Read together, the second's state would be overwritten with the state from before the first."""
    list_and_converge(reconciler)
    cluster.add("alice", "uid-1", server="", created=1)
    reconciler.list_pods()
    converge_due(reconciler)
    second = replace(cluster.pods["jupyter-alice--"], name="jupyter-alice-again", uid="uid-2", created=2)
    cluster.pods[second.name] = second
    for _ in range(2):
        list_and_converge(reconciler)
        assert store.known(ALICE).uid == "uid-2"


def test_pod_that_appears_while_gone_ones_are_forgotten_stays_published(make_reconciler, cluster, store, monkeypatch):
    reconciler = make_reconciler()
    list_and_converge(reconciler)
    published = store.published

    def meanwhile():
        cluster.add("alice")
        reconciler.list_pods()
        converge_due(reconciler)
        return published()

    monkeypatch.setattr(store, "published", meanwhile)
    reconciler.heartbeat()
    converge_due(reconciler)
    assert store.known(ALICE)


def test_ended_pod_is_published_until_it_is_deleted(reconciler, cluster, store):
    pod = cluster.add(**granted(make_grant()))
    list_and_converge(reconciler)
    cluster.change(pod, ended=True)
    list_and_converge(reconciler)
    assert store.known(ALICE)


def test_youngest_pod_of_a_server_is_published(reconciler, cluster, store):
    new = cluster.add(uid="new", created=20)
    cluster.put("ADDED", replace(new, name="another-name", uid="old", created=10))
    list_and_converge(reconciler)
    assert store.known(ALICE).uid == "new"


def without_record(reconciler, store):
    reconciler.heartbeat()
    return store.reconciler_state()[1].get(WITHOUT_RECORD, 0)


def test_start_guard_and_ping_are_counted_once(reconciler, cluster, store, internal, caplog):
    pod = cluster.add(created=5)
    list_and_converge(reconciler)
    reconciler.heartbeat()
    assert START_GUARD_TIME not in store.reconciler_state()[1]  # not done yet
    cluster.change(pod, guard=("closed", 0.25))
    cluster.add("bob", "uid-2", created=5, guard=("open", 10.0), ping="no-sysctl")
    cluster.add("eve", "uid-3", created=5, guard=("mistaken_by_proxy", 10.0), ping="no-sysctl")
    cluster.add("dan", "uid-4", created=5, guard=("unknown_to_proxy", 10.0))
    for _ in range(3):
        list_and_converge(reconciler)
    reconciler.heartbeat()
    counters = store.reconciler_state()[1]
    outcomes = ("closed", "open", "absent", "mistaken_by_proxy", "unknown_to_proxy")
    assert [counters.get(START_GUARD + outcome) for outcome in outcomes] == [1, 1, None, 1, 1]
    assert counters[START_GUARD_TIME] == 30250
    ping = {way: value(internal, "binder_egress_user_pods_with_ping_total", way=way) for way in WAYS}
    assert ping == {"no-sysctl": 2, "privileges": 0}
    warned = [record.fields for record in caplog.records if record.msg == "pod started without proof of its isolation"]
    assert {fields["user"]: fields["outcome"] for fields in warned} == {"bob": "open", "eve": "mistaken_by_proxy"}


def test_pod_that_our_policies_do_not_select_is_named_and_never_touched(make_reconciler, cluster, store, internal, caplog):
    """Not even if a grant waits for it, or if it must be stopped: a label opens nothing there, and it may be another hub's pod."""
    reconciler = make_reconciler(started=1000.0, mode="allow", allow_tier="verified", may_stop_pods=True)
    reconciler.heartbeat()
    (unknown,) = [families(internal)["binder_egress_user_pods_not_covered"].samples]
    cluster.add("eve", differing="component=course", ready=True, guard=("open", 1.0))
    cluster.add("old", "uid-2", differing="no component", ended=True)
    record_launch(store, make_grant(), Server("eve"))
    for _ in range(2):
        list_and_converge(reconciler)
        reconciler.heartbeat()
    assert (unknown, value(internal, "binder_egress_user_pods_not_covered")) == ([], 1)
    assert (cluster.patches, store.known(Server("eve")), cluster.pods["jupyter-eve--"].ended) == ([], None, False)
    assert {sample.labels["tier"] for sample in families(internal)["binder_egress_user_pods"].samples} == set()
    (line,) = [record for record in caplog.records if "do not select" in record.getMessage()]
    assert line.fields == {"pods": {"jupyter-eve--": "component=course"}}
    # It gets its label after all, loses it, and ends.
    for fields, is_known, uncovered in ({"differing": ""}, True, 0), ({"differing": "no x"}, False, 1), ({"ended": True}, False, 0):
        reconciler.observe("MODIFIED", cluster.change("jupyter-eve--", **fields))
        converge_due(reconciler)
        reconciler.heartbeat()
        assert value(internal, "binder_egress_user_pods_not_covered") == uncovered
        assert (len(cluster.patches), bool(store.known(Server("eve")))) == (1, is_known)


def test_pods_that_cannot_start_because_of_us_are_counted_once(make_reconciler, cluster, internal, caplog):
    reconciler = make_reconciler(started=100.0)
    cluster.add("a", "uid-a", created=200, starting=True, hindrance="ErrImagePull: x")
    cluster.add("b", "uid-b", created=200, ended=True, hindrance="SysctlForbidden: y")
    cluster.add("before", "uid-c", created=50, hindrance="ErrImagePull: x")
    cluster.add("c", "uid-d", created=200)
    list_and_converge(reconciler)
    cluster.change("jupyter-a--", hindrance="ImagePullBackOff: x")
    list_and_converge(reconciler)
    reconciler.heartbeat()
    assert value(internal, "binder_egress_user_pods_hindered_total") == 2
    said = [record.fields["reason"] for record in caplog.records if "cannot start" in record.msg]
    assert sorted(said) == ["ErrImagePull: x", "SysctlForbidden: y"]


def test_heartbeat_counts_pods_grants_and_waits(reconciler, cluster, store):
    for user, grant in (
        ("a", make_grant()),
        ("b", make_grant()),
        ("c", make_grant("unverified", "default")),
    ):
        record_launch(store, grant, Server(user))
        cluster.add(user, f"uid-{user}")
    cluster.add("d", "uid-d", ended=True)
    list_and_converge(reconciler)
    reconciler.heartbeat()
    assert store.reconciler_state()[2] == {"verified": 2, "unverified": 1, NOT_COVERED: 0}
    converge_due(reconciler)  # what it published again
    cluster.change("jupyter-a--", label=None)  # put back, but no new grant
    list_and_converge(reconciler)
    reconciler.heartbeat()
    reconciler.heartbeat()  # nothing new
    counters = store.reconciler_state()[1]
    assert {name: number for name, number in counters.items() if name.startswith("grants:")} == {"grants:verified:valid-pass": 2}
    assert sum(number for name, number in counters.items() if name.startswith("lag:")) == 12
    assert cluster.pods["jupyter-a--"].label == "verified"


def test_first_tier_of_each_pod_is_counted_by_when_it_came(make_reconciler, cluster, store):
    reconciler = make_reconciler(started=1000.0)
    states = {
        "launch": {"starting": True},
        "start": {},
        "ready": {"ready": True, "ready_at": 995.0},
        "later": {"ready": True, "ready_at": 900.0},
    }
    for when, fields in states.items():
        cluster.add(when, f"uid-{when}", created=1000, **fields)
        record_launch(store, make_grant(), Server(when))
    cluster.add("never", "uid-never", created=1000)
    cluster.add("before", "uid-before", created=5)
    list_and_converge(reconciler)
    for pod in list(cluster.pods.values()):
        cluster.change(pod, ended=True)
    list_and_converge(reconciler)
    list_and_converge(reconciler)
    reconciler.heartbeat()
    counters = store.reconciler_state()[1]
    counted = {name: number for name, number in counters.items() if name.startswith(ACCESS)}
    assert counted == {f"{ACCESS}{when}": 1 for when in ACCESS_TIMES}


def test_counts_wait_for_a_heartbeat_that_reaches_redis(reconciler, cluster, store, redis_server):
    cluster.add(created=5, repository="r")
    list_and_converge(reconciler)
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        reconciler.heartbeat()
    redis_server.start()
    assert without_record(reconciler, store) == 1


def test_pod_without_launch_record_is_counted_once(reconciler, cluster, store, caplog):
    pod = cluster.add(created=5, repository="r")
    for _ in range(3):
        list_and_converge(reconciler)
    cluster.change(pod, ready=True)
    list_and_converge(reconciler)
    assert without_record(reconciler, store) == 1
    assert len([record for record in caplog.records if "without launch record" in record.getMessage()]) == 1
    cluster.add(uid="uid-2", created=6, repository="r")
    list_and_converge(reconciler)
    assert without_record(reconciler, store) == 2, "the server's next pod"
    assert WITHOUT_RECORD_AT in store.reconciler_state()[1]
    # The record of a launch that gave nothing counts, also once it is settled.
    record_launch(store, make_grant("unverified", "default"), Server("bob"))
    cluster.add("bob", "uid-3", created=6, ready=True, repository="r")
    for _ in range(3):
        list_and_converge(reconciler)
    assert store.pending(Server("bob"), set()).launch is None
    assert without_record(reconciler, store) == 2


def test_pod_that_jupyterhub_started_by_itself_is_not_counted_and_one_that_is_announced_late_is(reconciler, cluster, store):
    cluster.add("carol", "uid-3", created=5)
    cluster.add(created=5, repository="r")
    cluster.add("bob", "uid-2", created=5, repository="r")
    list_and_converge(reconciler)
    assert without_record(reconciler, store) == 2
    record_launch(store, make_grant("unverified", "default"), Server("bob"))
    for _ in range(3):
        list_and_converge(reconciler)
    assert without_record(reconciler, store) == 2
    assert store.reconciler_state()[1][ANNOUNCED_LATE] == 1


def test_pod_from_before_the_start_is_not_counted(make_reconciler, cluster, store):
    """Their records may already have expired, so restarts would be counted."""
    for created in (99, 101):
        cluster.add(f"user-{created}", f"uid-{created}", created=created, repository="r", guard=("closed", 0.25), ping="no-sysctl")
    reconciler = make_reconciler(started=100)
    list_and_converge(reconciler)
    assert without_record(reconciler, store) == 1
    counters = store.reconciler_state()[1]
    assert (counters[START_GUARD_TIME], counters[f"{PING}no-sysctl"]) == (250, 1)


def test_gone_pods_leave_nothing_in_memory_or_in_redis(make_reconciler, cluster, store, monkeypatch):
    caches = []
    monkeypatch.setattr(binder_egress.reconciler.loop, "PodCache", lambda *of: caches.append(PodCache(*of)) or caches[-1])
    reconciler = make_reconciler()
    for number in range(20):
        pod = cluster.add(f"user-{number}", f"uid-{number}", label="forged")
        list_and_converge(reconciler)
        assert len(caches[0]) == 5  # the pod, its server, the key of that, and the marks that it was counted and patched
        cluster.remove(pod)
        if number % 2:
            reconciler.observe("DELETED", pod)
            converge_due(reconciler)
            assert len(caches[0]) == 0
    list_and_converge(reconciler)
    assert len(caches[0]) == 0 and not store.published()
