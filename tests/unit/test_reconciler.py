"""The reconciler: which pods carry a grant, whatever happens on the way."""

import contextlib
import json
import logging
import threading
import time
from dataclasses import replace

import pytest

import verifier.reconciler.loop
from tests.support.apps import get_pass, launch
from tests.support.fake_cluster import FakeCluster
from tests.support.reconciling import ALICE, granted, look, make_grant, unlock_for, wait_for, work
from verifier.kubernetes_api import ApiServerUnavailable
from verifier.reconciler.cache import PodCache
from verifier.reconciler.loop import RETRY_PAUSE_SECONDS, SILENT_AFTER_SECONDS, Reconciler
from verifier.reconciler.pods import Conflict, Pod, WatchEnded
from verifier.records import Grant, KnownServer, Record, Server, Woken
from verifier.settings import ReconcilerSettings, load
from verifier.store.connection import connect
from verifier.store.counters import START_GUARD, START_GUARD_TIME, WITHOUT_RECORD
from verifier.store.errors import StoreUnavailable
from verifier.store.store import Store
from verifier.user_pods import GRANT_ANNOTATION, TIER_LABEL


def known(uid, grant=None, pod="jupyter-alice--", **fields):
    """What is published of a pod that carries a grant."""
    if grant:
        fields |= {"tier": grant.tier, "grant": grant.id, "label": grant.label, "rule": grant.rule, "at": grant.at}
    return KnownServer(uid, pod=pod, **fields)


@pytest.fixture
def cluster():
    return FakeCluster()


