"""The reconciler: which pods carry a grant, also during faults: conflicts, two reconcilers, Redis or the API server away."""

import contextlib
import logging
import threading

import pytest

from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.records import Record, Server
from binder_egress.reconciler.loop import RETRY_PAUSE_SECONDS
from binder_egress.reconciler.user_pods import Conflict
from binder_egress.store.errors import StoreUnavailable
from binder_egress.store.reconciler_counters import FAILURES, lag_counters
from tests.support.reconciling import (
    ALICE,
    converge_due,
    granted,
    known,
    list_and_converge,
    make_grant,
    record_decision,
    record_launch,
    record_unlock,
    withdraw,
)


def test_launch_that_is_decided_after_its_pod_appeared_counts(reconciler, cluster, store):
    """BinderHub waits a second for the decision, and no event follows it."""
    cluster.add()
    list_and_converge(reconciler)
    record_launch(store, make_grant())
    reconciler.take(store.woken(0.1))
    converge_due(reconciler)
    assert cluster.labelled() == {ALICE}


@pytest.mark.parametrize("other", [{"user": "bob"}, {"server": "x"}, {"user": "alice/"}, {"user": "Alice"}])
def test_waiting_grant_is_for_its_server_only(reconciler, cluster, store, other):
    record_launch(store, make_grant())
    cluster.add(**other)
    list_and_converge(reconciler)
    assert cluster.patches == []


@pytest.mark.parametrize("image", ["image:2", "image", "", "docker.io/image:1", "image:1@sha256:0"])
def test_pod_with_another_image_gets_no_grant_and_is_logged(reconciler, cluster, store, caplog, image):
    record_launch(store, make_grant())
    cluster.add(image=image)
    list_and_converge(reconciler)
    cluster.change("jupyter-alice--", ready=True)
    list_and_converge(reconciler)
    assert cluster.patches == [] and store.pending(ALICE, set()).launch, "it waits for its pod"
    assert store.known(ALICE).tier == "unverified"
    assert [record.levelname for record in caplog.records if "another image" in record.getMessage()] == ["WARNING"]


def test_waiting_grant_is_applied_to_its_pod_and_ends_when_that_is_ready(reconciler, cluster, store):
    grant = make_grant()
    record_launch(store, grant)
    pod = cluster.add()
    list_and_converge(reconciler)
    assert (cluster.pods[pod.name].grant, cluster.pods[pod.name].label) == (grant, "verified")
    assert store.known(ALICE) == known("uid-1", grant, repository="r", announced=True)
    assert store.pending(ALICE, set()).launch
    cluster.change(pod, ready=True)
    list_and_converge(reconciler)
    assert store.pending(ALICE, set()).launch is None
    list_and_converge(reconciler)
    assert store.known(ALICE).repository == "r"
    # A later pod of that server needs a launch of its own.
    cluster.remove(pod)
    cluster.add(uid="uid-2")
    list_and_converge(reconciler)
    assert cluster.labelled() == set()


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        # The process was killed between the two, or somebody removed the label.
        pytest.param({"grant": make_grant(), "annotated": True}, "verified", id="no label"),
        pytest.param({"grant": make_grant("small"), "annotated": True, "label": "verified"}, "small", id="another label"),
        pytest.param({"label": "verified"}, None, id="a label alone"),
        pytest.param({"annotated": True}, None, id="an unreadable annotation"),
        pytest.param({"annotated": True, "label": "verified"}, None, id="an unreadable annotation and a label"),
        pytest.param(granted(make_grant("gold")), None, id="a tier that is in no settings"),
    ],
)
def test_label_follows_the_annotation(reconciler, cluster, store, fields, tier):
    pod = cluster.add(**fields)
    list_and_converge(reconciler)
    now = cluster.pods[pod.name]
    assert (now.annotated, now.label, store.known(ALICE).tier) == (tier is not None, tier, tier or "unverified")


@pytest.mark.parametrize("kind", ["launch", "unlock"])
def test_grant_that_is_withdrawn_during_its_patch_is_taken_back(reconciler, cluster, store, kind):
    grant = make_grant()
    (record_launch if kind == "launch" else record_unlock)(store, grant)
    cluster.add()
    cluster.before_patch = lambda: withdraw(store, grant)
    list_and_converge(reconciler)
    assert [found for _, found in cluster.patches] == [grant, None]
    assert cluster.labelled() == set()
    assert store.known(ALICE).tier == "unverified"


