"""Blocks on pods, which a reconciler applies, also under faults."""

import ipaddress
import json
import time
from dataclasses import asdict, replace

import pytest

from tests.support.api_server import ApiServer
from tests.support.apps import internal_client, launch
from tests.support.operators import BOB, REPOSITORY, pod, serve, start
from tests.support.reconciling import (
    ALICE,
    converge_due,
    granted,
    list_and_converge,
    make_grant,
    record_decision,
    record_launch,
    record_unlock,
)
from verifier.decisions.refusals import Facts, applies
from verifier.detections.reports import Report
from verifier.grants import BY_RULE, Block, Egress, Rule, block_in, label_of
from verifier.labels import GRANT_ANNOTATION, TIER_LABEL
from verifier.operators import actions
from verifier.operators.actions import ActionRefused
from verifier.reconciler.loop import Reconciler
from verifier.reconciler.user_pods import Pod, UserPods
from verifier.records import Record
from verifier.settings import ReconcilerSettings, load
from verifier.store.errors import StoreUnavailable
from verifier.texts import read_block, read_grant, read_origin, read_record, write_block, write_grant, write_record


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


def test_block_of_one_server_queues_no_other(reconciler, cluster, store, operators):
    """A stranger's program can cause it through a detector's report, and thousands of servers may run."""
    start(cluster, reconciler)
    start(cluster, reconciler, "bob", "uid-2")
    actions.revoke(operators, ALICE, "eve", "mining")
    woken = store.woken(0.01)
    assert (woken.servers, woken.everything) == ({ALICE}, False)
    reconciler.take(woken)
    converge_due(reconciler)
    assert pod(cluster).grant.rule == Rule.BLOCKED
    # A block of a repository is about an unknown number of servers.
    actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")
    assert store.woken(0.01).everything


BLOCK = {"id": "x", "kind": "network", "what": "192.0.2.0/24", "by": "mallory", "why": "", "at": 1}

RECORD = {"grant": asdict(make_grant()), "image": "image:1", "uid": "uid-1"}

NO_JSON = ["", "no JSON", "[" * 100_000, "null", "[]", "{}"]


@pytest.mark.parametrize(
    "text",
    NO_JSON + [json.dumps(BLOCK | wrong) for wrong in (
        {"what": "everybody"}, {"what": 7}, {"kind": "autonomous system"}, {"kind": []}, {"at": "now"}, {"until": "never"},
    )],
)  # fmt: skip
def test_unreadable_block_keeps_no_other_from_its_effect(reconciler, cluster, store, operators, in_redis, services, text):
    """A verifier that is taken over may add blocks, and must not be able to end the others with one."""
    start(cluster, reconciler)
    in_redis.hset("binder-egress:blocks", "x", text)
    actions.block(operators, "repository", "github.com/owner/*", "eve", "mining")
    serve(reconciler, store)
    assert (pod(cluster).label, pod(cluster).grant.rule) == (None, Rule.BLOCKED)
    assert launch(internal_client(services), "bob", repository=REPOSITORY)["rule"] == "blocked"
    assert launch(internal_client(services), "bob", repository="https://example.com/other")["rule"] == "default"


@pytest.mark.parametrize("kind", ["launch", "unlock"])
@pytest.mark.parametrize(
    "text",
    NO_JSON + [json.dumps(RECORD | wrong) for wrong in (
        {"grant": None}, {"grant": RECORD["grant"] | {"tier": []}}, {"image": 7, "uid": []}, {"repository": {}}, {"client": 7},
    )],
)  # fmt: skip
def test_unreadable_record_keeps_no_block_from_its_server(reconciler, cluster, store, operators, in_redis, kind, text):
    start(cluster, reconciler)
    in_redis.set(f"binder-egress:{kind}:{ALICE.key}", text)
    actions.revoke(operators, ALICE, "eve", "mining")
    serve(reconciler, store)
    assert (pod(cluster).label, pod(cluster).grant.rule) == (None, Rule.BLOCKED)


def test_block_of_a_network_is_read_once_for_all_servers(monkeypatch):
    read = []
    ip_network = ipaddress.ip_network
    monkeypatch.setattr(ipaddress, "ip_network", lambda text: read.append(text) or ip_network(text))
    block = Block("b", "network", "203.0.113.64/26", read_origin("eve"), "mining", 0)
    found = [applies(block, Facts(clients=(f"203.0.113.{number}", "not an address")), 1) for number in range(100)]
    assert found == [number >= 64 for number in range(100)] and read == ["203.0.113.64/26"]


