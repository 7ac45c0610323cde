"""Publishes for the egress proxy which pod has which address, and what it may reach."""

import threading
from collections.abc import Callable

from ..model.grants import UNVERIFIED, block_in, label_of
from ..model.records import PodAddresses, Server
from ..store.addresses import ReconcilerAddresses
from .cache import PodCache
from .user_pods import Pod

SERVERS_AT_ONCE = 100
"""The number of servers that are published together."""


class AddressBook:
    """Publishes the addresses of running pods. Any thread may call all methods.

    A pod that has ended, is being deleted or uses its node's network publishes none: its address belongs to another pod, or soon
    will.

    Args:
        cache: the known pods.
        store: Redis.
        clock: Unix time in seconds.
    """

    def __init__(self, cache: PodCache, store: ReconcilerAddresses, clock: Callable[[], float]):
        self._cache, self._store, self._clock = cache, store, clock
        # Several threads publish, and the state that was read last must be written last.
        self._lock = threading.Lock()
        self._is_complete = False  # whether every server is published as it is known

    def publish(self, server: Server) -> None:
        """Publish the pods of a server, or forget it (D-252).

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with self._lock:
            if (pods := self._pods(server)) is not None:
                self._store.publish_addresses(server, pods)

    def publish_all(self) -> None:
        """Publish all servers, and forget those that an earlier process left. Raises as `publish`.

        `SERVERS_AT_ONCE` servers at a time: one at a time would delay the heartbeat by a minute if there are many thousands.
        """
        servers = list(self._cache.servers() | self._store.published_addresses())
        for first in range(0, len(servers), SERVERS_AT_ONCE):
            with self._lock:
                pods = {server: self._pods(server) for server in servers[first : first + SERVERS_AT_ONCE]}
                self._store.publish_many_addresses({server: listed for server, listed in pods.items() if listed is not None})

    def invalidate(self) -> None:
        """Note that the published addresses may be outdated: Redis was down or wiped, or a list brought changes without events."""
        self._is_complete = False

    def beat(self) -> None:
        """Publish all servers if the published addresses may be outdated, and then confirm to the proxy that these count. Raises as
        `publish`.
        """
        if not self._cache.is_listed:
            return
        if not self._is_complete:
            self._is_complete = True  # before the servers are read, because a list may come meanwhile
            try:
                self.publish_all()
            except BaseException:
                self.invalidate()
                raise
        self._store.beat_addresses()

    def _pods(self, server: Server) -> list[PodAddresses] | None:
        """The pods to publish for a server. None: before the first list, it may have a pod that is not known yet."""
        running = [pod for pod in self._cache.of(server) if pod.addresses and not pod.ended]
        return list(map(self._of, running)) if running or self._cache.is_listed else None

    def _of(self, pod: Pod) -> PodAddresses:
        # The network policies act on the label. A pod with a different one is about to be patched.
        tier = pod.label if pod.label and pod.label == label_of(pod.grant) else UNVERIFIED
        blocked = block_in(pod.grant, self._clock()) is not None
        return PodAddresses(pod.uid, pod.server.user, pod.server.name, pod.addresses, tier, blocked, pod.repository)
