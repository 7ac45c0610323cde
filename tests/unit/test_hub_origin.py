"""At the verifier, pages of JupyterHub's origin may read what a server may reach, and do nothing else."""

import re
from unittest.mock import Mock

import pytest

from tests.support.apps import internal_client, launch, make_settings, public_client, run_pod
from verifier.settings import InvalidSettings
from verifier.store.errors import StoreUnavailable
from verifier.store.keys import redis_key
from verifier.web.app import create_services

HUB = "https://hub.example.org"
JSON = {"Accept": "application/json"}


@pytest.fixture
def client(redis_server, store):
    run_pod(store)
    # Origins are read as browsers write them.
    return public_client(create_services(make_settings(redis_server, hub_url="https://HUB.example.org:443/jupyter/"), store))


def allowed(answer):
    return {name: value for name, value in answer.headers if name.startswith("Access-Control")}


def test_hubs_origin_may_read_a_servers_state(client):
    answer = client.get("/egress/servers/alice/", headers={**JSON, "Origin": HUB})
    assert answer.json["access"] == "none"
    assert allowed(answer) == {"Access-Control-Allow-Origin": HUB}
    assert "Origin" in answer.headers["Vary"]
    # The absence of a server is its state, too.
    answer = client.get("/egress/servers/nobody/", headers={**JSON, "Origin": HUB})
    assert (answer.status_code, allowed(answer)) == (404, {"Access-Control-Allow-Origin": HUB})


@pytest.mark.parametrize("origin", ["https://hub.example.org.evil.example", "null", "http://hub.example.org"])
def test_other_origins_may_not(client, origin):
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


@pytest.mark.parametrize("said", ["null", "javascript:alert(1)//", "https://someone@hub.example.org/"])
def test_text_in_redis_that_is_no_address_counts_as_none(services, store, in_redis, said):
    run_pod(store)
    in_redis.set(redis_key("hub"), said)
    client = public_client(services)
    answer = client.get("/egress/servers/alice/", headers={**JSON, "Origin": HUB})
    assert (answer.status_code, allowed(answer), back(client)) == (200, {}, None)


def test_operators_word_wins(client, redis_server, store):
    services = create_services(make_settings(redis_server, hub_url="https://HUB.example.org:443/jupyter/"), store)
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
