"""User pods in memory, with the API server's rules: a patch must name the pod's uid and resourceVersion."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.grants import Carried, label_of
from binder_egress.model.records import Server
from binder_egress.reconciler.user_pods import Conflict, Pod, UserPods, WatchEnded


class FakeCluster(UserPods):
    """`UserPods` on a dictionary. A test sets how many patches conflict, and what happens before the next patch or deletion."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}  # by name
        self.conflicts = 0
        self.down = False
        self.before_patch: Callable[[], None] | None = None
        self.before_delete: Callable[[], None] | None = None
        self.patches: list[tuple[str, Carried | None]] = []
        self.events: list[tuple[str, Pod]] = []
        self._version = 0
        self._lock = threading.RLock()
        self._more = threading.Condition(self._lock)

    # -- what a test does

    def add(
        self, user: str = "alice", uid: str = "uid-1", *, server: str = "", image: str = "image:1", created: float = 0, **fields
    ) -> Pod:
        """Add a pod that is not ready, in place of one with the same name."""
        values = {"grant": None, "annotated": False, "label": None, "ready": False, "ended": False} | fields
        name = f"jupyter-{user}--{server}"
        pod = Pod(name=name, uid=uid, version="", server=Server(user, server), image=image, created=created, **values)
        return self.put("ADDED", pod)

    def change(self, name_or_pod: "str | Pod", **fields: Any) -> Pod:
        name = name_or_pod if isinstance(name_or_pod, str) else name_or_pod.name
        return self.put("MODIFIED", replace(self.pods[name], **fields))

    def remove(self, name_or_pod: "str | Pod") -> None:
        name = name_or_pod if isinstance(name_or_pod, str) else name_or_pod.name
        with self._lock:
            self._event("DELETED", self.pods.pop(name))

    def labelled(self) -> set[Server]:
        """The servers whose pod the policy of a tier selects."""
        with self._lock:
            return {pod.server for pod in self.pods.values() if pod.label and not pod.ended}

    def put(self, event: str, pod: Pod) -> Pod:
        """Write a pod, send an event about it, and return it as stored. Most tests use `add` and `change`."""
        with self._lock:
            self._version += 1
            pod = replace(pod, version=str(self._version))
            self.pods[pod.name] = pod
            self._event(event, pod)
            return pod

    def _event(self, event: str, pod: Pod) -> None:
        self.events.append((event, pod))
        self._more.notify_all()

    # -- what the reconciler does

    def _check(self) -> None:
        if self.down:
            raise ApiServerUnavailable("down")

    def list(self) -> tuple[list[Pod], str]:
        with self._lock:
            self._check()
            return list(self.pods.values()), str(len(self.events))

    def watch(self, version: str) -> Iterator[tuple[str, Pod]]:
        at = int(version)
        while True:
            with self._lock:
                if self.down:
                    raise WatchEnded("down")
                if at >= len(self.events) and not self._more.wait(0.2):
                    raise WatchEnded("renewed", str(at))
                new = self.events[at:]
            at += len(new)
            yield from new

    def read(self, name: str) -> Pod | None:
        with self._lock:
            self._check()
            return self.pods.get(name)

    def delete(self, pod: Pod, unchanged: bool = False) -> None:
        between, self.before_delete = self.before_delete, None
        if between:
            between()
        with self._lock:
            self._check()
            now = self.pods.get(pod.name)
            if now is None or now.uid != pod.uid or (unchanged and now.version != pod.version):
                raise Conflict("gone")
            self.put("MODIFIED", replace(now, ended=True))

    def patch(self, pod: Pod, grant: Carried | None) -> Pod:
        between, self.before_patch = self.before_patch, None
        if between:
            between()
        with self._lock:
            self._check()
            now = self.pods.get(pod.name)
            if now and self.conflicts:
                self.conflicts -= 1
                now = self.put("MODIFIED", now)
            if now is None or (now.uid, now.version) != (pod.uid, pod.version):
                raise Conflict("the object has been modified")
            self.patches.append((pod.uid, grant))
            return self.put("MODIFIED", replace(now, grant=grant, annotated=grant is not None, label=label_of(grant)))
