"""Fixtures: a site with API keys, and the operators' commands."""

import pytest
from click.testing import CliRunner

import binder_egress.operators.commands
from tests.support.api_keys import Site


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Operators do not wait. Unlocks do: some tests have a reconciler."""
    monkeypatch.setattr("binder_egress.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 0)


@pytest.fixture
def make_site(tmp_path, redis_server, store):
    return lambda **settings: Site(tmp_path / "keys.json", redis_server, store, **settings)


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def run(site, redis_server, monkeypatch):
    monkeypatch.setenv("BINDER_EGRESS_REDIS_URL", redis_server.url)
    monkeypatch.setenv("BINDER_EGRESS_TIERS", '{"verified": {}, "small": {}}')

    def run(*args):
        site.internal.get("/readyz")
        return CliRunner().invoke(binder_egress.operators.commands.egress, ["keys", *args])

    return run
