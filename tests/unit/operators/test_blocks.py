"""Blocks on pods, which a reconciler applies, also under faults."""

import time
from dataclasses import replace

import pytest

from binder_egress.detections.reports import Report
from binder_egress.model.grants import BY_RULE, Block, Egress, Rule, block_in
from binder_egress.model.records import Record
from binder_egress.model.serialization import read_block, read_grant, read_record, write_block, write_grant, write_record
from binder_egress.operators import actions
from binder_egress.operators.actions import ActionRefused
from binder_egress.store.errors import StoreUnavailable
from tests.support.apps import internal_client
from tests.support.operators import BOB, REPOSITORY, pod, serve, start
from tests.support.reconciling import ALICE, converge_due, list_and_converge, make_grant, record_launch, record_unlock


@pytest.mark.parametrize(
    ("kind", "what"),
    [("server", "alice"), ("repository", "github.com/Owner/*"), ("network", "198.51.100.0/24"), ("network", "::ffff:198.51.100.7")],
)
def test_block_removes_the_tier_at_once_until_it_is_removed(reconciler, cluster, store, operators, redis_server, make, kind, what):
    start(cluster, reconciler)
    start(cluster, reconciler, "bob", "uid-2", repository="https://github.com/other/name", client="203.0.113.9")
    done = actions.block(operators, kind, what, "eve", "mining")
    serve(reconciler, store)
    assert cluster.labelled() == {BOB}
    grant = pod(cluster).grant
    assert (grant.tier, grant.rule, grant.id) == ("unverified", Rule.BLOCKED, done["block"])
    assert (grant.origin.text, grant.why) == ("eve", "mining")
    # Redis loses the block, and another reconciler lists the pods.
    redis_server.wipe()
    store.ping()
    another = make()
    list_and_converge(another)
    assert pod(cluster).grant == grant and cluster.labelled() == {BOB}
    assert block_in(store.known(ALICE).grant, time.time())
    record_unlock(store, make_grant(rule="unlock"))
    record_launch(store, make_grant())
    list_and_converge(another)
    assert pod(cluster).grant == grant
    assert [block["only_on_pods"] for block in actions.blocks(operators)] == [True]
    # The block lasts until an operator removes it.
    actions.unblock(operators, "alice", "eve")
    serve(another, store)
    list_and_converge(another)
    assert (pod(cluster).annotated, pod(cluster).label) == (False, None) or pod(cluster).grant.rule in ("unlock", "valid-pass")
    assert not block_in(store.known(ALICE).grant, time.time())


def test_block_of_one_server_queues_no_other(alice, reconciler, cluster, store, operators):
    """A stranger's program can cause it through a detector's report, and thousands of servers may run."""
    start(cluster, reconciler, "bob", "uid-2")
    actions.revoke(operators, ALICE, "eve", "mining")
    woken = store.woken(0.01)
    assert (woken.commanded, woken.everything_first) == ({ALICE.key}, False)
    reconciler.take(woken)
    converge_due(reconciler)
    assert pod(cluster).grant.rule == Rule.BLOCKED
    # A block of a repository is about an unknown number of servers.
    actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")
    assert store.woken(0.01).everything_first


@pytest.mark.parametrize("late", ["", "unlock", "withdrawal"])
def test_grants_that_a_block_cancels_do_not_return_with_its_end(reconciler, cluster, store, operators, monkeypatch, late):
    """Late: the verifier checks a solution while the block is put on the pod, or Redis fails just after that."""
    cluster.add(repository=REPOSITORY)
    list_and_converge(reconciler)
    done = actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")
    if not late:
        record_launch(store, make_grant(), repository=REPOSITORY)
    if late != "unlock":
        record_unlock(store, make_grant(rule="unlock"))
    if late == "withdrawal":
        with monkeypatch.context() as failing:
            failing.setattr(store, "withdraw", refuse)
            serve(reconciler, store)
    serve(reconciler, store)
    assert pod(cluster).grant.rule == "blocked"
    if late == "unlock":
        record_unlock(store, make_grant(rule="unlock"))
    reconciler.resync()
    converge_due(reconciler)
    actions.unblock(operators, done["block"], "eve", "was a mistake")
    serve(reconciler, store)
    assert (pod(cluster).annotated, pod(cluster).label) == (False, None)
    record_unlock(store, grant := make_grant(rule="unlock"))
    list_and_converge(reconciler)
    assert pod(cluster).grant == grant, "a new unlock is possible"


def refuse(*_):
    raise StoreUnavailable("Redis: TimeoutError")


