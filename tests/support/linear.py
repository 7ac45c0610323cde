"""Whether calls take time in proportion to the length of a text. Only times of one run are compared, because machines differ."""

import time
from collections.abc import Callable

MOST_TIMES = 3.0
"""How many times the processor time for half the length is too much. Linear calls take twice as much, quadratic ones four times."""

FLOOR_SECONDS = 0.0005
"""Processor time that is too short to compare, in seconds."""


def is_linear(call: Callable[[str], object], shape: Callable[[int], str], length: int) -> bool:
    """Whether a call takes at most `MOST_TIMES` the processor time for a text of a length that it takes for one of half of it."""
    texts = shape(length // 2), shape(length)
    least = [float("inf")] * 2
    # Other processes can only add to the time, so the least counts. The texts take turns.
    for at in (0, 1) * 15:
        began = time.process_time()
        call(texts[at])
        least[at] = min(least[at], time.process_time() - began)
    half, whole = least
    return whole <= MOST_TIMES * max(half, FLOOR_SECONDS)
