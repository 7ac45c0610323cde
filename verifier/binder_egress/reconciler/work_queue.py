"""The queue between the threads that notice changes and the thread that does the work."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """Keys that need work. Any thread may put keys, and one thread takes them: nobody else works on a key meanwhile.

    - A key that is put twice before it is handed out is handed out once. Its time counts from the first `put`.
    - A key that is put after it was handed out is queued again, because its work may have begun before the change that it was put
      for.
    - `retry` queues a key after a pause, and so may `put`. Another `put` before then makes it due immediately.
    - A key whose work is retried keeps its time: it waits from the moment at which it was first due until its work succeeds.
    - Keys are handed out in the order in which they become due, those that are put `first` before all others, after a retry too.
    - After `close` nothing is handed out.

    Args:
        retry_pause_seconds: the pause of `retry`.
        clock: monotonic time in seconds.
    """

    def __init__(self, retry_pause_seconds: float, clock: Callable[[], float] = time.monotonic):
        self._retry_pause_seconds = retry_pause_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._due: dict[Key, tuple[int, float]] = {}  # for each queued key, its lane (0: first) and when it is due
        self._first_due: dict[Key, float] = {}  # for each queued key that is to be retried
        self._handed_first: set[Key] = set()  # the keys of the first lane that are being worked on
        # By time, for each lane. An entry that differs from `_due` is out of date.
        self._heaps: tuple[list[tuple[float, int, Key]], ...] = ([], [])
        self._order = itertools.count()  # among keys that are due at the same time
        self._closed = False

    def __len__(self) -> int:
        """The number of queued keys, including those that wait for a retry."""
        with self._changed:
            return len(self._due)

    def put(self, key: Key, pause_seconds: float = 0.0, first: bool = False) -> None:
        """Queue a key that becomes due after the given seconds; `first`: it is handed out before all others that are due."""
        self._queue(key, self._clock() + pause_seconds, first)

    def retry(self, key: Key, first_due: float) -> None:
        """Queue a key after the pause.

        Args:
            key: the key, which is handed out.
            first_due: its time, as `get` returned it.
        """
        with self._changed:
            self._first_due[key] = first_due
            self._queue(key, self._clock() + self._retry_pause_seconds, key in self._handed_first)

    def get(self, most: int, wait: bool = True, only_first: bool = False) -> list[tuple[Key, float]]:
        """Hand out the keys that are due.

        Args:
            most: the maximum number of keys.
            wait: whether to wait until a key is due or the queue is closed.
            only_first: whether to hand out only those that were put `first`, while others are worked on.

        Returns:
            Each key, and the clock's time when it became due, or was first due if it is retried. Empty after `close`, and without
            `wait` if no key is due.
        """
        with self._changed:
            while not self._closed:
                batch = self._take(most, only_first)
                if batch or not wait:
                    return batch
                self._changed.wait(self._seconds_to_next())
            return []

    def close(self) -> None:
        """Stop handing out keys. Waiting calls of `get` return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _queue(self, key: Key, due: float, first: bool) -> None:
        with self._changed:
            lane = 0 if first else 1
            if queued := self._due.get(key):
                lane, due = min(lane, queued[0]), min(due, queued[1])
            if queued == (lane, due):
                return
            self._due[key] = lane, due
            heapq.heappush(self._heaps[lane], (due, next(self._order), key))
            self._changed.notify()

    def _take(self, most: int, only_first: bool) -> list[tuple[Key, float]]:
        now = self._clock()
        batch: list[tuple[Key, float]] = []
        if not only_first:
            self._handed_first.clear()
        for lane, heap in enumerate(self._heaps[:1] if only_first else self._heaps):
            while heap and heap[0][0] <= now and len(batch) < most:
                due, _, key = heapq.heappop(heap)
                if self._due.get(key) == (lane, due):
                    del self._due[key]
                    batch.append((key, self._first_due.pop(key, due)))
                    if lane == 0:
                        self._handed_first.add(key)
        return batch

    def _seconds_to_next(self) -> float | None:
        next_due = min((heap[0][0] for heap in self._heaps if heap), default=None)
        return None if next_due is None else max(0.0, next_due - self._clock())
