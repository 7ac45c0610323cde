"""Fixtures: sites with given settings."""

import pytest

from binder_egress.web.app import create_services
from tests.support.apps import make_settings


@pytest.fixture
def site(redis_server, store):
    return lambda **overrides: create_services(make_settings(redis_server, **overrides), store)