class Steady:
    """Seconds that a test sets. They do not pass by themselves, so no retry becomes due."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def steady():
    return Steady()


@pytest.fixture
def make(redis_server, cluster, store, steady):
    """Make a reconciler, on the same cluster and Redis."""

    def make(other_store=None, started=0.0, steady=steady, **overrides):
        values = {"redis_url": redis_server.url, "tiers": {"verified": {}, "small": {}}, **overrides}
        return Reconciler(load(ReconcilerSettings, **values), cluster, other_store or store, lambda: started, steady)

    return make


@pytest.fixture
def reconciler(make):
    return make()


def withdraw(store, grant):
    store._redis.set(f"binder-egress:withdrawn:{grant.id}", 1)


# -- launches


def test_a_waiting_grant_is_applied_to_its_pod(reconciler, cluster, store):
    grant = make_grant()
    wait_for(store, grant)
    pod = cluster.add()
    look(reconciler)
    now = cluster.pods[pod.name]
    assert (now.grant, now.label) == (grant, "verified")
    assert store.known(ALICE) == known("uid-1", grant, repository="r")


def test_a_pod_that_does_not_wait_for_a_grant_gets_none(reconciler, cluster, store):
    wait_for(store, make_grant("unverified", "default"))
    cluster.add()
    look(reconciler)
    assert cluster.patches == []
    assert store.known(ALICE) == known("uid-1", repository="r")


@pytest.mark.parametrize("other", [{"user": "bob"}, {"server": "x"}, {"user": "alice/"}, {"user": "Alice"}])
def test_a_waiting_grant_is_for_its_server_only(reconciler, cluster, store, other):
    wait_for(store, make_grant())
    cluster.add(**other)
    look(reconciler)
    assert cluster.patches == []


@pytest.mark.parametrize("image", ["image:2", "image", "", "docker.io/image:1", "image:1@sha256:0"])
def test_a_pod_with_another_image_gets_nothing_and_a_warning(reconciler, cluster, store, caplog, image):
    wait_for(store, make_grant())
    cluster.add(image=image)
    look(reconciler)
    look(reconciler)
    assert cluster.patches == []
    assert store.known(ALICE).tier == "unverified"
    assert [record.levelname for record in caplog.records if "another image" in record.getMessage()] == ["WARNING"]


def test_a_waiting_grant_ends_when_its_pod_is_ready(reconciler, cluster, store):
    wait_for(store, make_grant())
    pod = cluster.add()
    look(reconciler)
    assert store.pending(ALICE, set()).launch
    cluster.change(pod, ready=True)
    look(reconciler)
    assert store.pending(ALICE, set()).launch is None
    # A later pod of that server needs a launch of its own.
    cluster.remove(pod)
    cluster.add(uid="uid-2")
    look(reconciler)
    assert cluster.labelled() == set()


def test_a_ready_pod_with_another_image_does_not_end_the_waiting_grant(reconciler, cluster, store):
    wait_for(store, make_grant())
    cluster.add(image="image:2", ready=True)
    look(reconciler)
    assert store.pending(ALICE, set()).launch


def test_a_grant_that_waited_too_long_is_not_applied(reconciler, cluster, store):
    wait_for(store, make_grant(), ttl=1)
    time.sleep(1.1)
    cluster.add()
    look(reconciler)
    assert cluster.patches == []


def test_an_ended_pod_gets_nothing(reconciler, cluster, store):
    wait_for(store, make_grant())
    cluster.add(ended=True)
    look(reconciler)
    assert cluster.patches == []


def test_the_repository_stays_known_after_the_record_is_gone(reconciler, cluster, store):
    wait_for(store, make_grant())
    cluster.add(ready=True)
    for _ in range(3):
        look(reconciler)
    assert store.known(ALICE).repository == "r"


# -- annotation and label


def test_an_annotation_without_label_gets_its_label_back(reconciler, cluster):
    """The process was killed between the two, or somebody removed the label."""
    grant = make_grant()
    pod = cluster.add(grant=grant, annotated=True)
    look(reconciler)
    assert (cluster.pods[pod.name].grant, cluster.pods[pod.name].label) == (grant, "verified")


def test_a_label_without_annotation_is_removed(reconciler, cluster):
    pod = cluster.add(label="verified")
    look(reconciler)
    assert cluster.pods[pod.name].label is None


def test_a_label_that_is_not_the_annotations_is_corrected(reconciler, cluster):
    pod = cluster.add(grant=make_grant("small"), annotated=True, label="verified")
    look(reconciler)
    assert cluster.pods[pod.name].label == "small"


@pytest.mark.parametrize("label", [None, "verified"])
def test_an_annotation_that_is_no_grant_is_removed_with_its_label(reconciler, cluster, label):
    pod = cluster.add(annotated=True, label=label)
    look(reconciler)
    now = cluster.pods[pod.name]
    assert (now.annotated, now.label) == (False, None)


@pytest.mark.parametrize("tier", ["gold", "unverified", ""])
def test_a_grant_of_a_tier_that_is_not_in_the_settings_is_removed(reconciler, cluster, store, tier):
    pod = cluster.add(**granted(make_grant(tier)))
    look(reconciler)
    assert (cluster.pods[pod.name].annotated, cluster.pods[pod.name].label) == (False, None)
    assert store.known(ALICE).tier == "unverified"


def test_a_tier_that_is_removed_from_the_settings_is_taken_from_pods_and_does_not_come_back(make, cluster, store):
    grant = make_grant("small")
    wait_for(store, grant)
    cluster.add()
    look(make())
    assert cluster.labelled() == {ALICE}
    look(make(tiers={"verified": {}}))
    assert cluster.labelled() == set()


GARBAGE = [
    "",
    "x",
    "null",
    "[]",
    "{}",
    '"verified"',
    '{"id":1,"tier":"verified","rule":"r","at":1}',
    '{"id":"a","tier":["verified"],"rule":"r","at":1}',
    '{"id":"a","tier":"verified","rule":"r"}',
    '{"id":"a","tier":"verified","rule":"r","at":"now"}',
    '{"id":"a","tier":"verified","rule":"r","at":{}}',
    '{"id":"\\ud800","tier":"verified","rule":"r","at":1}',
    "[" * 100_000,
    '{"id":"a","tier":"verified","rule":"r","at":' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:30])
def test_garbage_in_an_annotation_is_no_grant(text):
    assert Grant.loads(text) is None


def pod_json(annotations=None, **meta):
    return {
        "metadata": {
            "name": "jupyter-alice",
            "uid": "uid-1",
            "resourceVersion": "7",
            "creationTimestamp": "2025-01-02T03:04:05Z",
            "annotations": {"hub.jupyter.org/username": "alice", **(annotations or {})},
            **meta,
        },
        "spec": {"containers": [{"name": "notebook", "image": "image:1"}, {"name": "other", "image": "image:2"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def test_a_pod_is_read_from_json():
    grant = make_grant()
    found = Pod.from_json(
        pod_json(
            {GRANT_ANNOTATION: grant.dumps(), "hub.jupyter.org/servername": "lab"}, labels={TIER_LABEL: "verified", "app": "x"}
        )
    )
    assert found == Pod(
        "jupyter-alice", "uid-1", "7", Server("alice", "lab"), "image:1", grant, True, "verified", 1735787045.0, True, False,
        guard=("absent", 0.0), shared_labels=frozenset({("app", "x")}),
    )  # fmt: skip


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:30])
def test_a_pod_with_garbage_in_its_annotation_is_read_all_the_same(text):
    found = Pod.from_json(pod_json({GRANT_ANNOTATION: text}))
    assert (found.grant, found.annotated) == (None, True)


def test_a_pod_that_kubespawner_did_not_make_is_left_alone():
    assert Pod.from_json(pod_json(annotations={"hub.jupyter.org/username": ""})) is None
    assert Pod.from_json({**pod_json(), "metadata": {"name": "x", "labels": {TIER_LABEL: "verified"}}}) is None


@pytest.mark.parametrize(
    ("change", "ended"),
    [({}, False), ({"status": {"phase": "Succeeded"}}, True), ({"status": {"phase": "Failed"}}, True), ({"status": {}}, False)],
)
def test_a_pod_that_is_done_has_ended(change, ended):
    assert Pod.from_json(pod_json() | change).ended == ended
    assert Pod.from_json(pod_json(deletionTimestamp="2025-01-02T03:04:05Z")).ended


# -- withdrawal


def test_a_withdrawn_grant_is_taken_from_its_pod(reconciler, cluster, store):
    grant = make_grant()
    pod = cluster.add(**granted(grant))
    withdraw(store, grant)
    look(reconciler)
    assert (cluster.pods[pod.name].annotated, cluster.pods[pod.name].label) == (False, None)
    assert store.known(ALICE).tier == "unverified"


@pytest.mark.parametrize("kind", ["launch", "unlock"])
def test_a_withdrawn_grant_that_waits_is_not_applied(reconciler, cluster, store, kind):
    grant = make_grant()
    (wait_for if kind == "launch" else unlock_for)(store, grant)
    withdraw(store, grant)
    cluster.add()
    look(reconciler)
    assert cluster.patches == []


@pytest.mark.parametrize("kind", ["launch", "unlock"])
def test_a_grant_that_is_withdrawn_between_look_and_patch_is_taken_back(reconciler, cluster, store, kind):
    grant = make_grant()
    (wait_for if kind == "launch" else unlock_for)(store, grant)
    cluster.add()
    cluster.before_patch = lambda: withdraw(store, grant)
    look(reconciler)
    assert [found for _, found in cluster.patches] == [grant, None]
    assert cluster.labelled() == set()
    assert store.known(ALICE).tier == "unverified"


def test_a_moved_use_is_taken_from_the_old_server_and_given_to_the_new(public, internal, reconciler, cluster, store):
    token = get_pass(public)
    launch(internal, "alice", token=token)
    cluster.add("alice")
    look(reconciler)
    assert cluster.labelled() == {ALICE}
    launch(internal, "bob", token=token)
    cluster.add("bob", "uid-2")
    look(reconciler)
    assert cluster.labelled() == {Server("bob")}


def test_a_use_that_moves_after_the_reconciler_read_it_is_taken_back(public, internal, reconciler, cluster, store):
    token = get_pass(public)
    launch(internal, "alice", token=token)
    cluster.add("alice")
    cluster.before_patch = lambda: launch(internal, "bob", token=token)
    look(reconciler)
    assert cluster.labelled() == set()


def test_a_move_wakes_the_reconciler_for_both_servers(public, internal, store):
    token = get_pass(public)
    launch(internal, "alice", token=token)
    store.woken(0.01)
    launch(internal, "bob", token=token)
    assert store.woken(0.01) == Woken({ALICE, Server("bob")})


def test_a_withdrawn_grant_of_one_pass_leaves_that_of_another(public, internal, reconciler, cluster, store):
    first, second = get_pass(public), get_pass(public)
    launch(internal, "alice", token=first)
    cluster.add("alice")
    look(reconciler)
    launch(internal, "alice", token=second)
    launch(internal, "bob", token=first)
    look(reconciler)
    assert cluster.labelled() == {ALICE}


# -- unlocking


def test_an_unlock_is_applied_to_its_pod(reconciler, cluster, store):
    grant = make_grant("small", "unlock")
    unlock_for(store, grant)
    pod = cluster.add(ready=True)
    look(reconciler)
    assert cluster.pods[pod.name].label == "small"
    assert store.known(ALICE).grant == grant.id


@pytest.mark.parametrize("uid", ["uid-0", "uid-11", ""])
def test_an_unlock_is_for_one_uid_only(reconciler, cluster, store, uid):
    unlock_for(store, make_grant(), uid=uid)
    cluster.add(ready=True)
    look(reconciler)
    assert cluster.patches == []


def test_an_unlock_replaces_the_grant_that_a_pod_has(make, cluster, store):
    pod = cluster.add(**granted(make_grant("small")))
    grant = make_grant("verified", "unlock")
    unlock_for(store, grant)
    look(make(tiers={"verified": {"rank": 1}, "small": {}}))
    assert cluster.pods[pod.name].grant == grant


def test_a_pass_for_a_server_that_has_its_tier_is_not_spent(public, internal, reconciler, cluster, store):
    """Whoever gave it could move its use to a server of their own, and the tier would go with it."""
    decision = launch(internal, "alice", token=get_pass(public))
    cluster.add("alice", ready=True)
    look(reconciler)
    token = get_pass(public)
    answer = public.post("/egress/servers/alice", json={"token": token})
    assert (answer.status_code, answer.json["state"]) == (200, "granted")
    assert store.pending(ALICE, set()).unlock is None
    assert launch(internal, "bob", token=token)["pass_outcome"] == "free"
    look(reconciler)
    assert cluster.pods["jupyter-alice--"].grant.id == decision["grant"]


# -- conflicts and faults of the API server


def test_a_conflict_means_read_again(reconciler, cluster, store):
    wait_for(store, make_grant())
    cluster.add()
    cluster.conflicts = 4
    look(reconciler)
    assert cluster.labelled() == {ALICE}


def test_a_pod_that_keeps_changing_waits_for_its_next_turn(reconciler, cluster, store, steady):
    wait_for(store, make_grant())
    cluster.add()
    cluster.conflicts = 7
    look(reconciler)
    assert (cluster.labelled(), len(reconciler.queue)) == (set(), 1)
    steady.now += RETRY_PAUSE_SECONDS
    work(reconciler)
    assert cluster.labelled() == {ALICE}


def test_a_pod_that_is_replaced_under_the_same_name_does_not_inherit_the_grant(reconciler, cluster, store):
    """The unlock was for the old one; between look and patch there is a new one."""
    unlock_for(store, make_grant())
    cluster.add()
    cluster.before_patch = lambda: cluster.add(uid="uid-2")
    look(reconciler)
    assert cluster.patches == []
    look(reconciler)
    assert cluster.patches == []
    assert store.known(ALICE).uid == "uid-2"


def test_a_pod_that_is_gone_before_its_patch_is_no_fault(reconciler, cluster, store):
    wait_for(store, make_grant())
    pod = cluster.add()
    cluster.before_patch = lambda: cluster.remove(pod)
    look(reconciler)
    assert cluster.patches == []
    look(reconciler)
    assert store.known(ALICE) is None


def test_a_pod_that_ends_before_its_patch_gets_nothing(reconciler, cluster, store):
    wait_for(store, make_grant())
    pod = cluster.add()
    cluster.before_patch = lambda: cluster.change(pod, ended=True)
    look(reconciler)
    assert cluster.patches == []


def test_a_pod_that_changed_its_image_before_the_patch_gets_nothing(reconciler, cluster, store):
    """Kubernetes lets an image be changed in place."""
    wait_for(store, make_grant())
    pod = cluster.add()
    cluster.before_patch = lambda: cluster.change(pod, image="image:2")
    look(reconciler)
    assert cluster.patches == []


def test_a_stale_view_of_a_pod_does_no_harm(reconciler, cluster, store):
    grant = make_grant()
    pod = cluster.add()
    reconciler.list_pods()
    cluster.change(pod, **granted(grant))
    wait_for(store, make_grant("small"))
    work(reconciler)
    assert cluster.pods[pod.name].grant == grant
    assert store.known(ALICE).grant == grant.id


def test_while_the_api_server_is_away_it_is_asked_again_later(reconciler, cluster, store, steady):
    wait_for(store, make_grant())
    cluster.add()
    reconciler.list_pods()
    cluster.down = True
    work(reconciler)
    assert len(reconciler.queue) == 1
    with pytest.raises(ApiServerUnavailable):
        reconciler.list_pods()
    cluster.down = False
    steady.now += RETRY_PAUSE_SECONDS
    work(reconciler)
    assert cluster.labelled() == {ALICE}


def test_one_server_that_makes_a_fault_does_not_stop_the_others(reconciler, cluster, store, steady, caplog):
    store._redis.set("binder-egress:launch:alice/", "garbage")
    wait_for(store, make_grant(), Server("bob"))
    cluster.add("alice")
    cluster.add("bob", "uid-2")
    look(reconciler)
    assert (cluster.labelled(), len(reconciler.queue)) == ({Server("bob")}, 1)
    assert "fault" in caplog.text
    store._redis.delete("binder-egress:launch:alice/")
    wait_for(store, make_grant())
    steady.now += RETRY_PAUSE_SECONDS
    work(reconciler)
    assert cluster.labelled() == {ALICE, Server("bob")}


# -- two at once, and from nothing


def test_two_reconcilers_at_once_do_no_harm(make, cluster, store):
    servers = [Server(f"user-{number}") for number in range(30)]
    for number, server in enumerate(servers):
        cluster.add(server.user, f"uid-{number}")
        if number % 3:
            wait_for(store, make_grant(), server)
    withdrawn = [store.pending(server, set()).launch.grant for server in servers[1::3]]
    cluster.conflicts = 20

    def run(reconciler):
        for _ in range(4):
            reconciler.list_pods()
            for server in servers:
                with contextlib.suppress(Conflict):
                    reconciler.reconcile(server)

    threads = [threading.Thread(target=run, args=[make()]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for grant in withdrawn:
        withdraw(store, grant)
    for thread in threads:
        thread.join()
    assert cluster.labelled() == set(servers[2::3])
    for server in servers:
        assert (store.known(server).tier == "verified") == (server in cluster.labelled())


def test_a_withdrawal_whose_wake_up_another_reconciler_took_is_seen(make, cluster, store):
    grant = make_grant()
    wait_for(store, grant)
    cluster.add()
    first, second = make(), make()

    def other():
        withdraw(store, grant)
        look(second)

    cluster.before_patch = other
    look(first)
    assert cluster.labelled() == set()


def test_a_restart_with_an_empty_redis_publishes_every_pod_and_changes_none(make, cluster, store, redis_server):
    grant = make_grant()
    cluster.add("alice", **granted(grant))
    cluster.add("bob", "uid-2")
    look(make())
    redis_server.wipe()
    reconciler = make(started=time.time())
    look(reconciler)
    assert cluster.patches == []
    assert store.known(ALICE) == known("uid-1", grant)
    assert store.known(Server("bob")) == known("uid-2", pod="jupyter-bob--")
    assert store.reconciler_state()[1] == {}


def test_a_wipe_while_it_runs_publishes_every_pod_again(make, cluster, store, redis_server):
    cluster.add("alice", **granted(make_grant()))
    reconciler = make()
    look(reconciler)
    reconciler.heartbeat()
    work(reconciler)
    redis_server.wipe()
    reconciler.heartbeat()
    work(reconciler)
    assert store.known(ALICE).tier == "verified"


def test_what_an_earlier_process_published_about_gone_pods_is_forgotten(make, cluster, store):
    store.publish(Server("gone"), KnownServer("uid-0", "verified"))
    cluster.add("alice")
    reconciler = make()
    look(reconciler)
    reconciler.heartbeat()
    work(reconciler)
    assert store.known(Server("gone")) is None
    assert store.known(ALICE)


def test_before_the_pods_are_listed_nothing_is_forgotten(make, store):
    store.publish(ALICE, KnownServer("uid-1", "verified"))
    reconciler = make()
    assert not reconciler.touch_probe_files()
    assert store.known(ALICE)


def test_before_the_pods_are_listed_nothing_that_is_woken_for_is_forgotten(make, cluster, store):
    cluster.add()
    look(make())
    restarted = make()
    restarted.queue.put(ALICE)
    work(restarted)
    assert store.known(ALICE)


def test_what_cannot_be_read_about_one_server_does_not_stop_the_others(reconciler, cluster, store):
    for number, user in enumerate(("alice", "bob", "carol")):
        cluster.add(user, f"uid-{number}")
        wait_for(store, make_grant(), Server(user))
    store._redis.set("binder-egress:launch:bob/", "no JSON")
    look(reconciler)
    assert cluster.labelled() == {ALICE, Server("carol")}


def test_two_pods_of_a_server_are_each_judged_by_what_redis_says_then(reconciler, cluster, store):
    """Asked about together, the second would be published over by what was known before the first."""
    look(reconciler)
    cluster.add("alice", "uid-1", server="", created=1)
    reconciler.list_pods()
    work(reconciler)
    second = replace(cluster.pods["jupyter-alice--"], name="jupyter-alice-again", uid="uid-2", created=2)
    cluster.pods[second.name] = second
    for _ in range(2):
        look(reconciler)
        assert store.known(ALICE).uid == "uid-2"


def test_who_does_not_hear_from_the_api_server_is_alive_but_not_ready(make, monkeypatch, tmp_path, steady):
    alive, ready = tmp_path / "alive", tmp_path / "ready"
    monkeypatch.setattr(verifier.reconciler.loop, "ALIVE_FILE", alive)
    monkeypatch.setattr(verifier.reconciler.loop, "READY_FILE", ready)
    reconciler = make()
    assert not reconciler.touch_probe_files()
    assert (alive.exists(), ready.exists()) == (True, False)
    reconciler.list_pods()
    assert reconciler.touch_probe_files()
    assert ready.exists()
    steady.now += SILENT_AFTER_SECONDS
    assert reconciler.touch_probe_files()
    steady.now += 1
    ready.unlink()
    assert not reconciler.touch_probe_files()
    assert not ready.exists()


def test_a_pod_that_appears_while_gone_ones_are_forgotten_stays_published(make, cluster, store, monkeypatch):
    reconciler = make()
    look(reconciler)
    published = store.published

    def meanwhile():
        cluster.add("alice")
        reconciler.list_pods()
        work(reconciler)
        return published()

    monkeypatch.setattr(store, "published", meanwhile)
    reconciler.heartbeat()
    work(reconciler)
    assert store.known(ALICE)


def test_a_deleted_pod_is_forgotten(reconciler, cluster, store):
    pod = cluster.add()
    look(reconciler)
    assert store.known(ALICE)
    reconciler.observe("DELETED", pod)
    work(reconciler)
    assert store.known(ALICE) is None


def test_a_pod_that_is_gone_after_a_lost_watch_is_forgotten(reconciler, cluster, store):
    pod = cluster.add()
    look(reconciler)
    cluster.remove(pod)
    look(reconciler)
    assert store.known(ALICE) is None


def test_a_pod_that_ends_is_known_until_it_is_deleted(reconciler, cluster, store):
    pod = cluster.add(**granted(make_grant()))
    look(reconciler)
    cluster.change(pod, ended=True)
    look(reconciler)
    assert store.known(ALICE)


def test_of_two_pods_of_a_server_the_youngest_is_published(reconciler, cluster, store):
    new = cluster.add(uid="new", created=20)
    cluster._put("ADDED", replace(new, name="another-name", uid="old", created=10))
    look(reconciler)
    assert store.known(ALICE).uid == "new"


# -- modes


@pytest.mark.parametrize("redis", [True, False])
def test_in_mode_allow_every_pod_gets_the_tier_with_or_without_redis(make, cluster, redis_server, redis):
    reconciler = make(mode="allow", allow_tier="small")
    pod = cluster.add()
    ended = cluster.add("bob", "uid-2", ended=True)
    if not redis:
        redis_server.stop()
    look(reconciler)
    look(reconciler)
    assert (cluster.pods[pod.name].label, cluster.pods[pod.name].grant.rule) == ("small", "mode-allow")
    assert cluster.pods[ended.name].label is None
    assert len(cluster.patches) == 1


def test_in_mode_allow_a_grant_that_a_pod_has_stays(make, cluster):
    cluster.add(**granted(make_grant()))
    look(make(mode="allow", allow_tier="small"))
    assert cluster.patches == []


@pytest.mark.parametrize("where", ["on the pod", "waiting"])
def test_back_from_mode_allow_what_everybody_got_counts_no_more(make, cluster, store, where):
    everybody = Grant.new("verified", "mode-allow", 1)
    if where == "on the pod":
        cluster.add(**granted(everybody))
    else:
        wait_for(store, everybody)
        cluster.add()
    look(make(mode="captcha"))
    assert cluster.labelled() == set()


def test_a_launch_that_comes_while_the_one_before_is_settled_stays(store):
    first, second = (Record(make_grant(), image="image:1") for _ in range(2))
    store.record_launch(ALICE, second, 60)
    store.settle(ALICE, first)
    assert store.pending(ALICE, set()).launch == second
    store.settle(ALICE, second)
    assert store.pending(ALICE, set()).launch is None


@pytest.mark.parametrize("mode", ["captcha", "observe"])
def test_the_modes_captcha_and_observe_label_the_same(make, cluster, store, mode):
    wait_for(store, make_grant())
    cluster.add("alice")
    cluster.add("bob", "uid-2")
    look(make(mode=mode))
    assert cluster.labelled() == {ALICE}


# -- counting


def without_record(store):
    return store.reconciler_state()[1].get(WITHOUT_RECORD, 0)


def test_what_a_start_guard_saw_is_counted_once(reconciler, cluster, store, caplog):
    pod = cluster.add(created=5)
    look(reconciler)
    assert START_GUARD_TIME not in store.reconciler_state()[1]  # not done yet
    cluster.change(pod, guard=("closed", 0.25))
    cluster.add("bob", "uid-2", created=5, guard=("open", 10.0))
    for _ in range(3):
        look(reconciler)
    counters = store.reconciler_state()[1]
    assert [counters.get(START_GUARD + outcome) for outcome in ("closed", "open", "absent")] == [1, 1, None]
    assert counters[START_GUARD_TIME] == 10250
    (warning,) = [record for record in caplog.records if record.msg == "pod started without proof of its isolation"]
    assert (warning.fields["user"], warning.fields["outcome"]) == ("bob", "open")


def test_what_it_wrote_and_how_long_servers_waited_is_counted_with_the_next_sign_of_life(reconciler, cluster, store):
    for user, grant in (("a", make_grant()), ("b", make_grant()), ("c", make_grant("unverified", "default"))):
        wait_for(store, grant, Server(user))
        cluster.add(user, f"uid-{user}")
    look(reconciler)
    reconciler.heartbeat()
    work(reconciler)  # what it published again
    cluster.change("jupyter-a--", label=None)  # put back, but no new grant
    look(reconciler)
    reconciler.heartbeat()
    reconciler.heartbeat()  # nothing new
    counters = store.reconciler_state()[1]
    assert {name: number for name, number in counters.items() if name.startswith("grants:")} == {"grants:verified:valid-pass": 2}
    assert sum(number for name, number in counters.items() if name.startswith("lag:")) == 9
    assert cluster.pods["jupyter-a--"].label == "verified"


def test_start_guards_of_before_the_reconciler_are_not_counted_again(make, cluster, store):
    cluster.add(created=5, guard=("closed", 0.25))
    look(make(started=6))
    assert START_GUARD_TIME not in store.reconciler_state()[1]


def test_a_pod_without_launch_record_is_counted_once(reconciler, cluster, store, caplog):
    pod = cluster.add(created=5)
    for _ in range(3):
        look(reconciler)
    cluster.change(pod, ready=True)
    look(reconciler)
    assert without_record(store) == 1
    assert len([record for record in caplog.records if "without launch record" in record.getMessage()]) == 1


def test_a_pod_with_a_launch_record_is_not_counted_even_when_the_record_is_gone(reconciler, cluster, store):
    wait_for(store, make_grant("unverified", "default"))
    cluster.add(created=5, ready=True)
    for _ in range(3):
        look(reconciler)
    assert store.pending(ALICE, set()).launch is None
    assert without_record(store) == 0


def test_pods_of_before_the_start_are_not_counted(make, cluster, store):
    """Their records may have ended before, and the count would be of restarts."""
    cluster.add(created=99)
    cluster.add("bob", "uid-2", created=101)
    look(make(started=100))
    assert without_record(store) == 1


def test_a_new_pod_of_the_same_server_is_counted_again(reconciler, cluster, store):
    cluster.add(created=5)
    look(reconciler)
    cluster.add(uid="uid-2", created=6)
    look(reconciler)
    assert without_record(store) == 2


def test_what_is_remembered_of_gone_pods_is_not_kept(make, cluster, monkeypatch):
    caches = []
    monkeypatch.setattr(verifier.reconciler.loop, "PodCache", lambda: caches.append(PodCache()) or caches[-1])
    reconciler = make()
    for number in range(20):
        pod = cluster.add(f"user-{number}", f"uid-{number}")
        look(reconciler)
        assert len(caches[0]) == 3  # the pod, its server, and that it was counted
        cluster.remove(pod)
    look(reconciler)
    assert len(caches[0]) == 0


def test_pods_are_counted_by_tier(reconciler, cluster, store):
    cluster.add("a", "1", **granted(make_grant()))
    cluster.add("b", "2")
    cluster.add("c", "3")
    cluster.add("d", "4", ended=True)
    look(reconciler)
    reconciler.heartbeat()
    assert store.reconciler_state()[2] == {"verified": 1, "unverified": 2}


# -- Redis away


def test_without_redis_labels_follow_annotations(reconciler, cluster, redis_server):
    cluster.add("alice", grant=make_grant(), annotated=True)
    cluster.add("bob", "uid-2", label="verified")
    redis_server.stop()
    look(reconciler)
    assert cluster.labelled() == {ALICE}


def test_without_redis_a_reconcile_says_so(reconciler, cluster, redis_server):
    cluster.add()
    reconciler.list_pods()
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        reconciler.reconcile(ALICE)


def test_what_was_missed_while_redis_was_away_is_done_when_it_is_back(reconciler, cluster, store, redis_server):
    reconciler.heartbeat()
    cluster.add()
    redis_server.stop()
    look(reconciler)
    redis_server.start()
    wait_for(store, make_grant())
    reconciler.heartbeat()
    work(reconciler)
    assert cluster.labelled() == {ALICE}
    assert store.known(ALICE)


def test_what_was_missed_is_done_even_if_redis_lost_nothing(reconciler, cluster, store, monkeypatch):
    def fail(*_):
        raise StoreUnavailable("hangs")

    reconciler.heartbeat()
    wait_for(store, make_grant())
    cluster.add()
    reconciler.list_pods()
    reconciler.heartbeat()
    with monkeypatch.context() as patch:
        patch.setattr(store, "pending_all", fail)
        work(reconciler)
    assert cluster.labelled() == set()
    reconciler.heartbeat()
    work(reconciler)
    assert cluster.labelled() == {ALICE}


# -- the threads


@pytest.fixture
def running(make, cluster, redis_server, tmp_path, monkeypatch):
    """A reconciler that runs, with a store of its own."""
    monkeypatch.setattr(verifier.reconciler.loop, "ALIVE_FILE", tmp_path / "alive")
    monkeypatch.setattr(verifier.reconciler.loop, "RETRY_PAUSE_SECONDS", 0.05)
    client = connect(load(ReconcilerSettings, redis_url=redis_server.url))
    reconciler = make(Store(client), steady=time.monotonic)
    thread = threading.Thread(target=reconciler.run)
    thread.start()
    yield reconciler
    reconciler.stop()
    thread.join()
    # The two other threads end within a wait of theirs; the client is theirs until then.
    time.sleep(0.5)
    client.close()


def eventually(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if condition():
                return True
        except StoreUnavailable:
            pass
        time.sleep(0.01)
    return False


def test_a_running_reconciler_grants_unlocks_moves_and_forgets(running, cluster, public, internal, store):
    token = get_pass(public)
    launch(internal, "alice", token=token)
    pod = cluster.add("alice", ready=True)
    assert eventually(lambda: cluster.labelled() == {ALICE})
    cluster.add("bob", "uid-2", ready=True)
    assert eventually(lambda: store.known(Server("bob")))
    # bob is of no known repository, so the use does not move to it; a solution of its own unlocks it.
    assert public.post("/egress/servers/bob", json={"token": token}).status_code == 403
    from tests.support.apps import solve

    answer = public.post("/egress/servers/bob", json={"provider": "altcha", "solution": solve(public, "unlock")})
    assert (answer.status_code, answer.json["state"]) == (200, "granted")
    launch(internal, "carol", token=token)
    assert eventually(lambda: cluster.labelled() == {Server("bob")})
    cluster.remove(pod)
    assert eventually(lambda: store.known(ALICE) is None)
    assert verifier.reconciler.loop.ALIVE_FILE.exists()


def test_a_running_reconciler_survives_the_api_server_and_redis(running, cluster, store, redis_server):
    cluster.add("alice", **granted(make_grant()))
    assert eventually(lambda: store.known(ALICE))
    cluster.down = True
    redis_server.stop()
    time.sleep(0.3)
    cluster.add("bob", "uid-2", **granted(make_grant()))
    redis_server.start()
    cluster.down = False
    assert eventually(lambda: store.known(ALICE) and store.known(Server("bob")))
    store._redis.flushall()
    assert eventually(lambda: store.known(ALICE) and store.known(Server("bob")))
    assert cluster.labelled() == {ALICE, Server("bob")}


def test_a_watch_that_only_ended_goes_on_without_a_list(running, cluster, store, monkeypatch):
    cluster.add("alice")
    assert eventually(lambda: store.known(ALICE) and store.reconciler_state()[0] is not None and not len(running.queue))
    lists = []
    monkeypatch.setattr(cluster, "list", lambda: lists.append(1) or FakeCluster.list(cluster))
    monkeypatch.setattr(verifier.reconciler.loop, "RESYNC_SECONDS", 0.2)
    heard = running.heard_at
    # Nothing wakes the reconciler for this: it looks at everything from time to time.
    store._redis.set("binder-egress:launch:alice/", Record(make_grant(), image="image:1").dumps())
    assert eventually(lambda: cluster.labelled() == {ALICE})
    cluster.add("bob", "uid-2")
    assert eventually(lambda: store.known(Server("bob")))
    assert eventually(lambda: running.heard_at > heard) and lists == []


class Hasty(FakeCluster):
    """Its watches end at once and say nothing, but for bookmarks if it has any."""

    bookmarks = False

    def __init__(self):
        super().__init__()
        self.watches = 0

    def watch(self, version):
        self.watches += 1
        raise WatchEnded("renewed", str(int(version) + self.bookmarks))


@pytest.mark.parametrize("bookmarks", [False, True])
def test_watches_that_end_at_once_are_no_hot_loop_and_count_as_heard_only_if_they_say_something(
    redis_server, store, monkeypatch, bookmarks
):
    monkeypatch.setattr(verifier.reconciler.loop, "RETRY_PAUSE_SECONDS", 0.1)
    cluster = Hasty()
    cluster.bookmarks = bookmarks
    cluster.add("alice")
    made = Reconciler(load(ReconcilerSettings, redis_url=redis_server.url), cluster, store)
    thread = threading.Thread(target=made.list_and_watch)
    thread.start()
    try:
        assert eventually(lambda: cluster.watches)
        heard = made.heard_at
        while made.run_once():
            pass
        assert eventually(lambda: cluster.watches > 3)
    finally:
        before = cluster.watches
        made.stop()
        thread.join()
    assert before < 100
    assert len(made.queue) == 0, "no server was queued again"
    assert (made.heard_at > heard) is bookmarks


def test_a_patch_is_logged(reconciler, cluster, store, caplog):
    caplog.set_level(logging.INFO)
    grant = make_grant()
    wait_for(store, grant)
    cluster.add()
    look(reconciler)
    (record,) = [record for record in caplog.records if record.getMessage() == "pod"]
    assert record.fields == {
        "user": "alice", "server": "", "pod": "jupyter-alice--", "tier": "verified", "rule": "valid-pass", "grant": grant.id
    }  # fmt: skip
    assert json.dumps(record.fields)
