"""Fixtures: a cluster with a reconciler, and clocks."""

import pytest

from tests.support.leases import Place


@pytest.fixture
def place(store, redis_server):
    return Place(redis_server)


@pytest.fixture
def reconciler(place):
    return place.reconciler()
