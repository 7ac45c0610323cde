"""Answers of both ports to wrong and unusual requests."""

import base64
import hashlib
import ipaddress
import json
import logging
import re
import time
from dataclasses import replace

import pytest

from tests.support.apps import API_TOKEN, CLIENT, get_pass, internal_client, launch, make_settings, public_client, run_pod, solve
from verifier.networks import Client, client_of
from verifier.store.connection import connect
from verifier.store.store import Store
from verifier.web.app import create_app, create_public_app, create_services
from verifier.web.assets import Assets
from verifier.web.problems import TITLES, TYPE

POSTS = ["/egress/passes", "/egress/servers/alice", "/egress/servers/alice/x"]


def assert_problem(answer, kind):
    """Check for a problem of RFC 9457 with our stable type."""
    status, title = TITLES[kind]
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    assert answer.json.keys() == {"type", "title", "status", "detail"}
    assert (answer.json["type"], answer.json["title"], answer.json["status"]) == (TYPE + kind, title, status)
    assert answer.json["detail"]


def test_types_of_problems_are_stable():
    """Clients tell problems apart by type, so a change here changes the interface."""
    assert {kind: status for kind, (status, _) in TITLES.items()} == {
        "bad-request": 400,
        "unauthorized": 401,
        "forbidden-origin": 403,
        "key-refused": 401,
        "key-expired": 403,
        "key-revoked": 403,
        "key-elsewhere": 403,
        "pass-refused": 403,
        "solution-refused": 403,
        "blocked": 403,
        "price-risen": 403,
        "not-found": 404,
        "no-such-server": 404,
        "no-such-block": 404,
        "no-such-key": 404,
        "method-not-allowed": 405,
        "refused": 409,
        "too-large": 413,
        "not-json": 415,
        "budget-spent": 429,
        "too-many-rejected": 429,
        "key-spent": 429,
        "too-many-wrong-keys": 429,
        "too-many-reports": 429,
        "provider-misconfigured": 503,
        "provider-unavailable": 503,
        "unavailable": 503,
        "internal": 500,
    }


# -- bodies


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"])
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


@pytest.mark.parametrize("value", [None, 1, True, ["x"], {"x": 1}])
def test_field_of_the_wrong_type_is_named(public, value):
    answer = public.post("/egress/passes", json={"provider": "altcha", "solution": value})
    assert_problem(answer, "bad-request")
    assert answer.json["detail"].startswith("solution: ")


def test_unknown_key_is_named(public):
    answer = public.post("/egress/passes", json={"provider": "altcha", "solution": "x", "solutoin": "x"})
    assert_problem(answer, "bad-request")
    assert answer.json["detail"].startswith("solutoin: ")


def test_unknown_provider_is_answered_with_the_known_ones(public):
    answer = public.post("/egress/passes", json={"provider": "turnstile", "solution": "x"})
    assert_problem(answer, "bad-request")
    assert "altcha" in answer.json["detail"]