@pytest.mark.parametrize("redis", [True, False])
def test_mode_allow_gives_every_pod_the_tier_with_or_without_redis(make_reconciler, cluster, redis_server, redis):
    reconciler = make_reconciler(mode="allow", allow_tier="small")
    pod = cluster.add()
    ended = cluster.add("bob", "uid-2", ended=True)
    if not redis:
        redis_server.stop()
    list_and_converge(reconciler)
    list_and_converge(reconciler)
    assert (cluster.pods[pod.name].label, cluster.pods[pod.name].grant.rule) == ("small", "mode-allow")
    assert cluster.pods[ended.name].label is None
    assert len(cluster.patches) == 1


def test_newer_launch_is_not_settled_with_an_older_one(store):
    first, second = (Record(make_grant(), image="image:1") for _ in range(2))
    record_decision(store, ALICE, second, 60)
    store.settle(ALICE, first)
    assert store.pending(ALICE, set()).launch == second
    store.settle(ALICE, second)
    assert store.pending(ALICE, set()).launch is None


# -- faults


def test_pod_of_the_same_name_does_not_inherit_a_grant(reconciler, cluster, store):
    """The unlock was for the old pod, and a new pod replaces it just before the patch."""
    record_unlock(store, make_grant())
    cluster.add()
    cluster.before_patch = lambda: cluster.add(uid="uid-2")
    list_and_converge(reconciler)
    assert cluster.patches == []
    list_and_converge(reconciler)
    assert cluster.patches == []
    assert store.known(ALICE).uid == "uid-2"


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(lambda cluster, pod: cluster.remove(pod), id="it is gone"),
        pytest.param(lambda cluster, pod: cluster.change(pod, ended=True), id="it has ended"),
        # Kubernetes lets an image be changed in place.
        pytest.param(lambda cluster, pod: cluster.change(pod, image="image:2"), id="it has another image"),
    ],
)
def test_pod_that_changes_before_its_patch_gets_no_grant(reconciler, cluster, store, meanwhile):
    record_launch(store, make_grant())
    pod = cluster.add()
    cluster.before_patch = lambda: meanwhile(cluster, pod)
    for _ in range(2):
        list_and_converge(reconciler)
        assert cluster.patches == []


def test_launch_outlives_a_pod_that_the_watch_still_shows(reconciler, cluster, store):
    """The same server was launched before, and its pod is gone. The new pod, of the same image, is still to come."""
    pod = cluster.add(ready=True)
    list_and_converge(reconciler)
    cluster.remove(pod)
    record_launch(store, make_grant())
    reconciler.take(store.woken(0.1))
    converge_due(reconciler)
    cluster.add(uid="uid-2")
    list_and_converge(reconciler)
    assert cluster.labelled() == {ALICE}


def test_outdated_view_of_a_pod_does_no_harm(reconciler, cluster, store):
    grant = make_grant()
    pod = cluster.add()
    reconciler.list_pods()
    cluster.change(pod, **granted(grant))
    record_launch(store, make_grant("small"))
    converge_due(reconciler)
    assert cluster.pods[pod.name].grant == grant
    assert store.known(ALICE).grant.id == grant.id


def refused(pod, grant):
    raise ApiServerUnavailable("403 Forbidden", 403)


def test_refused_patches_are_counted_and_become_an_error(reconciler, cluster, store, steady, caplog, monkeypatch):
    servers = [ALICE, Server("bob")]
    for number, server in enumerate(servers):
        record_launch(store, make_grant(), server)
        cluster.add(server.user, f"uid-{number}")
    reconciler.list_pods()
    with monkeypatch.context() as refusing:
        refusing.setattr(cluster, "patch", refused)
        for _ in range(150):
            converge_due(reconciler)
            steady.now += RETRY_PAUSE_SECONDS
    reconciler.heartbeat()
    assert store.reconciler_state()[1][FAILURES] == 150 * len(servers)
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        ("WARNING", "will try again: 403 Forbidden"),
        ("ERROR", "a server waits for 60 s, as each attempt fails: 403 Forbidden"),
        ("ERROR", "a server waits for 120 s, as each attempt fails: 403 Forbidden"),
    ]
    converge_due(reconciler)
    assert cluster.labelled() == set(servers)


