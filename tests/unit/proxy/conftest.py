"""Fixtures: a clock, and how connections ended."""

import logging

import pytest

from tests.support.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ends(caplog):
    """Returns how connections ended."""
    caplog.set_level(logging.INFO)
    return lambda: [(record.fields["decision"], record.fields["rule"]) for record in caplog.records]
