"""The HTTP interfaces as OpenAPI documents, made from the same models that check the requests."""

from typing import Any

from pydantic import BaseModel

from .. import __version__
from . import bodies
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
_HOLD = {"type": "integer", "minimum": 0, "maximum": 60}
_SERVER = {
    "user": _TEXT,
    "server": {"type": "string", "description": "empty: the user's default server"},
    "tier": {"type": "string", "description": "unverified: no egress"},
    "until": {
        "type": ["integer", "null"],
        "description": "Unix time in seconds at which the tier ends, or, if that is over, the server is stopped; null: neither",
    },
    "expires_in": {"type": ["integer", "null"], "description": "the same in seconds from now, for clients whose clock is wrong"},
    "on_expiry": {
        "enum": ["end", "stop", None],
        "description": "what comes then: end: the tier is gone; stop: the server is stopped too, two minutes later",
    },
    "unlockable": {
        "type": "boolean",
        "description": "whether it has no tier, and a pass would give it one; false where operators blocked it",
    },
    "larger": {
        "type": "array",
        "items": _TEXT,
        "description": "the tiers that a solution of some provider gives it in place of a smaller one that it has",
    },
    "renewable_in": {
        "type": ["integer", "null"],
        "description": "seconds until a pass or a solution for this tier renews its lease; 0: now; null: it cannot be",
    },
}
_WIDGET = _object(
    site_key=_TEXT,
    script={"type": "string", "format": "uri", "description": "the widget's script; of mcaptcha, the page for a frame"},
    action={"type": "string", "description": "what the widget is told the solution is for"},
)
_WIDGET["properties"]["endpoint"] = {"type": "string", "format": "uri", "description": "what the widget asks, if it must be told"}
_OFFER = {
    "oneOf": [
        _object(
            name=_TEXT,
            tier=_TEXT,
            kind={"const": "proof-of-work"},
            challenge=_object(parameters={"type": "object"}, signature=_TEXT) | {"description": "of ALTCHA, version 2"},
        ),
        _object(
            name=_TEXT,
            tier=_TEXT,
            kind={"enum": ["interactive", "automatic"], "description": "whether a person has something to click"},
            challenge=_WIDGET,
        ),
    ]
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
    # People get a page or text, whatever it says.
    no_server = _problems("no-such-server", "unavailable")
    for answer in no_server.values():
        answer["content"] |= {"text/plain": {"schema": _TEXT}, "text/html": {"schema": _TEXT}}
    unlocked = _object(state={"enum": ["granted", "pending"]}, **_SERVER)

    def server(parameters: list[Any], which: str) -> dict[str, Any]:
        return {
            "parameters": parameters,
            "get": {
                "operationId": f"show{which}",
                "summary": f"Show what {which} may reach",
                "responses": {"200": shown, **no_server},
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
                        "blocked",
                        "price-risen",
                        "budget-spent",
                        "too-many-rejected",
                        "provider-misconfigured",
                        "provider-unavailable",
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
            "/launch.js": {
                "get": {
                    "operationId": "getLaunchScript",
                    "summary": "Get the script for launch pages",
                    "responses": {
                        "200": {"description": "The script", "content": {"text/javascript": {"schema": _TEXT}}},
                        "304": {"description": "The script that the client has, by its ETag, is the present one"},
                        **_problems(),
                    },
                }
            },
            "/v1/third-party.json": {
                "get": {
                    "operationId": "getThirdParty",
                    "summary": "Get the script tag for third-party pages",
                    "responses": {
                        "200": _json(
                            "The tag, and where the scripts are",
                            _object(
                                tag={"type": "string", "description": "HTML"},
                                scripts={
                                    "type": "object",
                                    "additionalProperties": _object(address={"type": "string", "format": "uri"}, integrity=_TEXT),
                                    "description": "third-party.js is the plain script, third-party.mjs the module",
                                },
                            ),
                        ),
                        **_problems(),
                    },
                }
            },
            "/v1/{file}": {
                "get": {
                    "operationId": "getThirdPartyScript",
                    "summary": "Get the script for third-party pages",
                    "parameters": [
                        {
                            "name": "file",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "minLength": 1, "examples": ["third-party.js"]},
                            "description": "third-party.js, third-party.mjs, or a name from third-party.json, that never changes",
                        }
                    ],
                    "responses": {
                        "200": {"description": "The script", "content": {"text/javascript": {"schema": _TEXT}}},
                        "304": {"description": "The script that the client has, by its ETag, is the present one"},
                        **_problems("not-found"),
                    },
                }
            },
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
                                hold=_HOLD | {"description": "seconds that a launch may wait for a solution that needs no click"},
                                interactive_hold=_HOLD | {"description": "seconds that it may wait for one that does"},
                                providers={
                                    "type": "array",
                                    "items": _OFFER,
                                    "description": "in the operator's order; none: nothing can be solved just now",
                                },
                            ),
                        ),
                        **_problems("unavailable"),
                    },
                }
            },
            "/passes": {
                "post": {
                    "operationId": "createPass",
                    "summary": "Exchange a solution, or an API key, for a pass",
                    "description": "With an API key the body is empty, or an empty object. Where there is a solution, "
                    "Authorization is not looked at.",
                    "security": [{}, {"key": []}],
                    "requestBody": _body(bodies.PassRequest) | {"required": False},
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
                        **_problems(
                            "forbidden-origin",
                            "solution-refused",
                            "key-refused",
                            "key-expired",
                            "key-revoked",
                            "key-elsewhere",
                            "blocked",
                            "price-risen",
                            "budget-spent",
                            "too-many-rejected",
                            "key-spent",
                            "too-many-wrong-keys",
                            "provider-misconfigured",
                            "provider-unavailable",
                            "too-large",
                            "not-json",
                            "unavailable",
                        ),
                    },
                }
            },
            "/servers/{user}": server([user], "DefaultServer"),
            "/servers/{user}/{server}": server([user, name], "Server"),
        },
        securitySchemes={"key": {"type": "http", "scheme": "bearer", "description": "an API key that the operators gave you"}},
    )


