"""What follows the reports of detectors: nothing, a revocation as by `egress revoke`, or the end of the pod.

The receiver only enters reports. What they are worth is decided here, by the values, so that who captures the receiver can do no
more with them than the values and the share limit let it (D-322, D-354).

Decisions: D-321, D-322, D-324, D-325, D-354.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from .. import logs
from ..detections.reports import AGENT, Report
from ..detections.share_limit import ShareLimit, in_window
from ..operators.actions import Operators
from ..records import KnownServer
from ..settings import OnMatch, ReconcilerSettings
from ..store.counters import Tally, detection_counter
from ..store.errors import StoreUnavailable
from ..store.store import Store
from .agents import Agents
from .cache import PodCache
from .user_pods import Pod

log = logging.getLogger("binder-egress")

BATCH = 100
"""Reports that are read together."""

BY = "detector "
"""What the `by` of a block begins with that follows a report."""


class Responder:
    """Acts on the reports that wait in Redis.

    Args:
        settings: mode and sources.
        cache: the pods that are known.
        store: Redis.
        tally: what the next heartbeat counts.
        agents: which address is on which node; None: there are no agents.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        settings: ReconcilerSettings,
        cache: PodCache,
        store: Store,
        tally: Tally,
        agents: Agents | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._settings = settings
        self._cache = cache
        self._store = store
        self._operators = Operators(settings, store, clock)
        self._tally = tally
        self._agents = agents
        self._clock = clock
        self._limit: ShareLimit | None = None

    def take(self) -> None:
        """Act on the reports that wait, if the pods are known by now, the agents' too: by what is not known yet a report would be
        answered as about no pod, or as from another node, and an agent says the same again in ten minutes only.

        Raises:
            StoreUnavailable: Redis does not answer. The reports wait on, and acting on one twice does nothing more.
        """
        if not self._cache.is_listed or (self._agents and not self._agents.is_listed):
            return
        waiting = self._store.reported(BATCH)
        if not waiting:
            return
        rows = []
        for identity, report in waiting:
            if report is None:
                self._count("", "", "failed")
                continue
            try:
                row = self._answer(report) | {"report": identity}
            except StoreUnavailable:
                raise
            except Exception:
                # One report must not hold up the others.
                log.exception("fault while acting on a detection")
                self._count(report.source, report.list_name, "failed")
                continue
            rows.append(row)
        self._store.answer_reports([identity for identity, _ in waiting], rows)

    def _answer(self, report: Report) -> dict[str, Any]:
        """Act on one report. Returns the row that operators see."""
        found = self._pod(report)
        pod, outcome = (None, found) if isinstance(found, str) else (found, self._act(report, found))
        self._count(report.source, report.list_name, outcome)
        where = {"user": report.user, "server": report.server, "pod": report.pod}
        if pod:
            where = {"user": pod.server.user, "server": pod.server.name, "pod": pod.name}
        fields = {"source": report.source, "list": report.list_name, "label": report.label, "outcome": outcome}
        if pod is None or outcome in ("revoked", "stopped") or self._is_first(pod, report, outcome):
            logs.decision("detection", **where, **fields)
        return {"at": report.at, **fields, **where, "uid": pod.uid if pod else report.uid}

    def _act(self, report: Report, pod: Pod) -> str:
        """Do what follows a report about a pod that runs."""
        follows = self._follows(report)
        if follows == "observe":
            return "observed"
        now = self._clock()
        known = KnownServer.carrying(pod.grant, pod.uid)
        own = self._operators.own_block(pod.server, known)
        if own and own.until is None and follows != "stop":
            return "repeated"
        if not self._limited().allows(pod.uid, known.has_egress, self._running(known.has_egress), now):
            return "limited"
        self._operators.cut_off(pod.server, known, f"{BY}{report.source}", report.reason, follows == "stop")
        return "stopped" if follows == "stop" else "revoked"

    def _follows(self, report: Report) -> OnMatch:
        """What follows a report. A source that was taken out of the values meanwhile is only observed, and so is all in mode
        `observe`, which takes nothing from anybody."""
        source = self._settings.detections.get(report.source)
        return source.follows(report.list_name) if source and self._settings.mode != "observe" else "observe"

    def _pod(self, report: Report) -> Pod | str:
        """The pod that a report is about, or why there is none."""
        if report.namespace and report.namespace != self._settings.namespace:
            return "elsewhere"
        found = [
            pod
            for pod in self._cache.all()
            if (not report.uid or pod.uid == report.uid)
            and (not report.pod or pod.name == report.pod)
            and (not (report.user or report.server) or (pod.server.user, pod.server.name) == (report.user, report.server))
        ]
        if not found:
            return "unknown-pod"
        pod = max(found, key=lambda one: (not one.ended, one.created))
        # Not by what the receiver says of the sender's node: it says the address alone (D-335).
        if report.source == AGENT:
            node = self._agents.node_of(report.sender) if self._agents else None
            if node is None or node != pod.node:
                return "other-node"
        if pod.ended:
            return "ended"
        return pod if report.uid or report.at >= pod.created else "outdated"

    def _running(self, with_egress: bool) -> int:
        """Servers that run and are not blocked, with a tier or without."""
        now = self._clock()
        pods = [pod for pod in self._cache.all() if not pod.ended and not (pod.grant and pod.grant.is_block(now))]
        return len({pod.server for pod in pods if bool(pod.grant and pod.grant.gives_egress) == with_egress})

    def _limited(self) -> ShareLimit:
        """The share limit. A new process learns from the blocks what an earlier one did."""
        if self._limit is None:
            now = self._clock()
            blocks = [block for block in self._store.blocks() if block.kind == "server" and in_window(block.at, now)]
            acted = {block.uid: float(block.at) for block in blocks if block.by.startswith(BY)}
            for pod in self._cache.all():  # Redis may have been wiped.
                if pod.grant and pod.grant.by.startswith(BY) and in_window(pod.grant.at, now):
                    acted.setdefault(pod.uid, float(pod.grant.at))
            self._limit = ShareLimit()
            self._limit.remember(acted)
        return self._limit

    def _named_list(self, source: str, list_name: str) -> str:
        """The name of a list where the values have it: what reporters invent makes no time series."""
        known = self._settings.detections.get(source)
        return list_name if known and list_name in known.lists else ""

    def _is_first(self, pod: Pod, report: Report, outcome: str) -> bool:
        """Whether this is the first such outcome of a source and list for a pod. Only that is logged."""
        return self._cache.note(pod.uid, f"{outcome} {report.source} {self._named_list(report.source, report.list_name)}")

    def _count(self, source: str, list_name: str, outcome: str) -> None:
        source = source if source in self._settings.detections else ""
        self._tally.add({detection_counter(source, self._named_list(source, list_name), outcome): 1})
