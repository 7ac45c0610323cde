"""OpenAPI documents, made from the routes: each view declares its operation, and pydantic models give the schemas.

@public.post("/passes")
@Operation("createPass", "Exchange a solution for a pass", answers={201: json_of("A pass", bodies.PassAnswer)}, …)
def issue_pass(): …
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeVar

from flask import Flask, Response, current_app, jsonify
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from werkzeug.routing import Rule

from .. import __version__
from .bodies import ProblemDetails, unchanging
from .problems import TITLES

COMPONENTS = "#/components/schemas/{model}"

MADE = "binder-egress.openapi"
"""The name under which an app's extensions have the document and its checksum, once somebody asked for it."""

Schema = Mapping[str, object]
View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class DocumentedAnswer:
    """An answer that is not a problem.

    Attributes:
        description: its content in words.
        media_types: media type → pydantic model or TypedDict of the body; None: any text. Empty: there is no body.
    """

    description: str
    media_types: Mapping[str, type | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameter:
    """A parameter in the query or in the path. A path parameter that no view declares is a non-empty text.

    Attributes:
        name: its name.
        place: `query` or `path`.
        schema: its JSON schema.
        description: what it means.
        required: whether it must be present.
    """

    name: str
    place: Literal["query", "path"] = "query"
    schema: Schema = field(default_factory=lambda: {"type": "string"})
    description: str = ""
    required: bool = False


@dataclass(frozen=True)
class Operation:
    """The operation of a view, and the decorator that declares it, which goes between the view and its routes.

    Attributes:
        id: the operation's id. For a route without the server's name, `Server` in it becomes `DefaultServer`.
        summary: a description in one line.
        answers: HTTP status → answer.
        problems: types of problems that the view may answer with, besides `bad-request`, `internal` and, if there is a body,
            `not-json` and `too-large`.
        body: the model that checks the body; None: there is none.
        body_required: whether the body must be present.
        parameters: those in the query, and those in the path that need a description.
        security: names of security schemes, as OpenAPI has them.
        description: a longer description.
        problem_pages: whether people see problems as pages.
    """

    id: str
    summary: str
    _: KW_ONLY
    answers: Mapping[int, DocumentedAnswer]
    problems: Sequence[str] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True
    parameters: Sequence[Parameter] = ()
    security: Sequence[Mapping[str, list[str]]] = ()
    description: str = ""
    problem_pages: bool = False

    def __call__(self, view: View) -> View:
        """Declare that this is the operation of a view."""
        _OPERATIONS[view] = self
        return view


_OPERATIONS: dict[Callable[..., Any], Operation] = {}
"""View function → its operation."""


def json_of(description: str, model: type) -> DocumentedAnswer:
    """An answer in JSON."""
    return DocumentedAnswer(description, {"application/json": model})


@dataclass(frozen=True)
class Interface:
    """What a document says about an interface as a whole.

    Attributes:
        title: its name.
        security_schemes: name → security scheme, as OpenAPI has it.
    """

    title: str
    security_schemes: Mapping[str, Schema]


def document(interface: Interface, app: Flask, base_path: str) -> dict[str, object]:
    """The OpenAPI document of an app's routes that declare an operation.

    Args:
        interface: what it says about the interface as a whole.
        app: the app.
        base_path: the path under which all routes are served.
    """
    declared = [
        (rule, operation)
        for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
        if (operation := _OPERATIONS.get(app.view_functions[rule.endpoint]))
    ]
    schemas = _Schemas([operation for _, operation in declared])
    paths: dict[str, dict[str, object]] = {}
    for rule, operation in declared:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", "/" + rule.rule.removeprefix(base_path))
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            paths.setdefault(path, {})[method.lower()] = _described(rule, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": interface.title, "version": __version__},
        "servers": [{"url": base_path.rstrip("/") or "/"}],
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": dict(interface.security_schemes)},
    }


def document_of_app(interface: Interface, base_path: str) -> Response:
    """The current app's document, which is made once: it takes as long as ten challenges.

    Args:
        interface: what it says about the interface as a whole.
        base_path: the path under which all routes are served.
    """
    made = current_app.extensions.get(MADE)
    if made is None:
        content = jsonify(document(interface, current_app, base_path)).get_data()
        made = current_app.extensions[MADE] = content, hashlib.sha256(content).hexdigest()
    content, etag = made
    return unchanging(content, "application/json", etag)


class _Schemas:
    """The schemas of all models that operations use. A model that is used for both requests and answers has two."""

    def __init__(self, operations: Iterable[Operation]):
        models: list[tuple[type, JsonSchemaMode]] = [(ProblemDetails, "serialization")]
        for operation in operations:
            if operation.body:
                models.append((operation.body, "validation"))
            for answer in operation.answers.values():
                models += [(model, "serialization") for model in answer.media_types.values() if model]
        adapters = [(model, mode, TypeAdapter[Any](model)) for model, mode in dict.fromkeys(models)]
        self._references, definitions = TypeAdapter.json_schemas(adapters, ref_template=COMPONENTS)
        self.components: dict[str, Schema] = definitions["$defs"]

    def sent(self, model: type) -> Schema:
        return self._references[model, "validation"]

    def answered(self, model: type | None) -> Schema:
        return self._references[model, "serialization"] if model else {"type": "string"}


def _described(rule: Rule, operation: Operation, schemas: _Schemas) -> dict[str, object]:
    default_server = "server" in (rule.defaults or {})
    described: dict[str, object] = {
        "operationId": operation.id.replace("Server", "DefaultServer") if default_server else operation.id,
        "summary": operation.summary.replace("a server", "a user's default server") if default_server else operation.summary,
    }
    if operation.description:
        described["description"] = operation.description
    if parameters := _parameters(rule, operation):
        described["parameters"] = parameters
    if operation.security:
        described["security"] = list(operation.security)
    if operation.body:
        content = {"application/json": {"schema": schemas.sent(operation.body)}}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    described["responses"] = {
        str(status): _answered(answer.description, {name: schemas.answered(model) for name, model in answer.media_types.items()})
        for status, answer in operation.answers.items()
    } | _problems(operation, schemas)
    return described


def _answered(description: str, content: Mapping[str, Schema]) -> dict[str, object]:
    answered: dict[str, object] = {"description": description}
    if content:
        answered["content"] = {media_type: {"schema": schema} for media_type, schema in content.items()}
    return answered


def _problems(operation: Operation, schemas: _Schemas) -> dict[str, object]:
    """HTTP status → the problems with that status."""
    titles: dict[int, list[str]] = {}
    of_bodies = ("not-json", "too-large") if operation.body else ()
    for problem_type in dict.fromkeys(["bad-request", "internal", *operation.problems, *of_bodies]):
        status, title = TITLES[problem_type]
        titles.setdefault(status, []).append(title)
    content = {"application/problem+json": schemas.answered(ProblemDetails)}
    if operation.problem_pages:
        content |= {"text/plain": schemas.answered(None), "text/html": schemas.answered(None)}
    return {str(status): _answered("; or: ".join(listed), content) for status, listed in titles.items()}


def _parameters(rule: Rule, operation: Operation) -> list[dict[str, object]]:
    declared = {parameter.name for parameter in operation.parameters}
    in_path = [
        Parameter(name, "path", {"type": "string", "minLength": 1}, required=True)
        for name in re.findall(r"<(?:\w+:)?(\w+)>", rule.rule)
        if name not in declared
    ]
    return [
        {"name": parameter.name, "in": parameter.place, "required": parameter.required, "schema": dict(parameter.schema)}
        | ({"description": parameter.description} if parameter.description else {})
        for parameter in [*in_path, *operation.parameters]
    ]