_TIME = {"type": ["number", "null"], "description": "Unix time in seconds"}
_ROW = {
    "user": _TEXT, "server": _TEXT, "pod": _TEXT, "tier": _TEXT, "rule": {"type": "string", "description": "the rule that decided"},
    "blocked": {"type": "boolean"}, "at": _TIME, "until": _TIME, "by": _TEXT, "why": _TEXT, "grant": _TEXT, "repository": _TEXT,
    "client": {"type": "string", "description": "the address of the client that launched it"},
}  # fmt: skip
_BLOCK = _object(
    id=_TEXT, kind={"enum": ["server", "repository", "network"]}, what=_TEXT, by=_TEXT, why=_TEXT, at=_TIME, until=_TIME
)
_BLOCK["properties"]["only_on_pods"] = {
    "type": "boolean",
    "description": "Redis has forgotten it; it holds for the pods that carry it",
}
_STATE = {"enum": ["done", "pending"], "description": "pending: the reconciler has not confirmed it yet"}


def _operation(name: str, summary: str, answer: dict[str, Any], *kinds: str, body: type[BaseModel] | None = None) -> dict[str, Any]:
    """An operation of operators; what changes something may be pending."""
    pending = (
        {"202": _json("Written down; the reconciler has not confirmed it yet", answer)} if "state" in answer["properties"] else {}
    )
    return {
        "operationId": name,
        "summary": summary,
        "security": [{"bearer": []}],
        **({"requestBody": _body(body)} if body else {}),
        "responses": {
            "200": _json("Done", answer),
            **pending,
            **_problems("unauthorized", "unavailable", *(("too-large", "not-json") if body else ()), *kinds),
        },
    }


