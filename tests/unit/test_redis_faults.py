"""Redis away, full, slow or wiped: no grant without a decision, no hanging request, and no restart needed afterwards."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import redis

from binder_egress.model.records import KnownServer, Server
from binder_egress.store import connection
from binder_egress.store.connection import connect
from binder_egress.store.errors import StoreUnavailable
from binder_egress.web.app import create_services
from binder_egress.web.problems import TYPE
from tests.support.apps import NETWORK, another, get_pass, internal_client, launch, make_settings, public_client, run_pod, solve
from tests.support.metrics import value
from tests.support.reconciling import ALICE, granted, list_and_converge, make_grant, record_launch, withdraw
from tests.support.store import Store
from tests.support.store_operations import OF_PROXY, OF_RECEIVER, OF_RECONCILER, OF_VERIFIER, SHARED_OPERATIONS
from tests.support.waiting import USUAL_SECONDS, eventually

LAUNCH = {"user": "alice", "image": "image:1", "repository": "r"}

TIMEOUT_SECONDS = connection.TIMEOUT_SECONDS
"""The product's."""


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A time-out that is shorter than in other tests, because many tests here wait for it, and longer than the product's."""
    monkeypatch.setattr("binder_egress.store.connection.TIMEOUT_SECONDS", 2)


@pytest.fixture
def no_longer_than(monkeypatch):
    """A context that counts how often something waits for Redis until a time-out, and yields the count.

    A limit in seconds would also test the machine. A Redis that does not run refuses connections, which takes no time.
    """
    waits = []

    def counted(self, *args):
        waits.append(args)
        redis.RedisError.__init__(self, *args)

    monkeypatch.setattr(redis.TimeoutError, "__init__", counted)

    @contextmanager
    def no_longer_than(seconds):
        waits.clear()
        yield waits
        assert len(waits) * TIMEOUT_SECONDS <= seconds, waits

    return no_longer_than


@pytest.fixture
def make_services(redis_server):
    with ExitStack() as connections:

        def make(**more):
            settings = make_settings(redis_server, **more)
            return create_services(settings, Store(connections.enter_context(connect(settings))))

        yield make


def assert_unavailable(answer):
    assert answer.status_code == 503, answer.text
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == TYPE + "unavailable"
    assert answer.headers["Retry-After"]


def test_verifier_starts_without_redis_and_one_that_was_ready_stays_so_and_says_what_is_wrong(redis_server, make_services):
    """The ingress would answer 502 in its place. A new verifier, as in an upgrade with a wrong password, is not ready."""
    redis_server.stop()
    services = make_services()
    internal, public = internal_client(services), public_client(services)
    assert_unavailable(internal.get("/readyz"))
    assert internal.get("/healthz").status_code == 200
    redis_server.start()
    assert internal.get("/readyz").status_code == 200
    assert launch(internal, token=get_pass(public))["tier"] == "verified"
    redis_server.stop()
    assert internal.get("/readyz").status_code == 200
    assert_unavailable(public.get("/egress/servers/alice"))
    assert_unavailable(internal_client(make_services()).get("/readyz"))


def test_dns_failure_costs_a_ready_verifier_no_launch(redis_server, monkeypatch):
    """Not even if it serves as many requests as it can on both ports, and each needs a connection to Redis."""
    name, answers, look_up = "redis.example", True, socket.getaddrinfo

    def dns(host, *args, **kwargs):
        if host != name:
            return look_up(host, *args, **kwargs)
        if not answers:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", dns)
    threads = 4
    settings = make_settings(redis_server, redis_url=f"redis://{name}:{redis_server.port}/0", threads=threads)
    with connect(settings) as client, ThreadPoolExecutor(2 * threads) as pool:
        internal = internal_client(create_services(settings, Store(client)))
        assert internal.get("/readyz").status_code == 200
        answers = False
        redis_server.freeze()
        launches = [pool.submit(another(internal).post, "/api/launches", json=LAUNCH) for _ in range(2 * threads)]

        def waiting():
            """The requests that have a connection, or have ended without one."""
            used = next(count for count, what in client.connection_pool.get_connection_count() if "used" in what.values())
            return used + sum(launch.done() for launch in launches)

        eventually(lambda: waiting() == 2 * threads)
        redis_server.thaw()
        assert [launch.result().status_code for launch in launches] == [200] * len(launches)


