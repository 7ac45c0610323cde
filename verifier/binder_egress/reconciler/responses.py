"""What follows the reports of detectors: nothing, a revocation as with `egress revoke`, or the end of the pod.

The receiver only queues reports. Here the values decide what a report leads to, so that an attacker who takes over the receiver can
do no more than the values and the share limit allow (D-322, D-354).

Decisions: D-321, D-322, D-324, D-325, D-354.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from .. import logs
from ..decisions.acted import WAIT_SECONDS, why_not
from ..decisions.server_blocks import own_block
from ..detections.reports import AGENT, Report
from ..detections.share_limit import ShareLimit, in_window
from ..model.grants import NO_GRANT, Block, Egress, block_in, new_id
from ..model.records import Detection, KnownServer, Measured, Server
from ..model.serialization import by_detector
from ..settings import OnMatch, ReconcilerSettings
from ..store.errors import StoreUnavailable
from ..store.reconciler_counters import DetectionOutcome as Outcome
from ..store.reconciler_counters import Tally, detection_counter
from ..store.store import ReconcilerStore
from .agents import Agents
from .cache import PodCache
from .user_pods import Pod
from .work_queue import WorkQueue

log = logging.getLogger("binder-egress")

BEYOND_LIMIT = Report("proxy", "scan", "more new hosts than the egress proxy allows", 0.0)
"""A report of the egress proxy, without pod and time (D-490)."""

REPORTS_AT_ONCE = 100
"""The number of reports that are read together."""


@dataclass
class Responder:
    """Acts on the reports waiting in Redis.

    Attributes:
        settings: mode and sources.
        cache: the known pods.
        store: Redis.
        tally: the counts for the next heartbeat.
        agents: which address is on which node; None: there are no agents.
        queue: the servers to converge.
        clock: Unix time in seconds.
        soon: measures at once whether labels act on some nodes.
        labels: returns how labels act on a node.
    """

    settings: ReconcilerSettings
    cache: PodCache
    store: ReconcilerStore
    tally: Tally
    agents: Agents | None
    queue: WorkQueue[Server]
    clock: Callable[[], float]
    soon: Callable[[Iterable[str]], None] = lambda nodes: None
    labels: Callable[[str], Measured] = lambda node: Measured()
    _cut: list[tuple[Pod, Measured, float]] = field(init=False, default_factory=list)  # what was known of its node, and when
    _limit: ShareLimit | None = field(init=False, default=None)

    def take(self) -> None:
        """Act on the waiting reports, provided that the pods are known by now, including the agents' pods. Otherwise a report would
        be answered as being about no pod, or from another node, and an agent reports the same thing again only ten minutes later.

        Raises:
            StoreUnavailable: Redis does not answer. The reports keep waiting, and acting on one twice has no further effect.
        """
        if not self.cache.is_listed or (self.agents and not self.agents.is_listed):
            return
        self._cut = [cut for cut in self._cut if not self._looked_at(*cut)]
        for uid in self.store.scans(REPORTS_AT_ONCE):
            self.store.add_report(replace(BEYOND_LIMIT, at=self.clock(), uid=uid))
        waiting = self.store.waiting_reports(REPORTS_AT_ONCE)
        if not waiting:
            return
        rows = []
        unreadable = 0
        for identity, report in waiting:
            if report is None:
                self._count("", "", Outcome.FAILED)
                unreadable += 1
            else:
                rows.append(self._answer(identity, report))
        if unreadable:
            log.warning("reports that this version cannot read, and ignores: %d", unreadable)
        self.store.answer_reports([identity for identity, _ in waiting], rows)

    def _answer(self, identity: str, report: Report) -> Detection:
        """Act on one report. Returns the row that operators see."""
        pod, outcome = self._outcome(report)
        self._count(report.source, report.list_name, outcome)
        user, server, name = (pod.server.user, pod.server.name, pod.name) if pod else (report.user, report.server, report.pod)
        row: Detection = {
            "at": report.at, "source": report.source, "list": report.list_name, "label": report.label, "outcome": outcome,
            "user": user, "server": server, "pod": name, "uid": pod.uid if pod else report.uid, "report": identity,
        }  # fmt: skip
        if pod is None or outcome in (Outcome.REVOKED, Outcome.STOPPED) or self._is_first(pod, report, outcome):
            about = {"user": user, "server": server, "pod": name}
            logs.decision("detection", **about, source=report.source, list=report.list_name, label=report.label, outcome=outcome)
        return row

    def _outcome(self, report: Report) -> tuple[Pod | None, Outcome]:
        """Act on one report. Returns the pod that it is about, if there is one, and what became of the report."""
        try:
            about = self._pod(report)
            return (about, self._act(report, about)) if isinstance(about, Pod) else (None, about)
        except StoreUnavailable:
            raise
        except Exception:
            # One report must not hold up the others.
            log.exception("fault while acting on a detection")
            return None, Outcome.FAILED

    def _act(self, report: Report, pod: Pod) -> Outcome:
        """Do what follows from a report about a running pod."""
        follows = self._follows(report)
        if follows == "observe":
            return Outcome.OBSERVED
        now = self.clock()
        known = KnownServer(pod.uid, pod.grant or NO_GRANT)
        own = own_block(self.store, pod.server, known, now)
        if own and own.until is None and follows != "stop":
            return Outcome.REPEATED
        has_egress = isinstance(known.grant, Egress)
        if not self._limited().allows(pod.uid, has_egress, self._running(has_egress), now):
            return Outcome.LIMITED
        self._cut_off(pod, own, report, follows == "stop")
        return Outcome.STOPPED if follows == "stop" else Outcome.REVOKED

    def _cut_off(self, pod: Pod, own: Block | None, report: Report, stop: bool) -> None:
        """Block a pod's server, unless its own block has no end, and have the pod stopped if that follows."""
        by, new = by_detector(report.source), None
        if own is None or own.until is not None:
            identity = own.id if own else new_id()
            own = new = Block(identity, "server", pod.server.key, by, report.reason, int(self.clock()), uid=pod.uid)
        self.store.cut_off(pod.server, pod.uid, new, stop)
        self.queue.put(pod.server)
        if pod.node and not stop:
            self.soon([pod.node])
            self._cut.append((pod, self.labels(pod.node), self.clock()))
        fields = {"user": pod.server.user, "server": pod.server.name, "stop": stop, "block": own.id}
        logs.decision("revoke", by=by.text, by_kind=by.kind, why=report.reason, **fields)

    def _looked_at(self, pod: Pod, before: Measured, at: float) -> bool:
        """Log it if nobody has seen by now that a pod's block acts. Returns whether it is known, or was logged."""
        measured = self.labels(pod.node)
        if measured.get("at") == before.get("at") and self.clock() - at < WAIT_SECONDS:
            return False
        if why := why_not(pod.node, measured or None, before, self.clock()):
            fields = {"user": pod.server.user, "server": pod.server.name, "pod": pod.name, "node": pod.node, "why": why}
            log.warning("a server that a detection cut off may still open connections", extra={"fields": fields})
        return True

    def _follows(self, report: Report) -> OnMatch:
        """What follows from a report. A source that was removed from the values meanwhile is only observed, and so is every source
        in mode `observe`, which takes nothing from anybody."""
        source = self.settings.detections.get(report.source)
        return source.follows(report.list_name) if source and self.settings.mode != "observe" else "observe"

    def _pod(self, report: Report) -> Pod | Outcome:
        """The pod that a report is about, or the reason why there is none."""
        if report.namespace and report.namespace != self.settings.namespace:
            return Outcome.ELSEWHERE
        pods = [
            pod
            for pod in self.cache.all()
            if (not report.uid or pod.uid == report.uid)
            and (not report.pod or pod.name == report.pod)
            and (not (report.user or report.server) or (pod.server.user, pod.server.name) == (report.user, report.server))
        ]
        if not pods:
            return Outcome.UNKNOWN_POD
        pod = max(pods, key=lambda one: (not one.ended, one.created))
        # The receiver is not trusted with the sender's node: it only reports the address (D-335).
        if report.source == AGENT:
            node = self.agents.node_of(report.sender) if self.agents else None
            if node is None or node != pod.node:
                return Outcome.OTHER_NODE
        if pod.ended:
            return Outcome.ENDED
        return pod if report.uid or report.at >= pod.created else Outcome.OUTDATED

    def _running(self, with_egress: bool) -> int:
        """The number of running servers that are not blocked, with a tier or without."""
        now = self.clock()
        pods = [pod for pod in self.cache.all() if not pod.ended and not block_in(pod.grant, now)]
        return len({pod.server for pod in pods if isinstance(pod.grant, Egress) == with_egress})

    def _limited(self) -> ShareLimit:
        """The share limit. A new process learns from the blocks which servers an earlier one cut off."""
        if self._limit is None:
            now = self.clock()
            blocks = [block for block in self.store.blocks() if block.kind == "server" and in_window(block.at, now)]
            acted = {block.uid: float(block.at) for block in blocks if block.origin.kind == "detector"}
            for pod in self.cache.all():  # Redis may have been wiped.
                if pod.grant and pod.grant.origin.kind == "detector" and in_window(pod.grant.at, now):
                    acted.setdefault(pod.uid, float(pod.grant.at))
            self._limit = ShareLimit()
            self._limit.remember(acted)
        return self._limit

    def _named_list(self, source: str, list_name: str) -> str:
        """The name of a list if it is in the values: names that reporters invent must not create time series."""
        known = self.settings.detections.get(source)
        return list_name if known and list_name in known.lists else ""

    def _is_first(self, pod: Pod, report: Report, outcome: Outcome) -> bool:
        """Whether this is the first such outcome of a source and list for a pod. Only the first is logged."""
        return self.cache.note(pod.uid, f"{outcome} {report.source} {self._named_list(report.source, report.list_name)}")

    def _count(self, source: str, list_name: str, outcome: Outcome) -> None:
        source = source if source in self.settings.detections else ""
        self.tally.add({detection_counter(source, self._named_list(source, list_name), outcome): 1})
