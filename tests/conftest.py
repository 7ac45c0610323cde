"""Fixtures of unit, browser and long tests: a real Redis, and the store on it."""

from collections.abc import Iterator

import pytest

from binder_egress.store.connection import connect
from tests.support.apps import RedisServer, make_settings
from tests.support.store import Store


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer timeout than in production: CI machines are slow."""
    monkeypatch.setattr("binder_egress.store.connection.TIMEOUT_SECONDS", 10)


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(_redis_server: RedisServer) -> RedisServer:
    """A running, empty Redis."""
    _redis_server.start()
    _redis_server.thaw()
    _redis_server.wipe()
    return _redis_server


@pytest.fixture
def store(redis_server: RedisServer, patient: None) -> Iterator[Store]:
    """The store of all processes. Tests write to it as the reconciler does."""
    client = connect(make_settings(redis_server))
    store = Store(client)
    store.ping()  # as the readiness probe does before the first client
    yield store
    client.close()
