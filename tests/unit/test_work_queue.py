"""The work queue keeps its contract, with a clock that the test sets and with real threads."""

import threading
import time

import pytest

from tests.support.clock import Clock
from tests.support.waiting import eventually
from verifier.reconciler.work_queue import WorkQueue

PAUSE = 10.0


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(PAUSE, clock)


def take(queue: WorkQueue[str], most: int = 100) -> list[str]:
    """Take the keys that are due."""
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


def test_key_in_work_is_not_handed_out_before_it_is_done(queue, clock):
    queue.put("a")
    assert take(queue) == ["a"]
    clock.now = 1
    queue.put("a")
    queue.put("b")
    assert take(queue) == ["b"]
    clock.now = 2
    queue.done("a")
    assert queue.get(100, wait=False) == [("a", 1.0)], "it was put while in work, and is dated by that put"
    queue.done("a")
    assert take(queue) == []


def test_retry_is_due_after_the_pause_and_keeps_the_first_date(queue, clock):
    queue.put("a")
    for attempt in range(1, 4):
        assert queue.get(100, wait=False) == [("a", 0.0)]
        queue.retry("a", 0.0)
        queue.done("a")
        clock.now = attempt * PAUSE - 0.1
        assert (take(queue), len(queue)) == ([], 1)
        clock.now = attempt * PAUSE
    assert queue.get(100, wait=False) == [("a", 0.0)]
    queue.done("a")
    queue.put("a")
    assert queue.get(100, wait=False) == [("a", clock.now)], "the wait ended when the work was done"


def test_put_during_the_pause_makes_the_retry_due_at_once(queue, clock):
    queue.retry("a", -1.0)
    clock.now = 1
    queue.put("a")
    assert queue.get(100, wait=False) == [("a", -1.0)]
    queue.done("a")
    clock.now = 2 * PAUSE
    assert take(queue) == [], "one put and one retry are one piece of work"


def test_outdated_entry_of_a_key_in_work_is_not_handed_out(queue, clock):
    queue.retry("a", 0.0)
    queue.put("a")
    take(queue)
    queue.retry("a", 0.0)  # due at the same time as the retry before
    clock.now = PAUSE
    assert take(queue) == []
    queue.done("a")
    assert take(queue) == ["a"] and take(queue) == []


@pytest.fixture
def real() -> WorkQueue[str]:
    return WorkQueue(0.05)


@pytest.mark.parametrize("act", ["put", "retry", "close"])
def test_get_waits_until_a_key_is_due_or_the_queue_is_closed(real, act):
    handed_out = []
    waiting = threading.Thread(target=lambda: handed_out.append(real.get(100)))
    waiting.start()
    time.sleep(0.05)
    assert handed_out == []
    {"put": lambda: real.put("a"), "retry": lambda: real.retry("a", 0.0), "close": real.close}[act]()
    waiting.join(60)
    assert [[key for key, _ in batch] for batch in handed_out] == [[] if act == "close" else ["a"]]


def test_get_waits_for_the_end_of_work_on_a_key_that_was_put_again(real):
    real.put("a")
    real.get(100)
    real.put("a")
    ended = []
    threading.Timer(0.1, lambda: (ended.append("a"), real.done("a"))).start()
    assert [key for key, _ in real.get(100)] == ["a"]
    assert ended == ["a"]


def test_two_workers_never_have_the_same_key_and_miss_no_put(real):
    in_work: set[str] = set()
    seen = {key: 0 for key in "abcdef"}  # the last number that a worker handled
    last = dict(seen)
    twice = []
    guard = threading.Lock()

    def work() -> None:
        while batch := real.get(3):
            for key, _ in batch:
                with guard:
                    twice.extend([key] if key in in_work else [])
                    in_work.add(key)
                number = last[key]
                time.sleep(0.0005)
                with guard:
                    seen[key] = max(seen[key], number)
                    in_work.remove(key)
                real.done(key)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for number in range(1, 200):
        for key in last:
            last[key] = number
            real.put(key)
        time.sleep(0.0002)
    try:
        eventually(lambda: seen == last, what=lambda: (seen, last))
    finally:
        real.close()
        for worker in workers:
            worker.join(60)
    assert (twice, seen) == ([], last)
