"""Fixtures: a cluster with reconcilers, and operators who do not wait."""

import pytest

import verifier.operators.actions
from tests.support.apps import make_settings
from verifier.operators.actions import Operators
from verifier.reconciler.loop import Reconciler
from verifier.settings import ReconcilerSettings, load


@pytest.fixture
def make(redis_server, cluster, store):
    """Make a reconciler."""

    def make(**overrides):
        values = {"redis_url": redis_server.url, "tiers": {"verified": {}, "small": {}}, **overrides}
        return Reconciler(load(ReconcilerSettings, **values), cluster, store)

    return make


@pytest.fixture
def reconciler(make):
    return make()


@pytest.fixture
def operators(redis_server, store, monkeypatch):
    """Operators' actions that do not wait for the reconciler."""
    monkeypatch.setattr(verifier.operators.actions, "CONFIRMATION_WAIT_SECONDS", 0)
    return Operators(make_settings(redis_server, may_stop_pods=True), store)