@pytest.mark.parametrize(("fault", "mend"), [("stop", "start"), ("freeze", "thaw")])
def test_request_is_answered_within_the_second_of_the_hook(public, internal, store, redis_server, no_longer_than, fault, mend):
    run_pod(store)
    token, solution = get_pass(public), solve(public)
    launch(internal)
    getattr(redis_server, fault)()
    for ask in (
        lambda: internal.post("/api/launches", json=LAUNCH | {"token": token}),
        # Rejecting a bad pass needs no Redis, but recording the decision does.
        lambda: internal.post("/api/launches", json=LAUNCH | {"token": "forged"}),
        lambda: internal.post("/api/launches", json=LAUNCH),
        lambda: public.post("/egress/passes", json={"provider": "altcha", "solution": solution}),
        lambda: public.post("/egress/servers/alice", json={"token": token}),
        lambda: public.get("/egress/servers/alice"),
        lambda: internal.get("/readyz"),
    ):
        with no_longer_than(1) as waits:
            assert_unavailable(ask())
        assert bool(waits) == (fault == "freeze")
    getattr(redis_server, mend)()
    assert internal.get("/readyz").status_code == 200
    assert launch(internal)["tier"] == "unverified"


def test_redis_restart_during_many_launches_causes_no_fault(services, public, redis_server):
    tokens = [get_pass(public) for _ in range(4)]
    internal, stopped = internal_client(services), threading.Event()

    def go(number):
        if number == 30:
            redis_server.stop()
            stopped.set()
        if number == 60:
            assert stopped.wait(USUAL_SECONDS), "another thread stops it"
            redis_server.start()
        body = LAUNCH | {"user": f"user-{number}", "token": tokens[number % 4]}
        return another(internal).post("/api/launches", json=body).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(go, range(120))) == {200, 503}
    # A last launch, as all others may be over before Redis is back.
    assert go(120) == 200
    # No request failed in between, but the connections of the pool are dead.
    redis_server.stop()
    redis_server.start()
    assert go(121) == 200


def test_unlock_recorded_before_an_outage_is_pending(public, store, redis_server, monkeypatch, no_longer_than):
    run_pod(store)
    token = get_pass(public)
    redeem = Store.redeem

    def redeem_and_go(*args, **kwargs):
        outcome = redeem(*args, **kwargs)
        redis_server.stop()
        return outcome

    monkeypatch.setattr(Store, "redeem", redeem_and_go)
    # Longer than a test may take.
    monkeypatch.setattr("binder_egress.web.servers.UNLOCK_WAIT_SECONDS", 10_000)
    with no_longer_than(1):
        answer = public.post("/egress/servers/alice", json={"token": token})
    assert (answer.status_code, answer.json["state"]) == (202, "pending")


# -- slow


def test_late_answer_is_not_taken_for_the_next_one(store, redis_server):
    """A connection whose answer timed out must not be used again."""
    store.publish(Server("alice"), KnownServer("uid-alice"))
    store.publish(Server("bob"), KnownServer("uid-bob"))
    redis_server.freeze()
    with pytest.raises(StoreUnavailable):
        store.known(Server("alice"))
    redis_server.thaw()
    for _ in range(3):
        assert store.known(Server("bob")).uid == "uid-bob"


# -- full


@pytest.fixture
def full(redis_server):
    """Returns a function that sets the memory limit of Redis below its use, so that Redis refuses to write."""

    def fill():
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
        with pytest.raises(redis.OutOfMemoryError):
            client.set("one", "more")

    with redis.Redis.from_url(redis_server.url) as client:
        yield fill
        client.config_set("maxmemory", 0)