def test_grants_that_a_block_cancelled_do_not_return_with_its_end(reconciler, cluster, store, operators):
    cluster.add(repository=REPOSITORY)
    list_and_converge(reconciler)
    done = actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")
    record_unlock(store, make_grant(rule="unlock"))
    record_launch(store, make_grant(), repository=REPOSITORY)
    serve(reconciler, store)
    actions.unblock(operators, done["block"], "eve", "was a mistake")
    serve(reconciler, store)
    list_and_converge(reconciler)
    assert (pod(cluster).annotated, pod(cluster).label) == (False, None)
    # A new unlock is possible.
    record_unlock(store, grant := make_grant(rule="unlock"))
    list_and_converge(reconciler)
    assert pod(cluster).grant == grant


@pytest.mark.parametrize("late", ["unlock", "withdrawal"])
def test_grants_that_a_block_cancels_late_do_not_return_with_its_end(reconciler, cluster, store, operators, monkeypatch, late):
    """The verifier checks a solution while the block is put on the pod, or Redis fails just after that."""
    cluster.add(repository=REPOSITORY)
    list_and_converge(reconciler)
    done = actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")
    if late == "withdrawal":
        record_unlock(store, make_grant(rule="unlock"))
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


def test_removed_block_is_named_no_more_though_its_pod_carries_it(reconciler, cluster, store, operators):
    start(cluster, reconciler)
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


def test_block_removed_between_read_and_patch_has_no_effect(reconciler, cluster, store, operators):
    start(cluster, reconciler)
    done = actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")

    def remove_block():
        actions.unblock(operators, done["block"], "eve")
        store.woken(0.01)

    cluster.before_patch = remove_block
    list_and_converge(reconciler)
    assert (pod(cluster).annotated, pod(cluster).label) == (False, None)


def test_block_applies_to_a_new_pod_before_any_grant(reconciler, cluster, store, operators):
    actions.block(operators, "repository", "github.com/owner/*", "eve", "mining")
    record_launch(store, make_grant(), repository=REPOSITORY)
    cluster.add(repository=REPOSITORY)
    list_and_converge(reconciler)
    assert [grant.rule for _, grant in cluster.patches] == [Rule.BLOCKED]


def test_block_applies_to_a_pod_that_is_not_published_yet(reconciler, cluster, store, operators):
    start(cluster, reconciler)
    store.forget(ALICE)
    assert actions.block(operators, "repository", "github.com/owner/name", "eve", "mining")["servers"] == 0
    serve(reconciler, store)
    assert pod(cluster).grant.rule == Rule.BLOCKED


@pytest.mark.parametrize("mode", ["captcha", "allow"])
def test_later_pod_of_a_blocked_server_is_not_blocked(make, cluster, store, operators, mode):
    reconciler = make(mode=mode)
    start(cluster, reconciler)
    actions.block(operators, "server", "alice", "eve", "mining")
    serve(reconciler, store)
    cluster.remove(pod(cluster))
    record_launch(store, make_grant())
    cluster.add(uid="uid-2", repository=REPOSITORY)
    list_and_converge(reconciler)
    assert pod(cluster).grant.rule == "valid-pass"
    assert actions.blocks(operators) == []


def test_two_reconcilers_agree_on_a_block(make, cluster, store, operators):
    first, second = make(), make()
    start(cluster, first)
    list_and_converge(second)
    actions.block(operators, "server", "alice", "eve", "mining")
    serve(first, store)
    # The other reconciler has an old state of the pods and got no wake-up.
    second.queue.put(ALICE)
    converge_due(second)
    list_and_converge(second)
    list_and_converge(first)
    assert cluster.labelled() == set()
    assert pod(cluster).grant.rule == Rule.BLOCKED
    assert [grant.rule for _, grant in cluster.patches] == [Rule.BLOCKED]


def test_block_ends_at_its_expiry(redis_server, cluster, store, operators):
    now = [time.time()]
    reconciler = Reconciler(load(ReconcilerSettings, redis_url=redis_server.url), cluster, store, clock=lambda: now[0])
    start(cluster, reconciler)
    actions.block(operators, "network", "198.51.100.7", "eve", "mining", until=now[0] + 60)
    serve(reconciler, store)
    assert block_in(pod(cluster).grant, now[0])
    now[0] += 61
    list_and_converge(reconciler)
    assert (pod(cluster).annotated, pod(cluster).label) == (False, None)


