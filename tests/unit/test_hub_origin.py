"""What pages of JupyterHub's origin may do at the verifier: read what a server may reach, and nothing else."""

import pytest

from tests.support.apps import make_settings, public_client, run_pod
from verifier.settings import InvalidSettings
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
    # That a server does not exist is its state, too.
    answer = client.get("/egress/servers/nobody/", headers={**JSON, "Origin": HUB})
    assert (answer.status_code, allowed(answer)) == (404, {"Access-Control-Allow-Origin": HUB})


@pytest.mark.parametrize(
    "origin", ["https://evil.example.org", "https://hub.example.org.evil.example", "null", "http://hub.example.org"]
)
def test_other_origins_may_not(client, origin):
    assert allowed(client.get("/egress/servers/alice/", headers={**JSON, "Origin": origin})) == {}


def test_hubs_origin_may_do_nothing_else(client):
    of_hub = {"Origin": HUB}
    assert allowed(client.get("/egress/servers/alice/", headers={**of_hub, "Accept": "text/html"})) == {}
    assert allowed(client.get("/egress/servers/alice/", headers={**of_hub, "Accept": "text/plain"})) == {}
    assert allowed(client.get("/egress/challenge", headers={**of_hub, **JSON})) == {}
    for address in ("/egress/servers/alice/", "/egress/passes"):
        preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        assert allowed(client.options(address, headers={**of_hub, **preflight})) == {}
        answer = client.post(address, json={"provider": "altcha", "solution": "x"}, headers=of_hub)
        assert (answer.status_code, allowed(answer)) == (403, {})


def test_without_a_hubs_origin_nobody_reads(services, store):
    run_pod(store)
    client = public_client(services)
    for origin in (HUB, ""):
        assert allowed(client.get("/egress/servers/alice/", headers={**JSON, "Origin": origin})) == {}


def test_hubs_address_must_have_an_origin(redis_server):
    for text in ("hub.example.org", "https://someone@hub.example.org/", "https://hub.example.org:x/"):
        with pytest.raises(InvalidSettings, match="hubUrl: "):
            make_settings(redis_server, hub_url=text)
