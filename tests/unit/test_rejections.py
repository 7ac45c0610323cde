"""Wrong solutions of remote providers: each costs the operator a request, so a client network may send only some."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import responses

from binder_egress.gate.fairness import REJECTIONS_WINDOW_SECONDS
from binder_egress.web.problems import TYPE
from tests.support import apps
from tests.support.metrics import value

MOST = 3


@pytest.fixture
def provider():
    """The provider's interface, for which a solution that begins with `right` is right."""

    def judge(request):
        if "response=500" in request.body:
            return 500, {}, ""
        codes = ["invalid-input-secret" if "response=secret" in request.body else "invalid-input-response"]
        right = "response=right" in request.body
        return 200, {}, json.dumps({"success": right, "error-codes": [] if right else codes})

    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add_callback("POST", "https://api.hcaptcha.com/siteverify", callback=judge)
        yield mock


@pytest.fixture
def site(make_services, provider):
    providers = {"hcaptcha": {"siteKey": "site-key-0123"}, **apps.QUICK}
    settings = {"captcha_providers": providers, "captcha_secrets": {"HCAPTCHA": "our-0123"}, "fairness_rejections": MOST}
    return lambda **overrides: make_services(**settings | overrides)


def present(client, solution="wrong", provider="hcaptcha"):
    return client.post("/egress/passes", json={"provider": provider, "solution": solution})


def refusals(client, number):
    return [present(client, f"wrong-{n}").json["type"].removeprefix(TYPE) for n in range(number)]


def test_provider_is_not_asked_after_the_limit(site, provider):
    services = site()
    client = apps.public_client(services)
    assert refusals(client, MOST + 2) == ["solution-refused"] * MOST + ["too-many-rejected"] * 2
    assert len(provider.calls) == MOST
    answer = present(client, "right")
    assert answer.status_code == 429, "a right solution cannot be told from a wrong one without asking"
    assert 1 <= int(answer.headers["Retry-After"]) <= REJECTIONS_WINDOW_SECONDS
    assert "another" in answer.json["detail"]
    assert present(apps.public_client(services, "198.51.100.8"), "right").status_code == 201
    labels = {"provider": "hcaptcha", "purpose": "launch"}
    assert value(apps.internal_client(services), "binder_egress_solutions_total", outcome="too-many-rejected", **labels) == 3
    assert value(apps.internal_client(services), "binder_egress_solutions_total", outcome="rejected", **labels) == MOST


def test_unlock_counts_as_a_launch_and_a_limit_of_zero_is_none(site, store, provider):
    apps.run_pod(store)

    def unlocks(services):
        body, client = {"provider": "hcaptcha"}, apps.public_client(services)
        return [client.post("/egress/servers/alice", json=body | {"solution": f"wrong-{n}"}).status_code for n in range(MOST + 1)]

    assert unlocks(site()) == [403] * MOST + [429]
    assert len(provider.calls) == MOST
    assert unlocks(site(fairness_rejections=0)) == [403] * (MOST + 1)


def test_rejections_are_forgotten_a_minute_after_the_first(site, in_redis):
    client, key = apps.public_client(site()), f"binder-egress:rejected:{apps.NETWORK}"
    present(client)
    assert 0 < in_redis.ttl(key) <= REJECTIONS_WINDOW_SECONDS
    in_redis.expire(key, 7)
    refusals(client, MOST)
    assert in_redis.ttl(key) <= 7 and present(client, "right-1").status_code == 429
    in_redis.expire(key, 0)
    assert present(client, "right-1").status_code == 201


def test_other_outcomes_are_not_counted(site, store):
    """Accepted solutions, faults of a provider or ours, and solutions that are not sent to a provider."""
    client = apps.public_client(site())
    for solution in ("right", "500", "secret", "no solution at all", "ä"):
        present(client, solution)
    assert store.rejections(apps.NETWORK)[0] == 0


def test_proof_of_work_is_neither_counted_nor_held_up(site, store):
    client = apps.public_client(
        site(captcha_providers={"altcha": apps.QUICK["altcha"] | {"order": 1}, "hcaptcha": {"siteKey": "s"}})
    )
    for _ in range(MOST + 1):
        assert present(client, "rubbish", "altcha").status_code == 403
    assert store.rejections(apps.NETWORK)[0] == 0
    refusals(client, MOST)
    assert present(client, apps.solve(client), "altcha").status_code == 201


@pytest.mark.parametrize("address", ["10.0.0.7", ""])
def test_clients_without_an_address_are_not_counted(site, in_redis, address):
    """They may be all clients behind a proxy that hides their addresses."""
    services = site()
    client = apps.public_client(services, address)
    client.environ_base["REMOTE_ADDR"] = "10.0.0.1"
    assert refusals(client, MOST + 2) == ["solution-refused"] * (MOST + 2)
    assert in_redis.keys("binder-egress:rejected:*") == []


def test_limit_is_exceeded_by_simultaneous_calls_at_most(site, provider):
    client = apps.public_client(site())
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda n: present(apps.another(client), f"wrong-{n}").status_code, range(60)))
    assert set(statuses) == {403, 429}
    assert MOST <= len(provider.calls) <= MOST + 8


def test_provider_is_not_asked_without_redis(site, provider, redis_server):
    client = apps.public_client(site())
    redis_server.stop()
    assert present(client).status_code == 503
    assert len(provider.calls) == 0
