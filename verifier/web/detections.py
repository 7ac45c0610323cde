"""Reports of detectors, at the in-cluster port. The verifier reads and enters them; what follows is the reconciler's (D-322)."""

import time
from dataclasses import replace

from flask import Blueprint, Response, request

from ..detections.reporters import presented
from ..detections.reports import AGENT, Unreadable, read
from ..networks import parse_address
from . import bodies
from .context import services
from .openapi import json_of, operation
from .problems import Problem

detections = Blueprint("detections", __name__)

MAX_LINES = 100
"""Lines in one request. Each is about one pod."""


@detections.post("/api/detections")
@operation(
    "reportDetections",
    "Report pods that run what they should not",
    answers={202: json_of("Read; what follows is in the log and the metrics", bodies.ReportsAnswer)},
    problems=["unauthorized", "too-many-reports", "too-large", "unavailable"],
    body=bodies.ReportBody,
    security=[{"bearer": []}],
    description="The body is one JSON object, or up to 100 of them, one a line, of any content type: lines of cryptnono, "
    "minesweeper or Falco, or of the kind that is described here. The token is that of a source in `detections.sources`; Basic "
    "authentication with the token as the password does, too. Our own agent has no token: it is known by its address.",
)
def report_detections() -> tuple[Response, int]:
    """Read the lines of a detector, and enter its reports for the reconciler."""
    metrics, now = services().metrics, time.time()
    authorization, sender = request.headers.get("Authorization", ""), ""
    source = services().reporters.find(presented(authorization))
    if not authorization and (sender := _agent()):
        source = AGENT
    if source is None:
        metrics.reports.labels("", "wrong-token").inc()
        raise Problem("unauthorized", "Send Authorization: Bearer with the token of a source (egress detections create-token).")
    # Only at newlines, which JSON writes out: Python takes other characters for the end of a line, too, and a stranger's command
    # line may have them (D-320).
    lines = [line for line in request.get_data().decode(errors="replace").split("\n") if line.strip()]
    if len(lines) > MAX_LINES:
        raise Problem("too-large", f"Send at most {MAX_LINES} lines at a time.")
    # Each agent for itself: a node whose pods run many listed programs takes no report from another.
    if wait := services().allowance.take(f"{source} {sender}", len(lines)):
        metrics.reports.labels(source, "too-many").inc(len(lines))
        raise Problem("too-many-reports", "Send only lines that report something, and later.", retry_after=wait)
    reports, others, wrong = [], 0, []
    for line in lines:
        try:
            report = read(line, now)
        except Unreadable as error:
            services().unreadable.keep(source, line, str(error), now)
            wrong.append(str(error))
            continue
        if report:
            reports.append(report)
        else:
            others += 1
    metrics.reports.labels(source, "unreadable").inc(len(wrong))
    metrics.reports.labels(source, "other").inc(others)
    for report in reports:
        services().store.report(replace(report, source=source, sender=sender))  # A line can say what it likes.
        metrics.reports.labels(source, "report").inc()
    answer = bodies.ReportsAnswer(source=source, reports=len(reports), others=others, unreadable=wrong)
    return bodies.answer(answer), 202


def _agent() -> str:
    """The sender's address, if it is that of an agent's pod; otherwise nothing. Whose node that is, the reconciler judges."""
    if AGENT not in services().settings.detections:
        return ""
    address = str(parse_address(request.remote_addr) or "")
    return address if services().store.is_agent(address) else ""
