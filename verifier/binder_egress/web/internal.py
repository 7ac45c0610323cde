"""What operators may do over HTTP, on the in-cluster port. BinderHub's hook is in `launches`, Kubernetes' probes in `probes`."""

import hmac
from collections.abc import Mapping, Sequence
from typing import get_type_hints

from flask import Blueprint, Response, jsonify, request
from pydantic import BaseModel

from ..model.records import Server
from ..operators import actions
from ..operators.actions import ActionRefused, Operators, answers
from . import bodies
from .context import services
from .openapi import Interface, Operation, Parameter, document_of_app, json_of
from .problems import Problem, response

internal = Blueprint("internal", __name__)

INTERFACE = Interface("binder-egress, in-cluster", {"bearer": {"type": "http", "scheme": "bearer"}})

FILTERS = ("user", "tier", "repository", "network")
"""The query parameters that select running servers."""

BEARER: Sequence[Mapping[str, list[str]]] = [{"bearer": []}]
"""What `check_bearer_token` requires, as OpenAPI expresses it."""


def check_bearer_token() -> None:
    """Return if the request carries the token of the Secret, and raise `Problem` otherwise."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = services().settings.api_token.get_secret_value()
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), expected.encode()):
        raise Problem("unauthorized", "Send Authorization: Bearer with api-token of the Secret.")


# -- operators


def _operators() -> Operators:
    check_bearer_token()
    return Operators(services().settings, services().store)


def _for_operators(
    id: str, summary: str, model: type, *problems: str, body: type[BaseModel] | None = None, parameters: Sequence[Parameter] = ()
) -> Operation:
    """Declare an operation for operators. If it changes something, its result may be pending."""
    declared = {200: json_of("Done", model)}
    if "state" in get_type_hints(model):
        declared[202] = json_of("Recorded; the reconciler has not confirmed it yet", model)
    types = ["unauthorized", "unavailable", *problems]
    return Operation(id, summary, answers=declared, problems=types, body=body, parameters=parameters, security=BEARER)


@internal.errorhandler(ActionRefused)
def _action_refused(error: ActionRefused) -> Response:
    return response(error.kind, str(error))


def _done(answer: Mapping[str, object]) -> tuple[Response, int]:
    return jsonify(answer), 200 if answer["state"] == "done" else 202


@internal.get("/api/grants")
@_for_operators(
    "listGrants", "List running servers, and what they have", bodies.GrantsAnswer, parameters=[Parameter(name) for name in FILTERS]
)
def list_grants() -> Response:
    """Running servers and their tiers."""
    filters = {name: request.args.get(name, "") for name in FILTERS}
    return jsonify(grants=actions.grants(_operators(), **filters))


@internal.get("/api/servers/<user>", defaults={"server": ""}, strict_slashes=False)
@internal.get("/api/servers/<user>/<server>")
@_for_operators("explainServer", "Say why a server has egress, or has none", answers.Explanation, "no-such-server")
def explain_server(user: str, server: str) -> Response:
    """Why a server has egress, or has none."""
    return jsonify(actions.explain(_operators(), Server(user, server)))


@internal.post("/api/grants")
@_for_operators("grant", "Give a running server a tier", answers.ActionAnswer, "no-such-server", "refused", body=bodies.GrantBody)
def grant() -> tuple[Response, int]:
    """Give a running server a tier."""
    operators, body = _operators(), bodies.read(bodies.GrantBody)
    return _done(actions.grant(operators, Server(body.user, body.server), body.tier, body.by, body.why))


@internal.post("/api/revocations")
@_for_operators(
    "revoke", "Take a tier away, and block", answers.ActionAnswer, "no-such-server", "refused", body=bodies.RevocationBody
)
def revoke() -> tuple[Response, int]:
    """Take a running server's tier away and block it."""
    operators, body = _operators(), bodies.read(bodies.RevocationBody)
    return _done(actions.revoke(operators, Server(body.user, body.server), body.by, body.why))


@internal.get("/api/blocks")
@_for_operators("listBlocks", "List all blocks", bodies.BlocksAnswer)
def list_blocks() -> Response:
    """All blocks."""
    return jsonify(blocks=actions.blocks(_operators()))


@internal.post("/api/blocks")
@_for_operators("block", "Block", answers.BlockAnswer, "no-such-server", "refused", body=bodies.BlockBody)
def block() -> tuple[Response, int]:
    """Block a server, a repository or a client network."""
    operators, body = _operators(), bodies.read(bodies.BlockBody)
    return _done(actions.block(operators, body.kind, body.what, body.by, body.why, body.until))


@internal.get("/api/keys")
@_for_operators("listKeys", "List API keys, and their use", bodies.KeysAnswer)
def list_keys() -> Response:
    """The API keys and their use."""
    return jsonify(keys=actions.keys(_operators()))


@internal.post("/api/keys")
@_for_operators("createKey", "Make an API key", answers.KeyAnswer, "refused", body=bodies.KeyBody)
def create_key() -> Response:
    """Make an API key. It is in the answer and nowhere else."""
    operators, body = _operators(), bodies.read(bodies.KeyBody)
    answer = jsonify(actions.create_key(operators, **body.model_dump()))
    answer.headers["Cache-Control"] = "no-store"
    return answer


@internal.post("/api/keys/revocations")
@_for_operators("revokeKey", "Revoke an API key", answers.KeyRevocationAnswer, "no-such-key", body=bodies.KeyRevocationBody)
def revoke_key() -> tuple[Response, int]:
    """Revoke an API key."""
    operators, body = _operators(), bodies.read(bodies.KeyRevocationBody)
    return _done(actions.revoke_key(operators, body.key, body.by, body.why, body.servers))


@internal.get("/openapi.json")
def openapi() -> Response:
    """This interface, as an OpenAPI document."""
    return document_of_app(INTERFACE, "/")
