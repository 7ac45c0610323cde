"""What outlives Redis: the ConfigMap that the reconciler keeps, against an API server that fails (D-555)."""

import itertools
import json
import time
from contextlib import suppress

import pytest

from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.grants import Block, Origin
from binder_egress.model.passes import Passes
from binder_egress.model.records import Record
from binder_egress.operators import actions
from binder_egress.operators.actions import ActionRefused, CommandOperators
from binder_egress.reconciler.saved_blocks import READ_SECONDS, SavedBlocks
from binder_egress.store.errors import StoreUnavailable
from binder_egress.store.keys import MAX_BLOCKS_BYTES
from binder_egress.store.redeeming import Use
from binder_egress.store.saved import MAX_SAVED_BYTES
from tests.support.api_server import ApiServer
from tests.support.apps import launch
from tests.support.reconciling import ALICE, announce, converge_due, granted, list_and_converge, make_grant, record_launch

PATH = "/api/v1/namespaces/binder/configmaps/gate-blocks"
KEY = "0123456789abcdef"
FACE = "\U0001f600"
"""A character that takes 12 bytes in JSON, as no other takes more."""
EVE = Origin("operator", text="eve")


def block(identity="b", what="example.com/a/b", kind="repository", **more):
    return Block(identity, kind, what, EVE, "mining", 1, **more)


class ConfigMap:
    """The ConfigMap, in an API server that patches it as Kubernetes does."""

    def __init__(self, api):
        self.data: dict[str, str] | None = None
        self.version, self.missing, self.refused = 1, False, False
        api.answer = self._answer

    def _answer(self, method, path, query, body):
        if self.missing or path != PATH:
            return 404, {}
        if self.refused:
            return 403, {}
        if method == "PATCH":
            if body["metadata"] != {"resourceVersion": str(self.version)}:
                return 409, {}
            self.write({**(self.data or {}), **body["data"]})
        return 200, {"metadata": {"resourceVersion": str(self.version)}, **({"data": self.data} if self.data else {})}

    def write(self, data):
        self.data, self.version = data, self.version + 1

    @property
    def blocks(self):
        return sorted(json.loads(line)["id"] for line in self.data["blocks"].split("\n") if line)


@pytest.fixture
def config_map(api: ApiServer):
    return ConfigMap(api)


@pytest.fixture
def make_saver(api, config_map, store, steady):
    return lambda: SavedBlocks("binder", "gate-blocks", store, steady=lambda: steady.now, api=api.client)


@pytest.fixture
def saver(make_saver):
    return make_saver()


@pytest.fixture
def lose(in_redis):
    """A function that loses Redis. The verifier begins an epoch at once."""
    return in_redis.flushall


def ids(store):
    return sorted(block.id for block in store.blocks())


def test_blocks_and_revoked_keys_outlive_redis_without_reasons(saver, config_map, store, lose, make_saver, caplog):
    for each in (block(until=2**31), block("n", "192.0.2.0/24", "network"), block("s", ALICE.key, "server", uid="uid-1")):
        store.add_block(each, [])
    store.revoke_key(KEY)
    saver.turn()
    assert config_map.blocks == ["b", "n"] and config_map.data["revoked"] == KEY
    assert "mining" not in str(config_map.data) and "course" not in str(config_map.data)
    lose()
    make_saver().turn()  # another process, which remembers nothing
    assert ids(store) == ["b", "n"] and store.revoked_keys() == {KEY}
    restored = {found.id: found for found in store.blocks()}
    assert (restored["b"].origin, restored["b"].until, restored["n"].what) == (EVE, 2**31, "192.0.2.0/24")
    assert store.restoration() | {"at": 0} == {"at": 0, "lost": True, "blocks": 2, "keys": 1, "unreadable": 0}
    assert "Redis was lost" in caplog.text


def test_nothing_changes_without_a_change(saver, api, steady):
    saver.turn()
    asked = len(api.asked)
    for _ in range(5):
        saver.turn()
    assert len(api.asked) == asked
    steady.now += READ_SECONDS
    saver.turn()
    assert api.asked[asked:] == [("GET", PATH, {})]


def test_what_is_removed_or_over_is_removed_from_the_config_map(saver, config_map, store):
    for identity in ("over", "removed", "stays"):
        store.add_block(block(identity, until=10 if identity == "over" else None), [])
    saver.turn()
    store.forget_ended_blocks(time.time())
    store.remove_block("removed")
    saver.turn()
    assert config_map.blocks == ["stays"]


