"""Fixtures: a clock, the sockets of a connection through the proxy, and how connections ended."""

import logging
import socket

import pytest

from tests.support.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ends(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [(record.fields["decision"], record.fields["rule"]) for record in caplog.records]


@pytest.fixture
def sockets():
    """A pod, the proxy's ends toward it and toward a host, and that host."""
    (pod, client), (upstream, host) = pairs = socket.socketpair(), socket.socketpair()
    for one in (*pairs[0], *pairs[1]):
        one.setblocking(False)
    yield pod, client, upstream, host
    for one in (*pairs[0], *pairs[1]):
        one.close()
