"""The battery of escapes, against the egress proxy in a network namespace."""

import pytest

from tests.support.egress_proxy import lab


@pytest.fixture(scope="module")
def seen():
    return lab.run()


def test_every_attempt_was_made(seen):
    assert list(seen) == lab.names()


@pytest.mark.parametrize("name", lab.names())
def test_attempt_ends_as_it_must(seen, name):
    as_it_must, what = seen[name]
    assert as_it_must, what
