"""The OpenAPI documents are well-formed, and the apps behave as documented."""

import hashlib
import json

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.definitions import OPENAPI_31

import verifier.operators.actions.confirmation
import verifier.store.connection
import verifier.web.servers
from tests.support.apps import API_TOKEN, CLIENT, make_settings
from tests.support.store import Store
from verifier.records import KnownServer, Server
from verifier.settings import ReceiverSettings, load
from verifier.store.connection import connect
from verifier.web.app import create_internal_app, create_public_app, create_services, internal_document, public_document
from verifier.web.problems import TITLES
from verifier.web.receiver import create_receiver_app, create_receiver_services, receiver_document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
BOUNDED = settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def services(_redis_server):
    """Apps that all examples share, on an emptied Redis. Unlocks do not wait for a reconciler."""
    _redis_server.start()
    _redis_server.wipe()
    patch = pytest.MonkeyPatch()
    # The same as the fixture `patient`, which runs too late for a fixture of the module.
    patch.setattr(verifier.store.connection, "TIMEOUT_SECONDS", 10)
    made = make_settings(_redis_server)
    client = connect(made)
    services = create_services(made, Store(client))
    services.store.ping()
    for server in (Server("alice"), Server("alice", "lab")):
        services.store.publish(server, KnownServer("uid-1", repository="https://example.com/a/b"))
    patch.setattr(verifier.web.servers, "UNLOCK_WAIT_SECONDS", 0)
    patch.setattr(verifier.operators.actions.confirmation, "CONFIRMATION_WAIT_SECONDS", 0)
    yield services
    patch.undo()
    client.close()


@pytest.fixture(scope="module")
def public_schema(services):
    return schemathesis.openapi.from_wsgi("/egress/openapi.json", create_public_app(services))


@pytest.fixture(scope="module")
def internal_schema(services):
    return schemathesis.openapi.from_wsgi("/openapi.json", create_internal_app(services))


@pytest.fixture(scope="module")
def receiver(services, tmp_path_factory):
    tokens = tmp_path_factory.mktemp("reporters") / "tokens.json"
    tokens.write_text(json.dumps({"falco": hashlib.sha256(API_TOKEN.encode()).hexdigest()}))
    made = load(ReceiverSettings, detections={"falco": {}}, reporters_file=str(tokens))
    return create_receiver_app(create_receiver_services(made, services.store))


@pytest.fixture(scope="module")
def receiver_schema(receiver):
    return schemathesis.openapi.from_wsgi("/openapi.json", receiver)


def operations(document):
    """Returns path and method of each operation in a document."""
    return [(path, method.upper()) for path, found in document["paths"].items() for method in found if method != "parameters"]


PUBLIC = operations(public_document("/egress/"))
SERVERS = [operation for operation in PUBLIC if operation[0].startswith("/servers/")]
INTERNAL = operations(internal_document())
RECEIVER = operations(receiver_document())


def ask(operation, mode, headers, allowed=None, change=None):
    """Call an operation with many inputs, which fit its document or do not, depending on the mode."""

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        if change:
            change(case)
        answer = case.call(headers=headers)
        case.validate_response(answer, checks=CHECKS)
        assert allowed is None or answer.status_code in allowed

    check()


@pytest.mark.parametrize(("path", "method"), PUBLIC)
def test_public_app_answers_as_documented(public_schema, path, method):
    ask(public_schema[path][method], GenerationMode.POSITIVE, {"X-Forwarded-For": CLIENT})


@pytest.mark.parametrize(("path", "method"), SERVERS)
def test_running_server_is_answered_as_documented(public_schema, path, method):
    def running(case):
        case.path_parameters.update({"user": "alice", "server": "lab"} if "server}" in path else {"user": "alice"})

    allowed = {200} if method == "GET" else {200, 202, 400, 403}
    ask(public_schema[path][method], GenerationMode.POSITIVE, {"X-Forwarded-For": CLIENT}, allowed, running)


@pytest.mark.parametrize(
    ("path", "method"), [operation for operation in PUBLIC if operation[1] == "POST" or operation[0] == "/challenge"]
)
def test_public_app_refuses_undocumented_input(public_schema, path, method):
    ask(public_schema[path][method], GenerationMode.NEGATIVE, {"X-Forwarded-For": CLIENT})


