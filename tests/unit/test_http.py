"""Answers of both ports to wrong and unusual requests."""

import json
import logging
from unittest.mock import Mock

import pytest

from binder_egress.web.problems import TITLES
from tests.support.apps import API_TOKEN, get_pass, internal_client, launch, public_client, run_pod, solve
from tests.support.public_port import POSTS, assert_problem

TYPES = {
    400: "bad-request",
    401: "unauthorized key-refused",
    403: "forbidden-origin key-expired key-revoked key-elsewhere pass-refused solution-refused blocked price-risen",
    404: "not-found no-such-server no-such-block no-such-key",
    405: "method-not-allowed",
    409: "refused",
    413: "too-large",
    415: "not-json",
    429: "budget-spent too-many-rejected key-spent too-many-wrong-keys too-many-reports",
    500: "internal",
    503: "provider-misconfigured provider-unavailable unavailable",
}
"""Clients tell problems apart by type, so a change here changes the interface."""


def test_types_of_problems_are_stable():
    assert {kind: status for kind, (status, _) in TITLES.items()} == {
        kind: status for status, kinds in TYPES.items() for kind in kinds.split()
    }


# -- bodies


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_body_that_is_not_json_is_refused(public, store, path, content_type):
    run_pod(store)
    assert_problem(public.post(path, data=b'{"token": "x"}', content_type=content_type), "not-json")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"x"', b"1", b"\xff", b'{"token": "\\ud800"}', b"[" * 5000, b'{"a":' * 2000, b"NaN", b"1e999"],
    ids=lambda body: repr(body[:12]),
)
def test_body_that_is_not_an_object_is_refused(public, path, body):
    assert_problem(public.post(path, data=body, content_type="application/json"), "bad-request")


def test_wrong_field_is_named_or_answered_with_what_is_known(public):
    for change, said in (({"solution": 1}, "solution: "), ({"solutoin": "x"}, "solutoin: "), ({"provider": "turnstile"}, "altcha")):
        answer = public.post("/egress/passes", json={"provider": "altcha", "solution": "x"} | change)
        assert_problem(answer, "bad-request")
        assert said in answer.json["detail"]
    answer = public.get("/egress/challenge?purpose=fun")
    assert_problem(answer, "bad-request")
    assert "launch, unlock" in answer.json["detail"]


@pytest.mark.parametrize("path", POSTS)
def test_large_body_is_refused(public, internal, path):
    """A launch may have a megabyte."""
    body = json.dumps({"provider": "altcha", "solution": "x" * (16 * 1024 + 1)})
    assert_problem(public.post(path, data=body, content_type="application/json"), "too-large")
    body = json.dumps({"user": "a", "image": "i", "token": "x" * (1 << 20)})
    assert_problem(internal.post("/api/launches", data=body, content_type="application/json"), "too-large")


LAUNCH = {"user": "alice", "image": "image:1"}
MALFORMED = {
    "user": ["", None, 1, "x" * 256],
    "server": [None, "x" * 256],
    "image": [None, "x" * 2049],
    "repository": [1],
    "token": [1],
    "client_address": [["x"]],
    "requested_at": ["now", -1, 1e12, True, float("nan"), float("inf")],
    "context": ["yes", None],
}


@pytest.mark.parametrize("field", MALFORMED)
def test_malformed_launch_is_refused_and_its_field_named(internal, in_redis, field):
    for value in MALFORMED[field]:
        answer = internal.post("/api/launches", json=LAUNCH | {field: value})
        assert_problem(answer, "bad-request")
        assert answer.json["detail"].startswith(f"{field}: ")
    assert in_redis.keys("binder-egress:launch:*") == []


def test_no_name_and_no_address_causes_a_fault(internal):
    for name in ("ü😀", "a b", "a/b", "%2F", "\x00", "-", "a" * 255, "\n"):
        assert launch(internal, name, server=name)["tier"] == "unverified"
    for address in ("", "x", "1.2.3.4, 5.6.7.8", "1.2.3.4:80", "[::1]", "fe80::1%eth0", "999.1.1.1", "\x00"):
        assert launch(internal, client_address=address)["tier"] == "unverified"