@pytest.fixture
def worker(make_reconciler, monkeypatch, tmp_path):
    for name in ("ALIVE_FILE", "READY_FILE"):
        monkeypatch.setattr(f"binder_egress.reconciler.loop.{name}", tmp_path / name)
    monkeypatch.setattr("binder_egress.reconciler.loop.NOTIFICATION_WAIT_SECONDS", 0.01)
    return make_reconciler(clock=time.time)


def test_nothing_is_granted_between_the_loss_and_the_restoration(internal, cluster, store, worker, saver, lose, steady):
    cluster.add("alice", "uid-1", ready=True)
    list_and_converge(worker)
    saver.turn()
    lose()
    store.ping()
    grant, used = make_grant(), Passes.new("verified", 1, time.time() + 1, 60)
    attempts = (
        lambda: announce(store),
        lambda: store.redeem(Use(used, ALICE, Record(grant, uid="uid-1"), "", 60)),
        lambda: store.use_key(KEY, 9, 60, lambda blocks: None),
        lambda: store.use_solution("altcha", "id", time.time() + 1, 60, lambda blocks: None),
        lambda: store.pending(ALICE, set()),
        store.blocks,
    )
    for attempt in attempts:
        with pytest.raises(StoreUnavailable, match="not been restored"):
            attempt()
    answer = internal.post("/api/launches", json={"user": "bob", "image": "image:1", "repository": "https://example.com/a/b"})
    assert answer.status_code == 503, "BinderHub's hook announces it again"
    # A grant that somebody wrote into this Redis reaches no pod.
    store.grant(ALICE, Record(grant, uid="uid-1"))
    for _ in range(3):
        steady.now += 1
        worker.listen_once()
        converge_due(worker)
    assert cluster.labelled() == set()
    saver.turn()
    for _ in range(3):
        steady.now += 1
        worker.listen_once()
        converge_due(worker)
    assert cluster.labelled() == {ALICE}
    assert launch(internal)["rule"] == "default"


def test_revoked_key_gives_nothing_after_a_loss(saver, store, lose):
    store.revoke_key(KEY)
    saver.turn()
    lose()
    saver.turn()
    used = Passes.new("verified", 1, time.time() + 1, 60, key=KEY)
    assert store.redeem(Use(used, ALICE, Record(make_grant(), uid="uid-1"), "", 60)) == "key-revoked"


def test_running_server_keeps_what_it_has_while_nothing_is_restored(cluster, store, worker, lose, steady):
    cluster.add("alice", **granted(make_grant()))
    lose()
    worker.list_pods()
    steady.now += 1
    worker.listen_once()
    converge_due(worker)
    assert cluster.labelled() == {ALICE} and store.known(ALICE) is None
    assert store.reconciler_state()[0], "the heartbeat goes on"


def test_first_redis_has_nothing_to_wait_for(saver, config_map, store, lose, caplog):
    lose()
    saver.turn()
    assert store.restoration()["lost"] is False and "lost" not in caplog.text
    assert config_map.data == {"blocks": "", "revoked": ""}
    lose()
    saver.turn()
    assert store.restoration()["lost"] is True


def test_blocks_of_a_version_that_saved_none_stay(saver, config_map, store, in_redis):
    store.add_block(block(), [])
    in_redis.delete("binder-egress:restored")
    saver.turn()
    assert ids(store) == config_map.blocks == ["b"]


def test_without_the_api_server_nothing_is_restored_and_it_is_said_once(saver, config_map, store, lose, caplog):
    store.add_block(block(), [])
    saver.turn()
    config_map.refused = True
    lose()
    for _ in range(3):
        saver.attempts.attempt()
    assert store.restoration() is None
    assert caplog.text.count("what must outlive Redis is not saved, or not restored: 403") == 1
    config_map.refused = False
    saver.turn()
    assert ids(store) == ["b"]


def test_change_that_could_not_be_saved_outlives_redis_with_the_process(saver, config_map, store, lose):
    """The API server is away, an operator acts, and Redis is lost, too."""
    store.add_block(block("removed"), [])
    saver.turn()
    config_map.refused = True
    store.remove_block("removed")
    store.add_block(block("new"), [])
    for _ in range(2):
        saver.attempts.attempt()
    config_map.refused = False
    lose()
    saver.turn()
    assert ids(store) == config_map.blocks == ["new"]


def test_config_map_that_is_missing_stops_nothing(saver, config_map, store, lose, caplog):
    config_map.missing = True
    lose()
    saver.attempts.attempt()
    assert store.restoration()["lost"] is False and "404" in caplog.text
    config_map.missing = False
    store.add_block(block(), [])
    saver.attempts.attempt()
    assert config_map.blocks == ["b"]


