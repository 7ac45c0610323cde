"""`helm test`: compares what the test pods reached with what they should reach.

The pods have run before: one with a user pod's labels, one for each tier, and a control pod that no policy of ours selects. They
cannot send their results anywhere, so the results are in their status.
"""

import json
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress

from ..model.labels import JSON

CONTROL = ""
"""The role of the pod that no policy for user pods selects. A target that it cannot reach is dead, or guarded by something else
(D-179)."""

Reached = Mapping[str, bool | None]
"""Target → whether it was reached; None: the pod cannot try it."""


def results(pods: list[JSON]) -> dict[str, Reached]:
    """The result of each test pod, by the pod's role. Pods without a result are left out.

    Args:
        pods: the test pods, as JSON.
    """
    return {role: said["reached"] for role, said in _messages(pods) if "reached" in said}


def _messages(pods: list[JSON]) -> Iterator[tuple[str, JSON]]:
    for pod in sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"]):
        role = pod["metadata"]["annotations"]["binder-egress/stands-for"]
        for status in pod["status"].get("containerStatuses") or []:
            with suppress(ValueError, KeyError, TypeError):
                said = dict(json.loads(status["state"]["terminated"]["message"]))
                yield role, said | {"node": pod["spec"].get("nodeName", "")}


def verdicts(
    reached: Mapping[str, Reached], expected: Mapping[str, Mapping[str, bool]]
) -> tuple[list[tuple[str, str, str, str]], bool]:
    """Compare results with expectations.

    Args:
        reached: the results, by role.
        expected: by role: target → whether it must be reached.

    Returns:
        Rows of role, target, result and verdict; and whether the test passed. The verdict `cannot tell`, for a target that the
        control pod did not reach either, is not a failure by itself: another policy or a firewall may guard the target. A pod
        without a single target that is known to be shut by us proves nothing, which is a failure.
    """
    rows, passed = [], True
    control = reached.get(CONTROL, {})
    for role, targets in sorted(expected.items()):
        if role not in reached:
            rows.append((role, "", "", "FAILED: the pod left no result"))
            passed = False
            continue
        proved = False
        for name, must in sorted(targets.items()):
            if name not in reached[role]:
                continue  # This installation has no such target, for instance no Service with that name.
            got = reached[role][name]
            if got is None:
                verdict = "cannot try"
            elif got is not must:
                verdict, passed = f"FAILED: must be {'open' if must else 'shut'}", False
            elif not must and not control.get(name):
                verdict = "cannot tell: the control pod does not reach it either"
            else:
                verdict, proved = "ok", proved or not must
            rows.append((role, name, {True: "open", False: "shut", None: "–"}[got], verdict))
        if not proved:
            rows.append((role, "", "", "FAILED: nothing that must be shut could be told from something dead"))
            passed = False
    return rows, passed


def seen_by_proxy(pods: list[JSON], expected: Container[str]) -> tuple[list[tuple[str, str, str, str]], bool]:
    """Judge what the egress proxy saw of the test pods (`probe.seen_by_proxy`).

    Args:
        pods: the test pods, as JSON. The newest with a message counts for its role.
        expected: the roles that count. Helm leaves the pod of a tier that has gone from the values.

    Returns:
        The same as `verdicts`.
    """
    verdict = {
        "shown": "ok",
        "hidden": "FAILED: the network hides this pod's address from the egress proxy, which serves nobody then",
        "silent": "FAILED: the egress proxy does not answer, or its policy refuses another address than this pod's",
    }
    rows = []
    for role, said in dict(_messages(pods)).items():
        if role in expected and said.get("proxy"):
            judged = verdict.get(said["proxy"], "FAILED: of another version")
            rows.append((role, "egress proxy", said["proxy"], judged.replace("FAILED", f"FAILED on {said['node']}")))
    return rows, all(row[3] == "ok" for row in rows)


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """The rows of `verdicts` as lines of text."""
    rows = [("pod", "target", "seen", ""), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    )
