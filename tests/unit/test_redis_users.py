"""The users of the chart's Redis: the rights of each process, from the script that starts it, in a real redis-server (D-241)."""

import os
import subprocess
from contextlib import ExitStack, closing

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from binder_egress.model.records import Server
from binder_egress.settings import ProxySettings, ReceiverSettings, ReconcilerSettings, VerifierSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.keys import RECONCILER_TYPES, VERIFIER_TYPES, redis_key
from binder_egress.store.store import ProxyStore, ReceiverStore, ReconcilerStore, VerifierStore
from binder_egress.web.receiver import create_receiver_app, create_receiver_services
from tests.support import TOP
from tests.support.apps import make_settings
from tests.support.ports import free_port
from tests.support.store_operations import OF_PROXY, OF_RECEIVER, OF_RECONCILER, OF_VERIFIER, SHARED_OPERATIONS
from tests.support.waiting import eventually

SCRIPT = TOP / "chart/files/redis-users.sh"

SHARED, VERIFIER, RECONCILER = 'it\'s "one" $password', "the verifier's $own", 'the "reconciler\'s" own'
PROXY, RECEIVER = "the proxy's $own", 'the "receiver"\'s own'

PASSWORDS = {"verifier": VERIFIER, "reconciler": RECONCILER, "receiver": RECEIVER, "proxy": PROXY}

PREFIX = "binder-egress:"


class ChartRedis:
    """A redis-server that the chart's script starts, with these passwords in its environment."""

    def __init__(self, shared, verifier="", reconciler="", proxy="", receiver=""):
        self.port = free_port()
        # A user for the tests alone, which may do everything, and read the commands that Redis refused to others.
        more = f"port {self.port}\nbind 127.0.0.1\nuser tests on nopass allcommands allkeys"
        script = SCRIPT.read_text().replace("port 6379", more)
        passwords = {"REDIS_PASSWORD": shared, "VERIFIER_PASSWORD": verifier, "RECONCILER_PASSWORD": reconciler}
        passwords |= {"PROXY_PASSWORD": proxy, "RECEIVER_PASSWORD": receiver}
        environment = {"PATH": os.environ["PATH"], "MAXMEMORY": "32mb", **passwords}
        self._process = subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.DEVNULL)
        with self.client(username="tests", password="") as client:
            eventually(client.ping, what="redis-server does not start", no_answer=(redis.ConnectionError,))
            client.set("binder-egress:restored", "{}")

    def client(self, **access):
        # The client would try again after seconds, with the same password.
        return redis.Redis(port=self.port, decode_responses=True, retry=Retry(NoBackoff(), 0), **access)

    def settings(self, kind, **access):
        if kind is VerifierSettings:
            return make_settings(self, may_stop_pods=True, **access)
        return load(kind, redis_url=self.url, tiers={"verified": {}, "small": {}}, may_stop_pods=True, **access)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server():
    with closing(ChartRedis(SHARED, VERIFIER, RECONCILER, PROXY, RECEIVER)) as server:
        yield server


@pytest.fixture
def stores(server):
    """The stores of the verifier, the receiver, the reconciler and the egress proxy, each as its user."""
    users = [
        (VerifierStore, VerifierSettings, {"redis_password": SHARED, "redis_user_password": VERIFIER}),
        (ReceiverStore, ReceiverSettings, {"redis_password": SHARED, "redis_user_password": RECEIVER}),
        (ReconcilerStore, ReconcilerSettings, {"redis_password": SHARED, "redis_user_password": RECONCILER}),
        (ProxyStore, ProxySettings, {"redis_user_password": PROXY}),
    ]
    with ExitStack() as connections:
        yield [store(connections.enter_context(connect(server.settings(settings, **access)))) for store, settings, access in users]


def test_receiver_that_redis_does_not_know_is_not_ready():
    """An operator's own Secret may lack its password."""
    with closing(ChartRedis(SHARED, VERIFIER, RECONCILER)) as server:
        settings = server.settings(ReceiverSettings, redis_password=SHARED, detections={"falco": {}})
        with connect(settings) as client:
            app = create_receiver_app(create_receiver_services(settings, ReceiverStore(client))).test_client()
            assert (app.get("/healthz").status_code, app.get("/readyz").status_code) == (200, 503)


class Noting:
    """A store that notes which of its operations are called."""

    def __init__(self, store):
        self._store, self.called = store, set()

    def __getattr__(self, name):
        self.called.add(name)
        return getattr(self._store, name)


def test_each_operation_of_a_process_is_allowed_to_it(server, stores):
    operations = (OF_VERIFIER + SHARED_OPERATIONS, OF_RECEIVER, OF_RECONCILER + SHARED_OPERATIONS, OF_PROXY)
    for store, calls in zip(stores, operations, strict=True):
        noting = Noting(store)
        for call in calls:
            call(noting)
        assert {name for name in dir(type(store)) if not name.startswith("_")} - noting.called == set()
    assert_nothing_was_refused(server)


def test_each_process_may_remove_what_has_a_wrong_type(server, stores):
    verifiers, _, reconcilers, _ = stores
    of_both = {redis_key(name): kind for name, kind in {**VERIFIER_TYPES, **RECONCILER_TYPES}.items()}
    with server.client(username="tests", password="") as client:
        for name, kind in of_both.items():
            client.rpush(name, "x") if kind != "list" else client.set(name, "x")
        verifiers.ping()
        reconcilers.heartbeat(1.0, {})
        assert [name for name, kind in of_both.items() if client.type(name) not in ("none", kind)] == []
    assert_nothing_was_refused(server)


def assert_nothing_was_refused(server):
    """Refused commands are in Redis' log. The library introduces itself with CLIENT, and goes on if that is refused."""
    with server.client(username="tests", password="") as client:
        assert not [line for line in client.acl_log() if not line["object"].startswith("client")]


