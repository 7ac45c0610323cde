"""The public interface of promises: what a launch page asks about its launch, before it knows the server."""

import time
from contextlib import suppress

from flask import Blueprint, Response, request

from ..decisions.kept_promises import Kept, PromiseState
from ..decisions.presented import REJECTED_PASSES
from ..model.grants import UNVERIFIED
from ..model.passes import BadPass, Pass
from ..model.promise_token import is_promise
from ..model.records import PassOutcome
from ..store.errors import StoreUnavailable
from . import bodies
from .context import log_decision, log_refusal, network, services
from .openapi import Operation, json_of
from .problems import Problem
from .server_tiers import access_of

promises = Blueprint("promises", __name__)


@promises.get("/promises/<promise>")
@Operation(
    "showPromise",
    "Show the state of a promise",
    answers={200: json_of("The state of the promise", bodies.PromiseAnswer)},
    problems=["unavailable"],
)
def show_promise(promise: str) -> Response:
    """The state of a promise, and of the launch that was announced with it. Only the client network that launched is told."""
    return bodies.answer(_answer(_checked(promise)))


@promises.post("/promises/<promise>")
@Operation(
    "keepPromise",
    "Keep a promise with a pass",
    body=bodies.PromiseBody,
    answers={200: json_of("The state of the promise now", bodies.PromiseAnswer)},
    problems=["forbidden-origin", "pass-refused", "unavailable"],
)
def keep_promise(promise: str) -> Response:
    """Keep a promise with a pass that another member of the federation issued."""
    _checked(promise)
    body, now = bodies.read(bodies.PromiseBody), time.time()
    try:
        issued = services().judge.read(body.token, now, now)
    except BadPass as error:
        log_refusal("promise", UNVERIFIED, error.outcome, promise=promise)
        raise Problem("pass-refused", str(error)) from None
    if _keep(promise, issued, now).outcome == PassOutcome.USED_UP:
        raise Problem("pass-refused", REJECTED_PASSES[PassOutcome.USED_UP])
    return bodies.answer(_answer(promise))


def keep(promise: str, issued: Pass) -> bodies.PromiseAnswer | None:
    """Keep a promise with a pass that was issued just now.

    Args:
        promise: the promise.
        issued: the pass.

    Returns:
        The state of the promise now; None: the store failed, and the pass can still be presented.
    """
    with suppress(StoreUnavailable):
        _keep(promise, issued, time.time())
        return _answer(promise)
    return None


def _keep(promise: str, issued: Pass, now: float) -> Kept:
    kept = services().promises.keep(promise, issued, request.remote_addr or "", network(), now)
    server = {"user": kept.server.user, "server": kept.server.name} if kept.server else {}
    tier, grant = (kept.grant.tier, kept.grant.id) if kept.grant else (UNVERIFIED, "")
    log_decision("promise", tier, kept.outcome, promise=promise, grant=grant, **server)
    return kept


def _answer(promise: str) -> bodies.PromiseAnswer:
    now = time.time()
    state, server, blocks = services().promises.state(promise, network(), now)
    if server is None:
        return bodies.PromiseAnswer(state=state, tier=None, access=None)
    if state == PromiseState.GRANTED and server.opens_in(now):
        state = PromiseState.ANNOUNCED  # The launch page would say that the server has internet access (D-477).
    return bodies.PromiseAnswer(state=state, tier=server.tier, access=access_of(server, blocks, now))


def _checked(promise: str) -> str:
    if not is_promise(promise):
        raise Problem("bad-request", "promise: send what the launch carried, promise- and 32 hexadecimal digits.")
    return promise
