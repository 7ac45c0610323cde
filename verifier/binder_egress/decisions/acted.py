"""Whether the network plugin of a node acts on a label that was taken off a pod there (D-568)."""

from ..model.records import Measured
from ..model.times import age
from ..store.health import SLOW_LABELS_SECONDS

WAIT_SECONDS = 5.0
"""Seconds for which an action waits until a label is seen to act."""

FRESH_SECONDS = 60.0
"""The age up to which an earlier measurement counts where the reconciler did not get round to a new one: it makes one a second."""

BEGUN_SECONDS = 2.0
"""A measurement that began this many seconds ago would have ended, if labels are not slow."""

NO_MEASURE_SECONDS = 60.0
"""What a direction says that took longer than a measurement (`gatecheck.label_delay.LIMIT_SECONDS`). It is no time to wait for."""


def is_slow(measured: Measured) -> bool:
    """Whether a label that is taken off is known to act late on a node."""
    return SLOW_LABELS_SECONDS < measured.get("off", 0.0) < NO_MEASURE_SECONDS


def why_not(node: str, measured: Measured | None, before: Measured, now: float) -> str:
    """Why pods of a node may still open connections after their label was taken off, as a sentence without a full stop.

    Args:
        node: its name.
        measured: how labels act there; None: nobody measures that.
        before: the same, just after the label was taken off.
        now: Unix time in seconds.

    Returns:
        The sentence; empty: the network plugin was seen to act.
    """
    if measured is None:
        return f"nobody sees whether the network plugin of {node} acts on labels, as no canary runs there"
    at, waits = measured.get("at"), now - measured.get("since", now)
    if is_slow(measured) and waits <= measured["off"]:
        return f"on {node}, labels act up to {measured['off']:.0f} s late, except in the egress proxy"
    if not is_slow(measured) and at != before.get("at"):
        return ""
    if waits > BEGUN_SECONDS:
        return f"the network plugin of {node} has not acted on labels for {age(waits)}"
    if at is not None and now - at <= FRESH_SECONDS:
        return ""
    return f"nobody has seen the network plugin of {node} act on labels {'yet' if at is None else f'for {age(now - at)}'}"