def test_unknown_purpose_is_answered_with_the_known_ones(public):
    answer = public.get("/egress/challenge?purpose=fun")
    assert_problem(answer, "bad-request")
    assert "launch, unlock" in answer.json["detail"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("size", [16 * 1024 + 1, 1 << 20])
def test_large_body_is_refused(public, path, size):
    body = json.dumps({"provider": "altcha", "solution": "x" * size})
    assert_problem(public.post(path, data=body, content_type="application/json"), "too-large")


def test_launch_with_a_large_token_is_answered(internal):
    assert launch(internal, token="x" * 900_000)["pass_outcome"] == "invalid"


def test_launch_of_more_than_a_megabyte_is_refused(internal):
    body = json.dumps({"user": "a", "image": "i", "token": "x" * (1 << 20)})
    assert_problem(internal.post("/api/launches", data=body, content_type="application/json"), "too-large")


LAUNCH = {"user": "alice", "image": "image:1"}


@pytest.mark.parametrize(
    "change",
    [
        {"user": ""},
        {"user": None},
        {"user": 1},
        {"user": "x" * 256},
        {"server": None},
        {"server": "x" * 256},
        {"image": None},
        {"image": "x" * 2049},
        {"repository": "x" * 2049},
        {"token": 1},
        {"client_address": ["x"]},
        {"requested_at": "now"},
        {"requested_at": -1},
        {"requested_at": 1e12},
        {"requested_at": True},
        {"context": "yes"},
        {"context": None},
    ],
    ids=lambda change: repr(change)[:30],
)
def test_malformed_launch_is_refused_and_its_field_named(internal, in_redis, change):
    answer = internal.post("/api/launches", json=LAUNCH | change)
    assert_problem(answer, "bad-request")
    assert answer.json["detail"].startswith(next(iter(change)) + ": ")
    assert in_redis.keys("binder-egress:launch:*") == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-Infinity"])
def test_time_that_is_not_a_number_is_refused(internal, value):
    body = json.dumps(LAUNCH)[:-1] + f', "requested_at": {value}}}'
    assert_problem(internal.post("/api/launches", data=body, content_type="application/json"), "bad-request")


@pytest.mark.parametrize("address", ["", "x", "1.2.3.4, 5.6.7.8", "1.2.3.4:80", "[::1]", "fe80::1%eth0", "999.1.1.1", "\x00"])
def test_invalid_client_address_causes_no_fault(internal, address):
    assert launch(internal, client_address=address)["tier"] == "unverified"


@pytest.mark.parametrize("name", ["ü😀", "a b", "a/b", "%2F", "\x00", "-", "a" * 255, "\n"])
def test_any_server_name_is_accepted(internal, name):
    assert launch(internal, name, server=name)["tier"] == "unverified"


# -- methods and paths


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/egress/challenge"),
        ("GET", "/egress/passes"),
        ("DELETE", "/egress/passes"),
        ("PUT", "/egress/servers/alice"),
        ("PATCH", "/egress/servers/alice/x"),
        ("DELETE", "/egress/servers/alice"),
        ("TRACE", "/egress/challenge"),
        ("POST", "/egress/openapi.json"),
        ("BREW", "/egress/passes"),
    ],
)
def test_unsupported_method_is_refused(public, method, path):
    answer = public.open(path, method=method)
    assert_problem(answer, "method-not-allowed")
    assert "OPTIONS" in answer.headers["Allow"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_unsupported_method_is_refused_in_the_cluster(internal, method):
    assert_problem(internal.open("/api/launches", method=method), "method-not-allowed")


@pytest.mark.parametrize(
    "path",
    ["/", "/egress", "/egress/", "/egress/x", "/challenge", "/egress/servers", "/egress/servers/", "/favicon.ico",
     "/egress/servers/a/b/c", "/egress/passes/"],
)  # fmt: skip
def test_unknown_path_is_not_found(public, path):
    assert_problem(public.get(path), "not-found")


@pytest.mark.parametrize("path", ["/api/launches", "/egress/api/launches", "/metrics", "/egress/metrics", "/healthz", "/readyz"])
def test_public_port_does_not_serve_in_cluster_paths(public, path):
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    assert_problem(public.get(path, headers=headers), "not-found")
    assert_problem(public.post(path, json=LAUNCH, headers=headers), "not-found")


@pytest.mark.parametrize(
    "path", ["/egress/challenge", "/egress/passes", "/egress/servers/alice", "/egress/openapi.json", "/challenge"]
)
def test_in_cluster_port_does_not_serve_public_paths(internal, store, path):
    run_pod(store)
    assert_problem(internal.get(path), "not-found")


@pytest.mark.parametrize(("port", "inside"), [("8080", False), ("8081", True)], ids=["public", "in-cluster"])
@pytest.mark.parametrize("headers", [{}, {"Host": "x:8081"}, {"Host": "x:8080"}, {"X-Forwarded-Port": "8081"}])
def test_listening_port_decides_which_app_answers(settings, port, inside, headers):
    from werkzeug.test import EnvironBuilder, run_wsgi_app

    app = create_app(create_services(settings))

    def status(path):
        environ = EnvironBuilder(path, headers=headers).get_environ() | {"SERVER_PORT": port}
        return int(run_wsgi_app(app, environ)[1].split()[0])

    assert (status("/metrics"), status("/egress/challenge")) == ((200, 404) if inside else (404, 200))


def test_base_path_can_be_changed(redis_server, store):
    services = create_services(make_settings(redis_server, base_path="/a/b"), store)
    client = public_client(services)
    assert client.get("/a/b/challenge").status_code == 200
    assert_problem(client.get("/egress/challenge"), "not-found")


# -- pages of other sites

LISTED = "https://course.example.com"


@pytest.fixture
def open_to(redis_server, store):
    """A client of a site that lists these origins."""

    def make(*origins):
        return public_client(create_services(make_settings(redis_server, allowed_origins=json.dumps(origins)), store))

    return make


@pytest.mark.parametrize("written", ["https://Course.Example.com", "https://course.example.com:443"])
def test_origin_is_listed_in_every_spelling(open_to, written):
    answer = open_to(written).post("/egress/passes", json={}, headers={"Origin": LISTED})
    assert answer.status_code == 400
    assert answer.headers["Access-Control-Allow-Origin"] == LISTED


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://",
        "https://",
        "localhost",
        "file://",
        "https://localhost.evil.example",
        "https://evil.example/localhost",
        "https://localhost@evil.example",
        "https://evil.example#localhost",
        "https://localhost:8443",
        "http://[::1",
        "https://course.example.com.evil.example",
        "https://course.example.com/",
        "http://course.example.com",
        "*",
        "\x7f",
        "ö",
    ],
)
@pytest.mark.parametrize("path", POSTS)
def test_post_from_a_foreign_origin_is_refused(open_to, store, path, origin):
    run_pod(store)
    answer = open_to(LISTED).post(path, json={"token": "x"}, headers={"Origin": origin})
    assert_problem(answer, "forbidden-origin")
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://localhost", "https://localhost", "https://LOCALHOST"])
def test_post_from_our_own_origin_is_accepted(public, origin):
    answer = public.post("/egress/passes", json={"provider": "altcha", "solution": solve(public)}, headers={"Origin": origin})
    assert answer.status_code == 201
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_public_url_is_our_own_origin(redis_server, store):
    client = public_client(create_services(make_settings(redis_server, public_url="https://hub.example.org"), store))
    store.ping()
    body = {"provider": "altcha", "solution": solve(client)}
    assert client.post("/egress/passes", json=body, headers={"Origin": "https://hub.example.org"}).status_code == 201


