"""The HTTP interfaces as OpenAPI documents, made from the same models that check the requests."""

from typing import Any

from pydantic import BaseModel

from . import __version__, bodies
from .problems import TITLES


def _problems(*kinds: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("bad-request", "internal", *kinds):
        status, title = TITLES[kind]
        known = found.get(str(status))
        found[str(status)] = {
            "description": f"{known['description']}; or: {title}" if known else title,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return found


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_TEXT = {"type": "string"}
_SERVER = {
    "user": _TEXT,
    "server": {"type": "string", "description": "empty: the user's default server"},
    "tier": {"type": "string", "description": "unverified: no egress"},
    "until": {"type": ["number", "null"], "description": "Unix time in seconds at which the tier ends; null: it does not"},
    "unlockable": {"type": "boolean", "description": "whether a pass would change the tier"},
}
_PROBLEM = _object(type={"type": "string", "format": "uri"}, title=_TEXT, status={"type": "integer"}, detail=_TEXT)


def _document(title: str, path: str, paths: dict[str, Any], **components: Any) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "servers": [{"url": path}],
        "paths": paths,
        "components": {"schemas": {"Problem": _PROBLEM}, **components},
    }


def public_document(base_path: str) -> dict[str, Any]:
    """The interface of the public port.

    Args:
        base_path: the path that everything is under.
    """
    user = {"name": "user", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    name = {"name": "server", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    shown = {
        "description": "What the server may reach",
        "content": {
            "application/json": {"schema": _object(**_SERVER)},
            "text/plain": {"schema": _TEXT},
            "text/html": {"schema": _TEXT},
        },
    }
    unlocked = _object(state={"enum": ["granted", "pending"]}, **_SERVER)

    def server(parameters: list[Any], which: str) -> dict[str, Any]:
        return {
            "parameters": parameters,
            "get": {
                "operationId": f"show{which}",
                "summary": f"Show what {which} may reach",
                "responses": {"200": shown, **_problems("no-such-server", "unavailable")},
            },
            "post": {
                "operationId": f"unlock{which}",
                "summary": f"Unlock {which} with a pass or a solution",
                "requestBody": _body(bodies.Unlock),
                "responses": {
                    "200": _json("The pod has the tier", unlocked),
                    "202": _json("Accepted; the reconciler has not confirmed it yet", unlocked),
                    **_problems(
                        "forbidden-origin",
                        "pass-refused",
                        "solution-refused",
                        "no-such-server",
                        "too-large",
                        "not-json",
                        "unavailable",
                    ),
                },
            },
        }

    return _document(
        "binder-egress",
        base_path,
        {
            "/challenge": {
                "get": {
                    "operationId": "getChallenge",
                    "summary": "Get a challenge of each captcha provider",
                    "parameters": [
                        {
                            "name": "purpose",
                            "in": "query",
                            "schema": {"enum": ["launch", "unlock"], "default": "launch"},
                            "description": "launch: the solution is for POST passes; unlock: for POST servers/…",
                        }
                    ],
                    "responses": {
                        "200": _json(
                            "What may be solved",
                            _object(
                                purpose=_TEXT,
                                providers={
                                    "type": "array",
                                    "items": _object(name=_TEXT, tier=_TEXT, challenge={"type": "object"}),
                                },
                            ),
                        ),
                        **_problems(),
                    },
                }
            },
            "/passes": {
                "post": {
                    "operationId": "createPass",
                    "summary": "Exchange a solution for a pass",
                    "requestBody": _body(bodies.Solution),
                    "responses": {
                        "201": _json(
                            "A pass; send its token with a launch as the query parameter egress_token",
                            _object(
                                token=_TEXT,
                                expires_in={"type": "integer", "description": "seconds"},
                                servers={"type": "integer", "description": "how many servers it is good for"},
                                tier=_TEXT,
                            ),
                        ),
                        **_problems("forbidden-origin", "solution-refused", "too-large", "not-json", "unavailable"),
                    },
                }
            },
            "/servers/{user}": server([user], "DefaultServer"),
            "/servers/{user}/{server}": server([user, name], "Server"),
        },
    )


def internal_document() -> dict[str, Any]:
    """The interface of the in-cluster port."""
    ok = _json("Yes", _object(status=_TEXT))
    return _document(
        "binder-egress, in-cluster",
        "/",
        {
            "/api/launches": {
                "post": {
                    "operationId": "decideLaunch",
                    "summary": "Decide a launch that BinderHub is about to make",
                    "security": [{"bearer": []}],
                    "requestBody": _body(bodies.LaunchBody),
                    "responses": {
                        "200": _json("The decision", _object(tier=_TEXT, rule=_TEXT, pass_outcome=_TEXT, grant=_TEXT)),
                        **_problems("unauthorized", "too-large", "not-json", "unavailable"),
                    },
                }
            },
            "/healthz": {"get": {"operationId": "alive", "responses": {"200": ok}}},
            "/readyz": {"get": {"operationId": "ready", "responses": {"200": ok, **_problems("unavailable")}}},
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "responses": {"200": {"description": "Prometheus' text format", "content": {"text/plain": {"schema": _TEXT}}}},
                }
            },
        },
        securitySchemes={"bearer": {"type": "http", "scheme": "bearer"}},
    )
