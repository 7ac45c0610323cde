"""The reconciler's messages for the egress proxy, and how they reach it."""

import asyncio
import time
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from binder_egress.model.grants import Block
from binder_egress.model.records import AddressChange, AddressVersion, PodAddresses, Server
from binder_egress.model.serialization import read_origin
from binder_egress.proxy import feed as feed_module
from binder_egress.proxy.feed import Feed
from binder_egress.proxy.identities import Identities
from binder_egress.reconciler.user_pods import Pod
from binder_egress.store.errors import StoreUnavailable
from tests.support.egress_proxy.following import following
from tests.support.reconciling import ALICE, converge_due, granted, list_and_converge, make_grant, record_launch, record_unlock
from tests.support.waiting import eventually

ADDRESSES = {"addresses": ("10.42.0.5", "fd42::5")}


@pytest.fixture
def reconciler(make_reconciler):
    return make_reconciler(proxy=True, started=time.time())


def published(store):
    return [pod for pods in store.addresses()[1].values() for pod in pods]


def test_nothing_is_published_without_a_proxy_nor_before_the_first_list(make_reconciler, reconciler, cluster, store):
    cluster.add(**ADDRESSES)
    other = make_reconciler()
    list_and_converge(other)
    other.heartbeat()
    assert store.addresses()[1] == {}
    store.publish_addresses(ALICE, [PodAddresses("uid-1", "alice", "", ("10.42.0.5",))])
    reconciler.queue.put(ALICE)
    converge_due(reconciler)
    assert len(published(store)) == 1


def test_tier_is_the_one_of_the_label(reconciler, cluster, store):
    """A grant without its label opens neither the network nor the proxy."""
    repository = "https://github.com/owner/repo"
    cluster.add(**ADDRESSES, **{**granted(make_grant()), "label": None}, repository=repository)
    reconciler.list_pods()
    reconciler.heartbeat()
    assert [pod.tier for pod in published(store)] == ["unverified"]
    converge_due(reconciler)
    assert published(store) == [PodAddresses("uid-1", "alice", "", ADDRESSES["addresses"], "verified", repository=repository)]


def block(reconciler, store):
    store.add_block(Block("b", "server", ALICE.key, read_origin("op"), "", int(time.time()), uid="uid-1"), [ALICE])
    reconciler.take(store.woken(0.1))
    converge_due(reconciler)


@pytest.mark.parametrize("late", ["event", "list"])
def test_late_news_from_before_a_block_gives_nothing_back(reconciler, cluster, store, monkeypatch, late):
    """The watch is behind, or a list took a while: the pod is blocked already."""
    before = cluster.add(**ADDRESSES, **granted(make_grant()))
    list_and_converge(reconciler)
    block(reconciler, store)
    with store.address_changes() as following:
        if late == "event":
            reconciler.observe("MODIFIED", before)
        else:
            monkeypatch.setattr(cluster, "list", lambda: ([before], "1"))
            reconciler.list_pods()
        converge_due(reconciler)
        assert following(0.5) is None
    assert [(pod.tier, pod.blocked) for pod in published(store)] == [("unverified", True)]


def test_list_that_a_block_overtakes_gives_nothing_back(reconciler, cluster, store, monkeypatch):
    """The pod is blocked while the answers to the list arrive, and the heartbeat publishes before the pod has its turn again."""
    cluster.add(**ADDRESSES, **granted(make_grant()))
    list_and_converge(reconciler)
    listed = cluster.list()

    def overtaken():
        block(reconciler, store)
        return listed

    monkeypatch.setattr(cluster, "list", overtaken)
    reconciler.list_pods()
    reconciler.heartbeat()
    assert [(pod.tier, pod.blocked) for pod in published(store)] == [("unverified", True)]


def test_list_that_is_newer_than_a_patch_counts(reconciler, cluster, store, monkeypatch):
    """The pod got its address after the patch and before the list's snapshot, and no event says so again."""
    pod = cluster.add()
    list_and_converge(reconciler)
    listed = cluster.list

    def late():
        record_launch(store, make_grant())
        reconciler.take(store.woken(0.1))
        converge_due(reconciler)
        cluster.change(pod, **ADDRESSES)
        return listed()

    monkeypatch.setattr(cluster, "list", late)
    list_and_converge(reconciler)
    assert [(pod.tier, pod.addresses) for pod in published(store)] == [("verified", ADDRESSES["addresses"])]