def test_post_without_an_origin_is_accepted(public):
    """curl and scripts send no Origin header."""
    assert get_pass(public)


@pytest.mark.parametrize(("listed", "origin"), [(LISTED, LISTED), ("*", "https://anything.example"), ("*", "null")])
def test_listed_origin_may_post_and_read_the_answer(open_to, store, listed, origin):
    client = open_to(listed)
    store.ping()
    answer = client.post("/egress/passes", json={"provider": "altcha", "solution": solve(client)}, headers={"Origin": origin})
    assert answer.status_code == 201
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" in answer.headers["Vary"]


def test_listed_origin_can_read_a_refusal(open_to):
    answer = open_to(LISTED).post("/egress/passes", json={"provider": "altcha", "solution": "x"}, headers={"Origin": LISTED})
    assert_problem(answer, "solution-refused")
    assert answer.headers["Access-Control-Allow-Origin"] == LISTED


@pytest.mark.parametrize(("origin", "allowed"), [(LISTED, LISTED), ("https://evil.example", None), ("null", None)])
@pytest.mark.parametrize("path", POSTS)
def test_preflight_allows_listed_origins_only(open_to, path, origin, allowed):
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answer = open_to(LISTED).options(path, headers=headers)
    assert answer.status_code == 204
    assert answer.headers.get("Access-Control-Allow-Origin") == allowed
    assert answer.headers.get("Access-Control-Allow-Headers") == (
        allowed and ("Authorization, Content-Type" if path == "/egress/passes" else "Content-Type")
    )
    assert "Origin" in answer.headers["Vary"]


def test_challenge_is_public_but_only_listed_origins_can_read_it(open_to):
    client = open_to(LISTED)
    for origin, allowed in ((LISTED, LISTED), ("https://evil.example", None)):
        answer = client.get("/egress/challenge", headers={"Origin": origin})
        assert answer.status_code == 200
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed


