"""Which pods are deleted, and when: those that an operator or a detection wants stopped, and those whose lease ended with `stop`.

No other part of the package deletes a pod.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from .. import logs
from ..decisions import leases
from ..model.grants import EndedLease
from ..model.records import Pending, Server
from ..settings import ReconcilerSettings
from ..store.store import ReconcilerStore
from .cache import PodCache
from .user_pods import Pod, UserPods
from .wanted import unlock_of


@dataclass
class Stopper:
    """Deletes the pods that must be stopped.

    Attributes:
        settings: the mode, and whether pods may be stopped.
        user_pods: the Kubernetes API.
        cache: the known pods.
        store: Redis.
        clock: Unix time in seconds.
        steady: monotonic time in seconds.
    """

    settings: ReconcilerSettings
    user_pods: UserPods
    cache: PodCache
    store: ReconcilerStore
    clock: Callable[[], float]
    steady: Callable[[], float]
    _grace: "StopGrace" = field(init=False, default_factory=lambda: StopGrace())

    def stop(self, pod: Pod, pending: Pending) -> None:
        """Delete a pod if an operator or a detection wants it stopped, or if its lease is over and was not renewed.

        Args:
            pod: the pod, which already carries the grant that it should.
            pending: what Redis holds about its server.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
            StoreUnavailable: Redis does not answer.
        """
        if pending.stop == pod.uid:
            self._stop_wanted(pod)
        self._stop_expired(pod)

    def _stop_wanted(self, pod: Pod) -> None:
        """Delete a pod that an operator or a detection wants stopped, if pods may be stopped."""
        if self.settings.may_stop_pods:
            self.user_pods.delete(pod)
            logs.decision("stop", user=pod.server.user, server=pod.server.name, pod=pod.name)
            self.store.forget_stop(pod.server, pod.uid)

    def _stop_expired(self, pod: Pod) -> None:
        """Delete a pod whose lease is over, if the lease was not renewed within the grace (`StopGrace`).

        Only in mode `captcha`: in other modes nobody loses a server, whatever an earlier mode left on the pod. The grace of a pod
        begins when it has started, at the earliest (D-073).
        """
        grant = pod.grant
        if not isinstance(grant, EndedLease) or grant.stop_at is None or pod.starting:
            return
        if not self._grace.is_over(grant.id, self.steady()):
            return
        self._grace.begin(grant.id, self.steady())  # Whatever happens now, the next attempt comes one grace later.
        if self.settings.mode != "captcha" or not self.settings.may_stop_pods or not self.store.verifier_is_there():
            return
        # The watch may lag behind, and a renewal may be on its way.
        fresh = self.user_pods.read_again(pod)
        if fresh is None or fresh.grant != grant:
            return
        renewal = unlock_of(fresh, self.store.pending(pod.server, set()))
        if renewal and renewal.grant.id != grant.id:
            return
        self.user_pods.delete(fresh, unchanged=True)
        logs.decision("stop", user=pod.server.user, server=pod.server.name, pod=pod.name, rule=grant.rule, grant=grant.id)

    def due(self, redis_is_lost: bool) -> list[Server]:
        """The servers with a pod whose lease or block is over, or whose grace is over. No event marks that moment.

        Args:
            redis_is_lost: whether Redis is down. If so, no grace ends.
        """
        now, steady = self.clock(), self.steady()
        pods = [pod for pod in self.cache.all() if pod.grant and not pod.ended]
        self._grace.keep({pod.grant.id for pod in pods if isinstance(pod.grant, EndedLease) and pod.grant.stop_at is not None})

        def is_due(pod: Pod) -> bool:
            if isinstance(pod.grant, EndedLease):
                stops = pod.grant.stop_at is not None and not pod.starting and not redis_is_lost
                return stops and self._grace.is_due(pod.grant.id, steady)
            return pod.grant is not None and pod.grant.is_over(now)

        return [pod.server for pod in pods if is_due(pod)]

    def restart_grace(self) -> None:
        """Restart the grace of all pods whose lease is over, because nobody could renew."""
        self._grace.clear()


class StopGrace:
    """The time at which the grace of each pod whose lease is over began. An unlock within the grace saves the pod. Any thread may
    call all methods.

    `now` is this process' own time in seconds (`time.monotonic`), so neither a clock that is set forward nor a restart shortens the
    grace. The grace begins again after Redis or all verifiers were down.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}  # by id of the grant, steady seconds

    def begin(self, grant: str, now: float) -> None:
        """Begin the grace of an ended lease, or begin it again."""
        with self._lock:
            self._began[grant] = now

    def is_over(self, grant: str, now: float) -> bool:
        """Whether the grace of an ended lease is over. The grace begins with the first call."""
        with self._lock:
            return now - self._began.setdefault(grant, now) >= leases.STOP_GRACE_SECONDS

    def is_due(self, grant: str, now: float) -> bool:
        """Whether to look at an ended lease: its grace is over or has not begun."""
        with self._lock:
            return now - self._began.get(grant, -leases.STOP_GRACE_SECONDS) >= leases.STOP_GRACE_SECONDS

    def keep(self, grants: set[str]) -> None:
        """Forget all other grants."""
        with self._lock:
            self._began = {grant: began for grant, began in self._began.items() if grant in grants}

    def clear(self) -> None:
        """Forget all grants."""
        with self._lock:
            self._began.clear()
