"""`helm test`: what the test pods saw, side by side, and whether that is as it should be.

The pods ran before, one with a user pod's labels, one more for each tier, and one that no policy of ours selects. They could not
talk to anybody, so what they saw stands in their status.
"""

import json
from collections.abc import Mapping
from typing import Any

CONTROL = ""
"""Whom the pod stands for that no policy for user pods selects: what it does not reach is dead, or guarded by something else."""

Seen = Mapping[str, bool | None]


def seen_by(pods: list[dict[str, Any]]) -> dict[str, Seen]:
    """What each test pod saw, by whom it stands for; without those that left no result."""
    found: dict[str, Seen] = {}
    for pod in sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"]):
        who = pod["metadata"]["annotations"]["binder-egress/stands-for"]
        for status in pod["status"].get("containerStatuses") or []:
            try:
                found[who] = json.loads(status["state"]["terminated"]["message"])["reached"]
            except (ValueError, KeyError, TypeError):
                continue
    return found


def verdicts(seen: Mapping[str, Seen], expected: Mapping[str, Mapping[str, bool]]) -> tuple[list[tuple[str, str, str, str]], bool]:
    """Compare.

    Args:
        seen: whom a pod stands for → target → reached.
        expected: whom a pod stands for → target → whether it must be reached.

    Returns:
        Rows of whom, target, what was seen, verdict; and whether all is well. `cannot tell`, for a target that the control pod did
        not reach either, is no failure by itself: it may be guarded by another policy, or a firewall. But if nothing at all that
        must be shut could be told for a pod, nothing is proved, and that is one.
    """
    rows, well = [], True
    control = seen.get(CONTROL, {})
    for who, targets in sorted(expected.items()):
        if who not in seen:
            rows.append((who, "", "", "FAILED: the pod left no result"))
            well = False
            continue
        proved = False
        for name, must in sorted(targets.items()):
            if name not in seen[who]:
                continue  # it has no such target here, for instance no Service of that name
            reached = seen[who][name]
            if reached is None:
                verdict = "cannot try"
            elif reached is not must:
                verdict, well = f"FAILED: must be {'open' if must else 'shut'}", False
            elif not must and not control.get(name):
                verdict = "cannot tell: the control pod does not reach it either"
            else:
                verdict, proved = "ok", proved or not must
            rows.append((who, name, {True: "open", False: "shut", None: "–"}[reached], verdict))
        if not proved:
            rows.append((who, "", "", "FAILED: nothing that must be shut could be told from something dead"))
            well = False
    return rows, well


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """Rows as lines of text."""
    rows = [("pod", "target", "seen", ""), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    )
