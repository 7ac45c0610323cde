"""Addresses of host names, by the resolver of the system. User pods have no DNS: the proxy resolves for them."""

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

KEPT_SECONDS = 5.0
"""Seconds that an answer is used again. Short, because names of large services change; the system's resolver caches by TTL."""

FAILED_SECONDS = 1.0
"""The same for a name without an address."""

TIMEOUT_SECONDS = 5.0
"""Seconds that a connection waits for an answer."""

NAMES = 10_000
"""Names that are remembered."""

THREADS = 32
"""Names that are asked for at the same time. `getaddrinfo` blocks its thread."""


def _ask(name: str) -> list[str]:
    try:
        # The dot at the end keeps the resolver from trying the cluster's search domains.
        found = socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Resolves names, each once at a time.

    Args:
        ask: from a name to its addresses; it may block.
        clock: seconds that no setting of a clock changes.
    """

    def __init__(self, ask: Callable[[str], list[str]] = _ask, clock: Callable[[], float] = time.monotonic):
        self._ask = ask
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="resolver")
        self._known: dict[str, tuple[float, list[str]]] = {}
        self._asking: dict[str, asyncio.Future[list[str]]] = {}

    async def addresses(self, name: str) -> list[str]:
        """The addresses of a name; none if it has none, or if no answer comes in time."""
        until, found = self._known.get(name, (0.0, []))
        if until > self._clock():
            return found
        if name not in self._asking:
            self._asking[name] = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, name)
            self._asking[name].add_done_callback(lambda done: self._take(name, done))
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await asyncio.shield(self._asking[name])
        except TimeoutError:
            return []

    def _take(self, name: str, done: "asyncio.Future[list[str]]") -> None:
        del self._asking[name]
        if not done.cancelled() and not done.exception():
            if len(self._known) >= NAMES:
                self._known.clear()
            seconds = KEPT_SECONDS if done.result() else FAILED_SECONDS
            self._known[name] = (self._clock() + seconds, done.result())
