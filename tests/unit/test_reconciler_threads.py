"""The reconciler's threads, and its probes."""

import time

import pytest

import binder_egress.reconciler.loop
from binder_egress.model.records import Record, Server
from binder_egress.model.serialization import write_record
from binder_egress.reconciler.loop import SILENT_AFTER_SECONDS
from binder_egress.reconciler.user_pods import WatchEnded
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.errors import StoreUnavailable
from tests.support.apps import get_pass, launch, solve
from tests.support.fake_cluster import FakeCluster
from tests.support.reconciling import ALICE, converge_due, granted, list_and_converge, make_grant, record_launch
from tests.support.reconciling import running as reconciler_runs
from tests.support.store import Store
from tests.support.waiting import eventually


def test_reconciler_without_the_api_server_is_alive_but_not_ready(make_reconciler, monkeypatch, tmp_path, steady):
    alive, ready = tmp_path / "alive", tmp_path / "ready"
    monkeypatch.setattr(binder_egress.reconciler.loop, "ALIVE_FILE", alive)
    monkeypatch.setattr(binder_egress.reconciler.loop, "READY_FILE", ready)
    reconciler = make_reconciler()
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


@pytest.fixture
def running(make_reconciler, cluster, redis_server, tmp_path, monkeypatch):
    """A reconciler that runs, with a store of its own."""
    monkeypatch.setattr(binder_egress.reconciler.loop, "ALIVE_FILE", tmp_path / "alive")
    for name in ("RETRY_PAUSE_SECONDS", "HEARTBEAT_SECONDS", "DUE_CHECK_SECONDS", "SHORT_WATCH_SECONDS"):
        monkeypatch.setattr(binder_egress.reconciler.loop, name, 0.05)
    client = connect(load(ReconcilerSettings, redis_url=redis_server.url))
    made = make_reconciler(Store(client), steady=time.monotonic)
    with reconciler_runs(made):
        yield made
    client.close()


def test_running_reconciler_grants_unlocks_moves_and_forgets(running, cluster, public, internal, store, monkeypatch):
    monkeypatch.setattr("binder_egress.web.servers.UNLOCK_WAIT_SECONDS", 60)
    token = get_pass(public)
    launch(internal, "alice", token=token)
    pod = cluster.add("alice")  # not ready yet, so a use of the pass may still move
    eventually(lambda: cluster.labelled() == {ALICE})
    cluster.add("bob", "uid-2", ready=True)
    eventually(lambda: store.known(Server("bob")))
    # bob has no known repository, so the use does not move to bob's server; another solution unlocks it.
    assert public.post("/egress/servers/bob", json={"token": token}).status_code == 403
    answer = public.post("/egress/servers/bob", json={"provider": "altcha", "solution": solve(public, "unlock")})
    assert (answer.status_code, answer.json["state"]) == (200, "granted")
    launch(internal, "carol", token=token)
    eventually(lambda: cluster.labelled() == {Server("bob")})
    cluster.remove(pod)
    eventually(lambda: store.known(ALICE) is None)
    assert binder_egress.reconciler.loop.ALIVE_FILE.exists()


PARTS = ("heartbeat", "enqueue_due", "take", "respond")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("error", [StoreUnavailable("Redis is full"), ZeroDivisionError()], ids=repr)
def test_fault_in_a_part_of_the_listener_stops_no_other(part, error, make_reconciler, monkeypatch):
    made, called = make_reconciler(steady=time.monotonic), []

    def call(name):
        called.append(name)
        if name == part:
            raise error

    monkeypatch.setattr(made, "touch_probe_files", lambda: True)
    for each in PARTS:
        monkeypatch.setattr(made, each, lambda *_, each=each: call(each))
    assert not made.listen_once()
    assert called == list(PARTS)


def test_running_reconciler_survives_the_api_server_and_redis(running, cluster, store, redis_server):
    cluster.add("alice", **granted(make_grant()))
    eventually(lambda: store.known(ALICE))
    cluster.down = True
    redis_server.stop()
    time.sleep(0.3)
    cluster.add("bob", "uid-2", **granted(make_grant()))
    redis_server.start()
    cluster.down = False
    eventually(lambda: store.known(ALICE) and store.known(Server("bob")))
    redis_server.wipe()
    eventually(lambda: store.known(ALICE) and store.known(Server("bob")))
    assert cluster.labelled() == {ALICE, Server("bob")}


def test_watch_that_only_ended_continues_without_a_list(running, cluster, store, monkeypatch, in_redis):
    cluster.add("alice")
    eventually(lambda: store.known(ALICE) and store.reconciler_state()[0] is not None and not len(running.queue))
    lists = []
    monkeypatch.setattr(cluster, "list", lambda: lists.append(1) or FakeCluster.list(cluster))
    monkeypatch.setattr(binder_egress.reconciler.loop, "RESYNC_SECONDS", 0.2)
    heard = running.heard_at
    # Nothing wakes the reconciler for this: it looks at everything from time to time.
    in_redis.set("binder-egress:launch:alice/", write_record(Record(make_grant(), image="image:1")))
    eventually(lambda: cluster.labelled() == {ALICE})
    cluster.add("bob", "uid-2")
    eventually(lambda: store.known(Server("bob")))
    eventually(lambda: running.heard_at > heard)
    assert lists == []


def test_launch_during_a_resync_waits_for_one_batch_at_most(make_reconciler, cluster, store, steady):
    for number in range(250):
        cluster.add(f"user-{number}", f"uid-{number}")
    made = make_reconciler()
    list_and_converge(made)
    made.resync(30.0)
    record_launch(store, make_grant())
    made.observe("ADDED", cluster.add("alice"))
    made.run_once()
    made.run_once()
    assert cluster.labelled() == {ALICE}
    assert len(made.queue) == 150
    steady.now += 30
    converge_due(made)
    assert len(made.queue) == 0


@pytest.mark.parametrize("bookmarks", [False, True])
def test_watches_that_end_at_once_pause_and_count_only_with_an_event(reconciler, cluster, steady, monkeypatch, bookmarks):
    """Bookmarks are events, too."""
    monkeypatch.setattr(binder_egress.reconciler.loop, "RETRY_PAUSE_SECONDS", 0.1)
    watches = iter(range(4))

    def watch(version):
        steady.now += 0.1
        if (number := next(watches)) == 0:
            converge_due(reconciler)
        if number == 3:
            reconciler.stop()
        raise WatchEnded("renewed", str(int(version) + bookmarks))

    monkeypatch.setattr(cluster, "watch", watch)
    cluster.add("alice")
    began = time.monotonic()
    reconciler.list_and_watch()
    assert time.monotonic() - began >= 0.3
    assert len(reconciler.queue) == 0, "no server was queued again"
    assert (reconciler.heard_at > 0) is bookmarks