def test_older_reconciler_does_not_bring_back_what_was_removed(make_saver, config_map, store, lose, monkeypatch):
    old, new = make_saver(), make_saver()
    store.add_block(block(), [])
    old.turn()
    store.add_block(block("other"), [])
    read = store.to_save

    def read_too_early():
        """The block is removed, and the other reconciler saves that, after the old one has read Redis."""
        lines = read()
        monkeypatch.setattr(store, "to_save", read)
        store.remove_block("b")
        new.turn()
        return lines

    monkeypatch.setattr(store, "to_save", read_too_early)
    with pytest.raises(ApiServerUnavailable, match="409"):
        old.turn()
    assert config_map.blocks == ["other"]
    lose()
    old.turn()  # What it has in memory is older than the ConfigMap.
    assert ids(store) == config_map.blocks == ["other"]


def test_restoration_that_comes_second_enters_nothing(saver, config_map, store, lose):
    store.add_block(block(), [])
    saver.turn()
    copy = dict(config_map.data)
    lose()
    saver.turn()
    store.remove_block("b")
    assert store.restore(copy, time.time()) is False
    assert ids(store) == []


LINE = '{"id": "x", "kind": "repository", "what": "example.com/c/d", "at": 1}'
DAMAGED = (
    "no JSON", "[]", "null", "{}", "[" * 9000, LINE[:-1], LINE.replace("repository", "server"), LINE.replace("1}", '"1"}'),
    LINE.replace("1}", "1e999}"), LINE.replace('"x"', f'"{"x" * 256}"'), LINE.replace('"x"', "1"),
    LINE.replace('"example.com/c/d"', "1"),
)  # fmt: skip


def test_what_somebody_wrote_into_the_config_map_is_read_as_far_as_it_can_be(saver, config_map, store, lose):
    saver.turn()
    keys = "\n".join((KEY, KEY.upper(), "*", "0" * 15, "é" * 16))
    config_map.write({"blocks": "\n".join((*DAMAGED, LINE)), "revoked": keys, "other": "x"})
    lose()
    saver.turn()
    assert ids(store) == ["x"] and store.revoked_keys() == {KEY}
    assert store.restoration()["unreadable"] == len(DAMAGED) + 4
    assert config_map.blocks == ["x"]


def test_largest_config_map_leaves_room_for_grants(saver, config_map, store, lose):
    """Whoever may write it may block, and not more."""
    shortest = (f'{{"id":"{number:x}","kind":"network","what":"","at":1}}' for number in itertools.count())
    lines, left = [], 1_000_000
    while left > 0:
        lines.append(next(shortest))
        left -= len(lines[-1]) + 1
    for text in ("\n".join(lines), LINE.replace("example", FACE * 249_000)):
        config_map.write({"blocks": text})
        lose()
        saver.turn()
        record_launch(store, make_grant())
        assert len(config_map.data["blocks"]) <= MAX_SAVED_BYTES["blocks"]


def test_what_is_saved_is_bounded_and_more_blocks_are_refused(saver, config_map, store, settings, impatient, in_redis):
    operators = CommandOperators(settings, store)
    with pytest.raises(ActionRefused, match=r"There are \d+ such blocks"):
        for number in itertools.count():
            actions.block(operators, "network", f"10.{number}.0.0/16", FACE * 3000, "mining")
    saver.turn()
    assert len(config_map.blocks) == len(store.blocks()) > 10
    # A verifier that somebody took over may write more.
    written = {f"b{number}": f'{{"id": "b{number}", "kind": "network", "what": "x", "at": 0}}' for number in range(9000)}
    in_redis.hset("binder-egress:blocks", mapping=written)
    in_redis.hset("binder-egress:revoked", mapping={f"{number:016x}": "" for number in range(9000)})
    saver.turn()
    for name, most in MAX_SAVED_BYTES.items():
        assert 0.9 * most < len(config_map.data[name]) <= most
    assert sum(MAX_SAVED_BYTES.values()) < 0.6 * (1 << 20), "Kubernetes' limit"


@pytest.mark.parametrize("kind", ["revoke", "report"])
def test_more_blocks_than_can_be_read_are_refused_and_grants_go_on(store, kind):
    def add(number):
        new = Block(f"b{number}", "server", ALICE.key, EVE, FACE * 4000, 1, uid=f"uid-{number}")
        store.add_block(new, []) if kind == "revoke" else store.cut_off(ALICE, new.uid, new, stop=True)

    with pytest.raises(StoreUnavailable, match="too many blocks"):
        for number in range(MAX_BLOCKS_BYTES // 48_000 + 2):
            add(number)
    assert len(store.blocks()) > 80
    with suppress(StoreUnavailable):
        add("more")
    record_launch(store, make_grant())
