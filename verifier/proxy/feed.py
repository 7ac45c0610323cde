"""The feed: what the reconciler publishes in Redis, pushed to this process. It has a thread of its own, with its own connection."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ..store.errors import StoreUnavailable
from ..store.store import Store
from .identities import Identities

T = TypeVar("T")

log = logging.getLogger("binder-egress")

SILENT_SECONDS = 5.0
"""Seconds without a message after which the connection counts as dead. One comes every second."""

PAUSE_SECONDS = 1.0
"""Seconds between attempts while Redis is away."""

POLL_SECONDS = 0.3
"""Seconds that one wait for a message takes, so that `stop` is noticed."""


class Feed:
    """Keeps identities up to date.

    Args:
        store: Redis.
        identities: what is kept up to date, on the loop.
        loop: the event loop.
    """

    def __init__(self, store: Store, identities: Identities, loop: asyncio.AbstractEventLoop):
        self._store, self._identities, self._loop = store, identities, loop
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for its thread, some tenths of a second. Not to be called on the loop, for which the thread may wait."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        lost = False
        while not self._stopped.is_set():
            try:
                self._follow()
                lost = False
            except StoreUnavailable as error:
                if not lost:
                    log.warning("%s", error)
                lost = True
            except Exception:
                log.exception("fault in the feed")
            self._stopped.wait(PAUSE_SECONDS if lost else 0)

    def _follow(self) -> None:
        """Subscribe, take a snapshot, and hand on messages until one is missing, the connection is silent, or `stop`."""
        with self._store.address_changes() as following:
            # After SUBSCRIBE, so that no change falls between the two.
            version, servers = self._store.addresses()
            self._on_loop(self._identities.load, version, servers)
            heard_at = time.monotonic()
            begun = False
            while not self._stopped.is_set() and time.monotonic() - heard_at < SILENT_SECONDS:
                if change := following(POLL_SECONDS):
                    # What came before the snapshot is in it. To take another one for that would never end where changes are many.
                    if not begun and change.version.began == version.began and change.version.number < version.number:
                        continue
                    begun = True
                    heard_at = time.monotonic()
                    if not self._on_loop(self._identities.apply, change):
                        return

    def _on_loop(self, call: Callable[..., T], *args: object) -> T:
        """Call something on the loop, and wait for it."""

        async def run() -> T:
            return call(*args)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()