def test_pod_without_an_address_is_forgotten(reconciler, cluster, store):
    pod = cluster.add(**ADDRESSES)
    list_and_converge(reconciler)
    reconciler.observe("MODIFIED", cluster.change(pod, addresses=()))
    converge_due(reconciler)
    assert published(store) == []


@pytest.mark.parametrize("end", ["gone", "ended"])
def test_address_of_an_ended_pod_does_not_wait_for_the_worker(reconciler, cluster, store, end):
    """Heartbeats go on meanwhile, and another pod may have the address."""
    pod = cluster.add(**ADDRESSES, **granted(make_grant()))
    list_and_converge(reconciler)
    reconciler.heartbeat()
    if end == "gone":
        cluster.remove(pod)
        reconciler.observe("DELETED", pod)
    else:
        reconciler.observe("MODIFIED", cluster.change(pod, ended=True))
    reconciler.heartbeat()
    assert published(store) == []


def test_late_answer_to_a_patch_does_not_bring_an_ended_pod_back(reconciler, cluster, store, monkeypatch):
    """The pod ends right after it was patched, and the watch is quicker than the answer."""
    cluster.add(**ADDRESSES)
    list_and_converge(reconciler)
    reconciler.heartbeat()
    record_unlock(store, make_grant())
    reconciler.take(store.woken(0.1))
    patch = cluster.patch

    def overtaken(pod, grant):
        patched = patch(pod, grant)
        reconciler.observe("MODIFIED", cluster.change(patched, ended=True))
        return patched

    monkeypatch.setattr(cluster, "patch", overtaken)
    converge_due(reconciler)
    reconciler.heartbeat()
    assert published(store) == []


def test_watching_does_not_wait_for_a_redis_that_is_lost(reconciler, cluster, store, monkeypatch):
    """A pod's end is several events, and each would wait for the time-out."""
    fail = Mock(side_effect=StoreUnavailable("no Redis"))
    pods = [cluster.add(f"user-{number}", f"uid-{number}", addresses=(f"10.42.0.{number}",)) for number in range(3)]
    list_and_converge(reconciler)
    reconciler.heartbeat()
    with monkeypatch.context() as faulty:
        faulty.setattr(store, "publish_addresses", fail)
        for pod in pods:
            reconciler.observe("MODIFIED", cluster.change(pod, ended=True))
    assert fail.call_count == 1
    with store.address_changes() as following:
        reconciler.heartbeat()
        assert servers_of(following) == [{"user-0/", "user-1/", "user-2/"}, ""]


def test_repeated_state_is_no_change_and_the_same_number_after_a_wipe_another_version(reconciler, cluster, store, redis_server):
    cluster.add(**ADDRESSES)
    list_and_converge(reconciler)
    before, _ = store.addresses()
    reconciler.resync()
    converge_due(reconciler)
    reconciler.heartbeat()
    assert store.addresses()[0] == before and before.number == 1
    redis_server.wipe()
    list_and_converge(reconciler)
    after, _ = store.addresses()
    assert (after.number, after == before) == (1, False)


def servers_of(following):
    """The servers of the waiting changes: a set for those between two heartbeats, and an empty text for a heartbeat."""
    found = []
    while change := following(0.5):
        if not change.server:
            found.append("")
        elif found and found[-1]:
            found[-1].add(change.server)
        else:
            found.append({change.server})
    return found


