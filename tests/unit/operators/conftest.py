"""Fixtures: a cluster with reconcilers, and operators who do not wait."""

import time
from functools import partial

import pytest

from binder_egress.operators.actions import CommandOperators
from tests.support.apps import make_settings
from tests.support.operators import start


@pytest.fixture
def make(make_reconciler):
    """Make a reconciler with real clocks."""
    return partial(make_reconciler, clock=time.time, steady=time.monotonic)


@pytest.fixture
def reconciler(make):
    return make()


@pytest.fixture
def alice(cluster, reconciler):
    start(cluster, reconciler)


@pytest.fixture
def operators(redis_server, store, impatient):
    """Operators' actions that do not wait for the reconciler."""
    return CommandOperators(make_settings(redis_server, may_stop_pods=True), store)
