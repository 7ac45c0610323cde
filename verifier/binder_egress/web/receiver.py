"""The receiver: detectors send their reports here. It reads and queues them; the reconciler acts on them (D-322).

It is a separate process because the verifier faces strangers, and an attacker who takes that over must not write reports (D-354).
"""

import time
from contextlib import suppress
from dataclasses import dataclass, replace

from flask import Blueprint, Flask, Response, current_app, jsonify, request

from ..detections.reporters import Allowance, Reporters, UnreadableLines, presented
from ..detections.reports import AGENT, Unreadable, read
from ..model.networks import parse_address
from ..model.records import NetworkUse
from ..model.serialization import reader
from ..settings import ReceiverSettings
from ..store.errors import StoreUnavailable
from ..store.store import ReceiverStore
from . import bodies
from .base import App
from .openapi import Interface, Operation, document_of_app, json_of
from .problems import Problem

detections = Blueprint("detections", __name__)

INTERFACE = Interface("binder-egress, reports of detectors", {"bearer": {"type": "http", "scheme": "bearer"}})

MAX_LINES = 100
"""The most lines in one request. Each is about one pod."""

MAX_REPORT_BYTES = 1 << 20
"""The longest body, in bytes. Detectors quote command lines, which may be long."""


_read_use = reader(NetworkUse)


@dataclass(frozen=True)
class Services:
    """The services that the views use.

    Attributes:
        settings: the chart's values.
        store: Redis.
        reporters: the tokens of detectors.
        allowance: how many reports each source may send.
        unreadable: the lines that could not be read.
    """

    settings: ReceiverSettings
    store: ReceiverStore
    reporters: Reporters
    allowance: Allowance
    unreadable: UnreadableLines


def create_receiver_services(settings: ReceiverSettings, store: ReceiverStore) -> Services:
    """The services that the views use."""
    return Services(settings, store, Reporters(settings.reporters_file, settings.detections), Allowance(), UnreadableLines())


def create_receiver_app(services: Services) -> Flask:
    """The app for detectors. Nobody else has a reason to reach it."""
    app = App(services, MAX_REPORT_BYTES)
    app.register_blueprint(detections)
    return app


def _services() -> Services:
    found = current_app.extensions["binder-egress"]
    assert isinstance(found, Services)
    return found


@detections.post("/api/detections")
@Operation(
    "reportDetections",
    "Report pods that run what they should not",
    answers={202: json_of("Read; what follows is in the log and the metrics", bodies.ReportsAnswer)},
    problems=["unauthorized", "too-many-reports", "too-large", "unavailable"],
    body=bodies.ReportBody,
    security=[{"bearer": []}],
    description="The body is one JSON object, or up to 100 of them, one a line, of any content type: lines from cryptnono, "
    "minesweeper or Falco, or objects in the format described here. The token is that of a source in `detections.sources`; Basic "
    "authentication with the token as the password works, too. Our own agent has no token: it is recognised by its address.",
)
def report_detections() -> tuple[Response, int]:
    """Read a detector's lines, and queue its reports for the reconciler."""
    services, now = _services(), time.time()
    authorization, sender = request.headers.get("Authorization", ""), ""
    source = services.reporters.find(presented(authorization))
    if not authorization and (sender := _agent()):
        source = AGENT
    if source is None:
        # Without a token it may be an agent whose address is not listed yet. It sends the same again.
        if authorization or AGENT not in services.settings.detections:
            _count_refused("", "wrong-token", 1)
        raise Problem("unauthorized", "Send Authorization: Bearer with the token of a source (egress detections create-token).")
    lines = _lines()
    # Each agent has its own allowance: a node whose pods run many listed programs does not use up another's.
    if wait := services.allowance.take(f"{source} {sender}", len(lines)):
        _count_refused(source, "too-many", len(lines))
        raise Problem("too-many-reports", "Send only lines that report something, and later.", retry_after=wait)
    reports, others, wrong = [], 0, []
    for line in lines:
        try:
            report = read(line, now)
        except Unreadable as error:
            services.unreadable.keep(source, line, str(error), now)
            wrong.append(str(error))
            continue
        if report:
            reports.append(report)
        else:
            others += 1
    for report in reports:
        services.store.add_report(replace(report, source=source, sender=sender))  # A line can claim anything.
    if wrong:
        services.store.keep_unreadable(services.unreadable.all())
    services.store.count_lines(source, {"report": len(reports), "other": others, "unreadable": len(wrong)})
    answer = bodies.ReportsAnswer(source=source, reports=len(reports), others=others, unreadable=wrong)
    return bodies.answer(answer), 202


@detections.post("/api/uses")
@Operation(
    "reportUses",
    "Say whether user pods used the network",
    answers={202: json_of("Read; `egress report` has what becomes of them", bodies.UsesAnswer)},
    problems=["unauthorized", "too-many-reports", "too-large", "unavailable"],
    body=NetworkUse,
    description="Only for our own agent, which is recognised by its address. The body is one JSON object a line, up to 100. Lines "
    "of another form are left out.",
)
def report_uses() -> tuple[Response, int]:
    """Queue what an agent says of its node's pods for the reconciler."""
    services, sender = _services(), _agent()
    if not sender:
        raise Problem("unauthorized", "Only our own agent reports uses.")
    lines = _lines()
    if wait := services.allowance.take(f"uses {sender}", len(lines)):
        raise Problem("too-many-reports", "Send fewer lines, and later.", retry_after=wait)
    uses = [use.model_copy(update={"sender": sender}) for use in map(_read_use, lines) if use]
    services.store.add_uses(uses)
    return bodies.answer(bodies.UsesAnswer(uses=len(uses))), 202


def _lines() -> list[str]:
    """The lines of the body. Only newlines end one, which JSON escapes: Python treats other characters as the end of a line, too,
    and a stranger's command line may have them (D-320)."""
    lines = [line for line in request.get_data().decode(errors="replace").split("\n") if line.strip()]
    if len(lines) > MAX_LINES:
        raise Problem("too-large", f"Send at most {MAX_LINES} lines at a time.")
    return lines


def _agent() -> str:
    """The sender's address, if it is an agent's; otherwise nothing. The reconciler checks which node that is."""
    if AGENT not in _services().settings.detections:
        return ""
    address = str(parse_address(request.remote_addr) or "")
    return address if _services().store.is_agent(address) else ""


def _count_refused(source: str, outcome: str, number: int) -> None:
    """Count lines that are refused. They are refused even if Redis fails."""
    with suppress(StoreUnavailable):
        _services().store.count_lines(source, {outcome: number})


@detections.get("/healthz")
@Operation("alive", "Whether the process answers", answers={200: json_of("Yes", bodies.StatusAnswer)})
def alive() -> Response:
    """Whether the process answers."""
    return jsonify(status="ok")


@detections.get("/readyz")
@Operation("ready", "Whether it can queue reports", answers={200: json_of("Yes", bodies.StatusAnswer)}, problems=["unavailable"])
def ready() -> Response:
    """Whether it can queue reports: Redis answers, and lets its user do so."""
    # PING would succeed even with a password that allows nothing else.
    _services().store.is_agent("nobody")
    return jsonify(status="ok")


@detections.get("/openapi.json")
def openapi() -> Response:
    """This interface, as an OpenAPI document."""
    return document_of_app(INTERFACE, "/")
