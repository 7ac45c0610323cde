"""Fixtures: a cluster with reconcilers, and operators who do not wait."""

import pytest

import verifier.operators.actions.confirmation
from tests.support.apps import make_settings
from verifier.operators.actions import CommandOperators
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
    monkeypatch.setattr(verifier.operators.actions.confirmation, "CONFIRMATION_WAIT_SECONDS", 0)
    return CommandOperators(make_settings(redis_server, may_stop_pods=True), store)
