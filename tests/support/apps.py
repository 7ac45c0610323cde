"""Redis; the verifier, as two apps and as a process; and what clients, BinderHub and the reconciler do."""

import json
import multiprocessing
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import altcha
import redis
from flask.testing import FlaskClient

from binder_egress.model.grants import UNVERIFIED, Grant
from binder_egress.model.records import KnownServer, Server
from binder_egress.model.serialization import read_known
from binder_egress.settings import VerifierSettings, load
from binder_egress.web.app import create_internal_app, create_public_app
from binder_egress.web.context import Services
from tests.support.ports import free_port
from tests.support.processes import children
from tests.support.served import as_it_is, serve
from tests.support.store import Store
from tests.support.waiting import eventually

API_TOKEN = "api-token-of-the-tests-0123456789abcdef"

KEYS = "first-key-0123456789abcdef0123456789\nsecond-key-0123456789abcdef0123456789"


CLIENT = "198.51.100.7"
"""The client's address in most tests."""

NETWORK = f"{CLIENT}/32"
"""The network that `CLIENT` counts for."""

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Sends requests without a proxy. `urlopen` keeps the proxies that it reads at its first call, and some tests set a proxy."""

# Solved within a few milliseconds: most tests are about what happens to the solution.
QUICK = {"altcha": {"cost": 1, "counterMax": 5}}


def admit(_: object) -> None:
    """For `Store.use_solution` and `Store.use_key`: blocks mean nothing."""


class RedisServer:
    """A redis-server on loopback that a test can stop and start again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process:
            return
        binary = shutil.which("redis-server")
        assert binary, "the tests need redis-server: apt-get install redis-server"
        # With its usual 10 hz, a command that waits for 10 ms takes 100 ms.
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--hz", "100")
        self._process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        started, client = self._process, redis.Redis(port=self.port)

        def answers() -> bool:
            assert started.poll() is None, "redis-server has ended"
            return bool(client.ping())

        eventually(answers, what="redis-server does not answer", no_answer=(redis.ConnectionError,))
        client.close()
        self.wipe()

    def wipe(self) -> None:
        """Lose everything. The reconciler, which most tests do not have, has nothing to restore."""
        with redis.Redis.from_url(self.url) as client, client.pipeline() as pipe:
            pipe.flushall()
            pipe.set("binder-egress:restored", '{"at": 1, "lost": false, "blocks": 0, "keys": 0, "unreadable": 0}')
            pipe.execute()

    def stop(self) -> None:
        if self._process:
            # A test may have left it frozen, and then it would not end.
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop answering, with connections open."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.served"])
"""Starts processes as copies of one that has loaded their modules, because loading them takes most of a start's processor time."""

PATIENT_UNLOCK_SECONDS = 15.0
"""How long an unlock waits, instead of the product's 2 s, in a test that plays the reconciler and checks the result."""


