"""Tells the nodes which running pods have another tier than before, so that they end the connections that it does not open.

Through a ConfigMap (D-565). A pod whose tier only came, as at a launch, is not in it: nothing has to end. The nodes write what they
ended into another one. A third has all pods with a tier, for nodes in mode `deny`, in which there is no reconciler (D-580).
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from kubernetes import client

from .. import kubernetes_api
from ..kubernetes_api import ApiServerUnavailable
from ..model.grants import UNVERIFIED, Blocked, EndedLease
from ..model.records import MOST_NODES, Measured, TierChange
from ..model.serialization import read_counts, write_tier_changes
from .user_pods import Pod

log = logging.getLogger("binder-egress")

MOST = 2000
"""The most pods in the ConfigMap, the latest changes: some 400 KB, of the million bytes that it can hold."""

WRITE_SECONDS = 30.0
"""Seconds after which it is written again, because somebody may have recreated it, and with it the tiers of all pods."""

GATHER_SECONDS = 0.1
"""The pause after each time. Each goes to every node, whole; what changes meanwhile goes together."""

RETRY_SECONDS = 1.0
"""Seconds until the next attempt after one that failed."""


class ChangedTiers:
    """The running pods whose tier changed. Any thread may call all methods.

    It starts with the pods that carry a block or the end of a lease: their tier may have gone just before this process began.

    Args:
        namespace: the namespace of the ConfigMap.
        name: its name.
        delay: returns what is known of how late labels act on a node.
        clock: Unix time in seconds.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        delay: Callable[[str], Measured],
        clock: Callable[[], float] = time.time,
        api: client.ApiClient | None = None,
    ):
        self._path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
        self._delay, self._clock = delay, clock
        self._api = api or kubernetes_api.in_cluster_client()
        self._lock = threading.Lock()
        self._tiers: dict[str, str] = {}  # by uid
        self._changes: dict[str, TierChange] = {}  # by uid, the latest last
        self._with_tier: dict[str, TierChange] = {}  # by uid
        self._is_new = threading.Event()

    def see(self, pod: Pod) -> None:
        """A pod is in this state. One that ends has no tier, and its address will soon be another pod's."""
        if pod.ended or not pod.addresses:
            self.forget(pod.uid)
            return
        with self._lock:
            tier, before = pod.label or UNVERIFIED, self._tiers.get(pod.uid)
            self._tiers[pod.uid] = tier
            now = TierChange(pod.uid, pod.node, pod.addresses, tier, self._clock(), 0.0)
            self._with_tier.pop(pod.uid, None)
            if tier != UNVERIFIED:
                self._with_tier[pod.uid] = now
            if before is None:
                changed = tier == UNVERIFIED and isinstance(pod.grant, Blocked | EndedLease)
            else:
                changed = tier != before and (before != UNVERIFIED or pod.uid in self._changes)
            if not changed:
                return
            self._changes.pop(pod.uid, None)
            self._changes[pod.uid] = replace(now, seconds=self._delay(pod.node).get("off", 0.0))
            while len(self._changes) > MOST:
                del self._changes[next(iter(self._changes))]
        self._is_new.set()

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        with self._lock:
            self._tiers.pop(uid, None)
            self._with_tier.pop(uid, None)
            if self._changes.pop(uid, None):
                self._is_new.set()

    def write(self) -> None:
        """Write the ConfigMap.

        Raises:
            ApiServerUnavailable: the API server does not answer or refuses, or there is no ConfigMap.
        """
        self._is_new.clear()
        with self._lock:
            text = write_tier_changes(self._changes.values())
        self._patch(self._path, {"changes": text})

    def write_all(self) -> None:
        """Write the pods that have a tier, `MOST` at most. Raises as `write`."""
        with self._lock:
            text = write_tier_changes(list(self._with_tier.values())[-MOST:])
        self._patch(f"{self._path}-tiers", {"tiers": text, "at": str(int(self._clock()))})

    def ended(self) -> dict[str, dict[str, int]]:
        """How many connections the nodes have ended: node → tier → number. Empty if the API server does not say."""
        try:
            rows = kubernetes_api.read(self._api, "GET", f"{self._path}-ended").get("data") or {}
        except ApiServerUnavailable as error:
            log.warning("how many connections the nodes ended cannot be read: %s", error)
            return {}
        return {node: counts for node, text in list(rows.items())[:MOST_NODES] if (counts := read_counts(text))}

    def _forget_nodes(self) -> None:
        """Empty what nodes wrote, since some are gone. The others write their sums again."""
        try:
            self._patch(f"{self._path}-ended", None)
        except ApiServerUnavailable as error:
            log.warning("counts of nodes that are gone stay: %s", error)

    def _patch(self, path: str, data: dict[str, str] | None) -> None:
        kubernetes_api.read(self._api, "PATCH", path, body={"data": data}, content_type=kubernetes_api.MERGE_PATCH)

    def run(self) -> None:
        """Write it at each change, for ever. No decision waits for it."""
        self._forget_nodes()
        written = -math.inf
        while True:
            self._is_new.wait(WRITE_SECONDS)
            try:
                self.write()
                if time.monotonic() - written >= WRITE_SECONDS:
                    written = time.monotonic()
                    self.write_all()
                time.sleep(GATHER_SECONDS)
            except ApiServerUnavailable as error:
                log.warning("open connections do not end: the nodes cannot be told of changed tiers: %s", error)
                self._is_new.set()
                time.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("fault while telling the nodes of changed tiers")
                time.sleep(RETRY_SECONDS)
