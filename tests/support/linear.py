"""Whether calls take time in proportion to the length of a text. Only times of one run are compared, because machines differ."""

import time
from collections.abc import Callable, Sequence

MOST_TIMES = 3.0
"""How many times the processor time for half the length is too much. Linear calls take twice as much, quadratic ones four times."""

FLOOR_SECONDS = 0.0005
"""Processor time that is too short to compare, in seconds."""


def processor_seconds(calls: Sequence[Callable[[], object]], repeats: int = 15) -> list[float]:
    """The least processor time of each call, in seconds: other processes can only add to it. The calls take turns."""
    least = [float("inf")] * len(calls)
    for _ in range(repeats):
        for at, call in enumerate(calls):
            began = time.process_time()
            call()
            least[at] = min(least[at], time.process_time() - began)
    return least


def is_linear(call: Callable[[str], object], shape: Callable[[int], str], length: int) -> bool:
    """Whether a call takes at most `MOST_TIMES` the processor time for a text of a length that it takes for one of half of it."""
    halved, entire = shape(length // 2), shape(length)
    half, whole = processor_seconds((lambda: call(halved), lambda: call(entire)))
    return whole <= MOST_TIMES * max(half, FLOOR_SECONDS)
