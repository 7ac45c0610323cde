"""Launches that BinderHub's hook could not announce in time: they are announced later, and decide for the pod that runs."""

import asyncio
import json
import time
from collections import Counter

import pytest

from binder_egress.model.grants import Egress
from binder_egress.model.records import Server
from tests.support import launch_hook as hook
from tests.support.apps import CLIENT, get_pass, launch, new_promise, solve
from tests.support.ports import free_port
from tests.support.reconciling import granted, list_and_converge, make_grant, record_unlock
from tests.support.waiting import eventually

ALICE = Server("alice")


@pytest.fixture(autouse=True)
def _no_secret_in_any_log(caplog):
    yield from hook.no_secret_in_any_log(caplog)


@pytest.fixture
def away(monkeypatch):
    """The hook, with its limit of a second, and the port of a verifier that is away."""
    port = free_port()
    return hook.Wiring(monkeypatch, f"http://127.0.0.1:{port}", limit_seconds=hook.PRODUCT_SECONDS), port


async def until(condition):
    await asyncio.to_thread(eventually, condition)


def keep(public, promise):
    answer = public.post("/egress/passes", json={"provider": "altcha", "solution": solve(public), "promise": promise})
    assert answer.status_code == 201, answer.text


# -- the hook


async def test_launches_while_the_verifier_is_away_get_their_tier_and_the_next_is_announced_in_time(
    away, public, internal, reconciler, cluster
):
    """As in an upgrade: servers run before the verifier is back, and nobody unlocks them. A launch waits no longer than before."""
    wiring, port = away

    async def answer(handler):
        answered = internal.post("/api/launches", data=handler.request.body, content_type="application/json")
        handler.set_status(answered.status_code)
        handler.write(answered.data)

    async def build(hub, number, token):
        reply = await hook.get(f"{hub}/build/{number}", headers={"X-Forwarded-For": CLIENT}, egress_token=token)
        assert max(reply["seconds"]) < hook.LIMIT_SECONDS
        user = f"fake-repo-{number}-0"
        cluster.add(user, f"uid-{number}", image=hook.IMAGE, created=time.time(), ready=True)
        list_and_converge(reconciler)
        return Server(user)

    seen, promise = [], new_promise()
    keep(public, promise)
    async with hook.binderhub(wiring) as hub:
        tokens = [get_pass(public) for _ in range(9)] + [promise]
        servers = {await build(hub, number, token) for number, token in enumerate(tokens)}
        without = await build(hub, len(tokens), None)
        assert cluster.labelled() == set()
        async with hook.verifier(seen, answer, port):
            await until(lambda: len(seen) == len(servers) + 1)
            list_and_converge(reconciler)
            assert cluster.labelled() == servers and without not in servers
            assert hook.in_time(seen) == []
            await build(hub, 11, get_pass(public))
            assert [body["user"] for body in hook.in_time(seen)] == ["fake-repo-11-0"]


async def test_verifier_that_is_slow_is_told_of_every_launch_and_delays_few(monkeypatch):
    """Its answer in the background says that it lives, and not that it would answer in time."""
    seen = []

    async def answer(handler):
        await asyncio.sleep(1.0)
        await hook.good(handler)

    async with hook.verifier(seen, answer) as api:
        wiring = hook.Wiring(monkeypatch, api, limit_seconds=0.5)
        for users in (("a", "b", "c", "d"), ("e", "f")):
            for user in users:
                await wiring.launch(user=user)
            await until(lambda users=users: {body["user"] for _, body in seen if hook.is_late(body)} >= set(users))
        assert [body["user"] for body in hook.in_time(seen)] == ["a", "b", "c"]


async def test_waiting_launches_are_bounded_and_sent_one_at_a_time_and_once(away):
    wiring, port = away
    began = time.time()
    for number in range(510):
        await wiring.launch(user=f"u{number}")
    seen, open_now, most = [], [], []

    async def answer(handler):
        open_now.append(handler)
        most.append(len(open_now))
        await asyncio.sleep(0)
        await hook.good(handler)
        open_now.remove(handler)

    async with hook.verifier(seen, answer, port):
        await until(lambda: len(seen) >= 500)
        await wiring.launch(user="in time")
    told = Counter(body["user"] for _, body in seen)
    assert (len(told), set(told.values()), max(most)) == (501, {1}, 1)
    assert {"u509", "in time"} <= set(told)
    launched = [body["launched_at"] for _, body in seen if hook.is_late(body)]
    assert began - 0.1 <= min(launched) <= max(launched) <= time.time()


async def test_waiting_launch_is_dropped_when_it_is_too_old(away, caplog):
    wiring, port = away
    failed, seen = [], []
    async with hook.verifier(failed, hook.error, port):
        await wiring.launch(user="old")
        await until(lambda: len(failed) == 2)
    wiring.clock.ahead += 301
    await wiring.launch(user="young")
    async with hook.verifier(seen, port=port):
        await until(lambda: seen)
    assert [body["user"] for _, body in seen] == ["young"]
    assert "binder-egress: old/ was not announced within 300 s" in caplog.text


