"""The work queue keeps its contract, with a clock that the test sets. test_reconciler_threads.py has it between threads."""

import pytest

from binder_egress.reconciler.work_queue import WorkQueue
from tests.support.clock import Clock

PAUSE = 10.0


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(PAUSE, clock)


def take(queue: WorkQueue[str], most: int = 100) -> list[str]:
    return [key for key, _ in queue.get(most, wait=False)]


def test_keys_are_handed_out_in_the_order_of_their_puts(queue, clock):
    for clock.now, key in enumerate("bca"):
        queue.put(key)
    assert (take(queue, 2), take(queue, 2)) == (["b", "c"], ["a"])


def test_key_put_twice_is_handed_out_once_with_the_first_date(queue, clock):
    queue.put("a")
    clock.now = 5
    queue.put("a")
    assert len(queue) == 1
    assert queue.get(100, wait=False) == [("a", 0.0)]
    assert take(queue) == [] and len(queue) == 0


def test_key_put_with_a_pause_is_due_after_it_or_at_the_next_put(queue, clock):
    queue.put("a", 5.0)
    queue.put("b", 5.0)
    queue.put("b")
    assert queue.get(100, wait=False) == [("b", 0.0)]
    clock.now = 5
    queue.put("a")
    assert queue.get(100, wait=False) == [("a", 5.0)]


def test_retry_is_due_after_the_pause_and_keeps_the_first_date(queue, clock):
    queue.put("a")
    for attempt in range(1, 4):
        assert queue.get(100, wait=False) == [("a", 0.0)]
        queue.retry("a", 0.0)
        clock.now = attempt * PAUSE - 0.1
        assert (take(queue), len(queue)) == ([], 1)
        clock.now = attempt * PAUSE
    assert queue.get(100, wait=False) == [("a", 0.0)]
    queue.put("a")
    assert queue.get(100, wait=False) == [("a", clock.now)], "the wait ended when the work was done"


def test_put_during_the_pause_makes_the_retry_due_at_once(queue, clock):
    queue.retry("a", -1.0)
    clock.now = 1
    queue.put("a")
    assert queue.get(100, wait=False) == [("a", -1.0)]
    clock.now = 2 * PAUSE
    assert take(queue) == [], "one put and one retry are one piece of work"


def test_keys_put_first_are_handed_out_before_those_that_are_due_longer(queue, clock):
    for key in "abc":
        queue.put(key)
    clock.now = 5
    queue.put("d", first=True)
    queue.put("c", first=True)
    assert queue.get(1, wait=False) == [("c", 0.0)], "it keeps its date"
    assert queue.get(100, wait=False, only_first=True) == [("d", 5.0)]
    assert queue.get(100, wait=False, only_first=True) == []
    assert take(queue) == ["a", "b"] and len(queue) == 0


def test_key_put_first_is_first_after_a_retry_too(queue, clock):
    queue.put("a", first=True)
    queue.put("b")
    assert take(queue) == ["a", "b"]
    queue.retry("b", 0.0)
    queue.retry("a", 0.0)
    clock.now = PAUSE
    assert take(queue) == ["a", "b"]
    queue.put("a")
    queue.put("b")
    queue.put("a", first=True)
    assert take(queue, 1) == ["a"] and take(queue) == ["b"]
    queue.retry("b", PAUSE)
    queue.put("c")
    clock.now += PAUSE
    assert take(queue) == ["c", "b"], "only what was put first"