@pytest.mark.parametrize("path", POSTS)
def test_page_of_a_federation_works_with_another_member(open_to, store, path):
    """mybinder.org's page with a build on hub.member.example: preflight, then the request."""
    run_pod(store)
    client = open_to("https://mybinder.org", LISTED)
    client.environ_base["HTTP_HOST"] = "hub.member.example"
    for origin, allowed in (("https://mybinder.org", True), (LISTED, True), ("https://mybinder.org.evil.example", False)):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        preflight = client.options(path, headers=headers)
        answer = client.post(path, json={"provider": "altcha", "solution": "x"}, headers={"Origin": origin})
        if allowed:
            for found in (preflight, answer):
                assert found.headers["Access-Control-Allow-Origin"] == origin
            assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
            # The script can read how long to wait.
            assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After"
            assert answer.status_code in (403, 404) and "forbidden-origin" not in answer.text
        else:
            assert [name for name in dict(preflight.headers) if name.startswith("Access-Control")] == []
            assert_problem(answer, "forbidden-origin")
            assert "Access-Control-Allow-Origin" not in answer.headers


# -- the script for launch pages

SCRIPT = b"export const checksum = 'of this';"


@pytest.fixture
def with_script(redis_server, store, tmp_path):
    """A client of a site with a built script for launch pages."""
    (tmp_path / "manifest.json").write_text('{"launch.js": "launch-0123456789ab.js"}')
    (tmp_path / "launch-0123456789ab.js").write_bytes(SCRIPT)
    made = create_services(make_settings(redis_server, allowed_origins=json.dumps([LISTED])), store)
    return public_client(replace(made, assets=Assets(tmp_path)))


