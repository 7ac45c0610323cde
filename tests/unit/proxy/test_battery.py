"""The battery of escapes, against the egress proxy in a network namespace."""

from collections import Counter

import pytest

from tests.support.egress_proxy import battery, guarantees
from tests.support.egress_proxy.attempts import CLUSTER, attempts

MADE = {attempt.id: attempt for attempt in battery.made()}


@pytest.fixture(scope="module")
def seen():
    return battery.run()


def test_every_attempt_was_made(seen):
    assert list(seen) == [attempt.id for attempt in battery.made()]


def test_page_says_how_many_attempts_are_made_and_what_they_reach():
    """The result of each attempt is compared with `reaches`. This test compares the page with `reaches`."""
    in_lab = Counter(attempt.kind for attempt in MADE.values())
    in_cluster = Counter(attempt.kind for attempt in attempts() if CLUSTER in attempt.where)
    every = {attempt.kind: attempt for attempt in (*attempts(), *battery.one_after_the_other())}
    assert guarantees.rows() == {
        kind: guarantees.Row(in_lab[kind], in_cluster[kind], guarantees.word(attempt)) for kind, attempt in every.items()
    }


@pytest.mark.parametrize("name", MADE)
def test_attempt_ends_as_it_must(seen, name):
    as_it_must, what = seen[name]
    assert as_it_must, what
