"""Whose address is it? What the reconciler published about the pods, by address.

Nothing here waits for Redis: the feed (`feed`) calls `load` and `apply`, and connections ask `of`, all on the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from ..networks import parse_address
from ..records import AddressChange, AddressVersion, PodAddresses

MAX_AGE_SECONDS = 30.0
"""Seconds without a word of the reconciler, after which what it said counts no more for new connections. It speaks every second."""

WAIT_SECONDS = 2.0
"""Seconds that a new connection waits for its pod to become known. The reconciler publishes an address within some hundredths of a
second after the kubelet reported it."""


@lru_cache(10_000)
def same(address: str) -> str:
    """An address in its one spelling: an IPv4-mapped one as IPv4."""
    ip = parse_address(address)
    return str(ip) if ip else ""


class Identities:
    """Pods by address.

    A pod that vanished from a snapshot of Redis is no longer known to new connections. Its open ones stay for
    `MAX_AGE_SECONDS`: Redis may have been wiped, and the reconciler publishes again.

    Args:
        changed: called with the uid of each pod that changed or vanished.
        clock: seconds that no setting of a clock changes.
    """

    def __init__(self, changed: Callable[[str], None] = lambda uid: None, clock: Callable[[], float] = time.monotonic):
        self._changed = changed
        self._clock = clock
        self._heard_at: float | None = None
        self._version: AddressVersion | None = None  # None: not loaded, or a change was missed
        self._servers: dict[str, tuple[PodAddresses, ...]] = {}
        self._pods: dict[str, PodAddresses] = {}  # by uid
        self._claims: dict[str, set[str]] = {}  # address → uids
        self._missing: dict[str, tuple[float, PodAddresses]] = {}  # by uid: since when, and what was known
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """Pods that are known."""
        return len(self._pods)

    @property
    def is_fresh(self) -> bool:
        """Whether what is known counts for new connections."""
        return self._heard_at is not None and self._clock() - self._heard_at <= MAX_AGE_SECONDS

    @property
    def age_seconds(self) -> float:
        """Seconds since the reconciler's last word; infinite before the first."""
        return float("inf") if self._heard_at is None else self._clock() - self._heard_at

    @property
    def claimed_twice(self) -> list[str]:
        """The addresses that more than one pod claims."""
        return [address for address, uids in self._claims.items() if len(uids) > 1]

    def of(self, address: str) -> PodAddresses | None:
        """The pod with an address. None: it is unknown, more than one claims it, or what is known is too old."""
        uids = self._claims.get(same(address), ())
        return self._pods[next(iter(uids))] if len(uids) == 1 and self.is_fresh else None

    async def wait_for(self, address: str, seconds: float = WAIT_SECONDS) -> PodAddresses | None:
        """The same, after waiting for it for some seconds at most."""
        if pod := self.of(address):
            return pod
        try:
            async with asyncio.timeout(seconds):
                while not (pod := self.of(address)):
                    news = self._news
                    await news.wait()
                return pod
        except TimeoutError:
            return None

    def still(self, uid: str, address: str) -> PodAddresses | None:
        """What is known by now of a pod that has an open connection from an address. None: the connection must end."""
        if uid in self._missing:
            return None if self._claims.get(same(address)) else self._missing[uid][1]
        return self._pods.get(uid) if self._claims.get(same(address)) == {uid} else None

    def load(self, version: AddressVersion, servers: dict[str, list[PodAddresses]]) -> None:
        """Take a snapshot in place of all that is known. It makes nothing younger: Redis may outlive the reconciler."""
        for server in self._servers.keys() - servers.keys():
            gone = self._servers[server]
            self._replace(server, ())
            self._missing |= {pod.uid: (self._clock(), pod) for pod in gone}
        for server, pods in servers.items():
            self._replace(server, tuple(pods))
        self._version = version
        self._tell(pod.uid for pods in servers.values() for pod in pods)

    def apply(self, change: AddressChange) -> bool:
        """Take a message of the reconciler.

        Returns:
            False if one was missed, so that a snapshot is needed. Nothing was taken then.
        """
        known, version = self._version, change.version
        is_next = bool(known and change.server and version == replace(known, number=known.number + 1))
        # One of the same number is in the snapshot already.
        if version != known and not is_next:
            self._version = None
            return False
        self._heard_at = self._clock()
        if is_next:
            before = {pod.uid for pod in self._servers.get(change.server, ())}
            self._replace(change.server, change.pods)
            self._tell(before | {pod.uid for pod in change.pods})
        else:
            self._tell(())
        self._version = version
        return True

    def forget_missing(self) -> None:
        """Forget the pods that vanished long ago. To be called every second."""
        over = [uid for uid, (since, _) in self._missing.items() if self._clock() - since > MAX_AGE_SECONDS]
        for uid in over:
            del self._missing[uid]
        self._tell(over)

    def _replace(self, server: str, pods: tuple[PodAddresses, ...]) -> None:
        for pod in self._servers.pop(server, ()):
            self._pods.pop(pod.uid, None)
            for address in map(same, pod.addresses):
                self._claims[address].discard(pod.uid)
                if not self._claims[address]:
                    del self._claims[address]
        for pod in pods:
            self._missing.pop(pod.uid, None)
            self._pods[pod.uid] = pod
            for address in map(same, pod.addresses):
                self._claims.setdefault(address, set()).add(pod.uid)
        if pods:
            self._servers[server] = pods

    def _tell(self, uids: Iterable[str]) -> None:
        """Tell of changes, also of the pods whose address another one claims by now."""
        told = set(uids)
        for pod in [self._pods[uid] for uid in told if uid in self._pods]:
            for address in map(same, pod.addresses):
                told |= self._claims.get(address, set())
        for uid in told:
            self._changed(uid)
        self._news.set()
        self._news = asyncio.Event()
