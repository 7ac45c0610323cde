"""The limits of an API key: its last day, origins and repositories, and its servers per day."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.api_keys import LATER, ORIGIN
from tests.support.apps import CLIENT, another, get_pass, launch, public_client, reconciler, run_pod, solve
from tests.support.public_port import assert_problem
from verifier import api_keys as keys
from verifier.api_keys import DAY_SECONDS
from verifier.operators import actions
from verifier.records import KnownServer, Server

# -- limits of a key


def test_key_expires_at_the_end_of_its_last_day(site):
    today = datetime.now(UTC).date()
    good, over = site.add("good", expires=str(today)), site.add("over", expires=str(today - timedelta(days=1)))
    assert site.ask(good).status_code == 201
    assert_problem(site.ask(over), "key-expired", 403)
    assert keys.ends("2026-07-31") == datetime(2026, 8, 1, tzinfo=UTC).timestamp()
    assert site.metric("binder_egress_api_key_requests_total", key="over", outcome="expired") == 1


def test_pass_of_an_expired_key_counts_if_its_launch_began_before(site, monkeypatch):
    token = site.get_pass(site.add())
    now = time.time()
    monkeypatch.setattr(keys, "ends", lambda expires: now - 10)
    decision = launch(site.internal, token=token)
    assert (decision["rule"], decision["pass_outcome"]) == ("default", "key-expired")
    assert launch(site.internal, token=token, requested_at=now - 30)["rule"] == "api-client"


@pytest.mark.parametrize(
    ("origin", "good"), [(ORIGIN, True), (None, False), ("https://other.example.org", False), ("http://localhost", False)]
)
def test_key_with_origins_is_for_their_pages_only(make_site, origin, good):
    site = make_site(allowed_origins=[ORIGIN, "https://other.example.org"])
    key = site.add(origins=[ORIGIN])
    answer = site.ask(key, headers={"Origin": origin} if origin else {})
    # A page of an origin that the site does not list cannot send any key (test_origins.py: which headers browsers may send).
    assert_problem(site.ask(site.add("any"), headers={"Origin": "https://evil.example.org"}), "forbidden-origin", 403)
    if good:
        assert answer.status_code == 201
        assert answer.headers["Access-Control-Allow-Origin"] == origin
    else:
        assert_problem(answer, "key-elsewhere", 403)
        assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="other-origin") == 1


GOOD = ("https://example.com/a/b", "https://EXAMPLE.com/a/b.git", "https://example.com/owner/any/more")
OTHERS = ("https://example.com/a/b/c", "https://example.com/owner2/any", "https://user@example.com/a/b", "")


@pytest.mark.parametrize(("repository", "good"), [*((one, True) for one in GOOD), *((one, False) for one in OTHERS)])
def test_key_for_repositories_counts_for_them_alone(site, store, repository, good):
    key = site.add(repositories=["example.com/a/b", "example.com/owner/*"])
    decision = launch(site.internal, token=site.get_pass(key), repository=repository)
    assert (decision["rule"], decision["pass_outcome"]) == (("api-client", "free") if good else ("default", "other-repository"))
    store.publish(Server("bob"), KnownServer("uid-2", repository=repository))
    with reconciler(store, Server("bob")):
        answer = site.public.post("/egress/servers/bob", json={"token": site.get_pass(key)})
    if good:
        assert answer.status_code == 200
    else:
        assert_problem(answer, "pass-refused", 403)
        assert "other repositories" in answer.json["detail"]
        assert site.metric("binder_egress_unlocks_total", outcome="other-repository") == 1


def test_own_network_gets_no_pass_and_no_unlock(make_site, store):
    """A pod must get neither from its own network, over IPv4 or IPv6, by a key or by a solution. The key is not charged."""
    site = make_site(self_networks=["198.51.100.0/24", "2001:db8:7::/48"])
    key = site.add()
    answer = site.ask(key)
    assert_problem(answer, "blocked", 403)
    assert "not offered from this network" in answer.json["detail"]
    assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="own-network") == 1
    assert site.metric("binder_egress_api_key_servers", key="course") == 0
    # A pass for the key that comes with a launch from there gives nothing either.
    outside = public_client(site.services, "203.0.113.1")
    assert launch(site.internal, token=site.ask(key, client=outside).json["token"])["rule"] == "own-network"
    run_pod(store)
    for address in ("198.51.100.9", "2001:db8:7::1", "::ffff:198.51.100.9"):
        inside = public_client(site.services, address)
        solved = {"provider": "altcha", "solution": solve(inside)}
        assert_problem(inside.post("/egress/passes", json=solved), "blocked", 403)
        unlock = {"provider": "altcha", "solution": solve(inside, "unlock")}
        assert_problem(inside.post("/egress/servers/alice", json=unlock), "blocked", 403)
    assert get_pass(outside)


# -- budgets


def test_spent_key_is_told_when_to_retry(make_site):
    site = make_site(fairness_budget=1)
    key = site.add(servers=2)
    # A client's network is charged apart.
    get_pass(site.public)
    for _ in range(2):
        site.get_pass(key)
    answer = site.ask(key)
    assert_problem(answer, "key-spent", 429)
    assert DAY_SECONDS * 0.9 < int(answer.headers["Retry-After"]) <= DAY_SECONDS * 13 / 12
    assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="spent") == 1
    assert site.operators
    for name, expected in (("servers", 2), ("servers_per_day", 2), ("expires_timestamp_seconds", keys.ends(LATER))):
        assert site.metric(f"binder_egress_api_key_{name}", key="course") == expected
    assert site.store.charges([f"{CLIENT}/32"], 3600) == [1]
    # Launches go on, and another key has its own count.
    assert launch(site.internal)["rule"] == "default"
    assert site.ask(site.add("other", servers=1)).status_code == 201
    # More is allowed as soon as the values say so.
    site.entries["course"]["serversPerDay"] = 3
    site.write()
    assert site.ask(key).status_code == 201


def test_simultaneous_requests_do_not_exceed_the_keys_limit(site):
    key = site.add(servers=7)
    clients = [another(site.public) for _ in range(40)]
    with ThreadPoolExecutor(20) as threads:
        statuses = list(threads.map(lambda client: site.ask(key, client).status_code, clients))
    assert sorted(statuses) == [201] * 7 + [429] * 33
    assert actions.keys(site.operators)[0]["used"] == 7
