"""Pages of other origins: which of them may post to the public port and read its answers, and what pages of JupyterHub may read."""

import json
import re
from unittest.mock import Mock

import pytest

from binder_egress.settings import InvalidSettings
from binder_egress.store.errors import StoreUnavailable
from binder_egress.store.keys import redis_key
from tests.support.apps import internal_client, launch, make_settings, public_client, run_pod, solve
from tests.support.public_port import LISTED, POSTS, assert_problem


@pytest.fixture
def open_to(make_services):

    def make(*origins):
        return public_client(make_services(allowed_origins=json.dumps(origins)))

    return make


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


def test_public_url_is_our_own_origin_and_in_links(make_services, store):
    client = public_client(make_services(public_url="https://hub.example.org"))
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


@pytest.mark.parametrize("written", [LISTED, "https://Course.Example.com", "https://course.example.com:443"])
def test_listed_origin_can_read_a_refusal(open_to, written):
    answer = open_to(written).post("/egress/passes", json={"provider": "altcha", "solution": "x"}, headers={"Origin": LISTED})
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


# -- pages of JupyterHub: they may read what a server may reach, and do nothing else

HUB = "https://hub.example.org"
JSON = {"Accept": "application/json"}


@pytest.fixture
def client(make_services, store):
    run_pod(store)
    # Origins are read as browsers write them.
    return public_client(make_services(hub_url="https://HUB.example.org:443/jupyter/"))


def allowed(answer):
    return {name: value for name, value in answer.headers if name.startswith("Access-Control")}


def test_hubs_origin_alone_may_read_a_servers_state(client):
    """The absence of a server is its state, too."""
    for user, status in (("alice", 200), ("nobody", 404)):
        answer = client.get(f"/egress/servers/{user}/", headers={**JSON, "Origin": HUB})
        assert (answer.status_code, allowed(answer)) == (status, {"Access-Control-Allow-Origin": HUB})
        assert "Origin" in answer.headers["Vary"]
    for origin in ("https://hub.example.org.evil.example", "null", "http://hub.example.org"):
        assert allowed(client.get("/egress/servers/alice/", headers={**JSON, "Origin": origin})) == {}


def test_hubs_origin_may_do_nothing_else(client):
    of_hub = {"Origin": HUB}
    for kind in ("text/html", "text/plain"):
        assert allowed(client.get("/egress/servers/alice/", headers={**of_hub, "Accept": kind})) == {}
    assert allowed(client.get("/egress/challenge", headers={**of_hub, **JSON})) == {}
    for address in ("/egress/servers/alice/", "/egress/passes"):
        preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        assert allowed(client.options(address, headers={**of_hub, **preflight})) == {}
        answer = client.post(address, json={"provider": "altcha", "solution": "x"}, headers=of_hub)
        assert (answer.status_code, allowed(answer)) == (403, {})


# -- from BinderHub's hook, if the operator named none (D-370)


def back(client, user="alice"):
    """The address that the page of a user's server leads back to, or None."""
    page = client.get(f"/egress/servers/{user}/", headers={"Accept": "text/html"}).text
    found = re.search(r'<a id="back"[^>]* href="([^"]+)"', page)
    return found and found[1]


def test_origin_and_way_back_are_what_the_last_launch_said(services, store):
    run_pod(store)
    client = public_client(services)
    assert back(client) is None
    for said in ("https://old.example.org/", "https://HUB.example.org:443/jupyter"):
        launch(internal_client(services), hub_url=said)
    answer = client.get("/egress/servers/alice/", headers={**JSON, "Origin": HUB})
    assert allowed(answer) == {"Access-Control-Allow-Origin": HUB}
    assert allowed(client.get("/egress/servers/alice/", headers={**JSON, "Origin": "https://old.example.org"})) == {}
    assert back(client) == "https://HUB.example.org:443/jupyter/user/alice/"
    # It may do no more than the origin of `hubUrl`.
    assert allowed(client.get("/egress/challenge", headers={**JSON, "Origin": HUB})) == {}
    assert client.post("/egress/servers/alice/", json={"token": "x"}, headers={"Origin": HUB}).status_code == 403


@pytest.mark.parametrize(
    "said",
    [
        None, "", "hub.example.org", "//hub.example.org/", "/jupyter/", "javascript:alert(1)//", "ftp://hub.example.org/",
        "https://someone@hub.example.org/", "https://hub.example.org/\"onclick=", "https://hub.example.org/\n", "https://",
    ],
)  # fmt: skip
def test_text_that_is_no_address_changes_nothing_and_the_launch_is_decided(services, store, said):
    run_pod(store)
    internal = internal_client(services)
    launch(internal, hub_url=f"{HUB}/")
    assert launch(internal, hub_url=said)["tier"] == "unverified"
    assert back(public_client(services)) == f"{HUB}/user/alice/"


def test_text_in_redis_that_is_no_address_counts_as_none(services, store, in_redis):
    run_pod(store)
    client = public_client(services)
    for said in ("null", "javascript:alert(1)//", "https://someone@hub.example.org/"):
        in_redis.set(redis_key("hub"), said)
        answer = client.get("/egress/servers/alice/", headers={**JSON, "Origin": HUB})
        assert (answer.status_code, allowed(answer), back(client)) == (200, {}, None), said


def test_operators_word_wins(client, make_services, store):
    services = make_services(hub_url="https://HUB.example.org:443/jupyter/")
    launch(internal_client(services), hub_url="https://other.example.org/")
    assert allowed(client.get("/egress/servers/alice/", headers={**JSON, "Origin": "https://other.example.org"})) == {}
    assert allowed(client.get("/egress/servers/alice/", headers={**JSON, "Origin": HUB})) == {"Access-Control-Allow-Origin": HUB}
    run_pod(store, "zoë@example.org")
    assert back(client, "zo%C3%AB@example.org") == "https://HUB.example.org:443/jupyter/user/zo%C3%AB%40example.org/"


def test_origin_is_unknown_without_redis(services, store, monkeypatch):
    launch(internal_client(services), hub_url=f"{HUB}/")
    monkeypatch.setattr(store, "hub", Mock(side_effect=StoreUnavailable("Redis is away")))
    answer = public_client(services).get("/egress/servers/nobody/", headers={**JSON, "Origin": HUB})
    assert (answer.status_code, allowed(answer)) == (404, {})


def test_hubs_address_must_have_an_origin(redis_server):
    for text in ("hub.example.org", "https://someone@hub.example.org/", "https://hub.example.org:x/"):
        with pytest.raises(InvalidSettings, match="hubUrl: "):
            make_settings(redis_server, hub_url=text)