# -- methods and paths


@pytest.mark.parametrize("path", ["/api/launches", "/egress/api/launches", "/metrics", "/egress/metrics", "/healthz", "/readyz"])
def test_public_port_does_not_serve_in_cluster_paths(public, path):
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    assert_problem(public.get(path, headers=headers), "not-found")
    assert_problem(public.post(path, json=LAUNCH, headers=headers), "not-found")


def test_other_paths_are_not_found_and_other_methods_are_refused(public, internal, store):
    run_pod(store)
    for path in ("/", "/egress/", "/egress/x", "/challenge", "/egress/servers/", "/egress/servers/a/b/c"):
        assert_problem(public.get(path), "not-found")
    for path in ("/egress/challenge", "/egress/servers/alice", "/egress/openapi.json", "/challenge"):
        assert_problem(internal.get(path), "not-found")
    unsupported = (("GET", "/egress/passes"), ("TRACE", "/egress/challenge"), ("BREW", "/egress/passes"), ("PUT", "/api/launches"))
    for method, path in unsupported:
        answer = (internal if path.startswith("/api/") else public).open(path, method=method)
        assert_problem(answer, "method-not-allowed")
        assert "OPTIONS" in answer.headers["Allow"]


# -- headers


def test_answers_have_security_headers_and_neither_set_nor_need_a_cookie(public, services, store, impatient):
    run_pod(store)
    page = {"Accept": "text/html"}
    answers = {
        "challenge": public.get("/egress/challenge"),
        "pass": public.post("/egress/passes", json={"provider": "altcha", "solution": solve(public)}),
        "refusal": public.post("/egress/passes", json={"provider": "altcha", "solution": "x"}),
        "page": public.get("/egress/servers/alice", headers=page),
        "text": public.get("/egress/servers/alice"),
        "no server": public.get("/egress/servers/bob", headers=page),
        "unlock": public.post("/egress/servers/alice", json={"token": get_pass(public)}),
        "static": public.get(f"/egress/static/{services.assets.file('server.css')}"),
        "openapi": public.get("/egress/openapi.json"),
        "preflight": public.options("/egress/passes"),
        "nothing": public.get("/egress/x"),
    }
    for name, answer in answers.items():
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; "), name
        assert "frame-ancestors 'none'" in policy, name
        assert "unsafe" not in policy, name
        assert answer.headers["Referrer-Policy"] == "no-referrer", name
        assert answer.headers["X-Content-Type-Options"] == "nosniff", name
        kept = {"static": "public, max-age=31536000, immutable", "openapi": "no-cache"}
        assert answer.headers["Cache-Control"] == kept.get(name, "no-store"), name
        assert ("camera=()" in answer.headers.get("Permissions-Policy", "")) == (name in ("page", "no server")), name
        assert "Set-Cookie" not in answer.headers, name
        assert "Cookie" not in answer.headers.get("Vary", ""), name
        assert "Access-Control-Allow-Credentials" not in answer.headers, name