def test_full_redis_grants_nothing_and_causes_no_fault(public, internal, store, full, in_redis):
    run_pod(store)
    used, fresh = get_pass(public), get_pass(public)
    launch(internal, "bob", token=used)
    solution, unlocking = solve(public), solve(public, "unlock")
    keys = set(in_redis.keys("binder-egress:*"))
    full()
    for token in (used, fresh, "forged", None):
        assert_unavailable(internal.post("/api/launches", json=LAUNCH | {"token": token}))
    assert_unavailable(public.post("/egress/passes", json={"provider": "altcha", "solution": solution}))
    assert_unavailable(public.post("/egress/servers/alice", json={"provider": "altcha", "solution": unlocking}))
    for token in (used, fresh):
        assert_unavailable(public.post("/egress/servers/alice", json={"token": token}))
    # Redis refuses a script at its first write, so no decision is recorded in part.
    assert set(in_redis.keys("binder-egress:*")) == keys
    assert public.get("/egress/servers/alice").status_code == 200
    assert internal.get("/metrics").status_code == 200
    assert internal.get("/readyz").status_code == 200
    in_redis.config_set("maxmemory", 0)
    assert launch(internal, token=fresh)["pass_outcome"] == "free"
    assert public.post("/egress/passes", json={"provider": "altcha", "solution": solution}).status_code == 201


def test_full_redis_says_so_although_nobody_can_report_it(internal, store, full, in_redis):
    full()
    in_redis.delete("binder-egress:gatecheck")  # It expires, and what the reconciler finds is refused.
    with pytest.raises(StoreUnavailable):
        store.publish_gatecheck("{}")
    assert value(internal, "binder_egress_redis_memory_used_ratio") >= 1


def test_full_redis_still_refuses_a_used_solution_and_grants_nothing_even_if_old_charges_could_go(public, full, in_redis):
    """The charges of a network that are too old to count are removed with the next one."""
    used, fresh = ({"provider": "altcha", "solution": solve(public)} for _ in range(2))
    assert public.post("/egress/passes", json=used).status_code == 201
    key = f"binder-egress:charges:{NETWORK}"
    in_redis.delete(key)
    in_redis.hset(key, "1000000000", 1)
    full()
    answer = public.post("/egress/passes", json=used)
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "solution-refused")
    assert_unavailable(public.post("/egress/passes", json=fresh))
    assert in_redis.hgetall(key) == {"1000000000": "1"}


def test_full_redis_does_not_stop_labels_from_following_decisions(reconciler, cluster, store, full, in_redis):
    given = make_grant()
    cluster.add()
    cluster.add("bob", "uid-2", **granted(given))
    record_launch(store, make_grant())
    withdraw(store, given)
    full()
    list_and_converge(reconciler)
    assert (cluster.labelled(), store.known(ALICE)) == ({ALICE}, None)
    in_redis.config_set("maxmemory", 0)
    reconciler.heartbeat()
    list_and_converge(reconciler)
    assert store.known(ALICE).tier == "verified"


# -- other faults of Redis


def test_wrong_password_makes_redis_unavailable(redis_server, make_services, caplog):
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("requirepass", "right")
        try:
            services = make_services(redis_password="wrong-password")
            assert_unavailable(internal_client(services).post("/api/launches", json=LAUNCH))
            services = make_services(redis_password="right")
            assert launch(internal_client(services))["tier"] == "unverified"
        finally:
            client.config_set("requirepass", "")
    assert "wrong-password" not in caplog.text


def test_each_operation_reports_that_redis_is_away(redis_server, settings, no_longer_than):
    with connect(settings) as client:
        store = Store(client)
        redis_server.stop()
        for ask in (*SHARED_OPERATIONS, *OF_VERIFIER, *OF_RECONCILER, *OF_RECEIVER, *OF_PROXY):
            with pytest.raises(StoreUnavailable), no_longer_than(1):
                ask(store)
