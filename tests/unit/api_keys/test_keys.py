"""API keys: their form, the pass that a key earns, and the limits: last day, origins, repositories, servers per day."""

import json
import re
import time
from datetime import UTC, datetime, timedelta

import jsonschema
import pytest
import yaml

from binder_egress.gate import api_keys as keys
from binder_egress.gate.api_keys import DAY_SECONDS, FORM
from binder_egress.gatecheck import doctor
from binder_egress.model.passes import Passes
from binder_egress.model.records import KnownServer, Server
from tests.support.api_keys import CREATE, DOCUMENT, LATER, ORIGIN, checked
from tests.support.apps import CLIENT, get_pass, launch, public_client, reconciler, run_pod, solve
from tests.support.public_port import assert_problem

# -- the form of a key


def test_key_is_random_and_only_its_hash_is_stored():
    made = [keys.create("small", 5, LATER, [], []) for _ in range(100)]
    assert len({key for key, _ in made}) == len({entry.id for _, entry in made}) == 100
    key, entry = made[0]
    assert FORM.fullmatch(key)[1] == entry.id
    secret = key.rpartition("_")[2]
    assert len(secret) * 4 >= 128  # bits
    assert secret not in entry.model_dump_json()


def test_pattern_for_secret_scanners_is_that_of_the_documents():
    (shown,) = re.findall(r"`(binder_egress_\[.*?)`", DOCUMENT.read_text())
    key, _ = keys.create("small", 5, LATER, [], [])
    assert re.fullmatch(shown, key) and re.search(shown, f"token = '{key}'")


# -- a pass for a key


def test_key_earns_a_pass_for_one_server_of_its_tier(make_site):
    site = make_site(pass_servers=3)
    key = site.add()
    answer = site.ask(key)
    assert answer.status_code == 201, answer.text
    assert (answer.json["servers"], answer.json["tier"], answer.json["expires_in"]) == (1, "small", 300)
    assert FORM.search(answer.text) is None
    decision = launch(site.internal, token=answer.json["token"])
    assert (decision["tier"], decision["rule"], decision["pass_outcome"]) == ("small", "api-client", "free")
    assert site.store.pending(Server("alice"), set()).launch.grant.origin.text == f"key course ({FORM.fullmatch(key)[1]})"
    second = launch(site.internal, "bob", token=answer.json["token"], repository="https://example.com/c/d")
    assert (second["tier"], second["rule"], second["pass_outcome"]) == ("unverified", "default", "used-up")
    assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="issued") == 1
    assert site.metric("binder_egress_launches_total", tier="small", rule="api-client", pass_outcome="free") == 1


def test_pass_for_a_key_that_says_more_servers_counts_for_one(make_site):
    site = make_site(pass_servers=3)
    id = FORM.fullmatch(site.add())[1]
    token = site.services.passes.sign(Passes.new("small", 3, time.time(), 300, id))
    assert [launch(site.internal, user, token=token, repository=user)["pass_outcome"] for user in "ab"] == ["free", "used-up"]


def test_pass_for_a_key_unlocks_a_server(site, store):
    key = site.add()
    run_pod(store)
    with reconciler(store):
        answer = site.public.post("/egress/servers/alice", json={"token": site.get_pass(key)})
    assert (answer.status_code, answer.json["tier"]) == (200, "small")
    assert "course" not in answer.text


def test_header_is_ignored_with_a_solution(site):
    """A proxy with password protection leaves its Authorization header in all requests."""
    key = site.add()
    for header in ("Basic dTpw", f"Bearer {key}", "Bearer something-else"):
        body = {"provider": "altcha", "solution": solve(site.public)}
        answer = site.public.post("/egress/passes", json=body, headers={"Authorization": header})
        assert (answer.status_code, answer.json["tier"]) == (201, "verified")
    assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="issued") == 0


def test_client_with_neither_is_told_what_to_send(site):
    for headers in ({}, {"Authorization": "Basic dTpw"}, {"Authorization": "binder_egress_x"}):
        for options in ({}, {"json": {}}):
            answer = site.public.post("/egress/passes", headers=headers, **options)
            assert_problem(answer, "bad-request", 400)
            assert "Bearer" in answer.json["detail"]
    assert_problem(site.public.post("/egress/passes", json={"provider": "altcha"}), "bad-request", 400)
    assert_problem(site.public.post("/egress/passes", data="key=x"), "not-json", 415)


