"""Pages of other sites: which origins may post to the public port, and read its answers."""

import json

import pytest

from tests.support.apps import make_settings, public_client, run_pod, solve
from tests.support.public_port import LISTED, POSTS, assert_problem
from verifier.web.app import create_services


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
        *("https://evil.example", "null", "http://", "https://", "localhost", "file://", "*", "\x7f", "ö", "http://[::1"),
        *("https://localhost.evil.example", "https://evil.example/localhost", "https://localhost@evil.example"),
        *("https://evil.example#localhost", "https://localhost:8443", "https://course.example.com.evil.example"),
        *("https://course.example.com/", "http://course.example.com"),
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


def test_public_url_is_our_own_origin_and_in_links(redis_server, store):
    client = public_client(create_services(make_settings(redis_server, public_url="https://hub.example.org"), store))
    run_pod(store)
    text = client.get("/egress/servers/alice", headers={"Accept": "text/plain"}).text
    assert "https://hub.example.org/egress/servers/alice/" in text
    body = {"provider": "altcha", "solution": solve(client)}
    assert client.post("/egress/passes", json=body, headers={"Origin": "https://hub.example.org"}).status_code == 201


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
    # The script can read how long to wait.
    assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After"


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
    assert ("POST" in answer.headers.get("Access-Control-Allow-Methods", "")) == bool(allowed)
    assert allowed or [name for name in dict(answer.headers) if name.startswith("Access-Control")] == []


def test_challenge_is_public_but_only_listed_origins_can_read_it(open_to):
    client = open_to("https://mybinder.org", LISTED)
    client.environ_base["HTTP_HOST"] = "hub.member.example"
    for origin, allowed in ((LISTED, LISTED), ("https://mybinder.org", "https://mybinder.org"), ("https://evil.example", None)):
        answer = client.get("/egress/challenge", headers={"Origin": origin})
        assert answer.status_code == 200
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
