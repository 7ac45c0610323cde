"""Whatever is in Redis, no process stops: an operator's block takes effect meanwhile (D-415). The agent does not use Redis."""

import json
import re
import time
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import redis

from binder_egress.detections.reports import MAX_LABEL_CHARACTERS, MAX_LIST_CHARACTERS, Report
from binder_egress.gatecheck.check import Findings, Watcher
from binder_egress.model.grants import NO_GRANT, Block, Egress, Origin, block_in
from binder_egress.model.passes import Passes
from binder_egress.model.records import (
    MAX_FIELD_CHARACTERS,
    MAX_TIME,
    Detection,
    KnownServer,
    NetworkUse,
    PodAddresses,
    Record,
    ReportedLaunch,
    Server,
    UnreadableLine,
    VerifierReport,
    WantedHost,
)
from binder_egress.model.serialization import (
    MAX_TEXT_CHARACTERS,
    fields_of,
    read_block,
    read_origin,
    read_record,
    write_block,
    write_record,
)
from binder_egress.reconciler import agents
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store import base, keys
from binder_egress.store.errors import StoreUnavailable
from tests.support.apps import get_pass, launch
from tests.support.egress_proxy.following import following
from tests.support.metrics import value
from tests.support.reconciling import ALICE, converge_due, granted, list_and_converge, make_grant, record_launch
from tests.support.waiting import eventually

ADDRESS = "10.42.0.5"

TABLE = re.findall(r"^\| `([a-z]\S*)` \| (.*?) \|", keys.__doc__, re.MULTILINE)
"""Each key, and what it holds."""

NAMES = [re.sub("<server>", ALICE.key, name) for name, _ in TABLE]
"""A key of each kind; `<id>` and all others stand for themselves."""

TYPES = {name: (re.match("a (hash|list|stream)", holds) or ["", "string"])[1] for name, holds in TABLE}
"""The type of each key."""

MESSAGES = (Record, KnownServer, PodAddresses, Report, Findings)
FIELDS = sorted(
    {part.name for message in MESSAGES for part in fields(message)}
    | NetworkUse.model_fields.keys()
    | ReportedLaunch.model_fields.keys()
    | {name for row in (Detection, UnreadableLine, VerifierReport, WantedHost) for name in row.__annotations__}
    | fields_of(NO_GRANT).keys()
    | {"kind", "what", "number", "began", "pods", "event", "seen", "report"}
)
"""The fields of what is in Redis as JSON."""


def content(value):
    """JSON that has every field, all with the same value."""
    return dict.fromkeys(FIELDS, value)


RIGHT = content("x") | {"at": 1, "until": None, "kind": "repository", "what": "*", "addresses": [ADDRESS], "number": 1}

TEXTS = [
    *(b"\xff\xfe", b"\x00", b"no JSON", b'{"id": "\xff\xfe"}', b"null", b"true", b"1", b'"x"', b"[]", b"{}", b"[1]", b"[{}]", b"*"),
    *(b"[" * 20_000, b'{"id":' * 20_000, b"9" * 5000, b"1e999", b"-1", b"NaN", b"Infinity", b"x-1", b"x-" + b"9" * 30),
    *(json.dumps(content(wrong)).encode() for wrong in (None, -1, 1e300, 10**30, "x", "\ud800", True, [], {}, [[]], ["x"])),
    *(json.dumps([content(wrong)]).encode() for wrong in (None, 1, "x", [], {}, ["\ud800"])),
    *(json.dumps(RIGHT | {"grant": content("x") | {name: 1e300}, name: 1e300}).encode() for name in FIELDS),
    # A block of everything, older than the operator's, that would not fit on a pod.
    write_block(Block("x", "repository", "*", read_origin("eve"), "x" * (MAX_TEXT_CHARACTERS + 1), 0)).encode(),
]


def hash_of(text):
    """A hash with this text in every field that somebody knows, and as the name of one."""
    names = ("launches", "without-context", "failures", ALICE.key, "host", "server", "grants:verified:unlock", "detections:x")
    return {text: text} | dict.fromkeys(names, text)


