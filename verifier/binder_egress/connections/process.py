"""The process on a node: hears from the reconciler whose tier changed, and ends the connections that the tier does not open."""

import json
import logging
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

from kubernetes import client
from pyroute2.netlink import NetlinkError

from .. import kubernetes_api
from ..kubernetes_api import ApiServerUnavailable
from ..model.grants import UNVERIFIED
from ..model.networks import parse_address
from ..model.records import TierChange
from ..model.serialization import read_tier_changes
from ..settings import ConnectionsSettings, InvalidSettings
from .opened import Opened
from .table import Entry, Table

log = logging.getLogger("binder-egress")

PAUSE_SECONDS = 0.1
"""Seconds between the first deletions for a pod. Later, a pause is half of the time that has passed: how late the network plugin
acts is known only roughly, and a connection goes on at most half as long again (D-567)."""

MANY = 1000
"""A pod with more entries than these is done by itself, while no other pod is due: a look takes half a millisecond for each."""

SLICE_SECONDS = 0.1
"""For how long such a pod is worked on until it is asked whether another is due."""

LEAST_SECONDS = 3.0
"""Seconds for which entries are deleted at least, from the change on: kube-router acts after 0.03 to 0.25 s."""

MOST_SECONDS = 120.0
"""The longest time, twice the longest delay that is measured."""

WATCH_SECONDS = 300
"""Seconds after which a watch is renewed."""

REPORT_SECONDS = 10.0
"""Seconds between two looks at what was ended, which is written if it is more."""

KNOWN_SECONDS = 600.0
"""For how long after the reconciler's end, in mode `deny`, what it wrote last still says whose addresses are whose (D-580)."""

DENY_SECONDS = 15.0
"""In mode `deny`, the time that the network plugin is given to act on policies that are gone."""

RETRY_SECONDS = 1.0
"""Seconds until the next attempt after a watch or a look at the table failed."""


@dataclass
class Ending:
    """A pod whose connections are being ended.

    Attributes:
        change: the change of its tier.
        began: when this process heard of it, in monotonic seconds.
        due: when its entries are to be deleted next.
        looked: when the last look at the table began. It may take seconds, and what it deleted first may be there again.
        ended: hashes of the connections that were deleted, some of them again, for the plugin had not acted yet.
    """

    change: TierChange
    began: float
    due: float
    looked: float = 0.0
    ended: set[int] = field(default_factory=set)


class Connections:
    """Ends connections of pods on this node.

    Args:
        table: the node's table of connections.
        opened: what tiers open.
        node: the name of the node.
        clock: monotonic time in seconds.
    """

    def __init__(self, table: Table, opened: Opened, node: str, clock: Callable[[], float] = time.monotonic):
        self._table, self._opened, self._node, self._clock = table, opened, node, clock
        self._lock = threading.Lock()
        self._heard: dict[str, TierChange] = {}  # by uid
        self._endings: dict[str, Ending] = {}  # by uid
        self._large: list[tuple[Ending, Iterator[None]]] = []  # pods with many connections, and what is left to do there
        self._counted: Counter[str] = Counter()  # by tier
        self.news = threading.Event()

    @property
    def counted(self) -> dict[str, int]:
        """How many connections were ended since the process began, by the pods' new tier."""
        return dict(self._counted)

    def hear(self, changes: Iterable[TierChange]) -> None:
        """Take what the reconciler says now. A pod that is missing has ended, and its addresses may be another pod's."""
        with self._lock:
            before, self._heard = self._heard, {change.uid: change for change in changes if change.node == self._node}
            self._endings = {uid: ending for uid, ending in self._endings.items() if self._heard.get(uid) == ending.change}
            now = self._clock()
            for uid, change in self._heard.items():
                if before.get(uid) != change:
                    self._endings[uid] = Ending(change, now, now)
        self.news.set()

    def turn(self) -> float | None:
        """Delete entries of all pods that are due, looking at the table once for all of them; if there are none, some of a pod that
        has many.

        Returns:
            Seconds until the next pod is due; None: there is none.

        Raises:
            OSError, NetlinkError: the kernel refuses.
        """
        with self._lock:
            due = [ending for ending in self._endings.values() if ending.due <= self._clock()]
        if due:
            for _ in self._deletions(due, MANY):
                pass
            self._settle(due)
        elif self._large:
            self._go_on()
        with self._lock:
            waiting = [ending.due for ending in self._endings.values()]
        if self._large:
            return 0.0
        return max(0.0, min(waiting) - self._clock()) if waiting else None

    def _go_on(self) -> None:
        """Work on the next of the pods that have many connections, for a moment."""
        ending, deletions = self._large.pop(0)
        until = self._clock() + SLICE_SECONDS
        for _ in deletions:
            if self._endings.get(ending.change.uid) is not ending:
                return
            if self._clock() >= until or self.news.is_set():
                self._large.append((ending, deletions))
                return
        self._settle([ending])

    def _settle(self, done: list[Ending]) -> None:
        """Decide when pods are due again, or that they have ended."""
        large = [ending for ending, _ in self._large]
        with self._lock:
            now = self._clock()
            for ending in done:
                if ending in large:
                    ending.due = math.inf
                    continue
                lasted = ending.looked - ending.began
                ending.due = now + max(PAUSE_SECONDS, lasted / 2)
                wanted = min(max(LEAST_SECONDS, 2 * ending.change.seconds), MOST_SECONDS)
                if lasted >= wanted and self._endings.get(ending.change.uid) is ending:
                    del self._endings[ending.change.uid]
                    fields = {"uid": ending.change.uid, "tier": ending.change.tier, "connections": len(ending.ended)}
                    log.info("ended the connections that a tier does not open", extra={"fields": fields})

    def _deletions(self, due: list[Ending], most: float = math.inf) -> Iterator[None]:
        """Delete entries, one or none at each step. A pod that has more than `most` becomes one of those with many."""
        for ending in due:
            ending.looked = self._clock()
        with self._lock:
            claims = Counter(chain.from_iterable(change.addresses for change in self._heard.values()))
        # An address that two pods claim is nobody's.
        owners = {address: ending for ending in due for address in ending.change.addresses if claims[address] == 1}
        numbers: Counter[str] = Counter()
        for entry in self._table.opened_by(owners):
            owner = owners[entry.source]
            numbers[owner.change.uid] += 1
            if numbers[owner.change.uid] > most:
                for address in owner.change.addresses:
                    owners.pop(address, None)
                self._large.append((owner, self._deletions([owner])))
                continue
            if self._opened.closes(owner.change.tier, entry.destination, entry.protocol, entry.port):
                self._delete(owner, entry)
            yield

    def _delete(self, owner: Ending, entry: Entry) -> None:
        with self._lock:  # What was heard meanwhile counts.
            if self._heard.get(owner.change.uid) == owner.change and self._table.delete(entry):
                key = hash(str(entry.key))
                self._counted[owner.change.tier] += key not in owner.ended
                owner.ended.add(key)