class ServedProcess:
    """A process with gunicorn and real ports, which is ready when the address `ready` answers. `prepare`, a function of a module,
    is called in it first."""

    def __init__(
        self, command: str, ready: str, unlock_wait_seconds: float = 2.0, prepare: Callable[[], None] = as_it_is, **settings: object
    ) -> None:
        self._ready = ready
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BINDER_EGRESS_")}
        for name, value in settings.items():
            environment[f"BINDER_EGRESS_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
        # A pipe that nobody reads would block the process.
        self._log = tempfile.NamedTemporaryFile("r")  # noqa: SIM115
        self._lines: list[str] = []
        args = (command, environment, unlock_wait_seconds, self._log.name, prepare)
        self._process = FORKS.Process(target=serve, args=args, daemon=True)
        self._process.start()
        self.await_ready()

    def await_ready(self) -> None:
        """Wait until it is ready, as Kubernetes does before it sends requests."""

        def is_ready() -> bool:
            assert self._process.is_alive(), "it has ended"
            with DIRECT.open(self._ready, timeout=30):
                return True

        eventually(is_ready, what="it does not start", no_answer=(OSError,))

    def processes(self) -> list[int]:
        """The ids of gunicorn's two processes, the worker first."""
        own = self._process.pid
        assert own
        return [*children(own), own]

    def kill(self) -> None:
        """Kill it and its worker at once."""
        if not self._process.is_alive():
            return
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self._process.join(60)
        self._log.close()

    def stop(self) -> list[str]:
        """Stop it as Kubernetes does, unless it has stopped already. Returns the lines of its log."""
        if self._process.is_alive():
            self._process.terminate()
        self._process.join(60)
        assert self._process.exitcode == 0
        if not self._log.closed:
            self._log.seek(0)
            self._lines = self._log.read().splitlines()
            self._log.close()
        return self._lines


class VerifierProcess(ServedProcess):
    """The verifier as a process, with settings besides its Redis, secrets and ports. `public` and `internal` are its addresses."""

    def __init__(self, redis_server: RedisServer, unlock_wait_seconds: float = 2.0, **settings: object) -> None:
        ports = free_port(), free_port()
        self.public, self.internal = (f"http://127.0.0.1:{port}" for port in ports)
        values = _values(redis_server) | {"public_port": ports[0], "internal_port": ports[1]} | settings
        super().__init__("verifier", f"{self.internal}/readyz", unlock_wait_seconds, **values)


class ReceiverProcess(ServedProcess):
    """The receiver of reports as a process. `address` is where it listens, and `port` the number in it."""

    def __init__(self, redis_server: RedisServer, **settings: object) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        super().__init__("receiver", f"{self.address}/readyz", redis_url=redis_server.url, reports_port=self.port, **settings)


KEPT = 4
"""How many verifiers a `Verifiers` keeps. Tests with the same settings follow one another."""


class Verifiers:
    """The verifiers of a Redis. A start takes more processor time than most tests, so the next test that needs the same settings
    gets the same process, with an empty Redis."""

    def __init__(self, redis_server: RedisServer) -> None:
        self._redis_server = redis_server
        self._processes: dict[str, VerifierProcess] = {}

    def start(self, **settings: object) -> VerifierProcess:
        """A verifier that is ready, with these settings."""
        key = json.dumps(settings, sort_keys=True)
        process = self._processes.pop(key, None)
        if process is None:
            if len(self._processes) == KEPT:
                self._processes.pop(next(iter(self._processes))).stop()
            process = VerifierProcess(self._redis_server, **settings)
        self._processes[key] = process
        process.await_ready()
        return process

    def stop(self) -> None:
        for process in self._processes.values():
            process.stop()


def make_settings(redis_server: RedisServer, **overrides: object) -> VerifierSettings:
    """Settings as the chart makes them, with a quick proof of work."""
    return load(VerifierSettings, **_values(redis_server) | {"tiers": {"verified": {}, "small": {}}} | overrides)


def _values(redis_server: RedisServer) -> dict[str, object]:
    """The settings of a verifier that have no default, and a quick proof of work."""
    return {"redis_url": redis_server.url, "signing_keys": KEYS, "api_token": API_TOKEN, "captcha_providers": QUICK}


def public_client(services: Services, address: str = CLIENT) -> FlaskClient:
    client = create_public_app(services).test_client()
    client.environ_base["HTTP_X_FORWARDED_FOR"] = address
    return client


def internal_client(services: Services) -> FlaskClient:
    client = create_internal_app(services).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {API_TOKEN}"
    return client


def another(client: FlaskClient) -> FlaskClient:
    """Another client of the same app, for another thread. The app is the same, because in the real process one thread makes it."""
    made = client.application.test_client()
    made.environ_base.update(client.environ_base)
    return made


def solve(client: FlaskClient, purpose: str = "launch") -> str:
    """Get a challenge and solve it. Returns an ALTCHA payload."""
    answer = client.get(f"/egress/challenge?purpose={purpose}")
    assert answer.status_code == 200, answer.text
    return solution(answer.json["providers"][0]["challenge"])


def solution(challenge: dict[str, Any]) -> str:
    """Solve a challenge. Returns an ALTCHA payload."""
    read = altcha.Challenge.from_dict(challenge)
    return altcha.Payload(read, altcha.solve_challenge(read)).to_base64()


def get_pass(client: FlaskClient) -> str:
    """Solve a challenge and exchange the solution. Returns a token."""
    answer = client.post("/egress/passes", json={"provider": "altcha", "solution": solve(client)})
    assert answer.status_code == 201, answer.text
    return answer.json["token"]


def new_promise() -> str:
    """A promise, as BinderHub's page draws it."""
    return f"promise-{secrets.token_hex(16)}"


def launch(client: FlaskClient, user: str = "alice", **fields: object) -> dict:
    """Report a launch to the verifier, as BinderHub's hook does. Returns the decision."""
    body = {"user": user, "image": "image:1", "repository": "https://example.com/a/b", "client_address": CLIENT}
    body |= {"requested_at": time.time(), **fields}
    answer = client.post("/api/launches", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json


def carried(tier: str = UNVERIFIED, identity: str = "", **fields: Any) -> Grant:
    """The grant that a pod carries, with no more fields than a test is about."""
    return read_known(json.dumps({"uid": "", "tier": tier, "grant": identity, **fields})).grant


def run_pod(store: Store, user: str = "alice", uid: str = "uid-1") -> Server:
    """Publish a running server, as the reconciler does."""
    server = Server(user)
    store.publish(server, KnownServer(uid=uid, repository="https://example.com/a/b"))
    return server


def is_withdrawn(store: Store, grant: str) -> bool:
    return grant in store.pending(Server("nobody"), {grant}).withdrawn


@contextmanager
def reconciler(store: Store, server: Server | None = None, lease: int = 0, late: int = 0) -> Iterator[None]:
    """A thread that plays the reconciler: it publishes the grant of an unlock, for `lease` seconds, with a label that acts `late`
    seconds later."""
    server = server or Server("alice")
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.01):
            pending = store.pending(server, set())
            if pending.unlock and pending.known.grant.id != pending.unlock.grant.id and pending.unlock.uid == pending.known.uid:
                known, grant = pending.known, pending.unlock.grant
                until = int(time.time()) + lease if lease else None
                new = carried(grant.tier, grant.id, until=until, may_stop=getattr(known.grant, "may_stop", False))
                opens_at = int(time.time()) + late if late else 0
                store.publish(server, KnownServer(known.uid, new, known.repository, opens_at=opens_at))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
