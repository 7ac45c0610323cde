"""The counters that the reconciler keeps in Redis: their names, and counts not yet written. Metrics and `doctor` read them."""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from ..model.records import ReportedLaunch

WITHOUT_RECORD = "pods-without-launch-record"
"""Pods of launches that BinderHub did not announce to the verifier before the reconciler first saw them."""

WITHOUT_RECORD_AT = "pod-without-launch-record-at"
"""When such a pod was last counted, in Unix seconds."""

ANNOUNCED_LATE = "pods-announced-late"
"""Pods among them whose launch BinderHub announced later."""

NOT_COVERED = "not covered"
"""The user pods that our policies do not select. It stands among the tiers of user pods, of which none has a space in its name."""

HINDERED = "pods-hindered"
"""Pods that could not start because of what this chart adds to them (`starts.hindrance`)."""

START_GUARD = "start-guard:"
"""The prefix of counters of pods, `start-guard:<outcome>`."""

NOT_ISOLATED = ("open", "unclear", "unable", "failed", "mistaken_by_proxy")
"""The outcomes of a start guard after which the pod may have egress that nobody granted."""

START_GUARD_OUTCOMES = ("closed", "blocked", "off", "absent", "unknown_to_proxy", *NOT_ISOLATED)
"""The outcomes of a start guard (docs/start-guard.md). Metrics show each of them from the start: Prometheus sees no increase in a
counter that first appears as 1, so the alert would miss the first pod."""

START_GUARD_TIME = "start-guard-milliseconds"
"""The time that start guards took, in milliseconds."""

PING = "ping:"
"""The prefix of counters of pods that can ping, `ping:<way>`."""

GRANTS = "grants:"
"""The prefix of counters of grants written on pods, `grants:<tier>:<rule>`."""

ACCESS = "access:"
"""The prefix of counters of pods by when they first had a tier, `access:<when>`."""

ACCESS_TIMES = ("launch", "start", "ready", "later", "never")
"""When a pod first had a tier: before its containers started, before its server was ready, within `AT_READY_SECONDS` after that,
later, or not before it ended."""

AT_READY_SECONDS = 10
"""A page presents its pass when the server is ready, and the grant takes a moment to reach the pod."""

FAILURES = "failures"
"""Attempts on a server that the API server refused or did not answer, or that met a fault. Conflicts do not count: a pod changes
several times while it starts, so they are normal."""

FAILED_AT = "failed-at"
"""When such an attempt was last written down, in Unix seconds."""

TIMES = {FAILURES: FAILED_AT, WITHOUT_RECORD: WITHOUT_RECORD_AT}
"""The counters of which it is known when they last grew."""

LAG = "lag:"
"""The prefix of counters of how long servers waited for the reconciler, `lag:<bucket>`. A bucket does not include smaller ones."""

LAG_TIME = "lag-milliseconds"
"""The time that servers waited for the reconciler, in milliseconds."""

LAG_BUCKETS = ("0.03", "0.1", "0.3", "1", "3", "10", "30", "+Inf")
"""Upper limits in seconds. A wait takes a few hundredths of a second if nothing is wrong; an unlock gives up after 2 s."""

EXPIRIES = "expiries:"
"""The prefix of counters of ended leases, `expiries:<what happened then>`."""

DETECTIONS = "detections:"
"""The prefix of counters of reports, `detections:[<source>,<list>,<outcome>]`. A list's name may hold anything, so it is JSON."""


REPORTED = "reported:"
"""The prefix of counters of launches that are over, `reported:<came>:<had a tier, yes or no>:<use>`."""


class DetectionOutcome(StrEnum):
    """What became of a report (docs/detections.md)."""

    OBSERVED = "observed"
    REVOKED = "revoked"
    STOPPED = "stopped"
    LIMITED = "limited"  # detections had cut off too many
    REPEATED = "repeated"
    UNKNOWN_POD = "unknown-pod"
    ENDED = "ended"
    ELSEWHERE = "elsewhere"  # in another namespace
    OUTDATED = "outdated"  # about an earlier pod of that name
    OTHER_NODE = "other-node"  # an agent reported a pod of another node
    FAILED = "failed"


LINE_OUTCOMES = ("report", "other", "unreadable", "too-many")
"""The possible outcomes of a line that a source sent. The receiver counts them, in a hash of its own (`Detections.lines`)."""


def detection_counter(source: str, list_name: str, outcome: str) -> str:
    """The name of a counter of reports."""
    return DETECTIONS + json.dumps([source, list_name, outcome])


def reported_counter(launch: ReportedLaunch) -> str:
    """The name of a counter of launches that are over."""
    return f"{REPORTED}{launch.came}:{'yes' if launch.had_tier else 'no'}:{launch.use}"


def lag_counters(seconds: float) -> dict[str, int]:
    """The counters of one server's wait for the reconciler, in seconds."""
    bucket = next(bucket for bucket in LAG_BUCKETS if seconds <= float(bucket))
    return {f"{LAG}{bucket}": 1, LAG_TIME: round(seconds * 1000)}


class Tally:
    """Counts that wait for the next heartbeat (D-095). Any thread may call both methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int]) -> None:
        """Add to counters."""
        with self._lock:
            self._counts.update(counts)

    def take(self) -> dict[str, int]:
        """Everything added since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)