WRITE = {
    "string": lambda client, name, text: client.set(name, text),
    "hash": lambda client, name, text: client.hset(name, mapping=hash_of(text)),
    "list": lambda client, name, text: client.rpush(name, text),
    "stream": lambda client, name, text: client.xadd(name, {"report": text, "row": text}),
    "set": lambda client, name, text: client.sadd(name, text),
}
"""How to write a text into a key of each type."""


def put_everywhere(client, kind, text):
    """Put a text into every key of every process."""
    pipe = client.pipeline()
    for name in NAMES:
        pipe.delete(keys.redis_key(name))
        WRITE[kind](pipe, keys.redis_key(name), text)
    pipe.execute()


OF_VERIFIER = (
    *("epoch", "solution", "charges", "rejected", "pass", "promise", "keeps", "launch", "unlock", "withdrawn"),
    *("wiring", "hub", "verifiers"),
)
"""What the verifier may write by chart/files/redis-users.sh."""


def put_as_verifier(client, kind, text):
    """Put a text wherever the verifier may write or add one."""
    pipe = client.pipeline()
    for name in NAMES:
        if name.split(":")[0] in OF_VERIFIER:
            pipe.delete(keys.redis_key(name))
            WRITE[kind](pipe, keys.redis_key(name), text)
    pipe.rpush(keys.redis_key("wake"), text)
    pipe.hsetnx(keys.redis_key("blocks"), text, text)
    pipe.execute()