def test_each_beat_comes_after_what_it_confirms(reconciler, cluster, store, redis_server, monkeypatch):
    store.publish_addresses(Server("gone"), [PodAddresses("uid-0", "gone", "", ("10.42.0.9",), "verified")])
    pod = cluster.add(**ADDRESSES)
    reconciler.list_pods()
    with store.address_changes() as following:
        reconciler.heartbeat()
        assert servers_of(following) == [{"alice/", "gone/"}, ""], "an earlier process published another server"
        cluster.remove(pod)
        cluster.add("bob", "uid-2", **ADDRESSES)
        reconciler.list_pods()
        reconciler.heartbeat()
        reconciler.heartbeat()
        assert servers_of(following) == [{"alice/", "bob/"}, "", ""], "while the API server was away, the address became bob's"
        cluster.add("carol", "uid-3", addresses=("10.42.0.6",))
        reconciler.list_pods()
        with monkeypatch.context() as faulty:
            faulty.setattr(store, "published_addresses", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                reconciler.heartbeat()
        reconciler.heartbeat()
        assert servers_of(following) == [{"carol/"}, ""], "the first attempt failed"
    redis_server.wipe()
    with store.address_changes() as following:
        reconciler.heartbeat()
        assert servers_of(following) == [{"bob/", "carol/"}, ""], "Redis was empty"


def test_a_first_heartbeat_publishes_many_servers_together(reconciler, cluster, store, monkeypatch):
    """One after the other, they would be a minute late with many thousands of servers."""
    for number in range(250):
        cluster.add(f"user-{number}", f"uid-{number}", addresses=(f"10.42.1.{number}",))
    store.publish_addresses(Server("gone"), [PodAddresses("uid-0", "gone", "", ("10.42.0.9",), "verified")])
    reconciler.list_pods()
    together, publish = [], store.publish_many_addresses
    monkeypatch.setattr(store, "publish_many_addresses", lambda pods: together.append(len(pods)) or publish(pods))
    reconciler.heartbeat()
    assert together == [100, 100, 51]
    assert {pod.user for pod in published(store)} == {f"user-{number}" for number in range(250)}


def test_pod_of_the_node_network_has_no_address():
    meta = {"name": "p", "uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    body = {
        "metadata": meta | {"annotations": {"hub.jupyter.org/username": "alice"}},
        "spec": {"containers": [{"image": "i"}]},
        "status": {"podIPs": [{"ip": "10.42.0.5"}, {"ip": "fd42::5"}]},
    }
    assert Pod.from_json(body).addresses == ("10.42.0.5", "fd42::5")
    body["spec"]["hostNetwork"] = True
    assert Pod.from_json(body).addresses == ()


# -- pushed


async def test_messages_from_before_an_outage_count_and_those_from_before_the_snapshot_ask_for_no_other():
    """All messages, also when they came at once. Two of the three changes are in the snapshot."""
    pods = [PodAddresses(f"uid-{number}", "alice", "", (f"10.42.0.{number}",)) for number in (1, 2, 3)]
    changes = [AddressChange(AddressVersion(number), f"{number}/", (pod,)) for number, pod in enumerate(pods, 1)]
    changes.append(AddressChange(AddressVersion(3)))

    def following(seconds=0):
        """The messages, and then no Redis any more."""
        if not changes:
            raise StoreUnavailable
        return changes.pop(0)

    snapshot = AddressVersion(2), {"1/": pods[:1], "2/": pods[1:2]}
    store = SimpleNamespace(addresses=lambda: snapshot, address_changes=lambda: nullcontext(following) if changes else following())
    identities = Identities()
    feed = Feed(store, identities, asyncio.get_running_loop())
    feed.start()
    found = [await identities.wait_for(pod.addresses[0], 60) for pod in pods]
    await asyncio.to_thread(feed.stop)
    assert found == pods


@pytest.mark.parametrize("error", [StoreUnavailable("no Redis"), RuntimeError("a fault")], ids=["Redis is away", "fault"])
async def test_feed_pauses_after_each_failure(monkeypatch, error):
    monkeypatch.setattr(feed_module, "PAUSE_SECONDS", 0.2)
    tried_at = []

    def fail():
        tried_at.append(time.monotonic())
        raise error

    feed = Feed(SimpleNamespace(address_changes=fail), Identities(), asyncio.get_running_loop())
    feed.start()
    async with asyncio.timeout(60):
        while len(tried_at) < 3:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(feed.stop)
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(tried_at))


def until(reconciler, is_so):
    eventually(lambda: is_so() or reconciler.heartbeat())


@pytest.mark.parametrize("away", ["is stopped", "accepts connections and does not answer"])
def test_redis_that_comes_back_is_followed_again(reconciler, cluster, store, settings, redis_server, caplog, monkeypatch, away):
    monkeypatch.setattr(feed_module, "SILENT_SECONDS", 1.0)
    cluster.add(**ADDRESSES)
    list_and_converge(reconciler)
    with following(settings) as follower:
        until(reconciler, lambda: follower.of("10.42.0.5"))
        redis_server.stop() if away == "is stopped" else redis_server.freeze()
        eventually(lambda: "Redis" in caplog.text)
        # For a while, the known pods still count for new connections.
        assert follower.of("10.42.0.5")
        redis_server.start() if away == "is stopped" else redis_server.thaw()
        record_unlock(store, make_grant("small"))
        reconciler.resync()
        converge_due(reconciler)
        until(reconciler, lambda: (pod := follower.of("10.42.0.5")) and pod.tier == "small")