def _operators() -> dict[str, Any]:
    """What operators do."""

    def parameter(name: str, place: str, required: bool = False, **schema: Any) -> dict[str, Any]:
        return {"name": name, "in": place, "required": required, "schema": {"type": "string", **schema}}

    acted = _object(state=_STATE, user=_TEXT)
    explained = _object(
        **_ROW,
        because={"type": "string", "description": "one sentence"},
        mode=_TEXT,
        uid=_TEXT,
        label={"type": ["string", "null"]},
        waiting={"type": "array", "items": {"type": "object"}},
        blocks={"type": "array", "items": _BLOCK},
        reconciler_seen=_TIME,
    )
    user, server = parameter("user", "path", True, minLength=1), parameter("server", "path", True, minLength=1)
    filters = [parameter(name, "query") for name in ("user", "tier", "repository", "network")]

    def explain(which: str, *parameters: Any) -> dict[str, Any]:
        operation = _operation(f"explain{which}", f"Say why {which} has network, or not", explained, "no-such-server")
        return {"parameters": list(parameters), "get": operation}

    grants = _object(grants={"type": "array", "items": _object(**_ROW)})
    give = _operation("grant", "Give a running server a tier", acted, "no-such-server", "refused", body=bodies.GrantBody)
    revoke = _operation("revoke", "Take a tier away, and block", acted, "no-such-server", "refused", body=bodies.RevocationBody)
    put = _object(state=_STATE, block=_TEXT, servers={"type": "integer"})
    remove = _operation("unblock", "Take a block off", _object(state=_STATE, block=_TEXT), "no-such-block", "refused")
    key = _object(
        name=_TEXT, id=_TEXT, state={"enum": ["valid", "expired", "revoked"]}, tier=_TEXT,
        used={"type": "integer", "description": "passes, for a server each, in the last 24 hours"},
        servers_per_day={"type": "integer"}, expires={"type": "string", "format": "date", "description": "the last day, by UTC"},
        until={"type": "number", "description": "Unix time in seconds"},
        origins={"type": "array", "items": _TEXT}, repositories={"type": "array", "items": _TEXT},
    )  # fmt: skip
    created = _object(name=_TEXT, id=_TEXT, key={"type": "string", "description": "shown this once"}, values={"type": "object"})
    revoked = _object(
        state=_STATE, keys={"type": "array", "items": _TEXT}, withdrawn={"type": "integer"},
        remove={"type": "array", "items": _TEXT, "description": "what to take out of the chart's values"},
    )  # fmt: skip
    create_key = _operation("createKey", "Make an API key", created, "refused", body=bodies.KeyBody)
    revoke_key = _operation("revokeKey", "Let an API key count no more", revoked, "no-such-key", body=bodies.KeyRevocationBody)
    by = [parameter("by", "query", True, minLength=1, pattern=r"\S"), parameter("why", "query")]
    return {
        "/api/grants": {
            "get": _operation("listGrants", "List running servers, and what they have", grants) | {"parameters": filters},
            "post": give,
        },
        "/api/revocations": {"post": revoke},
        "/api/servers/{user}": explain("DefaultServer", user),
        "/api/servers/{user}/{server}": explain("Server", user, server),
        "/api/blocks": {
            "get": _operation("listBlocks", "List all blocks", _object(blocks={"type": "array", "items": _BLOCK})),
            "post": _operation("block", "Block", put, "no-such-server", "refused", body=bodies.BlockBody),
        },
        "/api/keys": {
            "get": _operation("listKeys", "List API keys, and what they had", _object(keys={"type": "array", "items": key})),
            "post": create_key,
        },
        "/api/keys/revocations": {"post": revoke_key},
        "/api/blocks/{block}": {
            "parameters": [parameter("block", "path", True, minLength=1)],
            "delete": remove | {"parameters": by},
        },
    }


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
            **_operators(),
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
