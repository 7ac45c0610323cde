"""How many solutions may wait for remote providers."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

MOST_WAITING = 128
"""The most solutions that wait for remote providers at a time. Each keeps one of the public port's 500 connections
(`web.gunicorn.PUBLIC_CONNECTIONS`), and without a limit made-up solutions would keep all of them (D-386)."""

MOST_OF_A_NETWORK = MOST_WAITING // 2
"""The most of one client network. It is more than the calls to a provider at a time (`siteverify.CALLS_AT_A_TIME`), because a class
behind one address may solve at the same time."""


class WaitingLimit:
    """The solutions that wait for a remote provider. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: Counter[str] = Counter()

    @contextmanager
    def place(self, network: str) -> Iterator[bool]:
        """Take a place for a solution while the block runs.

        Args:
            network: the client's network; empty: unknown, so only the limit for all applies.

        Yields:
            Whether there was one.
        """
        with self._lock:
            taken = self._of.total() < MOST_WAITING and (not network or self._of[network] < MOST_OF_A_NETWORK)
            if taken:
                self._of[network] += 1
        try:
            yield taken
        finally:
            if taken:
                with self._lock:
                    self._of[network] -= 1
                    if not self._of[network]:
                        del self._of[network]
