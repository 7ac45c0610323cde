"""The OpenAPI documents are well-formed, and the apps behave as documented."""

import hashlib
import json

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.definitions import OPENAPI_31

from binder_egress.model.records import KnownServer, Server
from binder_egress.settings import ReceiverSettings, load
from binder_egress.store.connection import connect
from binder_egress.web.app import create_internal_app, create_public_app, create_services
from binder_egress.web.problems import TITLES
from binder_egress.web.receiver import create_receiver_app, create_receiver_services
from ci.openapi_documents import DOCUMENTS
from tests.support.apps import API_TOKEN, CLIENT, make_settings
from tests.support.store import Store

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
BOUNDED = settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def services(_redis_server):
    """Apps that all examples share, on an emptied Redis. Unlocks do not wait for a reconciler."""
    _redis_server.start()
    _redis_server.wipe()
    patch = pytest.MonkeyPatch()
    # The same as the fixture `patient`, which runs too late for a fixture of the module.
    patch.setattr("binder_egress.store.connection.TIMEOUT_SECONDS", 10)
    made = make_settings(_redis_server)
    client = connect(made)
    services = create_services(made, Store(client))
    services.store.ping()
    for server in (Server("alice"), Server("alice", "lab")):
        services.store.publish(server, KnownServer("uid-1", repository="https://example.com/a/b"))
    patch.setattr("binder_egress.web.servers.UNLOCK_WAIT_SECONDS", 0)
    patch.setattr("binder_egress.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 0)
    yield services
    patch.undo()
    client.close()


@pytest.fixture(scope="module")
def apps(services, tmp_path_factory):
    """Each app, and the address of its document."""
    tokens = tmp_path_factory.mktemp("reporters") / "tokens.json"
    tokens.write_text(json.dumps({"falco": hashlib.sha256(API_TOKEN.encode()).hexdigest()}))
    made = load(ReceiverSettings, detections={"falco": {}}, reporters_file=str(tokens))
    return {
        "public": (create_public_app(services), "/egress/openapi.json"),
        "in-cluster": (create_internal_app(services), "/openapi.json"),
        "receiver": (create_receiver_app(create_receiver_services(made, services.store)), "/openapi.json"),
    }


@pytest.fixture(scope="module")
def schemas(apps):
    return {name: schemathesis.openapi.from_wsgi(path, app) for name, (app, path) in apps.items()}


def operations(document):
    return [(path, method.upper()) for path, found in document["paths"].items() for method in found if method != "parameters"]


OPERATIONS = [(name, *operation) for name, document in DOCUMENTS.items() for operation in operations(document)]
TOKEN = {"Authorization": f"Bearer {API_TOKEN}"}
HEADERS = {"public": {"X-Forwarded-For": CLIENT}, "in-cluster": TOKEN, "receiver": TOKEN}


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


@pytest.mark.parametrize(("name", "path", "method"), OPERATIONS)
def test_app_answers_as_documented_and_refuses_undocumented_input(schemas, name, path, method):
    """The receiver counts lines that it cannot read."""
    operation = schemas[name][path][method]
    ask(operation, GenerationMode.POSITIVE, HEADERS[name])
    if name == "receiver":
        ask(operation, GenerationMode.POSITIVE, {"Authorization": "Bearer wrong"})
    elif method == "POST" or path == "/challenge":
        allowed = {200, 400, 401, 404, 409, 415} if name == "in-cluster" else None
        ask(operation, GenerationMode.NEGATIVE, HEADERS[name], allowed)


@pytest.mark.parametrize(
    ("name", "path", "method"), [row for row in OPERATIONS if row[0] == "in-cluster" and row[1].startswith("/api/")]
)
@pytest.mark.parametrize("body", [None, {}, {"user": "alice"}], ids=str)
def test_in_cluster_app_needs_the_bearer_token(apps, name, path, method, body):
    client, address = apps[name][0].test_client(), path.format(user="alice", server="lab", id="x")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert client.open(address, method=method, json=body, headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("name", "path", "method", "allowed"),
    [
        ("public", "/servers/{user}", "GET", {200}),
        ("public", "/servers/{user}/{server}", "GET", {200}),
        ("public", "/servers/{user}", "POST", {200, 202, 400, 403}),
        ("public", "/servers/{user}/{server}", "POST", {200, 202, 400, 403}),
        ("in-cluster", "/api/servers/{user}", "GET", {200}),
        ("in-cluster", "/api/grants", "GET", {200, 400}),
        ("in-cluster", "/api/grants", "POST", {202, 409}),
        ("in-cluster", "/api/revocations", "POST", {202, 409}),
        ("in-cluster", "/api/blocks", "POST", {200, 202, 409}),
        ("in-cluster", "/api/blocks", "GET", {200}),
    ],
)
def test_running_server_is_answered_as_documented(schemas, name, path, method, allowed):
    """The order matters, as later actions block the server."""

    def running(case):
        if case.path_parameters:
            case.path_parameters.update({"user": "alice", "server": "lab"} if "{server}" in path else {"user": "alice"})
        if name == "in-cluster" and method == "POST":
            of_server = {"user": "alice", "server": ""} | ({"tier": "verified"} if "tier" in case.body else {})
            case.body |= {"kind": "repository", "what": "example.com/a/b"} if path == "/api/blocks" else of_server

    ask(schemas[name][path][method], GenerationMode.POSITIVE, HEADERS[name], allowed, running)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_valid_openapi_and_has_every_route(apps, name):
    """An error that it describes has the status of a problem's type."""
    app, address = apps[name]
    document = app.test_client().get(address).json
    assert document["openapi"] == "3.1.0"
    jsonschema_rs.validator_for(OPENAPI_31).validate(document)
    url = document["servers"][0]["url"]
    base = "" if url == "/" else url
    documented = {(base + path.replace("{", "<").replace("}", ">"), method) for path, method in operations(document)}
    routed = {
        (rule.rule, method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not rule.rule.endswith(("/openapi.json", "<path:filename>"))
    }
    assert documented == routed
    answers = {status for path, method in operations(document) for status in document["paths"][path][method.lower()]["responses"]}
    assert {status for status in answers if status[0] in "45"} <= {str(status) for status, _ in TITLES.values()}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_made_once_and_not_sent_to_a_client_that_has_it(apps, monkeypatch, name):
    app, address = apps[name]
    first = app.test_client().get(address)
    monkeypatch.setattr("binder_egress.web.openapi.document", None)
    again = app.test_client().get(address)
    assert (again.status_code, again.data, again.headers["ETag"]) == (200, first.data, first.headers["ETag"])
    known = app.test_client().get(address, headers={"If-None-Match": first.headers["ETag"]})
    assert (known.status_code, known.data) == (304, b"")


def test_document_has_the_base_path_as_server(_redis_server):
    made = create_services(make_settings(_redis_server, base_path="/a/b/"))
    document = create_public_app(made).test_client().get("/a/b/openapi.json").json
    # The paths begin with a slash.
    assert document["servers"] == [{"url": "/a/b"}]