async def test_later_attempt_of_the_request_replaces_the_waiting_one(away):
    """The earlier server is over: its announcement must not take the use of the pass."""
    wiring, port = away
    seen = []
    async with hook.binderhub(wiring) as hub:
        await hook.get(f"{hub}/build/1", egress_token=hook.PASS, attempts=2)
        async with hook.verifier(seen, port=port):
            await until(lambda: seen)
            await wiring.launch(user="last")
    assert [body["user"] for _, body in seen] == ["fake-repo-1-1", "last"]


async def test_later_launch_of_the_server_replaces_the_waiting_one(monkeypatch):
    """The earlier server is over: its decision must not reach the later one."""
    seen = []

    async def answer(handler):
        is_old = json.loads(handler.request.body)["image"] == "image:old"
        await (hook.error if is_old else hook.good)(handler)

    async with hook.verifier(seen, answer) as api:
        wiring = hook.Wiring(monkeypatch, api)
        await wiring.launch(image="image:old")
        await until(lambda: len(seen) == 2)
        await wiring.launch(image="image:new")
        await asyncio.sleep(1.5)
    images = [body["image"] for _, body in seen]
    assert images.index("image:new") == len(images) - 1


async def test_launch_that_is_replaced_while_it_is_being_sent_is_not_sent_again(away):
    wiring, port = away
    await wiring.launch(image="image:old")
    seen = []

    async def answer(handler):
        body = json.loads(handler.request.body)
        if body["image"] == "image:old":
            await wiring.launch(image="image:new")
            await hook.error(handler)
        else:
            await hook.good(handler)

    async with hook.verifier(seen, answer, port):
        await until(lambda: len(seen) == 2)
        await asyncio.sleep(1.5)
    assert [body["image"] for _, body in seen] == ["image:old", "image:new"]


@pytest.mark.parametrize("status", [400, 409, 413, 422, 500])
async def test_launch_that_the_verifier_refuses_is_not_sent_again(away, status):
    wiring, port = away
    await wiring.launch(user="refused")

    async def answer(handler):
        handler.set_status(status)

    seen = []
    async with hook.verifier(seen, answer, port):
        await until(lambda: seen)
        await asyncio.sleep(1.5)
    assert len(seen) == 1


# -- the verifier and the reconciler


def late(client, **fields):
    """Announce a launch late. Returns the status."""
    body = {"user": "alice", "image": "image:1", "client_address": CLIENT, "launched_at": time.time() - 2}
    return client.post("/api/launches", json=body | fields).status_code


def run_pod(cluster, reconciler, seconds_ago=1.0, **fields):
    cluster.add("alice", created=time.time() - seconds_ago, ready=True, **fields)
    list_and_converge(reconciler)


def test_late_launch_decides_for_the_pod_that_runs(public, internal, store, reconciler, cluster):
    run_pod(cluster, reconciler)
    promise = new_promise()
    assert late(internal, token=promise) == 200
    list_and_converge(reconciler)
    assert (store.known(ALICE).promise, cluster.labelled()) == (promise, set())
    assert store.pending(ALICE, set()).launch is None, "a later pod needs a launch of its own"
    keep(public, promise)
    list_and_converge(reconciler)
    assert cluster.labelled() == {ALICE}


@pytest.mark.parametrize("seconds_ago", [100, -100])
def test_late_launch_decides_for_no_pod_of_another_time(public, internal, store, reconciler, cluster, seconds_ago):
    """The name of the server and its image are the same."""
    assert late(internal, token=get_pass(public)) == 200
    run_pod(cluster, reconciler, seconds_ago=seconds_ago)
    assert (cluster.labelled(), store.known(ALICE).announced) == (set(), False)


def announced(internal, store, cluster, reconciler):
    launch(internal)


def announced_and_running(internal, store, cluster, reconciler):
    launch(internal)
    run_pod(cluster, reconciler)
    list_and_converge(reconciler)
    assert store.pending(ALICE, set()).launch is None


def about_to_be_unlocked(internal, store, cluster, reconciler):
    run_pod(cluster, reconciler)
    record_unlock(store, make_grant())


def unlocked(internal, store, cluster, reconciler):
    run_pod(cluster, reconciler, **granted(make_grant(rule="unlock")))


@pytest.mark.parametrize("before", [announced, announced_and_running, about_to_be_unlocked, unlocked])
def test_late_launch_changes_nothing_where_something_was_decided(public, internal, store, in_redis, reconciler, cluster, before):
    """The launch itself, if only the answer was late; a later launch of the same server; or an unlock."""
    before(internal, store, cluster, reconciler)
    token, then = get_pass(public), {key: in_redis.dump(key) for key in in_redis.scan_iter("*alice*")}
    for more in ({"token": token}, {}):
        assert late(internal, **more) == 409
    assert {key: in_redis.dump(key) for key in in_redis.scan_iter("*alice*")} == then
    assert launch(internal, "bob", token=token)["pass_outcome"] == "free"


def test_launch_in_time_replaces_a_late_one(public, internal, store):
    assert late(internal, token=get_pass(public)) == 200
    assert isinstance(store.pending(ALICE, set()).launch.grant, Egress)
    launch(internal)
    found = store.pending(ALICE, set()).launch
    assert (found.grant.rule, found.launched_at) == ("default", None)