EVERYBODY = [
    *("FLUSHALL", "FLUSHDB", "CONFIG GET *", "ACL LIST", "ACL SETUSER verifier allcommands", "KEYS *", "MONITOR", "SHUTDOWN"),
    *("CLIENT KILL TYPE normal", "REPLICAOF 192.0.2.1 6379", "SUBSCRIBE x", "SET other x", "GET other", "EVAL return(1) 0"),
]
"""What no user may do."""

FORGERIES = (
    *("XADD {}detections * report x", "XADD {}detections NOMKSTREAM * report x", "SET {}detections x"),
    *("RENAME {}launch:x {}detections", "COPY {}launch:x {}detections", "HSET {}agents 10.42.0.7 node-1"),
)
"""Reports and agents that a captured process would make up."""

REFUSED = {
    "verifier": [
        *FORGERIES,
        *("SET {}stop:alice/ uid-1", "SET {}lifted:x 1", "SET {}server:alice/ x", "SET {}gatecheck x", "SET {}reconciler 1"),
        *("HDEL {}blocks x", "HSET {}blocks x y", "DEL {}blocks", "EXPIRE {}blocks 1", "RENAME {}blocks {}launch:x"),
        *("RPUSH {}actions x", "LPOP {}actions", "DEL {}wake", "LPOP {}wake", "HSET {}revoked x y", "HDEL {}revoked x"),
        *("RPUSH {}commands *", "LPOP {}commands", "SET {}restored x", "EXPIRE {}restored 1"),
        *("EXPIRE {}detections 1", "XRANGE {}detections - +", "XDEL {}detections 1-1", "DEL {}detections"),
        *("XTRIM {}detections MAXLEN 0", "XADD {}detected * row x", "RPUSH {}scans uid-1", "GET {}unreadable"),
        *("HSET {}counters x 1", "PUBLISH {}addresses x", "HGETALL {}addresses", "HSET {}addresses alice/ x"),
        *("GET {}wanted:proxy-1", "SET {}wanted:proxy-1 x"),
    ],
    "reconciler": [
        *("SET {}pass:x y", "HSET {}charges:192.0.2.1 x 1", "SET {}hub https://other.example/", "SET {}wanted:proxy-1 x"),
        "PUBLISH {}other x",
    ],
    "receiver": [
        *("XRANGE {}detections - +", "XDEL {}detections 1-1", "DEL {}detections", "XADD {}detected * row x"),
        *(
            "XREVRANGE {}detected + -",
            "GET {}unreadable",
            "RPUSH {}wake *",
            "RPUSH {}commands *",
            "SET {}reconciler 1",
            "HINCRBY {}counters x 1",
        ),
        *("HGETALL {}agents", "HSET {}agents 10.42.0.7 node-1", "DEL {}agents", "SET {}stop:alice/ uid-1"),
        *("SET {}unlock:alice/ x", "HGETALL {}blocks", "HSETNX {}blocks x y", "GET {}server:alice/", "SCRIPT LOAD return(1)"),
    ],
    "proxy": [
        *FORGERIES,
        *("HSET {}addresses alice/ x", "HDEL {}addresses alice/", "EXPIRE {}addresses 1", "PUBLISH {}addresses x"),
        *("SET {}changes 1", "SUBSCRIBE {}other", "GET {}server:alice/", "HGETALL {}blocks", "SET {}unlock:alice/ x"),
        *(
            "SET {}launch:alice/ x",
            "RPUSH {}wake *",
            "RPUSH {}commands *",
            "SET {}hub https://other.example/",
            "HINCRBY {}wiring launches 1",
        ),
        *("GET {}wanted:proxy-1", "DEL {}wanted:proxy-1", "LPOP {}scans", "GET {}epoch", "SCRIPT LOAD return(1)", "SCAN 0"),
    ],
}
"""What each user must not do, `{}` being the prefix of keys, written by hand: it must not follow from the table in the script.
Somebody who captures a process that faces strangers cannot have a pod stopped with a report (D-354)."""


@pytest.mark.parametrize("user", REFUSED)
def test_user_cannot_do_what_is_not_its_own(server, user):
    with server.client(username=user, password=PASSWORDS[user]) as client:
        for command in REFUSED[user] + EVERYBODY:
            with pytest.raises(redis.exceptions.NoPermissionError):
                print(user, command, client.execute_command(*command.replace("{}", PREFIX).split()))


@pytest.mark.parametrize(
    "script", ["redis.call('SET', '{}stop:alice/', 'uid-1')", "redis.call('HDEL', '{}blocks', 'x')", "redis.call('FLUSHALL')"]
)
def test_script_of_the_verifier_has_no_more_rights(server, script):
    with server.client(username="verifier", password=VERIFIER) as client:
        loaded = client.script_load(script.format(PREFIX))
        with pytest.raises(redis.exceptions.ResponseError, match="executing the script can't"):
            client.evalsha(loaded, 0)


def test_no_other_password_is_accepted_if_there_are_users(server):
    for access in ({}, {"password": SHARED}, {"password": "wrong"}, {"username": "verifier", "password": RECONCILER}):
        with server.client(**access) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()


@pytest.mark.parametrize("others", [{}, {"verifier": VERIFIER}, {"reconciler": RECONCILER}])
def test_one_password_goes_on_working(others):
    with closing(ChartRedis("one-password", **others)) as server:
        for kind in (VerifierSettings, ReconcilerSettings):
            with connect(server.settings(kind, redis_password="one-password")) as client:
                VerifierStore(client).ping()
                ReconcilerStore(client).ask_to_stop(Server("alice"), "uid-1")
        with server.client() as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