@pytest.fixture
def in_bytes(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def worker(make_reconciler, monkeypatch, tmp_path):
    monkeypatch.setattr("binder_egress.reconciler.loop.ALIVE_FILE", tmp_path / "alive")
    monkeypatch.setattr("binder_egress.reconciler.loop.READY_FILE", tmp_path / "ready")
    monkeypatch.setattr("binder_egress.reconciler.loop.NOTIFICATION_WAIT_SECONDS", 0.01)
    return make_reconciler(proxy=True, detections={"falco": {}}, clock=time.time)


@pytest.mark.parametrize("kind", WRITE)
def test_block_takes_effect_whatever_is_in_redis(
    kind, worker, cluster, store, steady, settings, internal, public, in_bytes, monkeypatch, redis_server
):
    def rounds(number):
        """Rounds of the reconciler's threads, a second after the other. Returns whether all parts of the last one succeeded."""
        for _ in range(number):
            steady.now += 1
            whole = worker.listen_once()
            converge_due(worker)
        return whole

    monkeypatch.setattr("binder_egress.proxy.feed.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("binder_egress.kubernetes_api.read", lambda *args, **more: {"items": []})
    namespace = SimpleNamespace(policies=lambda: [])
    gatecheck = Watcher(load(ReconcilerSettings, redis_url=settings.redis_url), namespace, store, lambda: [])
    with following(settings) as identities:
        for at, text in enumerate(TEXTS if kind != "set" else TEXTS[:1]):  # nothing is a set
            redis_server.wipe()
            cluster.add("alice", f"uid-{at}", **granted(make_grant()), addresses=(ADDRESS,))
            worker.list_pods()
            rounds(1)
            assert cluster.labelled() == {ALICE}
            put_everywhere(in_bytes, kind, text)
            rounds(1)
            store.add_block(Block("b", "server", ALICE.key, read_origin("op"), "", int(time.time()), uid=f"uid-{at}"), [ALICE])
            put_as_verifier(in_bytes, kind, text)
            assert rounds(1), text[:80]
            assert cluster.labelled() == set(), text[:80]
            assert block_in(store.known(ALICE).grant, time.time())
            assert store.reconciler_state()[0]
            eventually(lambda: rounds(1) and (pod := identities.of(ADDRESS)) and pod.blocked, what=text[:80])
            gatecheck.run_once()
            assert store.gatecheck()["judgement"]
            assert agents.Agents("binder", {}, store, api=object()).attempts.attempt() == agents.LIST_SECONDS
            assert internal.get("/readyz").status_code == 200, text[:80]
            assert value(internal, "binder_egress_store_up") == 1
            assert public.get("/egress/servers/alice").status_code == 200
            launch(internal, "bob")
            assert list(store.launches(0)) == store.take_uses(9) == []


LONG = {
    "escapes": lambda length: "%41" * (length // 3 + 1),
    "digits": lambda length: "9" * length,
    "a grant": lambda length: write_record(Record(replace(make_grant(), why="x" * length), image="image:1")),
    "a block": lambda length: write_block(Block("x", "repository", "x" * length, read_origin("eve"), "", 0)),
}
"""How to make a text of at least a length."""

OF_OTHERS = (*OF_VERIFIER, "wake", "blocks", "revoked", "detections", "lines", "unreadable", "scans", "uses", "wanted")
"""What somebody may write who takes over the verifier, the receiver or the egress proxy."""

READS = (
    lambda store: store.health(),
    lambda store: store.rejections("<network>"),
    lambda store: store.promised("<promise>", "<network>"),
    lambda store: store.revoked_keys(),
    lambda store: store.lines(),
    lambda store: store.take_uses(9),
    lambda store: store.keep("<promise>", "<network>", Passes.new("verified", 1, time.time(), 60)),
)


def put_too_long(client, make):
    """Put a text that is longer than it can be wherever a process may write that may be taken over."""
    for name, type_ in ((name, kind) for name, kind in TYPES.items() if name.split(":")[0] in OF_OTHERS and name != "epoch"):
        text = make(max(keys.max_bytes(name), keys.MAX_TEXT_BYTES) + 1)
        key = keys.redis_key(re.sub("<server>", ALICE.key, name))
        client.delete(key)
        WRITE[type_](client, key, text)
    for name in ("launch", "unlock", "wanted"):
        client.set(keys.redis_key(f"{name}:{text}"), text)


@pytest.mark.parametrize("kind", LONG)
def test_text_that_is_longer_than_it_can_be_is_not_read(kind, worker, cluster, store, steady, internal, public, in_redis):
    grant = make_grant()
    cluster.add("alice", **granted(grant), addresses=(ADDRESS,))
    worker.list_pods()
    converge_due(worker)
    put_too_long(in_redis, LONG[kind])
    in_redis.set(keys.redis_key(f"withdrawn:{grant.id}"), LONG[kind](keys.MAX_TEXT_BYTES + 1))
    before = in_redis.info("stats")["total_net_output_bytes"]
    worker.queue.put(ALICE)
    converge_due(worker)
    assert cluster.labelled() == set(), "whatever its withdrawal says"
    store.add_block(Block("b", "server", ALICE.key, read_origin("op"), "", int(time.time()), uid="uid-1"), [ALICE])
    steady.now += 1
    assert worker.listen_once()
    converge_due(worker)
    assert block_in(store.known(ALICE).grant, time.time())
    assert internal.get("/readyz").status_code == 200
    assert value(internal, "binder_egress_store_up") == 1
    assert public.get("/egress/servers/alice").status_code == 200
    launch(internal, "bob")
    assert [block.id for block in store.blocks()] == ["b"]
    assert [waits.rule for waits in store.waiting()] == ["default"]
    assert (store.wanted_hosts(), store.unreadable(), store.hub()) == ([], [], "")
    for read in READS:
        read(store)
    assert in_redis.info("stats")["total_net_output_bytes"] - before < keys.MAX_TEXT_BYTES, "Redis sent none of them"


FACE = "\U0001f600"
"""A character that takes 12 bytes in JSON, as no other takes more."""


def test_longest_texts_that_are_written_are_read(store):
    server = Server(FACE * 255, FACE * 255)
    eve = Origin("operator", "", FACE * MAX_TEXT_CHARACTERS)
    grant = Egress("x" * 255, "x" * 255, "x" * 255, MAX_TIME, eve, FACE * MAX_TEXT_CHARACTERS, MAX_TIME)
    field = FACE * MAX_FIELD_CHARACTERS
    record = Record(grant, None, field[:253], field, field, field)
    known = KnownServer(field[:36], grant, field, field, "x" * 253, "x" * 63, field, MAX_TIME)
    block = Block("x" * 255, "server", server.key, eve, FACE * MAX_TEXT_CHARACTERS, MAX_TIME, MAX_TIME, "x" * 255)
    labels = {"list_name": FACE * MAX_LIST_CHARACTERS, "label": FACE * MAX_LABEL_CHARACTERS, "sender": FACE * 64}
    report = Report(
        source="x" * 40, at=1e9, uid="x" * 64, pod="x" * 253, namespace="x" * 253, user=server.user, server=server.name, **labels
    )
    store.grant(server, record)
    store.publish(server, known)
    store.add_block(block, [server])
    store.add_report(report)
    store.report_scans(["x" * 64])
    pending = store.pending(server, set())
    assert (pending.unlock, pending.known, pending.blocks) == (record, known, [block])
    assert store.woken(0.01).commanded == {server.key}
    assert [waits for _, waits in store.waiting_reports(9)] == [report]
    assert store.scans(9) == ["x" * 64]


def test_what_is_read_at_once_is_bounded(reconciler, cluster, store):
    """Many texts that are nearly as long as they can be come in several answers, and none is lost."""
    servers = {Server(f"user-{number}"): set() for number in range(20)}
    for server in servers:
        cluster.add(server.user, server.user, ready=True)
        store.grant(server, Record(replace(make_grant(rule="unlock"), why=FACE * 4000), uid=server.user, repository=FACE * 2000))
    for number in range(120):
        store.add_report(Report("falco", FACE * 100, FACE * 200, 1.0, user=FACE * 255, server=f"{FACE * 250}{number}"))
    assert 0 < len(store.pending_all(servers)) < 20
    assert 0 < len(store.waiting_reports(120)) < 120
    list_and_converge(reconciler)
    assert cluster.labelled() == set(servers)


def test_nothing_is_granted_if_there_are_too_many_blocks(store, in_redis):
    """The block that is left out may be an operator's."""
    block = write_block(Block("x", "repository", "x" * 2000, read_origin("eve"), "", 0))
    in_redis.hset(
        keys.redis_key("blocks"), mapping={str(number): block for number in range(keys.MAX_BLOCKS_BYTES // len(block) + 1)}
    )
    for attempt in (store.blocks, lambda: store.pending(ALICE, set()), lambda: record_launch(store, make_grant())):
        with pytest.raises(StoreUnavailable, match="too many blocks"):
            attempt()


@pytest.mark.parametrize("epoch", ["NaN", "1e999", "no number", ""])
def test_epoch_that_cannot_be_one_begins_again(epoch, internal, public, in_redis):
    """No pass would count otherwise, or every one."""
    in_redis.set(keys.redis_key("epoch"), epoch)
    assert internal.get("/readyz").status_code == 200
    assert 0 < float(in_redis.get(keys.redis_key("epoch"))) <= time.time()
    assert launch(internal, token=get_pass(public))["pass_outcome"] == "free"


def test_table_of_keys_agrees_with_the_types():
    assert {**keys.VERIFIER_TYPES, **keys.RECONCILER_TYPES}.items() <= TYPES.items()


def test_what_cannot_be_read_is_logged_once_a_minute(store, in_redis, caplog, monkeypatch):
    monkeypatch.setattr(base, "_said", {})
    in_redis.hset(keys.redis_key("blocks"), mapping={"x": "no JSON", "y": "no JSON either"})
    assert (store.blocks(), store.blocks()) == ([], [])
    assert [record.fields for record in caplog.records] == [{"key": "blocks"}]


def test_grant_that_would_not_fit_on_a_pod_counts_as_none():
    long = "x" * (MAX_TEXT_CHARACTERS + 1)
    assert read_block(write_block(Block("x", "repository", "*", read_origin("eve"), long[1:], 0)))
    assert read_block(write_block(Block("x", "repository", "*", read_origin("eve"), long, 0))) is None
    assert read_record(write_record(Record(Egress(long, "verified", "valid-pass", 1), image="image:1"))) is None


@pytest.mark.parametrize("text", ["no JSON", "5", "{}", "[5]", "[{}]", '{"at": "x"}', '[{"at": 1, "host": 5}]'])
def test_operators_lists_leave_out_what_no_process_writes(text, store, in_redis):
    in_redis.xadd(keys.redis_key("detected"), {"row": text})
    in_redis.mset({keys.redis_key("unreadable"): text, keys.redis_key("wanted:proxy"): text})
    in_redis.hset(keys.redis_key("verifiers"), "host", json.dumps({"seen": int(time.time()), "report": {"signing_keys": text}}))
    assert (store.detected(), store.unreadable(), store.wanted_hosts(), store.verifier_reports()) == ([], [], [], {})
