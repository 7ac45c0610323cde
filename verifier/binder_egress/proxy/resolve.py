"""Addresses of host names, from the system's resolver. User pods have no DNS: the proxy resolves for them.

`decide.decide_address` judges the addresses, also against DNS rebinding.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

KEPT_SECONDS = 5.0
"""Seconds for which an answer is reused. Short, because the addresses of large services change; the system's resolver caches by
TTL."""

FAILED_SECONDS = 1.0
"""How long a failure is remembered, in seconds: the name has no address, or DNS does not answer."""

TIMEOUT_SECONDS = 5.0
"""Seconds for which a connection waits for an answer."""

TRY_SECONDS = 1
TRIES = 4
"""How long the system's resolver waits for an answer before it asks again, and how often it asks. The chart's pod has them in its
`resolv.conf`: with the five seconds that are usual, one lost packet would cost the connection."""

NAMES = 10_000
"""The number of names that are remembered."""

ADDRESSES = 16
"""How many addresses of a name count, the first ones. Large services have up to a dozen of each kind. A stranger's DNS server may
answer with thousands, and each would be kept in memory, judged and tried while nobody else is served (D-385)."""

THREADS = 32
"""How many names are resolved at a time for verified servers, and as many again for all others. `getaddrinfo` blocks its thread."""

NAMES_OF_ONE = 4
"""How many of these may be for one server. A stranger's DNS server may answer late on purpose, and would hold up every thread."""

SHARED = 0.5
"""If more than this share of the threads is in use, a server gets only one, so that a few servers cannot hold all (D-349)."""


NO_ADDRESS = frozenset({socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY})
"""The errors of `getaddrinfo` that are answers: no such name, or none of its addresses has a family that the proxy has."""


def _ask(name: str) -> list[str] | None:
    try:
        # The dot at the end keeps the resolver from trying the cluster's search domains.
        found = socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError as error:
        return [] if error.errno in NO_ADDRESS else None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Resolves names, each once at a time.

    Args:
        ask: returns the addresses of a name, or None if DNS gives no answer; it may block.
        clock: monotonic time in seconds.
    """

    def __init__(self, ask: Callable[[str], list[str] | None] = _ask, clock: Callable[[], float] = time.monotonic):
        self._ask = ask
        self._clock = clock
        self._threads = {verified: ThreadPoolExecutor(THREADS, thread_name_prefix="resolver") for verified in (True, False)}
        self._taken = {True: 0, False: 0}  # threads of each kind in use, and names that wait for one
        self._known: dict[str, tuple[float, list[str] | None]] = {}
        # The key includes whether there is a tier, so that nobody with one waits for a thread of those without.
        self._asking: dict[tuple[str, bool], asyncio.Future[list[str] | None]] = {}
        self._of_one: dict[str, set[asyncio.Future[list[str] | None]]] = {}

    async def addresses(self, name: str, server: str = "", verified: bool = True) -> list[str] | None:
        """The first `ADDRESSES` addresses of a name; empty if it has none, None if DNS gives no answer in time.

        Args:
            name: the name.
            server: the server that asks. With `NAMES_OF_ONE` unanswered names, or with one if threads are few, it waits for an
                answer first.
            verified: whether it has a tier. Servers without have separate threads.
        """
        until, found = self._known.get(name, (0.0, []))
        if until > self._clock():
            return found
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while (name, verified) not in self._asking and len(own := self._of_one.get(server, set())) >= self._most_of_one(
                    verified
                ):
                    await asyncio.wait(own, return_when=asyncio.FIRST_COMPLETED)
                return await asyncio.shield(self._asking.get((name, verified)) or self._begin(name, server, verified))
        except TimeoutError:
            return None

    def _most_of_one(self, verified: bool) -> int:
        return NAMES_OF_ONE if self._taken[verified] < THREADS * SHARED else 1

    def _begin(self, name: str, server: str, verified: bool) -> "asyncio.Future[list[str] | None]":
        asking = asyncio.get_running_loop().run_in_executor(self._threads[verified], lambda: self._first(name))
        self._asking[name, verified] = asking
        self._of_one.setdefault(server, set()).add(asking)
        self._taken[verified] += 1
        asking.add_done_callback(lambda done: self._take(name, server, verified, done))
        return asking

    def _first(self, name: str) -> list[str] | None:
        found = self._ask(name)
        return found and found[:ADDRESSES]

    def _take(self, name: str, server: str, verified: bool, done: "asyncio.Future[list[str] | None]") -> None:
        del self._asking[name, verified]
        self._taken[verified] -= 1
        self._of_one[server].discard(done)
        if not self._of_one[server]:
            del self._of_one[server]
        if not done.cancelled() and not done.exception():
            if len(self._known) >= NAMES:
                self._known.clear()
            seconds = KEPT_SECONDS if done.result() else FAILED_SECONDS
            self._known[name] = (self._clock() + seconds, done.result())
