"""What this process is working on, so that the same request that is sent many times at once does not do it many times."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Underway:
    """Work that is under way. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work: set[Hashable] = set()

    @contextmanager
    def begin(self, work: Hashable) -> Iterator[bool]:
        """Begin a piece of work, which ends with this context.

        Args:
            work: its name.

        Yields:
            False if it is under way already, so that the caller must not do it.
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
