"""Work in progress in this process, so that a request that is sent many times at once is worked on once."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Underway:
    """The work that is in progress. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work: set[Hashable] = set()

    @contextmanager
    def begin(self, work: Hashable) -> Iterator[bool]:
        """Begin a piece of work; it ends with this context.

        Args:
            work: its name.

        Yields:
            Whether the caller should do the work; False if somebody else is doing it.
        """
        with self._lock:
            is_first = work not in self._work
            self._work.add(work)
        try:
            yield is_first
        finally:
            if is_first:
                with self._lock:
                    self._work.discard(work)
