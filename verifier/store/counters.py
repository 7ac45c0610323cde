"""Names of the counters that the reconciler keeps in Redis. The verifier shows them in its metrics, `doctor` reads them."""

WITHOUT_RECORD = "pods-without-launch-record"
"""The reconciler's counter of pods whose launch nobody told the verifier about."""

START_GUARD = "start-guard:"
"""The beginning of the reconciler's counters of pods by what their start guard saw."""

START_GUARD_OUTCOMES = ("closed", "blocked", "off", "absent", "open", "unclear", "unable", "failed")
"""What a start guard can have seen (docs/start-guard.md). Each is shown from the beginning: of a counter that appears with 1
Prometheus sees no increase, and the alert would miss the first pod."""

START_GUARD_TIME = "start-guard-milliseconds"
"""The reconciler's counter of the time that start guards took."""

GRANTS = "grants:"
"""The beginning of the reconciler's counters of grants that it wrote on pods: `grants:<tier>:<rule>`."""

LAG = "lag:"
"""The beginning of the reconciler's counters of how long servers waited for it: `lag:<bucket>`, each without those below."""

LAG_TIME = "lag-milliseconds"
"""The reconciler's counter of the time that servers waited for it."""

LAG_BUCKETS = ("0.03", "0.1", "0.3", "1", "3", "10", "30", "+Inf")
"""Upper limits in seconds. It takes some hundredths where nothing is wrong; an unlock gives up waiting after 2."""


def lag_counters(seconds: float) -> dict[str, int]:
    """What one server's wait for the reconciler adds to its counters."""
    bucket = next(bucket for bucket in LAG_BUCKETS if seconds <= float(bucket))
    return {f"{LAG}{bucket}": 1, LAG_TIME: round(seconds * 1000)}


EXPIRIES = "expiries:"
"""The beginning of the reconciler's counters of leases that were over, by what came then."""
