"""A Redis that the operator runs: with TLS and a private certificate authority, and with Sentinel."""

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from binder_egress.model.records import Server
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.errors import StoreUnavailable
from tests.support.apps import make_settings
from tests.support.certificates import certificate
from tests.support.ports import free_port
from tests.support.store import Store
from tests.support.waiting import eventually


class Fleet(ExitStack):
    """Processes of redis-server that stop at the end of the test."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *options: str, sentinel: bool = False, tls: bool = False) -> int:
        """Starts a server and returns its port. Options are lines of its configuration."""
        port = free_port()
        file = self.folder / f"{port}.conf"
        ports = [f"tls-port {port}", "port 0", "tls-auth-clients no"] if tls else [f"port {port}"]
        file.write_text("\n".join(["bind 127.0.0.1", *ports, f"dir {self.folder}", *options]) + "\n")
        command = ["redis-server", str(file), *(["--sentinel"] if sentinel else [])]
        self.processes[port] = self.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self.folder))
        self.callback(self.processes[port].kill)
        return port


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path) as fleet:
        yield fleet


def settings(url: str, **more: object) -> ReconcilerSettings:
    return load(ReconcilerSettings, redis_url=url, **more)


def wait_until(condition, what: str) -> None:
    eventually(condition, what=what, no_answer=(redis.RedisError, StoreUnavailable))


def answers(connection_settings: ReconcilerSettings) -> bool:
    with connect(connection_settings) as client:
        return bool(client.ping())


def wait_until_it_answers(connection_settings: ReconcilerSettings) -> None:
    wait_until(lambda: answers(connection_settings), "Redis answers, or sentinels name a master that does")


# -- TLS


@pytest.fixture
def authority(tmp_path):
    """Returns the folder with `ca.crt`, `other.crt` (an authority that signed nothing) and `redis.crt`."""
    certificate(tmp_path, "ca")
    certificate(tmp_path, "redis", "-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE")
    certificate(tmp_path, "other")
    return tmp_path


def tls_options(folder: Path) -> list[str]:
    return [f"tls-cert-file {folder}/redis.crt", f"tls-key-file {folder}/redis.key", f"tls-ca-cert-file {folder}/ca.crt"]


def test_tls_redis_is_trusted_only_by_its_own_authority(fleet, authority):
    port = fleet.start(*tls_options(authority), tls=True)
    url = f"rediss://127.0.0.1:{port}/0"
    wait_until_it_answers(settings(url, redis_ca=f"{authority}/ca.crt"))
    for ca in ("", f"{authority}/other.crt"):
        with pytest.raises(redis.ConnectionError, match="certificate"):
            answers(settings(url, redis_ca=ca))
    with connect(settings(url, redis_ca=f"{authority}/nothing.crt")) as client, pytest.raises(StoreUnavailable):
        Store(client).ping()


# -- Sentinel

PASSWORD = "redis-password-of-the-tests"
WATCHERS = "sentinels-password-of-the-tests"


def start_sentinels(fleet: Fleet, *options: str, tls: bool = False) -> tuple[int, int, list[int]]:
    """Starts a master, its replica and two sentinels that watch them; returns their ports."""
    secret = [f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", 'save ""', *options]
    secret += ["tls-replication yes"] if tls else []
    master = fleet.start(*secret, tls=tls)
    replica = fleet.start(*secret, f"replicaof 127.0.0.1 {master}", tls=tls)
    watch = [
        f"sentinel monitor hub 127.0.0.1 {master} 2",
        f"sentinel auth-pass hub {PASSWORD}",
        "sentinel down-after-milliseconds hub 3000",  # a busy machine answers late
        "sentinel failover-timeout hub 5000",
        f"requirepass {WATCHERS}",
        f"sentinel sentinel-pass {WATCHERS}",
        *options,
    ]
    return master, replica, [fleet.start(*watch, sentinel=True, tls=tls) for _ in range(2)]


def sentinel_settings(ports: list[int], scheme: str = "redis", **more: object) -> ReconcilerSettings:
    values = {
        "redis_sentinels": [f"127.0.0.1:{port}" for port in ports],
        "redis_sentinel_master": "hub",
        "redis_password": PASSWORD,
        "redis_sentinel_password": WATCHERS,
    }
    return settings(f"{scheme}://hub/3", **{**values, **more})


def test_store_follows_sentinels_to_another_master(fleet, redis_server):
    master, replica, sentinels = start_sentinels(fleet)
    # The first sentinel is away, so the next is asked.
    connection_settings = sentinel_settings([free_port(), *sentinels])
    wait_until_it_answers(connection_settings)
    with connect(sentinel_settings(sentinels, redis_sentinel_password="another")) as client, pytest.raises(StoreUnavailable):
        Store(client).ping()
    # The settings of the verifier are JSON in the environment, as in the chart.
    in_json = {"redis_sentinels": f'["127.0.0.1:{sentinels[0]}"]', "redis_sentinel_master": "hub", "redis_url": "redis://hub/0"}
    passwords = {"redis_password": PASSWORD, "redis_sentinel_password": WATCHERS}
    # Until now, perhaps only the second sentinel has answered.
    wait_until_it_answers(make_settings(redis_server, **in_json, **passwords))
    client = connect(connection_settings)
    store = Store(client)
    store.ping()
    assert client.connection_pool.get_master_address() == ("127.0.0.1", master)
    with redis.Redis(port=master, db=3, password=PASSWORD, decode_responses=True) as direct:
        assert direct.exists("binder-egress:epoch"), "the number of the database counts"
    for port in sentinels:
        with redis.Redis(port=port, password=WATCHERS, decode_responses=True) as asked:
            # A sentinel cannot fail over before it knows the replica and the other sentinel.
            wait_until(lambda asked=asked: asked.sentinel_master("hub")["num-other-sentinels"] == 1, "sentinels know each other")
            wait_until(lambda asked=asked: asked.sentinel_master("hub")["num-slaves"] == 1, "the replica is known")
    with redis.Redis(port=sentinels[0], password=WATCHERS, decode_responses=True) as asked:
        wait_until(lambda: asked.execute_command("SENTINEL", "FAILOVER", "hub") is not None, "a failover is ordered")

    # Connections to the old master are alive, but it refuses writes.
    with redis.Redis(port=replica, db=3, password=PASSWORD, decode_responses=True) as direct:

        def written_there():
            before = direct.hget("binder-egress:counters", "moved")
            store.heartbeat(time.time(), {}, {"moved": 1})
            return direct.role()[0] == "master" and direct.hget("binder-egress:counters", "moved") != before

        wait_until(written_there, "writes go to the new master")
        wait_until(lambda: direct.info("replication").get("slave0", {}).get("state") == "online", "the old one follows it")
    fleet.processes[replica].kill()

    def works():
        store.forget(Server("alice"))
        return client.connection_pool.get_master_address() == ("127.0.0.1", master)

    wait_until(works, "the old master takes over again")
    client.close()


def test_tls_applies_to_sentinels(fleet, authority):
    _, _, sentinels = start_sentinels(fleet, *tls_options(authority), tls=True)
    wait_until_it_answers(sentinel_settings(sentinels, "rediss", redis_ca=f"{authority}/ca.crt"))
    with pytest.raises(redis.ConnectionError):
        answers(sentinel_settings(sentinels, "rediss", redis_ca=f"{authority}/other.crt"))
    with pytest.raises(redis.ConnectionError):
        answers(sentinel_settings(sentinels))
