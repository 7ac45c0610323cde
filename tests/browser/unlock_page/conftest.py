"""Fixtures: a verifier with a running server, and captcha providers."""

import pytest

from tests.support.apps import run_pod
from tests.support.browser import MODEST


@pytest.fixture
def start(verifiers):
    """A function that starts a verifier with given settings."""
    return verifiers.start


@pytest.fixture
def page_address(verifier, store):
    """The address of the page of a running server without internet access."""
    run_pod(store)
    return f"{verifier.public}/egress/servers/alice/"


@pytest.fixture
def providers(double, start, store):
    """A function that starts a verifier with given providers, and returns the address of a server's page."""

    def start_with(*names, altcha=False, **options):
        settings = {**double.settings(*names, with_altcha=MODEST["altcha"] if altcha else None), **options}
        run_pod(store)
        return f"{start(**settings).public}/egress/servers/alice/"

    return start_with
