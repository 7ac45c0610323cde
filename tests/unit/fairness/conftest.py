"""Fixtures: sites with given settings."""

import pytest

from tests.support.apps import make_settings
from verifier.web.app import create_services


@pytest.fixture
def site(redis_server, store):
    return lambda **overrides: create_services(make_settings(redis_server, **overrides), store)