@pytest.mark.parametrize(("path", "method"), INTERNAL)
def test_in_cluster_app_answers_as_documented(internal_schema, path, method):
    ask(internal_schema[path][method], GenerationMode.POSITIVE, {"Authorization": f"Bearer {API_TOKEN}"})


@pytest.mark.parametrize(("path", "method"), RECEIVER)
@pytest.mark.parametrize("token", [API_TOKEN, "wrong"])
def test_receiver_answers_as_documented(receiver_schema, path, method, token):
    """It counts lines that it cannot read."""
    ask(receiver_schema[path][method], GenerationMode.POSITIVE, {"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("path", [path for path, method in INTERNAL if method == "POST"])
def test_in_cluster_app_refuses_undocumented_input(internal_schema, path):
    allowed = {200, 400, 401, 404, 409, 415}
    ask(internal_schema[path]["POST"], GenerationMode.NEGATIVE, {"Authorization": f"Bearer {API_TOKEN}"}, allowed)


@pytest.mark.parametrize(("path", "method"), [operation for operation in INTERNAL if operation[0].startswith("/api/")])
@pytest.mark.parametrize("body", [None, {}, {"user": "alice"}], ids=str)
def test_in_cluster_app_needs_the_bearer_token(services, path, method, body):
    client = create_internal_app(services).test_client()
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert (
            client.open(path.format(user="alice", server="lab", id="x"), method=method, json=body, headers=headers).status_code
            == 401
        )


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/api/servers/{user}", "GET", {200}),
        ("/api/grants", "GET", {200, 400}),
        ("/api/grants", "POST", {202, 409}),
        ("/api/revocations", "POST", {202, 409}),
        ("/api/blocks", "POST", {200, 202, 409}),
        ("/api/blocks", "GET", {200}),
    ],
)
def test_actions_of_operators_answer_as_documented(internal_schema, path, method, allowed):
    """The order matters, as later actions block the server."""

    def running(case):
        if "user" in (case.path_parameters or {}):
            case.path_parameters["user"] = "alice"
        if path == "/api/blocks" and method == "POST":
            case.body |= {"kind": "repository", "what": "example.com/a/b"}
        elif method == "POST":
            case.body |= {"user": "alice", "server": ""} | ({"tier": "verified"} if "tier" in case.body else {})

    ask(internal_schema[path][method], GenerationMode.POSITIVE, {"Authorization": f"Bearer {API_TOKEN}"}, allowed, running)


@pytest.fixture(scope="module")
def described(services, receiver):
    """Each app, and its document."""
    apps = {"/egress/openapi.json": [create_public_app(services)], "/openapi.json": [create_internal_app(services), receiver]}
    return [(app, app.test_client().get(path).json) for path, these in apps.items() for app in these]


@pytest.mark.parametrize("which", range(3), ids=["public", "in-cluster", "receiver"])
def test_document_is_valid_openapi_and_has_every_route(described, which):
    app, document = described[which]
    assert document["openapi"] == "3.1.0"
    jsonschema_rs.validator_for(OPENAPI_31).validate(document)
    url = document["servers"][0]["url"]
    base = "" if url == "/" else url
    documented = {
        (base + path.replace("{", "<").replace("}", ">"), method.upper())
        for path, operations in document["paths"].items()
        for method in operations
        if method != "parameters"
    }
    routed = {
        (rule.rule, method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not rule.rule.endswith(("/openapi.json", "<path:filename>"))
    }
    assert documented == routed


def test_document_has_the_base_path_as_server(_redis_server):
    made = create_services(make_settings(_redis_server, base_path="/a/b/"))
    document = create_public_app(made).test_client().get("/a/b/openapi.json").json
    # The paths begin with a slash.
    assert document["servers"] == [{"url": "/a/b"}]


def test_described_errors_are_problem_types(described):
    statuses = {str(status) for status, _ in TITLES.values()}
    for _, document in described:
        for path, method in operations(document):
            found = document["paths"][path][method.lower()]["responses"]
            assert {status for status in found if status[0] in "45"} <= statuses
