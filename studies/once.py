"""How often the parts of `ci/bench` measure. With `BENCH_ONCE=1` they only show that they run to their end: figures say nothing."""

import os
from typing import TypeVar

Number = TypeVar("Number", int, float)


def unless_once(usual: Number, least: Number) -> Number:
    """The usual number of times, servers or seconds; with `BENCH_ONCE` the least that still does everything once."""
    return least if os.environ.get("BENCH_ONCE") else usual