def test_key_in_the_url_or_in_the_body_does_not_count(site):
    key = site.add()
    assert site.ask(key, json={}).status_code == 201
    assert site.public.post(f"/egress/passes?key={key}").status_code == 400
    assert site.public.post("/egress/passes", json={"key": key}).status_code == 400
    assert site.ask("", query_string={"access_token": key}).status_code == 401


# -- unusual keys


def test_key_may_expire_on_the_last_possible_day(site, run):
    key = site.add(expires="9999-12-31")
    assert site.ask(key).status_code == 201 and checked(site) == [("ok", "1, all valid")]
    (row,) = site.internal.get("/api/keys").json["keys"]
    assert (row["state"], row["until"]) == ("valid", 253402300800)  # `date -d 10000-01-01`, which is not a date for Python
    assert "9999-12-31" in run("list").stdout


ODD = [None, 5, "text", [], {}, {"name": "x"}, {"name": "x", "id": "0123456789abcdef", "expires": "9999-12-32"}]


def test_unreadable_report_of_another_version_costs_only_itself(site, store, in_redis):
    key = site.add()
    described = site.services.api_keys.find(key).described()
    for number, odd in enumerate([ODD, 5, {"a": 1}, "text"]):
        store.report_verifier(f"newer-{number}", {"api_keys": odd})
    store.report_verifier("ours", {"api_keys": [described | {"more": "of a newer version"}]})
    odd = {"a": "no JSON", "b": "5", "c": '{"seen": 1}', "d": '{"seen": 1, "report": 5}'}
    in_redis.hset("binder-egress:verifiers", mapping=odd)
    assert site.metric("binder_egress_api_key_servers_per_day", key="course") == 5
    assert [row["name"] for row in site.internal.get("/api/keys").json["keys"]] == ["course"]
    checks = doctor.check_api_keys(store.health()["verifiers"], set(), time.time())
    assert [check.text for check in checks] == ["1, all valid"]


SCHEMA = json.loads((DOCUMENT.parents[1] / "chart/values.schema.json").read_text())


ORIGINS = {
    "HTTPS://Course.Example.ORG": ORIGIN,
    "https://course.example.org:0443": ORIGIN,
    "http://course.example.org:80": "http://course.example.org",
    "https://course.example.org:80": "https://course.example.org:80",
    "http://[2001:DB8::1]:8080": "http://[2001:db8::1]:8080",
}
"""Origins, and how browsers write them."""


def test_origins_are_written_as_browsers_write_them(make_site, run):
    site = make_site(allowed_origins=[ORIGIN])
    done = run(*CREATE, *(word for origin in ORIGINS for word in ("--origin", origin)))
    assert done.exit_code == 0, done.output
    values = yaml.safe_load(done.output[done.output.index("apiKeys:") :])
    (entry,) = values["apiKeys"]["keys"].values()
    assert entry["origins"] == list(ORIGINS.values())
    jsonschema.validate(entry, SCHEMA["definitions"]["apiKey"])
    # Also in the values, where somebody may have written it by hand.
    key = site.add(origins=[ORIGIN])
    site.entries["course"]["origins"] = [next(iter(ORIGINS))]
    site.write()
    assert site.ask(key, headers={"Origin": ORIGIN}).status_code == 201


@pytest.mark.parametrize(
    "origin", ["*", "course.example.org", "https://a/", "https://a?b", "https://u@a", "https://a:b", "https://ü.de"]
)
def test_origin_that_no_browser_sends_is_refused(origin):
    said = "would be every origin" if origin == "*" else "is not an origin such as"
    with pytest.raises(ValueError, match=rf"^origins\.0: '.*' {said}"):
        keys.create("small", 5, LATER, [origin], [])


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


def test_key_from_an_own_network_is_refused_and_not_charged(make_site):
    """For solutions: tests/unit/test_rules.py."""
    site = make_site(self_networks=["198.51.100.0/24", "2001:db8:7::/48"])
    key = site.add()
    for number, address in enumerate((CLIENT, "2001:db8:7::1", "::ffff:198.51.100.9"), 1):
        answer = site.ask(key, client=public_client(site.services, address))
        assert_problem(answer, "blocked", 403)
        assert "not offered from this network" in answer.json["detail"]
        assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="own-network") == number
    assert site.metric("binder_egress_api_key_servers", key="course") == 0
    # A pass for the key that comes with a launch from there gives nothing either.
    token = site.ask(key, client=public_client(site.services, "203.0.113.1")).json["token"]
    assert launch(site.internal, token=token)["rule"] == "own-network"


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
