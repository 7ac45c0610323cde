"""Whoever takes over a verifier fills the list `wake`: operators' commands act first, and memory stays bounded (D-516)."""

import time

import pytest

from binder_egress.model.grants import Block, Origin
from binder_egress.model.records import Server
from binder_egress.reconciler.loop import DUE_CHECK_SECONDS, SERVERS_AT_ONCE
from binder_egress.store.keys import EVERYTHING, MAX_SERVER_BYTES, redis_key
from binder_egress.store.reconciler import MAX_WOKEN
from tests.support.reconciling import ALICE, converge_due, granted, list_and_converge, make_grant

WAKE = redis_key("wake")


def block(store, server, uid):
    store.add_block(Block("b", "server", server.key, Origin("operator", text="eve"), "mining", int(time.time()), uid=uid), [server])


@pytest.fixture
def many(reconciler, cluster):
    """A reconciler with more servers than it works on at once."""
    for number in range(SERVERS_AT_ONCE + 20):
        cluster.add(f"user-{number}", f"uid-{number}", **granted(make_grant()), ready=True)
    list_and_converge(reconciler)
    return reconciler


def test_names_without_a_pod_are_not_queued(many, in_redis, store):
    in_redis.rpush(WAKE, *(f"made-up-{number}/" for number in range(MAX_WOKEN - 2)), "user-1/", "*/*")
    many.take(store.woken(0.01))
    assert len(many.queue) == 1


def test_what_is_too_much_is_dropped_and_counts_as_one_resync_a_second(many, in_redis, store, steady, cluster):
    steady.now += DUE_CHECK_SECONDS
    for flood in (["made-up/"] * 50_000, [EVERYTHING]):
        in_redis.rpush(WAKE, *flood, "user-7/")
        many.take(store.woken(0.01))
        assert not in_redis.exists(WAKE)
    servers = len(cluster.pods)
    assert len(many.queue) == servers
    converge_due(many)
    in_redis.rpush(WAKE, EVERYTHING)
    many.take(store.woken(0.01))
    assert len(many.queue) == 0, "there was a resync in this second"
    steady.now += DUE_CHECK_SECONDS
    many.listen_once()
    assert len(many.queue) == servers


def test_entry_that_is_longer_than_a_server_can_be_is_not_read(reconciler, cluster, in_redis, store):
    longest = Server("\U0001f600" * 255, "\U0001f600" * 255)
    assert len(longest.key) == MAX_SERVER_BYTES
    cluster.add(longest.user, server=longest.name)
    reconciler.list_pods()
    in_redis.rpush(WAKE, "%41" * MAX_SERVER_BYTES, longest.key)
    assert store.woken(0.01).servers == {longest.key}


@pytest.mark.parametrize("number", [50, 110])
def test_command_acts_before_everything_that_waits(many, cluster, store, number):
    """Also before the rest of what is being worked on, of which Redis has been asked already."""
    for other in range(SERVERS_AT_ONCE + 20):
        many.observe("MODIFIED", cluster.change(f"jupyter-user-{other}--", label=None))

    def during_the_first_patch():
        block(store, Server(f"user-{number}"), f"uid-{number}")
        many.take(store.woken(0.01))

    cluster.before_patch = during_the_first_patch
    many.run_once()
    patched = [uid for uid, _ in cluster.patches]
    assert patched[:3] == ["uid-0", f"uid-{number}", "uid-1"] and len(patched) == len(set(patched)) >= SERVERS_AT_ONCE
    converge_due(many)
    assert set(cluster.labelled()) == {Server(f"user-{other}") for other in range(SERVERS_AT_ONCE + 20)} - {
        Server(f"user-{number}")
    }


def test_server_of_a_batch_is_not_worked_on_again_by_what_redis_held_before_the_command(many, cluster, store):
    block(store, Server("user-50"), "uid-50")
    many.take(store.woken(0.01))
    converge_due(many)
    cluster.patches.clear()
    for other in range(SERVERS_AT_ONCE):
        many.observe("MODIFIED", cluster.change(f"jupyter-user-{other}--", label=None))

    def during_the_first_patch():
        store.remove_block("b")
        many.take(store.woken(0.01))

    cluster.before_patch = during_the_first_patch
    converge_due(many)
    assert [grant for uid, grant in cluster.patches if uid == "uid-50"] == [None]


def test_block_over_http_takes_effect_although_its_notification_is_dropped(
    reconciler, cluster, in_redis, store, steady, monkeypatch
):
    cluster.add(**granted(make_grant()))
    list_and_converge(reconciler)
    steady.now += DUE_CHECK_SECONDS
    in_redis.rpush(WAKE, *["made-up/"] * (MAX_WOKEN + 1))
    monkeypatch.setattr(type(store), "_wakes", "wake")  # as the verifier has it
    block(store, ALICE, "uid-1")
    reconciler.take(store.woken(0.01))
    converge_due(reconciler)
    assert cluster.labelled() == set()


def test_ends_are_looked_for_as_each_second_of_the_clock_begins(make_reconciler, steady, monkeypatch):
    """Ends of leases and blocks are whole seconds."""
    began, looked = steady.now, []
    made = make_reconciler(clock=lambda: 100.7 + steady.now - began)
    monkeypatch.setattr(made, "enqueue_due", lambda: looked.append(round(steady.now - began, 2)))
    for _ in range(25):
        made._queue_in_time()
        steady.now += 0.11
    assert looked == [0.0, 0.33, 1.32, 2.31]
