"""The in-cluster HTTP interface, on a port of its own: BinderHub's hook, operators, probes and metrics."""

import hmac
import socket
import time
from contextlib import suppress
from typing import Any

from flask import Blueprint, Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .. import __version__, logs
from ..decisions.rules import Launch, Rules
from ..operators.actions import ActionRefused, Operators
from ..records import UNVERIFIED, Server
from ..store.errors import StoreUnavailable
from . import bodies
from .context import logged_network, services
from .openapi import internal_document
from .problems import Problem, response

internal = Blueprint("internal", __name__)


def _check_bearer_token() -> None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = services().settings.api_token.get_secret_value()
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), expected.encode()):
        raise Problem("unauthorized", "Send Authorization: Bearer with api-token of the Secret.")


@internal.post("/api/launches")
def decide_launch() -> Response:
    """Decide a launch that BinderHub is about to make, and leave a waiting grant where there is one."""
    _check_bearer_token()
    body = bodies.read(bodies.LaunchBody)
    now = time.time()
    launch = Launch.from_request(body.model_dump(), now, services().settings)
    metrics = services().metrics
    if not body.context:
        metrics.without_context.inc()
    try:
        decision = Rules(services().settings, services().passes, services().store, services().keys).decide(launch, now)
    except StoreUnavailable:
        metrics.launches.labels(UNVERIFIED, "store-unavailable", "none").inc()
        _log(body, launch, UNVERIFIED, "store-unavailable")
        raise
    with suppress(StoreUnavailable):  # decided is decided
        services().store.note_launch(now, body.context)
    grant = decision.grant
    metrics.launches.labels(grant.tier, grant.rule, decision.pass_outcome).inc()
    _log(
        body,
        launch,
        grant.tier,
        grant.rule,
        pass_outcome=decision.pass_outcome,
        grant=grant.id,
        **({"by": grant.by} if grant.by else {}),
    )
    return jsonify(tier=grant.tier, rule=grant.rule, pass_outcome=decision.pass_outcome, grant=grant.id)


def _report() -> dict[str, object]:
    """What `doctor` may know of this replica: nothing secret."""
    return {
        "version": __version__,
        "at": time.time(),
        "signing_keys": len(services().settings.keys),
        "api_keys": [key.described() for key in services().keys.all().values()],
        "api_keys_wrong": services().keys.wrong(),
        "providers": {name: getattr(provider, "state", "up") for name, provider in services().captcha.providers.items()},
    }


def _log(body: bodies.LaunchBody, launch: Launch, tier: str, rule: str, **more: object) -> None:
    where = {"user": body.user, "server": body.server, "repository": body.repository}
    logs.decision("launch", **where, client_network=logged_network(launch.client), tier=tier, rule=rule, **more)


# -- what operators do


def _operators() -> Operators:
    _check_bearer_token()
    return Operators(services().settings, services().store)


@internal.errorhandler(ActionRefused)
def _refused(error: ActionRefused) -> Response:
    return response(error.kind, str(error))


def _done(answer: dict[str, Any]) -> tuple[Response, int]:
    return jsonify(answer), 200 if answer["state"] == "done" else 202


@internal.get("/api/grants")
def list_grants() -> Response:
    """What running servers have."""
    wanted = {name: request.args.get(name, "") for name in ("user", "tier", "repository", "network")}
    return jsonify(grants=_operators().grants(**wanted))


@internal.get("/api/servers/<user>", defaults={"server": ""}, strict_slashes=False)
@internal.get("/api/servers/<user>/<server>")
def explain_server(user: str, server: str) -> Response:
    """Why a server has network, or not."""
    return jsonify(_operators().explain(Server(user, server)))


@internal.post("/api/grants")
def grant() -> tuple[Response, int]:
    """Give a running server a tier."""
    operators, body = _operators(), bodies.read(bodies.GrantBody)
    return _done(operators.grant(Server(body.user, body.server), body.tier, body.by, body.why))


@internal.post("/api/revocations")
def revoke() -> tuple[Response, int]:
    """Take a running server's tier away and block it."""
    operators, body = _operators(), bodies.read(bodies.RevocationBody)
    return _done(operators.revoke(Server(body.user, body.server), body.by, body.why, body.stop))


@internal.get("/api/blocks")
def list_blocks() -> Response:
    """All blocks."""
    return jsonify(blocks=_operators().blocks())


@internal.post("/api/blocks")
def block() -> tuple[Response, int]:
    """Block a server, a repository or a client network."""
    operators, body = _operators(), bodies.read(bodies.BlockBody)
    return _done(operators.block(body.kind, body.what, body.by, body.why, body.until))


@internal.delete("/api/blocks/<block>")
def unblock(block: str) -> tuple[Response, int]:
    """Take a block off."""
    operators = _operators()
    by = request.args.get("by", "").strip()
    if not by:
        raise Problem("bad-request", "by: say who you are.")
    return _done(operators.unblock(block, by[:255], request.args.get("why", "")[:1000]))


@internal.get("/api/keys")
def list_keys() -> Response:
    """The API keys, and what they had."""
    return jsonify(keys=_operators().keys())


@internal.post("/api/keys")
def create_key() -> Response:
    """Make an API key. The answer has it, and nothing else ever will."""
    operators, body = _operators(), bodies.read(bodies.KeyBody)
    answer = jsonify(operators.create_key(**body.model_dump()))
    answer.headers["Cache-Control"] = "no-store"
    return answer


@internal.post("/api/keys/revocations")
def revoke_key() -> tuple[Response, int]:
    """Let an API key count no more."""
    operators, body = _operators(), bodies.read(bodies.KeyRevocationBody)
    return _done(operators.revoke_key(body.key, body.by, body.why, body.servers))


# -- for Kubernetes and Prometheus


@internal.get("/healthz")
def alive() -> Response:
    """Whether the process answers."""
    return jsonify(status="ok")


@internal.get("/readyz")
def ready() -> Response:
    """Whether it can decide: Redis answers."""
    services().store.ping()
    with suppress(StoreUnavailable):  # A full Redis can still be read.
        services().store.report_verifier(socket.gethostname(), _report())
    return jsonify(status="ok")


@internal.get("/metrics")
def metrics() -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(services().metrics.registry), content_type=CONTENT_TYPE_LATEST)


@internal.get("/openapi.json")
def openapi() -> Response:
    """This interface, as an OpenAPI document."""
    return jsonify(internal_document())
