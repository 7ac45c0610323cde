"""The feed: what the reconciler publishes in Redis, pushed to this process. It has its own thread and its own connection."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

from ..model.records import AddressChange, AddressVersion
from ..store.addresses import ProxyAddresses
from ..store.errors import StoreUnavailable
from .identities import Identities

T = TypeVar("T")

log = logging.getLogger("binder-egress")

SILENT_SECONDS = 5.0
"""Seconds without a message after which the connection counts as dead. One comes every second."""

PAUSE_SECONDS = 1.0
"""Seconds between attempts while Redis is down, or after a fault."""

POLL_SECONDS = 0.3
"""The longest single wait for a message, in seconds, so that `stop` is noticed."""

GATHER_SECONDS = 0.025
"""Seconds between two batches of changes: if many come, those within this time are passed on together (D-347)."""

AT_ONCE = 100
"""The most changes in one batch. The event loop does nothing else meanwhile, for some 2 ms."""


class Feed:
    """Keeps identities up to date.

    Args:
        store: Redis.
        identities: the identities to keep up to date, on the loop.
        loop: the event loop.
    """

    def __init__(self, store: ProxyAddresses, identities: Identities, loop: asyncio.AbstractEventLoop):
        self._store, self._identities, self._loop = store, identities, loop
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Start its thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for its thread, some tenths of a second. Must not be called on the loop, for which the thread may wait."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        lost = False
        while not self._stopped.is_set():
            pause = PAUSE_SECONDS
            try:
                self._follow()
                lost, pause = False, 0.0
            except StoreUnavailable as error:
                if not lost:
                    log.warning("%s", error)
                lost = True
            except Exception:
                log.exception("fault in the feed")
            self._stopped.wait(pause)

    def _follow(self) -> None:
        """Subscribe, take a snapshot, and pass on messages until one is missing, the connection falls silent, or `stop`."""
        with self._store.address_changes() as following:
            # After SUBSCRIBE, so that no change is lost between the two.
            version = self._load()
            heard_at = time.monotonic()
            begun = missed = False
            while not self._stopped.is_set() and time.monotonic() - heard_at < SILENT_SECONDS:
                taken: list[AddressChange] = []
                try:
                    for change in islice(_waiting(following), AT_ONCE):
                        # Earlier messages are in the snapshot. Taking another one because of them would never end if changes are
                        # many.
                        if begun or change.version.began != version.began or change.version.number >= version.number:
                            begun = True
                            taken.append(change)
                finally:  # Messages that have come count even if Redis goes down while it is asked for more.
                    if taken:
                        heard_at = time.monotonic()
                        missed = not self._on_loop(lambda changes: all(map(self._identities.apply, changes)), taken)
                if missed:
                    return
                self._stopped.wait(GATHER_SECONDS if taken else 0)

    def _load(self) -> AddressVersion:
        """Take a snapshot. The identities keep the parts that they need, and nothing here holds on to the rest."""
        version, servers = self._store.addresses()
        self._on_loop(self._identities.load, version, servers)
        return version

    def _on_loop(self, call: Callable[..., T], *args: object) -> T:
        """Call something on the loop, and wait for it. It is not a task: one task for each change cost more than the change itself
        (D-347)."""
        called: Future[T] = Future()

        def run() -> None:
            try:
                called.set_result(call(*args))
            except Exception as error:
                called.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return called.result()


def _waiting(following: Callable[[float], AddressChange | None]) -> Iterator[AddressChange]:
    """The messages that have arrived, after waiting for the first."""
    seconds = POLL_SECONDS
    while change := following(seconds):
        yield change
        seconds = 0