def test_patch_with_a_lost_answer_is_not_repeated(reconciler, cluster, store, steady, monkeypatch):
    patch = cluster.patch

    def lost(pod, grant):
        monkeypatch.setattr(cluster, "patch", patch)
        patch(pod, grant)
        raise ApiServerUnavailable("time-out")

    monkeypatch.setattr(cluster, "patch", lost)
    record_launch(store, make_grant())
    cluster.add()
    for _ in range(2):
        list_and_converge(reconciler)
        steady.now += RETRY_PAUSE_SECONDS
    assert (cluster.labelled(), len(cluster.patches), store.known(ALICE).tier) == ({ALICE}, 1, "verified")


def test_pod_that_keeps_changing_is_tried_again_after_the_pause_and_is_no_failure(reconciler, cluster, store, steady, caplog):
    record_launch(store, make_grant())
    cluster.add()
    cluster.conflicts = 7
    list_and_converge(reconciler)
    assert (cluster.labelled(), len(reconciler.queue)) == (set(), 1)
    steady.now += RETRY_PAUSE_SECONDS
    converge_due(reconciler)
    reconciler.heartbeat()
    assert (cluster.labelled(), FAILURES in store.reconciler_state()[1]) == ({ALICE}, False)
    assert [record.levelname for record in caplog.records if "will try again" in record.getMessage()] == ["WARNING"]


def test_server_is_tried_again_while_the_api_server_is_away_and_its_lag_is_the_whole_wait(reconciler, cluster, store, steady):
    record_launch(store, make_grant())
    cluster.add()
    reconciler.list_pods()
    cluster.down = True
    with pytest.raises(ApiServerUnavailable):
        reconciler.list_pods()
    for _ in range(40):
        converge_due(reconciler)
        steady.now += RETRY_PAUSE_SECONDS
    cluster.down = False
    converge_due(reconciler)
    assert cluster.labelled() == {ALICE}
    reconciler.heartbeat()
    counters = store.reconciler_state()[1]
    assert {name: number for name, number in counters.items() if name.startswith("lag")} == lag_counters(40 * RETRY_PAUSE_SECONDS)


def test_fault_of_one_server_does_not_stop_the_others(reconciler, cluster, store, steady, caplog, monkeypatch):
    patch = cluster.patch

    def faulty(pod, grant):
        if pod.server == ALICE:
            raise RuntimeError("a fault of ours")
        return patch(pod, grant)

    record_launch(store, make_grant())
    record_launch(store, make_grant(), Server("bob"))
    cluster.add("alice")
    cluster.add("bob", "uid-2")
    with monkeypatch.context() as broken:
        broken.setattr(cluster, "patch", faulty)
        list_and_converge(reconciler)
    assert (cluster.labelled(), len(reconciler.queue)) == ({Server("bob")}, 1)
    assert "fault" in caplog.text
    reconciler.heartbeat()
    assert store.reconciler_state()[1][FAILURES] == 1
    steady.now += RETRY_PAUSE_SECONDS
    converge_due(reconciler)
    assert cluster.labelled() == {ALICE, Server("bob")}


def test_two_reconcilers_at_once_do_no_harm(make_reconciler, cluster, store):
    servers = [Server(f"user-{number}") for number in range(30)]
    for number, server in enumerate(servers):
        cluster.add(server.user, f"uid-{number}")
        if number % 3:
            record_launch(store, make_grant(), server)
    withdrawn = [store.pending(server, set()).launch.grant for server in servers[1::3]]
    cluster.conflicts = 20

    def run(reconciler):
        for _ in range(4):
            reconciler.list_pods()
            for server in servers:
                with contextlib.suppress(Conflict):
                    reconciler.reconcile(server)

    threads = [threading.Thread(target=run, args=[make_reconciler()]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for grant in withdrawn:
        withdraw(store, grant)
    for thread in threads:
        thread.join()
    assert cluster.labelled() == set(servers[2::3])
    for server in servers:
        assert (store.known(server).tier == "verified") == (server in cluster.labelled())


def test_outage_of_redis_that_lost_nothing_is_made_up_for(reconciler, cluster, store, monkeypatch):
    def fail(*_):
        raise StoreUnavailable("hangs")

    reconciler.heartbeat()
    record_launch(store, make_grant())
    cluster.add()
    reconciler.list_pods()
    reconciler.heartbeat()
    with monkeypatch.context() as patch:
        patch.setattr(store, "pending_all", fail)
        converge_due(reconciler)
    assert cluster.labelled() == set()
    reconciler.heartbeat()
    converge_due(reconciler)
    assert cluster.labelled() == {ALICE}
