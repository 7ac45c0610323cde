"""Fixtures: a verifier with a running server, and captcha providers."""

import pytest

from tests.support.apps import VerifierProcess, run_pod
from tests.support.browser import MODEST


@pytest.fixture
def start(redis_server):
    """A function that starts a verifier with given settings. Name it before `open_tab`: open pages send requests to it."""
    processes = []

    def start(**settings):
        processes.append(VerifierProcess(redis_server, **settings))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()


@pytest.fixture
def page_address(verifier, store):
    """The address of the page of a running server without internet access."""
    run_pod(store)
    return f"{verifier}/egress/servers/alice/"


@pytest.fixture
def providers(double, start, store):
    """A function that starts a verifier with given providers, and returns the address of a server's page."""

    def start_with(*names, altcha=False, **options):
        settings = {**double.settings(*names, with_altcha=MODEST["altcha"] if altcha else None), **options}
        run_pod(store)
        return f"{start(**settings).public}/egress/servers/alice/"

    return start_with
