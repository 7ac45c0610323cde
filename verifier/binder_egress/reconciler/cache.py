"""The user pods that are known from the list and the watch."""

import threading
from collections import Counter
from collections.abc import Iterable

from ..model.labels import LabelSet
from ..model.records import Server
from .changed_tiers import ChangedTiers
from .user_pods import Pod


class PodCache:
    """User pods by uid and by server. Any thread may call all methods.

    Pods that our policies do not select are kept apart: only `uncovered` returns them, so they are neither patched nor deleted, and
    the egress proxy does not know them (D-546).

    At a start the pods of each of thousands of servers are looked up, so there is an index.

    Args:
        tiers: is told each state of each pod, with the cache's lock held, so at once and in order; None: nobody is.
    """

    def __init__(self, tiers: ChangedTiers | None = None) -> None:
        self._tiers = tiers
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}  # by uid
        self._uids: dict[Server, set[str]] = {}
        self._keys: dict[str, Server] = {}
        self._uncovered: dict[str, Pod] = {}  # by uid
        self._noted: dict[str, set[str]] = {}  # topics by uid, of `note`
        self._listed = False
        self._updated: set[str] = set()  # uids: `update` since the last list began

    def __len__(self) -> int:
        """The number of entries of any kind."""
        with self._lock:
            of_pods = len(self._pods) + len(self._uncovered) + len(self._noted) + len(self._updated)
            return of_pods + len(self._uids) + len(self._keys)

    @property
    def is_listed(self) -> bool:
        """Whether the pods were listed at least once. Before that, there may be pods that are not here."""
        return self._listed

    def begin_list(self) -> None:
        """A list begins: what `update` learns from now on may be newer than its result."""
        with self._lock:
            self._updated.clear()

    def replace(self, pods: Iterable[Pod]) -> set[Server]:
        """Replace all pods by the result of a list, except those whose `update` since it began is newer.

        Returns:
            The servers of the old and the new pods.
        """
        with self._lock:
            before, updated = set(self._uids), {uid: self._pods[uid] for uid in self._updated & self._pods.keys()}
            known_uids = set(self._pods)
            self._pods, self._uids, self._keys, self._uncovered = {}, {}, {}, {}
            for pod in pods:
                known = updated.get(pod.uid)
                # Only of these, because a list after a restore of etcd has lower versions.
                self._add(known if known and int(known.version) > int(pod.version) else pod)
            for uid in known_uids - self._pods.keys():
                self._tell_gone(uid)
            self._noted = {uid: topics for uid, topics in self._noted.items() if uid in self._pods}
            self._listed = True
            return before | set(self._uids)

    def put(self, pod: Pod) -> None:
        """Add a pod, or replace it by its new state."""
        with self._lock:
            self._add(pod)

    def update(self, pod: Pod) -> None:
        """Replace a pod by its new state. If it was removed or has ended in the meantime, that stays so."""
        with self._lock:
            if (known := self._pods.get(pod.uid)) and (pod.ended or not known.ended):
                self._add(pod)
                self._updated.add(pod.uid)

    def remove(self, uid: str) -> None:
        """Remove a pod that is gone."""
        with self._lock:
            self._remove(uid)
            self._tell_gone(uid)
            self._noted.pop(uid, None)
            self._updated.discard(uid)

    def note(self, uid: str, topic: str) -> bool:
        """Note a topic about a pod. Returns True the first time in the pod's life."""
        with self._lock:
            if topic in self._noted.get(uid, ()):
                return False
            if uid in self._pods:
                self._noted.setdefault(uid, set()).add(topic)
            return True

    def of(self, server: Server) -> list[Pod]:
        """The pods of a server, the oldest first."""
        with self._lock:
            return sorted((self._pods[uid] for uid in self._uids.get(server, ())), key=lambda pod: pod.created)

    def all(self) -> list[Pod]:
        """All pods."""
        with self._lock:
            return list(self._pods.values())

    def uncovered(self) -> list[Pod]:
        """The pods that our policies do not select, and that have not ended."""
        with self._lock:
            return [pod for pod in self._uncovered.values() if not pod.ended]

    def servers(self) -> set[Server]:
        """All servers that have a pod."""
        with self._lock:
            return set(self._uids)

    def named(self, keys: Iterable[str]) -> list[Server]:
        """The servers with these keys that have a pod."""
        with self._lock:
            return [self._keys[key] for key in keys if key in self._keys]

    def label_sets(self) -> list[LabelSet]:
        """The labels of the running pods, each set once (`labels.shared_labels`)."""
        return sorted({pod.shared_labels for pod in self.all() if pod.shared_labels and not pod.ended}, key=str)

    def by_node(self) -> dict[str, Counter[str]]:
        """Node → its running user pods by the outcome of their start guards; empty for those whose guard has not ended."""
        nodes: dict[str, Counter[str]] = {}
        for pod in self.all():
            if pod.node and not pod.ended:
                nodes.setdefault(pod.node, Counter())[pod.guard[0] if pod.guard else ""] += 1
        return nodes

    def _add(self, pod: Pod) -> None:
        self._remove(pod.uid)
        if pod.differing:
            self._uncovered[pod.uid] = pod
            self._tell_gone(pod.uid)
            return
        self._pods[pod.uid] = pod
        self._uids.setdefault(pod.server, set()).add(pod.uid)
        self._keys[pod.server.key] = pod.server
        if self._tiers:
            self._tiers.see(pod)

    def _tell_gone(self, uid: str) -> None:
        if self._tiers:
            self._tiers.forget(uid)

    def _remove(self, uid: str) -> None:
        self._uncovered.pop(uid, None)
        if pod := self._pods.pop(uid, None):
            self._uids[pod.server].remove(uid)
            if not self._uids[pod.server]:
                del self._uids[pod.server], self._keys[pod.server.key]