@pytest.mark.parametrize("mode", ["captcha", "observe", "allow"])
@pytest.mark.parametrize("kind", ["launch", "unlock", "mode"])
def test_block_added_between_read_and_patch_wins(make, cluster, store, operators, mode, kind):
    reconciler = make(mode=mode)
    if kind == "launch":
        record_launch(store, make_grant(), repository=REPOSITORY)
    elif kind == "unlock":
        record_unlock(store, make_grant(rule="unlock"))
    cluster.add(repository=REPOSITORY)

    def block_repository():
        actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")
        store.woken(0.01)  # the other reconciler takes the wake-up

    cluster.before_patch = block_repository
    list_and_converge(reconciler)
    if kind == "mode" and mode != "allow":
        assert cluster.patches == []  # there was nothing to patch; the next list reads the block
        cluster.before_patch = None
        block_repository()
        list_and_converge(reconciler)
    assert cluster.labelled() == set()
    assert pod(cluster).grant.rule == Rule.BLOCKED


@pytest.mark.parametrize("way", ["command", "block", "port", "report"])
def test_server_stays_blocked_if_it_is_cut_off_before_its_pod_is_freed(make, cluster, store, operators, services, way):
    """The pod still carries a block that an operator has just removed, and the next action may not take it for its own."""
    reconciler = make(detections={"cryptnono": {"on_match": "revoke"}})
    start(cluster, reconciler)
    removed = actions.block(operators, "repository", "github.com/owner/*", "eve", "mining")["block"]
    serve(reconciler, store)
    actions.unblock(operators, removed, "eve", "the others are fine")
    if way == "command":
        actions.revoke(operators, ALICE, "eve", "mining")
    elif way == "block":
        actions.block(operators, "server", "alice", "eve", "mining")
    elif way == "port":
        body = {"user": "alice", "server": "", "by": "eve", "why": "mining"}
        assert internal_client(services).post("/api/revocations", json=body).status_code in (200, 202)
    else:
        store.add_report(Report("cryptnono", "list", "xmrig", time.time(), uid="uid-1"))
        reconciler.respond()
        assert store.detected()[0]["outcome"] == "revoked"
    serve(reconciler, store)
    assert block_in(pod(cluster).grant, time.time()) and pod(cluster).grant.id != removed
    assert [(block["kind"], block["id"]) for block in actions.blocks(operators)] == [("server", pod(cluster).grant.id)]


def test_removed_block_is_named_no_more_though_its_pod_carries_it(alice, reconciler, cluster, store, operators):
    removed = actions.block(operators, "server", "alice", "eve", "mining")["block"]
    serve(reconciler, store)
    actions.unblock(operators, removed, "eve")
    assert pod(cluster).grant.id == removed and actions.blocks(operators) == []
    assert (
        actions.explain(operators, ALICE)["because"]
        == "Its block was removed, but the reconciler has not taken it from the pod yet."
    )
    with pytest.raises(ActionRefused, match="is not blocked"):
        actions.unblock(operators, "alice", "eve")
    assert actions.grant(operators, ALICE, "verified", "eve", "was a mistake")["state"] == "pending"
    serve(reconciler, store)
    assert pod(cluster).label == "verified"


def test_block_removed_between_read_and_patch_has_no_effect(alice, reconciler, cluster, store, operators):
    done = actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")

    def remove_block():
        actions.unblock(operators, done["block"], "eve")
        store.woken(0.01)

    cluster.before_patch = remove_block
    list_and_converge(reconciler)
    assert (pod(cluster).annotated, pod(cluster).label) == (False, None)


def test_block_applies_to_a_pod_that_is_not_published_yet(alice, reconciler, cluster, store, operators):
    store.forget(ALICE)
    assert actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")["servers"] == 0
    serve(reconciler, store)
    assert pod(cluster).grant.rule == Rule.BLOCKED


@pytest.mark.parametrize("field", ["at", "until"])
@pytest.mark.parametrize("moment", [-1, 10**11 + 1, 10**30])
def test_time_for_which_no_date_exists_makes_a_decision_unreadable(field, moment):
    """Otherwise `egress grants` would end without a table for any server."""
    grant, block = Egress("g", "verified", "default", 1), Block("x", "server", "alice/", BY_RULE, "", 1)
    assert read_grant(write_grant(replace(grant, **{field: moment}))) is None
    assert read_record(write_record(Record(replace(grant, **{field: moment})))) is None
    assert read_block(write_block(replace(block, **{field: moment}))) is None
    assert read_grant(write_grant(replace(grant, **{field: 10**11})))
    assert read_block(write_block(replace(block, **{field: 10**11})))
