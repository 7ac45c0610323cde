"""Fixtures: a real Redis for each test run, and the apps on top of it."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import redis
from flask.testing import FlaskClient

from binder_egress.reconciler.loop import Reconciler
from binder_egress.settings import ReconcilerSettings, VerifierSettings, load
from binder_egress.web.app import create_services
from binder_egress.web.context import Services
from tests.support.api_server import ApiServer
from tests.support.apps import CLIENT, RedisServer, internal_client, make_settings, public_client
from tests.support.clock import Clock
from tests.support.fake_cluster import FakeCluster
from tests.support.store import Store

# The same examples in each run: a test that fails now and then says less than one that always fails.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine runs in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.function):
        return None
    asyncio.run(pyfuncitem.function(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}))
    return True


@pytest.fixture
def in_redis(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The content of Redis, for tests about keys, expiry times and memory."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait for the reconciler's confirmation: unlocks and operators' actions are `pending` at once."""
    monkeypatch.setattr("binder_egress.web.servers.UNLOCK_WAIT_SECONDS", 0)
    monkeypatch.setattr("binder_egress.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 0)


@pytest.fixture
def settings(redis_server: RedisServer) -> VerifierSettings:
    return make_settings(redis_server)


@pytest.fixture
def services(settings: VerifierSettings, store: Store) -> Services:
    return create_services(settings, store)


@pytest.fixture
def make_services(redis_server: RedisServer, store: Store) -> Callable[..., Services]:
    """Returns a function that makes the services of a site with these settings."""
    return lambda **settings: create_services(make_settings(redis_server, **settings), store)


@pytest.fixture
def site(make_services: Callable[..., Services]) -> Callable[..., tuple[FlaskClient, FlaskClient, Services]]:
    """Returns a function that makes both apps, for a client at an address, and their services."""

    def make(address: str = CLIENT, **settings: object) -> tuple[FlaskClient, FlaskClient, Services]:
        services = make_services(**settings)
        return public_client(services, address), internal_client(services), services

    return make


@pytest.fixture
def public(services: Services) -> FlaskClient:
    """The public app for a client at `CLIENT`, through one proxy."""
    return public_client(services)


@pytest.fixture
def internal(services: Services) -> FlaskClient:
    """The in-cluster app for BinderHub."""
    return internal_client(services)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with contextlib.closing(ApiServer()) as server:
        yield server


# -- the reconciler in the test's thread


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
def steady():
    """The reconciler's monotonic clock, in seconds. No retry becomes due by itself."""
    return Clock(0.0)


@pytest.fixture
def make_reconciler(redis_server, cluster, store, steady):
    """Make a reconciler, on the same cluster and Redis."""

    def make(other_store=None, started=0.0, clock=None, steady=steady, agents=None, seen=None, **overrides):
        values = {"redis_url": redis_server.url, "tiers": {"verified": {}, "small": {}}, **overrides}
        clock = clock or (lambda: started)
        return Reconciler(load(ReconcilerSettings, **values), cluster, other_store or store, clock, steady, agents, **(seen or {}))

    return make


@pytest.fixture
def reconciler(make_reconciler):
    return make_reconciler()
