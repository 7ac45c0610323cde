"""Faults that involve several parts. After each, no launch is lost, and no server has egress without a decision."""

import itertools
import time
from collections.abc import Iterator

import pytest

from binder_egress.model.passes import LEEWAY_SECONDS
from binder_egress.model.records import KnownServer, Record, Server
from binder_egress.operators import actions
from binder_egress.operators.actions import CommandOperators
from binder_egress.reconciler.loop import Reconciler
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store.errors import Replayed
from binder_egress.store.redeeming import BUILD_LIMIT_SECONDS
from tests.support.apps import CLIENT, admit, carried, get_pass, run_pod, solve
from tests.support.fake_cluster import FakeCluster
from tests.support.reconciling import ALICE, converge_due, granted, make_grant, record_decision
from tests.support.store import Store

SETTINGS = {"tiers": {"verified": {}}}

# -- a killed reconciler


class Killed(BaseException):
    """Stands for the death of the process."""


class KillableProxy:
    """A wrapper whose callers die before or after one of its calls, when `left` has no more steps."""

    def __init__(self, of: object, left: Iterator[int]) -> None:
        self._of, self._left = of, left

    def __getattr__(self, name: str) -> object:
        method = getattr(self._of, name)

        def step() -> None:
            if next(self._left, None) is None:
                raise Killed

        def call(*args: object, **kwargs: object) -> object:
            step()
            found = method(*args, **kwargs)
            step()
            return found

        return call


def prepare(store: Store) -> FakeCluster:
    """Add one server for each kind of work. In the end, Alice and Carol have egress, and nobody else has."""
    cluster = FakeCluster()
    for number, user in enumerate(("alice", "bob", "carol", "dave", "erin", "frank")):
        given = make_grant()
        has = granted(given) if user in ("bob", "dave") else {}
        cluster.add(user, f"uid-{number}", **has, **({"label": "verified"} if user == "erin" else {}))
        carries = carried(identity=given.id if has else "")
        store.publish(Server(user), KnownServer(f"uid-{number}", carries, pod=f"jupyter-{user}--"))
        if user == "bob":
            store.withdraw([given.id])
    record_decision(store, ALICE, Record(make_grant(), image="image:1"), 600)
    record_decision(store, Server("frank"), Record(make_grant(), image="image:2"), 600)
    store.grant(Server("carol"), Record(make_grant(), uid="uid-2"))
    actions.revoke(CommandOperators(load(ReconcilerSettings, **SETTINGS), store), Server("dave"), "eve", "mining")
    store.publish(Server("gone"), KnownServer("uid-of-before"))
    return cluster


def look(reconciler: Reconciler) -> None:
    reconciler.list_pods()
    reconciler.heartbeat()
    converge_due(reconciler)


def test_reconciler_killed_at_any_step_is_recovered_by_the_next(redis_server, store, impatient):
    settings = load(ReconcilerSettings, redis_url=redis_server.url, **SETTINGS)
    right = {ALICE, Server("carol")}
    for steps in itertools.count():
        redis_server.wipe()
        store.ping()
        cluster = prepare(store)
        wrong = cluster.labelled() - right
        left, survived = iter(range(steps)), False
        try:
            look(Reconciler(settings, KillableProxy(cluster, left), KillableProxy(store, left)))
            survived = True
        except Killed:
            assert cluster.labelled() <= right | wrong
        look(Reconciler(settings, cluster, store))
        assert cluster.labelled() == right, f"after {steps} steps"
        for pod in cluster.pods.values():
            assert store.known(pod.server).grant.id == (pod.grant.id if pod.grant else "")
        assert store.known(Server("gone")) is None
        if survived:
            break
    assert steps > 30


# -- clocks


@pytest.mark.parametrize(("issuing", "redeeming"), list(itertools.product((-300, 0, 300), repeat=2)))
def test_clock_five_minutes_off_only_rejects_passes(public, internal, store, monkeypatch, issuing, redeeming):
    """Passes carry Redis' time. A verifier whose clock is behind rejects them as issued in the future, and the launch goes on."""
    right = time.time
    solution = solve(public)
    monkeypatch.setattr(time, "time", lambda: right() + issuing)
    run_pod(store)
    answer = public.post("/egress/passes", json={"provider": "altcha", "solution": solution})
    assert answer.status_code == 201
    monkeypatch.setattr(time, "time", lambda: right() + redeeming)
    body = {"user": "alice", "image": "image:1", "token": answer.json["token"], "client_address": CLIENT}
    told = internal.post("/api/launches", json=body | {"requested_at": time.time()})
    expected = ("unverified", "invalid") if redeeming < 0 else ("verified", "free")
    assert (told.status_code, told.json["tier"], told.json["pass_outcome"]) == (200, *expected)


@pytest.mark.parametrize("ahead", [-300, 0, 300])
def test_use_is_remembered_by_redis_own_clock(public, internal, store, in_redis, monkeypatch, ahead):
    """Another verifier, whose clock is right, would count what is forgotten earlier a second time."""
    right, lifetime = time.time, 600  # of a challenge, by default
    token, solution = get_pass(public), solve(public)
    in_redis.delete(*in_redis.keys("binder-egress:solution:*"))
    monkeypatch.setattr(time, "time", lambda: right() + ahead)
    assert public.post("/egress/passes", json={"provider": "altcha", "solution": solution}).status_code == 201
    (used,) = in_redis.keys("binder-egress:solution:*")
    assert lifetime < in_redis.ttl(used) <= lifetime + LEEWAY_SECONDS
    if ahead >= 0:
        run_pod(store)
        body = {"user": "alice", "image": "image:1", "token": token, "client_address": CLIENT, "requested_at": time.time()}
        assert internal.post("/api/launches", json=body).json["pass_outcome"] == "free"
        (used,) = in_redis.keys("binder-egress:pass:*")
        remembered = in_redis.ttl(used) - LEEWAY_SECONDS - BUILD_LIMIT_SECONDS
        assert 300 < remembered <= 300 + LEEWAY_SECONDS  # the lifetime of a pass, by default


def test_solution_that_redis_would_have_forgotten_is_refused(store, in_redis):
    """A verifier whose clock is behind does not know that the challenge has expired."""
    store.ping()
    now = time.time()
    store.use_solution("altcha", "late", now + 1, 600, admit, expires_at=now - LEEWAY_SECONDS / 2)
    assert 0 < in_redis.ttl("binder-egress:solution:altcha:late") <= LEEWAY_SECONDS / 2 + 1
    with pytest.raises(Replayed):
        store.use_solution("altcha", "too late", now + 1, 600, admit, expires_at=now - LEEWAY_SECONDS - 1)


def test_clock_set_back_does_not_revive_a_pass(public, internal, monkeypatch):
    """The pass has expired, and was used up before that."""
    right, token = time.time, public.post("/egress/passes", json={"provider": "altcha", "solution": solve(public)}).json["token"]
    body = {"image": "image:1", "repository": "r", "token": token, "client_address": CLIENT}
    assert internal.post("/api/launches", json=body | {"user": "alice"}).json["tier"] == "verified"
    for ahead in (600, 0, -30, 0):
        monkeypatch.setattr(time, "time", lambda ahead=ahead: right() + ahead)
        told = internal.post("/api/launches", json=body | {"user": f"user-{ahead}", "repository": "another"}).json
        assert told["tier"] == "unverified"