def test_blocked_pod_stays_blocked_without_redis(make, cluster, store, operators, redis_server):
    reconciler = make(mode="allow")
    start(cluster, reconciler)
    actions.block(operators, "server", "alice", "eve", "mining")
    serve(reconciler, store)
    redis_server.stop()
    cluster.change(pod(cluster), label="verified")
    list_and_converge(reconciler)
    assert cluster.labelled() == set()


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"blocked_repositories": ["github.com/owner/*"]}, {"repository": REPOSITORY}),
        ({"self_networks": ["10.0.0.0/8"]}, {"client": "10.0.0.9"}),
    ],
)
def test_mode_allow_neither_grants_nor_revokes_against_a_refusal(make, cluster, values, fields):
    reconciler = make(mode="allow", **values)
    cluster.add(**fields)
    cluster.add("bob", "uid-2", **granted(grant := make_grant()), **fields)
    list_and_converge(reconciler)
    assert cluster.labelled() == {BOB}
    assert pod(cluster, "jupyter-bob--").grant == grant


def test_launch_facts_from_binderhub_take_precedence_over_the_pod(reconciler, cluster, store):
    """With auth_enabled, users may start a server with an environment of their choice."""
    record = Record(make_grant("unverified", "default"), image="image:1", repository="https://github.com/a/b", client="192.0.2.1")
    record_decision(store, ALICE, record, 600)
    cluster.add(repository="https://github.com/forged/x", client="192.0.2.2", ready=True)
    list_and_converge(reconciler)
    assert store.pending(ALICE, set()).launch is None  # settled and recorded
    list_and_converge(reconciler)
    known = store.known(ALICE)
    assert (known.repository, known.client) == ("https://github.com/a/b", "192.0.2.1")
    store.forget(ALICE)
    list_and_converge(reconciler)
    known = store.known(ALICE)
    assert (known.repository, known.client) == ("https://github.com/forged/x", "192.0.2.2")


def test_launch_facts_are_read_from_the_pod():
    environment = [
        {"name": "BINDER_REPO_URL", "value": "https://github.com/x/first"},
        {"name": "BINDER_REPO_URL", "value": REPOSITORY},
        {"name": "BINDER_CLIENT_IP", "value": "198.51.100.7"},
        {"name": "OTHER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    found = {
        "metadata": {
            "name": "p", "uid": "u", "resourceVersion": "1", "creationTimestamp": "2025-01-02T03:04:05Z",
            "annotations": {"hub.jupyter.org/username": "alice"},
        },
        "spec": {"containers": [{"name": "notebook", "image": "i", "env": environment}, {"name": "x", "image": "y", "env": []}]},
    }  # fmt: skip
    read = Pod.from_json(found)
    assert (read.repository, read.client) == (REPOSITORY, "198.51.100.7")
    del found["spec"]["containers"][0]["env"]
    read = Pod.from_json(found)
    assert (read.repository, read.client) == ("", "")


@pytest.mark.parametrize(
    "text",
    [
        '{"id":"g","tier":"unverified","rule":"blocked","at":1,"by":5}',
        '{"id":"g","tier":"unverified","rule":"blocked","at":1,"until":"x"}',
        '{"id":"g","tier":"unverified","rule":"blocked","at":1,"until":true}',
        '{"id":"g","tier":"unverified","rule":"blocked","at":1,"why":null}',
    ],
)
def test_annotation_with_a_malformed_block_is_not_a_grant(text):
    assert read_grant(text) is None


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


def test_block_in_an_annotation_is_read_as_it_was_written():
    grant = Block("x", "server", "alice/", read_origin("é"), "мина", 1, 2, "uid-1").grant
    assert read_grant(write_grant(grant)) == grant
    assert label_of(grant) is None


def test_block_patch_removes_the_label_and_deletion_names_the_uid():
    sent = []

    def answer(method, path, query, body):
        sent.append((method, path, body))
        return 200, {"metadata": {"name": "p", "uid": "u", "annotations": {}}}

    api = ApiServer()
    api.answer = answer
    cluster = UserPods("ns", {"a": "b"}, api.client)
    subject = Pod("p", "u", "7", ALICE, "i", None, False, "verified", 0, True, False)
    block = Block("x", "server", "alice/", read_origin("eve"), "mining", 1, None, "u").grant
    cluster.patch(subject, block)
    cluster.delete(subject)
    api.close()
    (*patch, patched), deletion = sent
    assert patch == ["PATCH", "/api/v1/namespaces/ns/pods/p"]
    assert patched["metadata"]["labels"] == {TIER_LABEL: None}
    assert read_grant(patched["metadata"]["annotations"][GRANT_ANNOTATION]) == block
    assert deletion == ("DELETE", "/api/v1/namespaces/ns/pods/p", {"preconditions": {"uid": "u"}})