# -- the bearer token


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer ü", "Bearer \xff", API_TOKEN),
        *(f"Bearer {API_TOKEN}x", f"Bearer {API_TOKEN[:-1]}", f"Bearer {API_TOKEN.upper()}", f"Basic {API_TOKEN}"),
        *(f"Bearer {API_TOKEN} {API_TOKEN}", f"Bearer, Bearer {API_TOKEN}"),
    ],
)
def test_launch_without_the_bearer_token_is_refused_unread(services, in_redis, header):
    client = internal_client(services)
    del client.environ_base["HTTP_AUTHORIZATION"]
    for body in (json.dumps(LAUNCH), "{", "x" * 1000):
        headers = {} if header is None else {"Authorization": header}
        answer = client.post("/api/launches", data=body, content_type="application/json", headers=headers)
        assert_problem(answer, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert in_redis.keys("binder-egress:launch:*") == []


def test_bearer_token_is_accepted_and_probes_and_metrics_need_none(services):
    client = internal_client(services)
    for header in (f"bearer {API_TOKEN}", f"BEARER  {API_TOKEN} "):
        client.environ_base["HTTP_AUTHORIZATION"] = header
        assert launch(client)["tier"] == "unverified"
    del client.environ_base["HTTP_AUTHORIZATION"]
    assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/openapi.json")] == [200] * 4


def test_bearer_token_may_be_longer_than_what_is_read_of_other_headers(make_services):
    token = "t" * 2000
    client = internal_client(make_services(api_token=token))
    for sent, status in ((token, 200), (token[:-1], 401)):
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {sent}"
        assert client.get("/api/grants").status_code == status


# -- faults and logs


def logged(caplog):
    return "\n".join(f"{record.getMessage()} {record.exc_text} {vars(record)}" for record in caplog.records)


def test_tokens_and_solutions_are_never_logged(public, internal, store, caplog, impatient, redis_server):
    caplog.set_level(logging.DEBUG)
    run_pod(store)
    solution, unlocking = solve(public), solve(public, "unlock")
    token = public.post("/egress/passes", json={"provider": "altcha", "solution": solution}).json["token"]
    public.post("/egress/passes", json={"provider": "altcha", "solution": solution})
    public.post("/egress/servers/alice", json={"provider": "altcha", "solution": unlocking})
    for sent in (token, token[:-1], token + "x"):
        launch(internal, token=sent)
        public.post("/egress/servers/alice", json={"token": sent})
        public.post("/egress/servers/alice", json={"token": sent, "more": sent})
        public.post("/egress/servers/alice", json={"token": [sent]})
    redis_server.stop()
    internal.post("/api/launches", json=LAUNCH | {"token": token})
    public.post("/egress/servers/alice", json={"token": token})
    redis_server.start()
    text = logged(caplog)
    assert "pass" in text
    parts = (token[:40], token[-30:], solution[:200], solution[-200:], unlocking[-200:], API_TOKEN, "first-key", "second-key")
    assert not [secret for secret in parts if secret in text]


def test_fault_is_a_problem_without_details_and_does_not_log_the_request(public, internal, monkeypatch, caplog):
    token = get_pass(public)
    monkeypatch.setattr("binder_egress.model.passes.Passes.read", Mock(side_effect=RuntimeError("the secret cause")))
    answer = internal.post("/api/launches", json=LAUNCH | {"token": token})
    assert_problem(answer, "internal")
    assert "secret cause" not in answer.text
    assert "secret cause" in caplog.text
    assert token not in logged(caplog)


@pytest.mark.parametrize(
    ("prefixes", "address", "logged_as"),
    [
        ({}, "198.51.100.7", "198.51.100.0/24"),
        ({}, "2001:db8:1:2::3", "2001:db8:1::/48"),
        ({}, "10.0.0.7", ""),
        ({"log_ipv4_prefix": 32}, "198.51.100.7", "198.51.100.7/32"),
        ({"log_ipv6_prefix": 128}, "2001:db8:1:2::3", "2001:db8:1:2::3/128"),
    ],
)
def test_launch_logs_one_line_with_its_address_cut_as_the_operator_chose(make_services, caplog, prefixes, address, logged_as):
    caplog.set_level(logging.INFO)
    services = make_services(**prefixes)
    launch(internal_client(services), "alice", client_address=address)
    public_client(services, address).post("/egress/passes", json={"provider": "altcha", "solution": "x"})
    lines = [(record.msg, record.fields) for record in caplog.records if hasattr(record, "fields")]
    assert [(event, fields["client_network"]) for event, fields in lines] == [("launch", logged_as), ("solution", logged_as)]
    known = ("user", "server", "repository", "tier", "rule", "pass_outcome")
    said = ("alice", "", "https://example.com/a/b", "unverified", "default", "none")
    assert tuple(lines[0][1][name] for name in known) == said