def watch(api: client.ApiClient, namespace: str, name: str, connections: Connections) -> None:
    """Pass on the ConfigMap's content, and each new one, until the watch ends.

    Raises:
        ApiServerUnavailable: the API server does not answer, or refuses the request.
    """
    # Without a version the present state comes first.
    query: dict[str, str | int | bool] = {"fieldSelector": f"metadata.name={name}", "watch": True, "timeoutSeconds": WATCH_SECONDS}
    silence = WATCH_SECONDS + kubernetes_api.REQUEST_TIMEOUT_SECONDS
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    try:
        rest = b""
        for chunk in kubernetes_api.call(api, "GET", path, query, silence_seconds=silence).stream(amt=None):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    _pass_on(event["object"].get("data", {}).get("changes", "[]"), connections)
    except kubernetes_api.FAILURES as error:
        raise kubernetes_api.unavailable(error) from None


def hear_of_all(api: client.ApiClient, settings: ConnectionsSettings, connections: Connections) -> None:
    """In mode `deny`, hear that every pod has lost the tier that the reconciler saw last.

    Raises:
        ApiServerUnavailable: the API server does not answer, or refuses the request.
    """
    path = f"/api/v1/namespaces/{settings.namespace}/configmaps/{settings.connections}-tiers"
    data = kubernetes_api.read(api, "GET", path).get("data") or {}
    late = time.time() - int(data.get("at", "0"))
    if late > KNOWN_SECONDS:
        log.warning("nobody is known whose connections have to end: the reconciler wrote last %d s ago", late)
        return
    known = read_tier_changes(data.get("tiers", "[]")) or []
    connections.hear(replace(pod, tier=UNVERIFIED, seconds=DENY_SECONDS) for pod in known if all(map(parse_address, pod.addresses)))


def report(api: client.ApiClient, settings: ConnectionsSettings, connections: Connections) -> None:
    """Write what was ended on this node into the ConfigMap from which the reconciler reads it for a metric, for ever."""
    path = f"/api/v1/namespaces/{settings.namespace}/configmaps/{settings.connections}-ended"
    reported: dict[str, int] = {}
    while True:
        time.sleep(REPORT_SECONDS)
        if (counted := connections.counted) == reported:
            continue
        try:
            patch = {"data": {settings.node: json.dumps(counted)}}
            kubernetes_api.read(api, "PATCH", path, body=patch, content_type=kubernetes_api.MERGE_PATCH)
            reported = counted
        except ApiServerUnavailable as error:
            log.warning("the metric of ended connections is too low: %s", error)


def _pass_on(text: str, connections: Connections) -> None:
    changes = read_tier_changes(text)
    if changes is None:
        log.error("the reconciler's changes of tiers cannot be read: it may be of another version")
        return
    connections.hear(change for change in changes if all(map(parse_address, change.addresses)))


def look(table: Table) -> None:
    """Say what can be ended here.

    Raises:
        InvalidSettings: the kernel does not show its connections.
    """
    try:
        size = table.size()
    except (OSError, NetlinkError) as error:
        raise InvalidSettings(f"connections.enabled: this node's kernel does not show its connections: {error}.") from None
    if size:
        log.info("the kernel of this node tracks %d connections", size)
    else:
        log.warning("the kernel of this node tracks no connections, so none can be ended; Cilium does that by itself")


def run(settings: ConnectionsSettings, table: Table) -> None:
    """Work until SIGTERM. Raises as `look`."""
    stopped = threading.Event()
    connections = Connections(table, Opened(settings.policies, settings.private), settings.node)

    def stop(*_: object) -> None:
        stopped.set()
        connections.news.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    look(table)
    api = kubernetes_api.in_cluster_client()

    def listen() -> None:
        while True:
            try:
                if settings.mode == "deny":
                    return hear_of_all(api, settings, connections)
                watch(api, settings.namespace, settings.connections, connections)
            except ApiServerUnavailable as error:
                log.warning("changed tiers cannot be heard of: %s", error)
                time.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("fault while listening")
                time.sleep(RETRY_SECONDS)

    threading.Thread(target=listen, name="listener", daemon=True).start()
    threading.Thread(target=report, args=(api, settings, connections), name="reporter", daemon=True).start()
    while not stopped.is_set():
        connections.news.clear()
        try:
            wait = connections.turn()
        except (OSError, NetlinkError) as error:
            log.error("the kernel's table of connections cannot be read or changed: %s", error)
            wait = RETRY_SECONDS
        connections.news.wait(wait)
