"""The reconciler: which pods carry a grant."""

import pytest

from tests.support.apps import get_pass, launch
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
from verifier.records import Record, Server, Woken


def test_waiting_grant_is_applied_to_its_pod(reconciler, cluster, store):
    grant = make_grant()
    record_launch(store, grant)
    pod = cluster.add()
    list_and_converge(reconciler)
    now = cluster.pods[pod.name]
    assert (now.grant, now.label) == (grant, "verified")
    assert store.known(ALICE) == known("uid-1", grant, repository="r")


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


def test_waiting_grant_ends_when_its_pod_is_ready(reconciler, cluster, store):
    record_launch(store, make_grant())
    pod = cluster.add()
    list_and_converge(reconciler)
    assert store.pending(ALICE, set()).launch
    cluster.change(pod, ready=True)
    list_and_converge(reconciler)
    assert store.pending(ALICE, set()).launch is None
    # A later pod of that server needs a launch of its own.
    cluster.remove(pod)
    cluster.add(uid="uid-2")
    list_and_converge(reconciler)
    assert cluster.labelled() == set()


def test_repository_stays_published_after_its_launch_is_settled(reconciler, cluster, store):
    record_launch(store, make_grant())
    cluster.add(ready=True)
    for _ in range(3):
        list_and_converge(reconciler)
    assert store.known(ALICE).repository == "r"


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


def test_move_notifies_the_reconciler_of_both_servers(public, internal, store):
    token = get_pass(public)
    launch(internal, "alice", token=token)
    store.woken(0.01)
    launch(internal, "bob", token=token)
    assert store.woken(0.01) == Woken({ALICE, Server("bob")})


def test_pass_for_a_server_that_has_its_tier_is_not_spent(public, internal, reconciler, cluster, store):
    """The person who gave it could move its use to their own server, and the tier would go with it."""
    decision = launch(internal, "alice", token=get_pass(public))
    cluster.add("alice", ready=True)
    list_and_converge(reconciler)
    token = get_pass(public)
    answer = public.post("/egress/servers/alice", json={"token": token})
    assert (answer.status_code, answer.json["state"]) == (200, "granted")
    assert store.pending(ALICE, set()).unlock is None
    assert launch(internal, "bob", token=token)["pass_outcome"] == "free"
    list_and_converge(reconciler)
    assert cluster.pods["jupyter-alice--"].grant.id == decision["grant"]


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