def test_launch_script_has_a_stable_address_and_is_revalidated(with_script):
    answer = with_script.get("/egress/launch.js")
    assert (answer.status_code, answer.data, answer.content_type) == (200, SCRIPT, "text/javascript; charset=utf-8")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    again = with_script.get("/egress/launch.js", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    assert again.headers["Cache-Control"] == "no-cache"
    assert again.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def test_changed_launch_script_has_another_etag(with_script, redis_server, store, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/manifest.json").write_text('{"launch.js": "launch-ba9876543210.js"}')
    (tmp_path / "new/launch-ba9876543210.js").write_text("new")
    old = with_script.get("/egress/launch.js").headers["ETag"]
    services = replace(create_services(make_settings(redis_server), store), assets=Assets(tmp_path / "new"))
    answer = public_client(services).get("/egress/launch.js", headers={"If-None-Match": old})
    assert (answer.status_code, answer.text) == (200, "new")


@pytest.mark.parametrize(("origin", "allowed"), [(LISTED, LISTED), ("https://evil.example", None), (None, None)])
def test_launch_script_can_be_loaded_with_integrity_by_listed_pages(with_script, origin, allowed):
    answer = with_script.get("/egress/launch.js", headers={"Origin": origin} if origin else {})
    assert answer.headers.get("Access-Control-Allow-Origin") == allowed
    assert "Origin" in answer.headers["Vary"]


def test_static_files_can_be_loaded_by_launch_pages_of_another_host(public, services):
    answer = public.get(f"/egress/static/{services.assets.file('server.js')}")
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


# -- headers


@pytest.fixture
def answers(public, services, store, monkeypatch):
    """One answer of each endpoint and each error."""
    monkeypatch.setattr("verifier.web.servers.UNLOCK_WAIT_SECONDS", 0)
    run_pod(store)
    page = {"Accept": "text/html"}
    return {
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


def test_answers_neither_set_nor_need_a_cookie(answers):
    for name, answer in answers.items():
        assert "Set-Cookie" not in answer.headers, name
        assert "Cookie" not in answer.headers.get("Vary", ""), name
        assert "Access-Control-Allow-Credentials" not in answer.headers, name


def test_answers_have_security_headers(answers):
    for name, answer in answers.items():
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; "), name
        assert "frame-ancestors 'none'" in policy, name
        assert "unsafe" not in policy, name
        assert answer.headers["Referrer-Policy"] == "no-referrer", name
        assert answer.headers["X-Content-Type-Options"] == "nosniff", name
        assert answer.headers["Cache-Control"] == ("public, max-age=31536000, immutable" if name == "static" else "no-store"), name
        assert ("camera=()" in answer.headers.get("Permissions-Policy", "")) == (name in ("page", "no server")), name


# -- page of a server that does not exist


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("path", ["/egress/servers/bob", "/egress/servers/bob/lab"])
def test_browser_gets_a_page_about_a_missing_server(public, path):
    answer = public.get(path, headers={"Accept": BROWSER})
    assert (answer.status_code, answer.content_type) == (404, "text/html; charset=utf-8")
    assert re.search(r"<h1>[^<]+</h1>\s*</div>\s*<p>[^<]+</p>", answer.text)
    assert "Accept" in answer.headers["Vary"]
    assert not re.search(r"<script(?![^>]*src=)|<style| style=| on\w+=|javascript:", answer.text)


@pytest.mark.parametrize("accept", ["application/json", None])
def test_other_clients_get_a_problem_about_a_missing_server(public, accept):
    answer = public.get("/egress/servers/bob", headers={"Accept": accept} if accept else {})
    assert_problem(answer, "no-such-server")
    assert "Accept" in answer.headers["Vary"]


def test_browser_gets_a_page_while_redis_is_away(public, redis_server):
    redis_server.stop()
    answer = public.get("/egress/servers/bob", headers={"Accept": BROWSER})
    assert (answer.status_code, answer.content_type) == (503, "text/html; charset=utf-8")
    assert re.search(r"<h1>[^<]+</h1>\s*</div>\s*<p>[^<]+</p>", answer.text)
    assert answer.headers["Retry-After"] == "5"


def test_post_is_answered_with_json(public):
    """A browser gets JSON too, as the script of the page reads it."""
    answer = public.post("/egress/servers/bob", json={"token": "x"}, headers={"Accept": BROWSER})
    assert_problem(answer, "no-such-server")


# -- the address of the client


@pytest.mark.parametrize(
    ("proxies", "forwarded", "network"),
    [
        pytest.param(0, "203.0.113.1", "192.0.2.1/32", id="0: the header is not believed"),
        pytest.param(1, "203.0.113.1", "203.0.113.1/32", id="1: the proxy's word"),
        pytest.param(1, "198.51.100.66, 203.0.113.1", "203.0.113.1/32", id="1: what the client wrote is not believed"),
        pytest.param(1, "x, y, z, 203.0.113.1", "203.0.113.1/32", id="1: rubbish before it"),
        pytest.param(2, "198.51.100.66, 203.0.113.1, 10.0.0.1", "203.0.113.1/32", id="2: the outer proxy's word"),
        pytest.param(2, "203.0.113.1, 198.51.100.2", "203.0.113.1/32", id="2: both proxies"),
        pytest.param(2, "203.0.113.1", "192.0.2.1/32", id="2: one proxy was passed by"),
        pytest.param(1, "", "192.0.2.1/32", id="1: no header"),
        pytest.param(1, "rubbish", "", id="1: the proxy sent rubbish"),
        pytest.param(1, "10.1.2.3", "", id="1: the proxy hides its clients"),
        pytest.param(1, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="1: IPv6"),
    ],
)
def test_forwarding_header_is_used_only_from_trusted_proxies(redis_server, store, proxies, forwarded, network):
    services = create_services(make_settings(redis_server, trusted_proxies=proxies), store)
    client = create_public_app(services).test_client()
    answer = client.get("/egress/challenge", headers={"X-Forwarded-For": forwarded}, environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.json["providers"][0]["challenge"]["parameters"]["data"]["network"] == network


PROXIES = ["10.1.0.0/24", "fd00:1::/64", "203.0.113.64/26"]


@pytest.mark.parametrize(
    ("sender", "forwarded", "expected"),
    [
        pytest.param("10.1.0.1", "198.51.100.1", ("198.51.100.1", True), id="a proxy's word"),
        pytest.param("10.1.0.1", "203.0.113.9, 198.51.100.1", ("198.51.100.1", True), id="what the client wrote"),
        pytest.param("::ffff:10.1.0.1", "198.51.100.1", ("198.51.100.1", True), id="a mapped proxy"),
        pytest.param("fd00:1::9", "2001:db8::1, 203.0.113.70", ("2001:db8::1", True), id="two proxies"),
        pytest.param("10.1.0.1", "198.51.100.1, 10.2.0.1, 10.1.0.2", ("10.2.0.1", True), id="an unknown proxy"),
        pytest.param("10.1.0.1", "10.1.0.3, 10.1.0.2", ("10.1.0.3", True), id="a proxy as the client"),
        pytest.param("10.1.0.1", "rubbish", ("rubbish", True), id="rubbish"),
        pytest.param("10.1.0.1", "198.51.100.1,", ("", True), id="an empty entry"),
        pytest.param("10.1.0.1", "", ("10.1.0.1", False), id="no header"),
        pytest.param("10.1.1.1", "198.51.100.1", ("10.1.1.1", False), id="a pod's word"),
        pytest.param("192.0.2.1", "198.51.100.1", ("192.0.2.1", False), id="a stranger's word"),
        pytest.param("10.1.1.1", "198.51.100.1, 10.1.0.1", ("10.1.1.1", False), id="a pod that invents a proxy"),
    ],
)
def test_proxies_may_be_networks(sender, forwarded, expected):
    trusted = [ipaddress.ip_network(cidr) for cidr in PROXIES]
    assert client_of(sender, forwarded, trusted) == Client(*expected)


@pytest.mark.parametrize(("sender", "scheme"), [("10.1.0.1", "https"), ("10.1.1.1", "http")])
def test_scheme_is_believed_from_proxies_only(redis_server, store, sender, scheme):
    services = create_services(make_settings(redis_server, trusted_proxies=PROXIES), store)
    client = create_public_app(services).test_client()
    headers = {"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "https"}
    answer = client.get("/egress/v1/third-party.json", headers=headers, environ_base={"REMOTE_ADDR": sender})
    assert answer.json["scripts"]["third-party.js"]["address"].startswith(f"{scheme}://")


@pytest.mark.parametrize(
    ("sent", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("ftp", "http"),
        ("https://[", "http"),
        ("https://hub.example.org:99999", "http"),
        ("x" * 1000, "http"),
    ],
)
def test_scheme_that_is_none_counts_as_not_sent(public, sent, scheme):
    headers = {"X-Forwarded-Proto": sent}
    answer = public.get("/egress/v1/third-party.json", headers=headers)
    assert answer.json["scripts"]["third-party.js"]["address"].startswith(f"{scheme}://localhost/")
    # Two slashes are redirected, to an address with the scheme.
    answer = public.get("/egress//challenge", headers=headers)
    assert (answer.status_code, answer.headers["Location"]) == (308, f"{scheme}://localhost/egress/challenge")


@pytest.mark.parametrize(
    ("trusted", "sender", "forwarded", "rule"),
    [
        (1, "10.9.9.9", "192.0.2.7", "own-network"),
        (1, "10.9.9.9", "192.0.2.7, 198.51.100.1", "default"),
        (1, "192.0.2.7", None, "own-network"),
        (0, "192.0.2.7", "198.51.100.1", "own-network"),
        (["10.1.0.0/24"], "10.1.0.1", "198.51.100.1, 192.0.2.7", "own-network"),
        (["10.1.0.0/24"], "192.0.2.7", "198.51.100.1", "own-network"),
        (["10.1.0.0/24"], "10.1.0.1", "192.0.2.7, 198.51.100.1", "default"),
    ],
)
def test_launch_has_its_address_by_the_same_rule(redis_server, store, trusted, sender, forwarded, rule):
    settings = make_settings(redis_server, trusted_proxies=trusted, self_networks=["192.0.2.7/32"])
    internal = internal_client(create_services(settings, store))
    assert launch(internal, client_address=sender, forwarded_for=forwarded)["rule"] == rule


def test_forged_forwarding_header_does_not_validate_a_solution(redis_server, store):
    """A solution from another network, presented with its maker's address in front."""
    services = create_services(make_settings(redis_server), store)
    store.ping()
    solution = solve(public_client(services, "203.0.113.1"))
    answer = public_client(services, "203.0.113.1, 198.51.100.9").post(
        "/egress/passes", json={"provider": "altcha", "solution": solution}
    )
    assert_problem(answer, "solution-refused")


@pytest.mark.parametrize("header", ["Forwarded", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Prefix", "CF-Connecting-IP"])
def test_other_forwarding_headers_are_ignored(public, store, header):
    run_pod(store)
    answer = public.get("/egress/servers/alice", headers={header: "evil.example", "Accept": "text/plain"})
    assert "http://localhost/egress/" in answer.text
    data = public.get("/egress/challenge", headers={header: "203.0.113.5"}).json["providers"][0]["challenge"]["parameters"]["data"]
    assert data["network"] == f"{CLIENT}/32"


# -- the bearer token


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {API_TOKEN}x",
        f"Bearer {API_TOKEN[:-1]}",
        f"Bearer {API_TOKEN.upper()}",
        f"Basic {API_TOKEN}",
        API_TOKEN,
        f"Bearer {API_TOKEN} {API_TOKEN}",
        "Bearer ü",
        "Bearer \xff",
        f"Bearer, Bearer {API_TOKEN}",
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


@pytest.mark.parametrize("header", [f"Bearer {API_TOKEN}", f"bearer {API_TOKEN}", f"BEARER  {API_TOKEN} "])
def test_bearer_token_is_accepted(services, header):
    client = internal_client(services)
    client.environ_base["HTTP_AUTHORIZATION"] = header
    assert launch(client)["tier"] == "unverified"


def test_probes_and_metrics_need_no_bearer_token(services):
    client = internal_client(services)
    del client.environ_base["HTTP_AUTHORIZATION"]
    assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/openapi.json")] == [200] * 4


# -- faults and logs


def test_fault_is_a_problem_without_details(services, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("the secret cause")

    monkeypatch.setattr("verifier.decisions.rules.Rules.decide", fail)
    answer = internal_client(services).post("/api/launches", json=LAUNCH)
    assert_problem(answer, "internal")
    assert "secret cause" not in answer.text
    assert "secret cause" in caplog.text


def logged(caplog):
    """The whole log, with every field."""
    return "\n".join(f"{record.getMessage()} {record.exc_text} {vars(record)}" for record in caplog.records)


def test_tokens_and_solutions_are_never_logged(public, internal, store, caplog, monkeypatch, redis_server):
    monkeypatch.setattr("verifier.web.servers.UNLOCK_WAIT_SECONDS", 0)
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
    for secret in (
        token,
        token[:40],
        token[-30:],
        solution[:200],
        solution[-200:],
        unlocking[-200:],
        API_TOKEN,
        "first-key",
        "second-key",
    ):
        assert secret not in text


def test_fault_does_not_log_the_request(public, internal, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("broken")

    token = get_pass(public)
    monkeypatch.setattr("verifier.passes.Passes.read", fail)
    internal.post("/api/launches", json=LAUNCH | {"token": token})
    assert "broken" in caplog.text
    assert token not in logged(caplog)


def test_launch_logs_one_line(internal, caplog):
    caplog.set_level(logging.INFO)
    launch(internal, "alice", requested_at=time.time())
    (record,) = [record for record in caplog.records if record.getMessage() == "launch"]
    assert record.fields | {"grant": ""} == {
        "user": "alice", "server": "", "repository": "https://example.com/a/b", "client_network": "198.51.100.0/24",
        "claim": "none", "tier": "unverified", "rule": "default", "pass_outcome": "none", "grant": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prefixes", "address", "logged_as"),
    [
        ({}, "198.51.100.7", "198.51.100.0/24"),
        ({}, "2001:db8:1:2::3", "2001:db8:1::/48"),
        ({}, "10.0.0.7", ""),
        ({"log_ipv4_prefix": 32}, "198.51.100.7", "198.51.100.7/32"),
        ({"log_ipv4_prefix": 0}, "198.51.100.7", "0.0.0.0/0"),
        ({"log_ipv6_prefix": 128}, "2001:db8:1:2::3", "2001:db8:1:2::3/128"),
    ],
)
def test_log_cuts_addresses_as_the_operator_chose(redis_server, caplog, prefixes, address, logged_as):
    caplog.set_level(logging.INFO)
    settings = make_settings(redis_server, **prefixes)
    client = connect(settings)
    services = create_services(settings, Store(client))
    launch(internal_client(services), "alice", client_address=address)
    public_client(services, address).post("/egress/passes", json={"provider": "altcha", "solution": "x"})
    assert {record.msg: record.fields["client_network"] for record in caplog.records if hasattr(record, "fields")} == {
        "launch": logged_as, "solution": logged_as
    }  # fmt: skip
    client.close()


def test_log_entry_is_one_line_of_json():
    from verifier.logs import configuration

    formatter = configuration("info")["formatters"]["json"]["()"]()
    record = logging.makeLogRecord({"msg": "a\nb", "levelname": "INFO", "fields": {"user": 'x\n"\u2028', "more": "ü"}})
    line = formatter.format(record)
    assert len(line.split("\n")) == 1
    assert json.loads(line)["user"] == 'x\n"\u2028'


# -- the script for third-party pages


@pytest.fixture
def for_third_parties(redis_server, store, tmp_path):
    """A client of a site with built scripts for third-party pages."""
    manifest = {
        "third-party.js": "third-party-0123456789ab.js",
        "third-party.mjs": "third-party-ba9876543210.mjs",
        "x.js": "x-1.js",
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for file in manifest.values():
        (tmp_path / file).write_bytes(SCRIPT)
    settings = make_settings(redis_server, allowed_origins=json.dumps([LISTED]), public_url="https://hub.example.org")
    return public_client(replace(create_services(settings, store), assets=Assets(tmp_path)))


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("third-party.js", "no-cache"),
        ("third-party.mjs", "no-cache"),
        ("third-party-0123456789ab.js", "public, max-age=31536000, immutable"),
        ("third-party-ba9876543210.mjs", "public, max-age=31536000, immutable"),
    ],
)
def test_third_party_script_is_stable_or_immutable(for_third_parties, file, kept):
    answer = for_third_parties.get(f"/egress/v1/{file}", headers={"Origin": LISTED})
    assert (answer.status_code, answer.data, answer.content_type) == (200, SCRIPT, "text/javascript; charset=utf-8")
    assert answer.headers["Cache-Control"] == kept
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.headers["Access-Control-Allow-Origin"] == LISTED
    again = for_third_parties.get(f"/egress/v1/{file}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data, again.headers["Cache-Control"]) == (304, b"", kept)
    assert "Access-Control-Allow-Origin" not in again.headers


@pytest.mark.parametrize(
    "file", ["third-party-000000000000.js", "x.js", "x-1.js", "manifest.json", "..%2fmanifest.json", "third-party"]
)
def test_third_party_folder_has_nothing_else(for_third_parties, file):
    answer = for_third_parties.get(f"/egress/v1/{file}")
    assert_problem(answer, "not-found")
    assert answer.headers["Cache-Control"] == "no-store"


def test_list_of_third_party_scripts_has_their_integrity(for_third_parties):
    listed = for_third_parties.get("/egress/v1/third-party.json")
    integrity = f"sha384-{base64.b64encode(hashlib.sha384(SCRIPT).digest()).decode()}"
    address = "https://hub.example.org/egress/v1/third-party-0123456789ab.js"
    assert listed.json == {
        "tag": f'<script async src="{address}" integrity="{integrity}" crossorigin="anonymous"></script>',
        "scripts": {
            "third-party.js": {"address": address, "integrity": integrity},
            "third-party.mjs": {
                "address": "https://hub.example.org/egress/v1/third-party-ba9876543210.mjs",
                "integrity": integrity,
            },
        },
    }
    assert listed.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("origin", ["https://anything.example", "null"])
def test_asterisk_allows_every_origin_without_credentials(open_to, origin):
    client = open_to("*")
    answer = client.get("/egress/challenge", headers={"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Credentials" not in answer.headers
    body = {"provider": "altcha", "solution": solve(client)}
    assert client.post("/egress/passes", json=body, headers={"Origin": origin}).status_code == 201
