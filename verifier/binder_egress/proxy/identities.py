"""The pods by their addresses, as the reconciler published them.

Nothing here waits for Redis: the feed (`feed`) calls `load` and `apply`, and connections ask `of`, all on the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from weakref import WeakValueDictionary

from ..model.networks import parse_address
from ..model.records import AddressChange, AddressVersion, PodAddresses

MAX_AGE_SECONDS = 30.0
"""Seconds without a heartbeat from the reconciler after which what it published no longer counts for new connections. It sends one
a second."""

WAIT_SECONDS = 2.0
"""Seconds for which a new connection waits for its pod to become known. The reconciler publishes an address a few hundredths of a
second after the kubelet reported it."""


@lru_cache(1000)
def same(address: str) -> str:
    """An address in normalized form: an IPv4-mapped one as IPv4. Only a thousand are cached, because each takes memory."""
    ip = parse_address(address)
    # Return the given string if it is in that form: a second one for each pod takes memory, too.
    return address if address == (found := str(ip) if ip else "") else found


class Identities:
    """Pods by address.

    A pod that vanished from a snapshot of Redis is no longer known to new connections. Its open connections stay for
    `MAX_AGE_SECONDS`: Redis may have been wiped, and then the reconciler publishes the pod again.

    Args:
        changed: called with the uid of each pod that changed or vanished.
        clock: monotonic time in seconds.
    """

    def __init__(self, changed: Callable[[str], None] = lambda uid: None, clock: Callable[[], float] = time.monotonic):
        self._changed = changed
        self._clock = clock
        self._heard_at: float | None = None
        self._version: AddressVersion | None = None  # None: not loaded, or a change was missed
        self._servers: dict[str, tuple[PodAddresses, ...]] = {}
        self._claims: dict[str, tuple[PodAddresses, ...]] = {}  # by address: the pods that claim it
        self._missing: dict[str, tuple[float, PodAddresses]] = {}  # by uid: since when, and the last known state
        self._waiting: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # by address, while somebody waits for news

    def __len__(self) -> int:
        """The number of known pods."""
        return sum(map(len, self._servers.values()))

    @property
    def is_fresh(self) -> bool:
        """Whether what is known counts for new connections."""
        return self._heard_at is not None and self._clock() - self._heard_at <= MAX_AGE_SECONDS

    @property
    def claimed_twice(self) -> list[str]:
        """The addresses that more than one pod claims."""
        return [address for address, pods in self._claims.items() if len(pods) > 1]

    def of(self, address: str) -> PodAddresses | None:
        """The pod with an address. None: it is unknown, more than one pod claims it, or the information is too old."""
        pods = self._claims.get(same(address), ())
        return pods[0] if len(pods) == 1 and self.is_fresh else None

    async def wait_for(self, address: str, seconds: float = WAIT_SECONDS) -> PodAddresses | None:
        """The same, after waiting for it at most the given seconds."""
        if pod := self.of(address):
            return pod
        try:
            async with asyncio.timeout(seconds):
                while not (pod := self.of(address)):
                    await self._waiting.setdefault(same(address), asyncio.Event()).wait()
                return pod
        except TimeoutError:
            return None

    def still(self, uid: str, address: str) -> PodAddresses | None:
        """What is now known of a pod that has an open connection from an address. None: the connection must end."""
        pods = self._claims.get(same(address), ())
        if uid in self._missing:
            return None if pods else self._missing[uid][1]
        return pods[0] if len(pods) == 1 and pods[0].uid == uid else None

    def load(self, version: AddressVersion, servers: dict[str, list[PodAddresses]]) -> None:
        """Replace everything known by a snapshot. That does not count as a message: Redis may outlive the reconciler."""
        present = {pod.uid for pods in servers.values() for pod in pods}
        gone = [pod for pods in self._servers.values() for pod in pods if pod.uid not in present]
        for server in self._servers.keys() - servers.keys():
            vanished = self._servers[server]
            self._replace(server, ())
            self._missing |= {pod.uid: (self._clock(), pod) for pod in vanished}
        for server, pods in servers.items():
            self._replace(server, tuple(pods))
        self._version = version
        # A missed change may have replaced the pod of a server, and nothing else reports that the earlier pod is gone.
        self._tell((*gone, *(pod for pods in servers.values() for pod in pods)))

    def apply(self, change: AddressChange) -> bool:
        """Apply a message from the reconciler.

        Returns:
            False if a message was missed, so that a snapshot is needed. Nothing is applied then.
        """
        known, version = self._version, change.version
        is_next = bool(known and change.server and version == AddressVersion(known.number + 1, known.began))
        # A change with the same number is already in the snapshot.
        if version != known and not is_next:
            self._version = None
            return False
        # Only a heartbeat confirms everything. A change of one server says nothing about the others, and a reconciler that has just
        # started publishes many changes before its first heartbeat.
        if not change.server:
            was_fresh, self._heard_at = self.is_fresh, self._clock()
            if not was_fresh:
                self._wake(list(self._waiting))
        if is_next:
            before = self._servers.get(change.server, ())
            self._replace(change.server, change.pods)
            self._tell((*before, *change.pods))
        self._version = version
        return True

    def forget_missing(self) -> None:
        """Forget the pods that vanished long ago. Must be called every second."""
        over = [pod for since, pod in self._missing.values() if self._clock() - since > MAX_AGE_SECONDS]
        for pod in over:
            del self._missing[pod.uid]
        self._tell(over)

    def _replace(self, server: str, pods: tuple[PodAddresses, ...]) -> None:
        for pod in self._servers.pop(server, ()):
            for address in map(same, pod.addresses):
                self._claims[address] = self._others(address, pod.uid)
                if not self._claims[address]:
                    del self._claims[address]
        for pod in pods:
            self._missing.pop(pod.uid, None)
            for address in map(same, pod.addresses):
                self._claims[address] = (*self._others(address, pod.uid), pod)
        if pods:
            self._servers[server] = pods

    def _others(self, address: str, uid: str) -> tuple[PodAddresses, ...]:
        return tuple(pod for pod in self._claims.get(address, ()) if pod.uid != uid)

    def _tell(self, pods: Iterable[PodAddresses]) -> None:
        """Report changed pods and pods that claim or had the same addresses, and wake those who wait for these addresses."""
        changed = list(pods)
        addresses = {same(address) for pod in changed for address in pod.addresses}
        claim_too = [pod for address in addresses for pod in self._claims.get(address, ())]
        had_them = [pod for _, pod in self._missing.values() if not addresses.isdisjoint(map(same, pod.addresses))]
        for uid in {pod.uid for pod in (*changed, *claim_too, *had_them)}:
            self._changed(uid)
        self._wake(addresses)

    def _wake(self, addresses: Iterable[str]) -> None:
        """Wake only those who wait for one of these addresses: many may wait, and changes are frequent."""
        for address in addresses:
            if waiting := self._waiting.pop(address, None):
                waiting.set()
