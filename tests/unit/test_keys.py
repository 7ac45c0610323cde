"""API keys: passes for courses and services, what binds them, what they may have in a day, and their end."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import requests
import yaml
from binder_egress_client.verifier import Refused as NotGiven
from binder_egress_client.verifier import Verifier
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

import verifier.operators.actions
import verifier.operators.commands
from tests.support.apps import (
    CLIENT,
    VerifierProcess,
    another,
    get_pass,
    internal_client,
    launch,
    make_settings,
    public_client,
    reconciler,
    run_pod,
    solve,
)
from tests.support.fake_cluster import FakeCluster
from tests.support.metrics import value
from tests.support.reconciling import ALICE, look, work
from verifier import api_keys as keys
from verifier.api_keys import (
    DAY_SECONDS,
    FORM,
    MAX_WRONG_KEY_NETWORKS,
    MAX_WRONG_KEYS,
    WRONG_KEYS_WINDOW_SECONDS,
    Entry,
    Keys,
    WrongKeys,
)
from verifier.gatecheck import doctor
from verifier.operators.actions import ActionRefused, Operators
from verifier.passes import BadPass, Passes
from verifier.reconciler.loop import Reconciler
from verifier.records import Grant, KnownServer, Server
from verifier.settings import ReconcilerSettings, load
from verifier.store.errors import BudgetSpent, KeyRevoked
from verifier.web.app import create_services
from verifier.web.problems import TITLES, TYPE

DOCUMENT = Path(__file__).parents[2] / "docs/api-keys.md"
ORIGIN = "https://course.example.org"
LATER = "2999-12-31"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Operators do not wait. Unlocks do: some tests have a reconciler."""
    monkeypatch.setattr("verifier.operators.actions.CONFIRMATION_WAIT_SECONDS", 0)


class Site:
    """A verifier whose file of keys a test may write."""

    def __init__(self, file, redis_server, store, **settings):
        self.file = file
        self.entries = {}
        self.file.write_text("{}")
        self.services = create_services(make_settings(redis_server, api_keys_file=str(file), **settings), store)
        self.public = public_client(self.services)
        self.internal = internal_client(self.services)
        self.store = store

    def add(self, name="course", tier="small", servers=5, expires=LATER, origins=(), repositories=()):
        """Make a key and put it into the values."""
        key, entry = keys.create(tier, servers, expires, list(origins), list(repositories))
        self.entries[name] = entry.model_dump()
        self.write()
        return key

    def write(self):
        """What the kubelet does when the Secret has changed: the link leads to another file."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.entries))
        os.replace(new, self.file)

    def ask(self, key, client=None, **options):
        headers = {"Authorization": f"Bearer {key}"} | options.pop("headers", {})
        return (client or self.public).post("/egress/passes", headers=headers, **options)

    def get_pass(self, key):
        answer = self.ask(key)
        assert answer.status_code == 201, answer.text
        return answer.json["token"]

    def metric(self, name, **labels):
        return value(self.internal, name, **labels)

    @property
    def operators(self):
        assert self.internal.get("/readyz").status_code == 200  # the verifier says what it has
        return Operators(self.services.settings, self.store)


@pytest.fixture
def make_site(tmp_path, redis_server, store):
    return lambda **settings: Site(tmp_path / "keys.json", redis_server, store, **settings)


@pytest.fixture
def site(make_site):
    return make_site()


def assert_problem(answer, kind, status):
    assert (answer.status_code, answer.json["type"]) == (status, TYPE + kind), answer.text
    assert answer.content_type == "application/problem+json"


# -- what a key looks like


def test_a_key_is_random_and_only_its_hash_is_kept():
    made = [keys.create("small", 5, LATER, [], []) for _ in range(100)]
    assert len({key for key, _ in made}) == len({entry.id for _, entry in made}) == 100
    key, entry = made[0]
    assert FORM.fullmatch(key)[1] == entry.id
    secret = key.rpartition("_")[2]
    assert len(secret) * 4 >= 128  # bits
    assert secret not in entry.model_dump_json()


def test_the_pattern_for_secret_scanners_is_the_one_in_the_documents():
    (shown,) = re.findall(r"`(binder_egress_\[.*?)`", DOCUMENT.read_text())
    key, _ = keys.create("small", 5, LATER, [], [])
    assert re.fullmatch(shown, key) and re.search(shown, f"token = '{key}'")


# -- a pass for a key


@pytest.mark.parametrize("options", [{}, {"json": {}}])
def test_a_key_earns_a_pass_for_one_server_of_its_tier(make_site, options):
    site = make_site(pass_servers=3)
    key = site.add()
    answer = site.ask(key, **options)
    assert answer.status_code == 201, answer.text
    assert {name: answer.json[name] for name in ("servers", "tier", "expires_in")} == {
        "servers": 1,
        "tier": "small",
        "expires_in": 300,
    }
    assert FORM.search(answer.text) is None
    decision = launch(site.internal, token=answer.json["token"])
    assert (decision["tier"], decision["rule"], decision["pass_outcome"]) == ("small", "api-client", "free")
    assert site.store.pending(Server("alice"), set()).launch.grant.by == f"key course ({FORM.fullmatch(key)[1]})"
    second = launch(site.internal, "bob", token=answer.json["token"], repository="https://example.com/c/d")
    assert (second["tier"], second["rule"], second["pass_outcome"]) == ("unverified", "default", "used-up")
    assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="issued") == 1
    assert site.metric("binder_egress_launches_total", tier="small", rule="api-client", pass_outcome="free") == 1


def test_a_pass_for_a_key_unlocks_a_server(site, store):
    key = site.add()
    run_pod(store)
    with reconciler(store):
        answer = site.public.post("/egress/servers/alice", json={"token": site.get_pass(key)})
    assert (answer.status_code, answer.json["tier"]) == (200, "small")
    assert "course" not in answer.text


def test_with_a_solution_the_header_is_not_looked_at(site):
    """A proxy that asks visitors for a password leaves their Authorization in all requests."""
    key = site.add()
    for header in ("Basic dTpw", f"Bearer {key}", "Bearer something-else"):
        body = {"provider": "altcha", "solution": solve(site.public)}
        answer = site.public.post("/egress/passes", json=body, headers={"Authorization": header})
        assert (answer.status_code, answer.json["tier"]) == (201, "verified")
    assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="issued") == 0


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic dTpw"}, {"Authorization": "binder_egress_x"}])
def test_with_neither_the_client_is_told_what_to_send(site, headers):
    for options in ({}, {"json": {}}):
        answer = site.public.post("/egress/passes", headers=headers, **options)
        assert_problem(answer, "bad-request", 400)
        assert "Bearer" in answer.json["detail"]
    assert_problem(site.public.post("/egress/passes", json={"provider": "altcha"}), "bad-request", 400)
    assert_problem(site.public.post("/egress/passes", data="key=x"), "not-json", 415)


def test_a_key_in_the_url_or_in_the_body_is_no_key(site):
    key = site.add()
    assert site.public.post(f"/egress/passes?key={key}").status_code == 400
    assert site.public.post("/egress/passes", json={"key": key}).status_code == 400
    assert site.ask("", query_string={"access_token": key}).status_code == 401


# -- wrong keys


def wrong_keys(key):
    """Keys that are nearly right."""
    other, _ = keys.create("small", 5, LATER, [], [])
    identity, secret = key.split("_")[2:]
    changed = ("0" if secret[0] != "0" else "1") + secret[1:]
    return [
        "", "x", key[:-1], key + "0", key.upper(), other, f"binder_egress_{identity}_{changed}",
        f"binder_egress_{'0' * 16}_{secret}", f"{key}\u00e9", "\u00ff" * 2000,
    ]  # fmt: skip


def test_all_wrong_keys_get_the_same_answer_and_cost_no_call_to_redis(site, redis_server):
    key = site.add()
    redis_server.stop()
    answers = [site.ask(wrong) for wrong in wrong_keys(key)]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.data for answer in answers}) == 1
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {"Bearer"}
    assert_problem(answers[0], "key-refused", 401)
    assert_problem(site.ask(key), "unavailable", 503)


def test_wrong_keys_are_logged_up_to_a_limit_and_never_in_full(site, caplog):
    key = site.add()
    wrong = wrong_keys(key)[6]
    with caplog.at_level(logging.INFO):
        statuses = [site.ask(wrong).status_code for _ in range(MAX_WRONG_KEYS + 3)]
        assert statuses == [401] * MAX_WRONG_KEYS + [429] * 3
        answer = site.ask(wrong)
        assert_problem(answer, "too-many-wrong-keys", 429)
        assert 0 < int(answer.headers["Retry-After"]) <= WRONG_KEYS_WINDOW_SECONDS
        # Neighbours behind the same address are not blocked out, and others are not counted with them.
        assert site.ask(key).status_code == 201
        assert site.ask(wrong, client=public_client(site.services, "198.51.100.8")).status_code == 401
    logged = [record.fields for record in caplog.records if record.getMessage() == "pass" and record.fields["rule"] == "wrong-key"]
    assert len(logged) == MAX_WRONG_KEYS + 1
    text = " ".join(f"{record.getMessage()} {getattr(record, 'fields', '')}" for record in caplog.records)
    assert wrong not in text and key not in text and key[-40:] not in text
    assert site.metric("binder_egress_api_key_requests_total", key="", outcome="wrong") == MAX_WRONG_KEYS + 1
    assert site.metric("binder_egress_api_key_requests_total", key="", outcome="too-many") == 4


def test_wrong_keys_are_forgotten_and_take_bounded_memory():
    now = [1000.0]
    counts = WrongKeys(lambda: now[0])
    assert [counts.note("a") for _ in range(MAX_WRONG_KEYS)] == [None] * MAX_WRONG_KEYS
    assert counts.note("a") == WRONG_KEYS_WINDOW_SECONDS
    now[0] += WRONG_KEYS_WINDOW_SECONDS
    assert counts.note("a") is None
    for number in range(2 * MAX_WRONG_KEY_NETWORKS):
        counts.note(str(number))
    assert len(counts._counts) == MAX_WRONG_KEY_NETWORKS


# -- keys that are odd


def test_a_key_for_the_last_day_that_there_is(site, run):
    key = site.add(expires="9999-12-31")
    ends = 253402300800  # `date -d 10000-01-01`, which is no date to Python
    assert site.ask(key).status_code == 201
    site.internal.get("/readyz")
    (row,) = site.internal.get("/api/keys").json["keys"]
    assert (row["state"], row["until"]) == ("valid", ends)
    assert site.metric("binder_egress_api_key_expires_timestamp_seconds", key="course") == ends
    assert checked(site) == [("ok", "1, all valid")]
    assert "9999-12-31" in run("list").stdout
    assert json.loads(run("list", "--json").stdout)[0]["until"] == ends
    assert run(*CREATE[:1], "--name", "other", *CREATE[3:-1], "9999-12-31").exit_code == 0
    assert run("revoke", "course", "--why", "x").exit_code == 0


ODD = [None, 5, "text", [], {}, {"name": "x"}, {"name": "x", "id": "0123456789abcdef", "expires": "9999-12-32"}]


@pytest.mark.parametrize("odd", [*([entry] for entry in ODD), 5, {"a": 1}, "text"])
def test_what_another_version_reports_and_we_cannot_read_costs_only_itself(site, store, odd):
    key = site.add()
    described = site.services.keys.find(key).described()
    store.report_verifier("newer", {"api_keys": odd})
    store.report_verifier("ours", {"api_keys": [described | {"more": "of a newer version"}]})
    store._redis.hset(
        "binder-egress:verifiers", mapping={"a": "no JSON", "b": "5", "c": '{"seen": 1}', "d": '{"seen": 1, "report": 5}'}
    )
    assert site.metric("binder_egress_api_key_servers_per_day", key="course") == 5
    assert [row["name"] for row in site.internal.get("/api/keys").json["keys"]] == ["course"]
    checks = doctor.check_api_keys(store.health()["verifiers"], set(), time.time())
    assert [check.text for check in checks] == ["1, all valid"]


SCHEMA = json.loads((DOCUMENT.parents[1] / "chart/values.schema.json").read_text())


@pytest.mark.parametrize(
    ("origin", "written"),
    [
        (ORIGIN, ORIGIN),
        ("HTTPS://Course.Example.ORG", ORIGIN),
        ("https://course.example.org:443", ORIGIN),
        ("https://course.example.org:0443", ORIGIN),
        ("http://course.example.org:80", "http://course.example.org"),
        ("https://course.example.org:80", "https://course.example.org:80"),
        ("http://[2001:DB8::1]:8080", "http://[2001:db8::1]:8080"),
    ],
)
def test_origins_are_written_as_browsers_write_them(make_site, run, origin, written):
    site = make_site(allowed_origins=[written])
    done = run(*CREATE, "--origin", origin)
    assert done.exit_code == 0, done.output
    values = yaml.safe_load(done.output[done.output.index("apiKeys:") :])
    (entry,) = values["apiKeys"]["keys"].values()
    assert entry["origins"] == [written]
    jsonschema.validate(entry, SCHEMA["definitions"]["apiKey"])
    # In the values, where somebody may have written it by hand, too.
    key = site.add(origins=[written])
    site.entries["course"]["origins"] = [origin]
    site.write()
    assert site.ask(key, headers={"Origin": written}).status_code == 201


@pytest.mark.parametrize(
    "origin", ["*", "course.example.org", "https://a/", "https://a?b", "https://u@a", "https://a:b", "https://münchen.de", ""]
)
def test_an_origin_that_no_browser_sends_is_refused_in_a_sentence(origin):
    said = "would be every origin" if origin == "*" else "is not an origin such as"
    with pytest.raises(ValueError, match=rf"^origins\.0: '.*' {said}"):
        keys.create("small", 5, LATER, [origin], [])


# -- what binds a key


def test_a_key_expires_at_the_end_of_its_last_day(site):
    today = datetime.now(UTC).date()
    good, over = site.add("good", expires=str(today)), site.add("over", expires=str(today - timedelta(days=1)))
    assert site.ask(good).status_code == 201
    assert_problem(site.ask(over), "key-expired", 403)
    assert site.metric("binder_egress_api_key_requests_total", key="over", outcome="expired") == 1


def test_a_pass_of_a_key_that_has_expired_meanwhile_counts_by_when_it_was_presented(site):
    key = site.add()
    token = site.get_pass(key)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    site.entries["course"]["expires"] = str(yesterday)
    site.write()
    decision = launch(site.internal, token=token)
    assert (decision["rule"], decision["pass_outcome"]) == ("default", "key-expired")
    entry = Entry(**site.entries["course"])
    assert keys.Key("course", entry).is_expired(keys.ends(str(yesterday)))
    assert not keys.Key("course", entry).is_expired(keys.ends(str(yesterday)) - 1)


@pytest.mark.parametrize(
    ("origin", "good"), [(ORIGIN, True), (None, False), ("https://other.example.org", False), ("http://localhost", False)]
)
def test_a_key_for_origins_is_for_their_pages_only(make_site, origin, good):
    site = make_site(allowed_origins=[ORIGIN, "https://other.example.org"])
    key = site.add(origins=[ORIGIN])
    answer = site.ask(key, headers={"Origin": origin} if origin else {})
    if good:
        assert answer.status_code == 201
        assert answer.headers["Access-Control-Allow-Origin"] == origin
    else:
        assert_problem(answer, "key-elsewhere", 403)
        assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="other-origin") == 1


def test_browsers_let_listed_origins_send_a_key_and_no_others(make_site):
    site = make_site(allowed_origins=[ORIGIN])
    key = site.add()
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = site.public.options("/egress/passes", headers={"Origin": ORIGIN, **preflight})
    assert answer.status_code == 204
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"].lower()
    answer = site.public.options("/egress/servers/alice", headers={"Origin": ORIGIN, **preflight})
    assert "authorization" not in answer.headers["Access-Control-Allow-Headers"].lower()
    answer = site.public.options("/egress/passes", headers={"Origin": "https://evil.example.org", **preflight})
    assert "Access-Control-Allow-Headers" not in answer.headers and "Access-Control-Allow-Origin" not in answer.headers
    assert_problem(site.ask(key, headers={"Origin": "https://evil.example.org"}), "forbidden-origin", 403)


REPOSITORIES = [
    ("https://example.com/a/b", True),
    ("https://example.com/a/b.git", True),
    ("https://EXAMPLE.com/a/b/", True),
    ("https://example.com/a/c", False),
    ("https://example.com/a/b/c", False),
    ("https://example.com/owner/any", True),
    ("https://example.com/owner/any/more", True),
    ("https://example.com/owner2/any", False),
    ("https://github.com/Someone/X", True),
    ("https://example.com/owner/../evil/x", False),
    ("https://user@example.com/a/b", False),
    ("http://example.com/a/b", False),
    ("https://example.com/a/b?x", False),
    ("10.5281/zenodo.1", False),
    ("", False),
]


@pytest.mark.parametrize(("repository", "good"), REPOSITORIES)
def test_a_key_for_repositories_is_for_these_at_launch_and_at_unlock(site, store, repository, good):
    key = site.add(repositories=["example.com/a/b", "example.com/owner/*", "github.com/someone/x"])
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


def test_from_our_own_networks_a_key_is_refused_and_not_charged(make_site):
    site = make_site(self_networks=["198.51.100.0/24"])
    key = site.add()
    answer = site.ask(key)
    assert_problem(answer, "blocked", 403)
    assert "not offered from this network" in answer.json["detail"]
    assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="own-network") == 1
    assert site.metric("binder_egress_api_key_servers", key="course") == 0
    # A pass for it that comes with a launch from there neither.
    token = site.ask(key, client=public_client(site.services, "203.0.113.1")).json["token"]
    assert launch(site.internal, token=token)["rule"] == "own-network"


def test_a_solution_from_our_own_networks_is_refused_whoever_solved_it(make_site, store):
    """A pod must not have its own network pay for itself: neither a pass nor an unlock, by IPv4 or IPv6."""
    site = make_site(self_networks=["198.51.100.0/24", "2001:db8:7::/48"])
    run_pod(store)
    for address in ("198.51.100.9", "2001:db8:7::1", "::ffff:198.51.100.9"):
        inside = public_client(site.services, address)
        solved = {"provider": "altcha", "solution": solve(inside)}
        assert_problem(inside.post("/egress/passes", json=solved), "blocked", 403)
        unlock = {"provider": "altcha", "solution": solve(inside, "unlock")}
        assert_problem(inside.post("/egress/servers/alice", json=unlock), "blocked", 403)
    outside = public_client(site.services, "203.0.113.1")
    assert get_pass(outside)


# -- how much


def test_a_key_that_had_its_servers_of_the_day_is_told_when_there_are_more(site):
    key = site.add(servers=2)
    for _ in range(2):
        site.get_pass(key)
    answer = site.ask(key)
    assert_problem(answer, "key-spent", 429)
    assert DAY_SECONDS * 0.9 < int(answer.headers["Retry-After"]) <= DAY_SECONDS * 13 / 12
    assert site.metric("binder_egress_api_key_requests_total", key="course", outcome="spent") == 1
    for name, expected in (("servers", 2), ("servers_per_day", 2), ("expires_timestamp_seconds", keys.ends(LATER))):
        site.operators  # noqa: B018
        assert site.metric(f"binder_egress_api_key_{name}", key="course") == expected
    # Launches go on, and another key has its own count.
    assert launch(site.internal)["rule"] == "default"
    assert site.ask(site.add("other", servers=1)).status_code == 201
    # More is allowed as soon as the values say so.
    site.entries["course"]["serversPerDay"] = 3
    site.write()
    assert site.ask(key).status_code == 201


def test_keys_and_client_networks_are_charged_apart(make_site):
    site = make_site(fairness_budget=1)
    key = site.add()
    get_pass(site.public)
    for _ in range(3):
        site.get_pass(key)
    assert site.store.charges(f"{CLIENT}/32", 3600) == 1


def test_requests_at_the_same_time_do_not_exceed_what_a_key_may_have(site):
    key = site.add(servers=7)
    clients = [another(site.public) for _ in range(40)]
    with ThreadPoolExecutor(20) as threads:
        statuses = list(threads.map(lambda client: site.ask(key, client).status_code, clients))
    assert sorted(statuses) == [201] * 7 + [429] * 33
    assert site.operators.keys()[0]["used"] == 7


@given(st.lists(st.sampled_from([0, 0, 0, 1, 3600, 7200, 40_000, 90_000]), max_size=40), st.integers(1, 6))
@examples(max_examples=60, suppress_health_check=list(HealthCheck))
def test_never_more_than_allowed_in_any_day_and_what_is_spent_comes_back(store, waits, most):
    """Time goes on by moving the charges back, in steps of what Redis counts by."""
    store._redis.flushall()
    granted, now = [], 0
    for wait in waits:
        now += wait
        found = store._redis.hgetall("binder-egress:charges:key:k")
        if wait and found:
            store._redis.delete("binder-egress:charges:key:k")
            store._redis.hset("binder-egress:charges:key:k", mapping={str(int(at) - wait): n for at, n in found.items()})
        try:
            store.use_key("k", most, DAY_SECONDS)
            granted.append(now)
        except BudgetSpent as error:
            assert 0 < error.retry_after <= DAY_SECONDS * 13 / 12 + 1
            assert sum(at > now - DAY_SECONDS * 13 / 12 - 7200 for at in granted) >= most
        assert sum(at > now - DAY_SECONDS for at in granted) <= most


def test_without_redis_there_is_no_pass_and_no_launch_is_lost(site, redis_server):
    key = site.add()
    token = site.get_pass(key)
    redis_server.stop()
    answer = site.ask(key)
    assert_problem(answer, "unavailable", 503)
    assert answer.headers["Retry-After"]
    body = {"user": "alice", "image": "i", "repository": "https://example.com/a/b", "token": token}
    assert site.internal.post("/api/launches", json=body).status_code == 503  # BinderHub goes on without


def test_a_wiped_redis_refuses_passes_from_before(site, redis_server, store):
    token = site.get_pass(site.add())
    redis_server.wipe()
    store.ping()
    assert launch(site.internal, token=token)["pass_outcome"] == "before-epoch"


def test_an_answer_that_got_lost_is_not_charged_twice(site, store, monkeypatch):
    """redis-py asks again on a new connection, with the same word."""
    original, sent = store._issue, []

    def twice(*, keys, args):
        sent.append(args)
        original(keys=keys, args=args)
        return original(keys=keys, args=args)

    monkeypatch.setattr(store, "_issue", twice)
    site.get_pass(site.add())
    assert len(sent) == 1
    assert site.operators.keys()[0]["used"] == 1


# -- revoked, or not there any more


def test_a_revoked_key_gets_nothing_and_neither_do_its_passes(site, store):
    key = site.add()
    for_launch, for_unlock = site.get_pass(key), site.get_pass(key)
    run_pod(store)
    done = site.operators.revoke_key("course", "eve", "leaked")
    assert (done["state"], done["keys"], done["remove"]) == ("done", [FORM.fullmatch(key)[1]], ["apiKeys.keys.course"])
    assert_problem(site.ask(key), "key-revoked", 403)
    decision = launch(site.internal, token=for_launch)
    assert (decision["rule"], decision["pass_outcome"]) == ("default", "key-revoked")
    assert_problem(site.public.post("/egress/servers/alice", json={"token": for_unlock}), "pass-refused", 403)
    assert store.pending(Server("alice"), set()).unlock is None
    for name in ("binder_egress_unlocks_total", "binder_egress_api_key_requests_total"):
        labels = {"outcome": "key-revoked"} if "unlocks" in name else {"outcome": "revoked", "key": "course"}
        assert site.metric(name, **labels) == 1
    assert site.operators.keys()[0]["state"] == "revoked"
    # Passes for solutions, and other keys, go on.
    assert launch(site.internal, "bob", token=get_pass(site.public))["rule"] == "valid-pass"
    assert site.ask(site.add("other")).status_code == 201


def test_a_use_that_a_server_holds_already_is_not_given_again_after_revocation(site):
    key = site.add()
    token = site.get_pass(key)
    assert launch(site.internal, token=token)["tier"] == "small"
    site.operators.revoke_key("course", "eve", "leaked")
    assert launch(site.internal, token=token)["tier"] == "unverified"


def test_a_lease_is_renewed_by_a_pass_for_a_key_that_still_counts_for_the_repository(make_site, store, monkeypatch):
    monkeypatch.setattr("verifier.web.servers.UNLOCK_WAIT_SECONDS", 0)
    site = make_site(tiers={"small": {"lease": 3600}, "verified": {}})
    site.add(repositories=["example.com/a/b"])
    key = site.add("other", repositories=["example.com/a/b"])
    for_good, for_other, for_late = (site.get_pass(key) for _ in range(3))

    def renew(token, repository):
        fields = {"label": "small", "rule": "api-client", "until": int(time.time()) + 60, "repository": repository}
        store.publish(ALICE, KnownServer("uid-1", "small", "old", **fields))
        return site.public.post("/egress/servers/alice", json={"token": token})

    assert renew(for_good, "https://example.com/a/b").status_code == 202
    grant = store.pending(ALICE, set()).unlock.grant
    assert (grant.tier, grant.rule, grant.by) == ("small", "renewal", f"key other ({FORM.fullmatch(key)[1]})")
    assert_problem(renew(for_other, "https://example.com/c/d"), "pass-refused", 403)
    site.operators.revoke_key("other", "eve", "leaked")
    assert_problem(renew(for_late, "https://example.com/a/b"), "pass-refused", 403)


@pytest.mark.parametrize("servers", [False, True])
def test_revocation_reaches_what_waits_and_if_asked_what_runs(site, store, redis_server, servers):
    cluster = FakeCluster()
    worker = Reconciler(load(ReconcilerSettings, redis_url=redis_server.url, tiers={"small": {}, "verified": {}}), cluster, store)
    key = site.add()
    launch(site.internal, "alice", token=site.get_pass(key), image="image:1")
    cluster.add("alice", "uid-1", image="image:1", ready=True)
    look(worker)
    look(worker)
    assert store.pending(ALICE, set()).launch is None
    launch(site.internal, "bob", token=site.get_pass(key), image="image:1")
    launch(site.internal, "carol", token=get_pass(site.public), image="image:1")
    done = site.operators.revoke_key("course", "eve", "leaked", servers)
    assert done["withdrawn"] == 1 + servers
    assert (done["state"] == "pending") == servers
    cluster.add("bob", "uid-2", image="image:1")
    cluster.add("carol", "uid-3", image="image:1")
    worker.take(store.woken(0.01))
    look(worker)
    work(worker)
    assert cluster.labelled() == {Server("carol")} | (set() if servers else {ALICE})
    assert store.known(ALICE).is_blocked(time.time()) is False


def test_revocation_leaves_a_server_that_was_unlocked_a_moment_ago(site, store, redis_server):
    """What unlocked it is in Redis for a while yet."""
    cluster = FakeCluster()
    worker = Reconciler(load(ReconcilerSettings, redis_url=redis_server.url, tiers={"small": {}, "verified": {}}), cluster, store)
    key = site.add()
    for number, user in enumerate(("alice", "bob")):
        cluster.add(user, f"uid-{number}", ready=True)
    look(worker)
    for user in ("alice", "bob"):
        site.public.post(f"/egress/servers/{user}", json={"token": site.get_pass(key)})
        if user == "alice":
            look(worker)
    assert cluster.labelled() == {ALICE} and store.pending(ALICE, set()).unlock
    assert site.operators.revoke_key("course", "eve", "leaked")["withdrawn"] == 1
    look(worker)
    assert cluster.labelled() == {ALICE}


def test_a_key_that_is_taken_out_of_the_values_is_gone_with_its_passes(site):
    key = site.add()
    token = site.get_pass(key)
    del site.entries["course"]
    site.write()
    assert_problem(site.ask(key), "key-refused", 401)
    decision = launch(site.internal, token=token)
    assert (decision["rule"], decision["pass_outcome"]) == ("default", "key-unknown")


def test_a_pass_for_a_key_that_another_member_of_a_federation_issued_needs_the_key_here_too(site, tmp_path, redis_server, store):
    elsewhere = Site(tmp_path / "other.json", redis_server, store)
    key = elsewhere.add(repositories=["example.com/a/*"])
    token = elsewhere.get_pass(key)
    assert launch(site.internal, token=token)["pass_outcome"] == "key-unknown"
    site.entries = elsewhere.entries
    site.write()
    assert launch(site.internal, token=token)["rule"] == "api-client"


def test_a_forged_or_changed_pass_gets_no_key(site):
    key = site.add()
    identity = FORM.fullmatch(key)[1]
    forged = Passes(["x" * 40]).sign(Passes.new("small", 1, time.time(), 300, identity))
    assert launch(site.internal, token=forged)["pass_outcome"] == "invalid"


def test_a_pass_for_a_solution_says_nothing_of_keys():
    """So that it counts at members of a federation whose version does not know them."""
    signer = Passes(["x" * 40])
    said = signer._serializer.loads(signer.sign(Passes.new("small", 1, 1.0, 300)))
    assert set(said) == {"id", "tier", "servers", "iat", "exp"}


# -- the file


def good_entry(**changes):
    return keys.create("small", 5, LATER, [], [])[1].model_dump() | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tier": "huge"}, "no tier 'huge'"),
        ({"hash": "x"}, "hash"),
        ({"id": "X" * 16}, "id"),
        ({"serversPerDay": 0}, "serversPerDay"),
        ({"serversPerDay": "many"}, "serversPerDay"),
        ({"expires": "tomorrow"}, "not a date"),
        ({"expires": None}, "expires"),
        ({"origins": ["https://a/b"]}, "origins"),
        ({"repositories": ["https://github.com/a/b"]}, "host/owner/name"),
        ({"repositories": ["10.5281/zenodo.1"]}, "host/owner/name"),
        ({"repositories": ["github.com/*/x"]}, "host/owner/name"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wrong_entry_is_left_out_and_named_and_the_others_count(site, caplog, changes, said):
    key = site.add("good")
    site.entries["wrong"] = good_entry(**changes)
    site.write()
    with caplog.at_level(logging.ERROR):
        assert site.ask(key).status_code == 201
        assert site.ask(key).status_code == 201
    assert [key.name for key in site.services.keys.all().values()] == ["good"]
    (sentence,) = site.services.keys.wrong()
    assert sentence.startswith("wrong: ") and said in sentence
    assert len([record for record in caplog.records if said in record.getMessage()]) == 1


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, b"\xff", '{"a": 5}', '{"a": null}', '{"Ä b": {}}', None])
def test_what_is_no_file_of_keys_means_none_and_is_told(site, content):
    key = site.add()
    assert site.ask(key).status_code == 201
    site.file.unlink()
    if content is not None:
        site.file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert site.ask(key).status_code == 401
    assert site.services.keys.wrong()
    assert launch(site.internal)["rule"] == "default"
    site.write()
    assert site.ask(key).status_code == 201 and not site.services.keys.wrong()


def test_names_and_ids_are_checked(tmp_path):
    file = tmp_path / "keys.json"
    entry = good_entry()
    file.write_text(json.dumps({"a": entry, "b": entry, "A b": good_entry(), "off": False} | {"x" * 41: good_entry()}))
    found = Keys(str(file), ["small"])
    assert [key.name for key in found.all().values()] == ["a"]
    assert len(found.wrong()) == 3


def test_characters_that_no_encoding_has_are_no_key():
    assert Keys("", []).find("\udc8a") is None


def test_without_a_file_there_are_no_keys():
    found = Keys("", [])
    assert (found.all(), found.wrong(), found.find("x")) == ({}, [], None)
    with pytest.raises(BadPass):
        found.accept("0" * 16, "https://example.com/a/b", 0)


# -- operators


@pytest.fixture
def run(site, redis_server, monkeypatch):
    """Run the command `egress keys …` as operators do."""
    monkeypatch.setenv("BINDER_EGRESS_REDIS_URL", redis_server.url)
    monkeypatch.setenv("BINDER_EGRESS_TIERS", '{"verified": {}, "small": {}}')

    def run(*args):
        site.internal.get("/readyz")
        return CliRunner().invoke(verifier.operators.commands.egress, ["keys", *args])

    return run


CREATE = ["create", "--name", "course", "--tier", "small", "--servers-per-day", "7", "--expires", "90d"]


def test_what_create_prints_is_a_key_and_its_entry_for_the_values(site, run):
    done = run(*CREATE, "--origin", ORIGIN, "--repository", "github.com/owner/*")
    assert done.exit_code == 0, done.output
    (found,) = FORM.finditer(done.output)
    values = yaml.safe_load(done.output[done.output.index("apiKeys:") :])
    entry = values["apiKeys"]["keys"]["course"]
    assert (entry["tier"], entry["serversPerDay"]) == ("small", 7)
    assert (entry["origins"], entry["repositories"]) == ([ORIGIN], ["github.com/owner/*"])
    assert entry["expires"] == str((datetime.now(UTC) + timedelta(days=90)).date())
    site.entries = values["apiKeys"]["keys"]
    site.write()
    assert site.services.keys.find(found[0]).name == "course"


def test_create_keeps_the_key_nowhere_and_logs_who_made_it(site, run, store):
    done = run(*CREATE, "--as", "eve", "--why", "a course", "--json")
    key = json.loads(done.stdout)["key"]
    (action,) = store.woken(0.01).actions
    assert {name: action[name] for name in ("event", "by", "why", "key", "tier")} == {
        "event": "create-key", "by": "eve", "why": "a course", "key": "course", "tier": "small",
    }  # fmt: skip
    dump = str([store._redis.dump(name) for name in store._redis.scan_iter()]) + str(action)
    assert key[-40:] not in dump


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--name", "A b"], "name"),
        (["--tier", "huge"], "there is none called 'huge'"),
        (["--servers-per-day", "0"], "servers-per-day"),
        (["--expires", "tomorrow"], "not a date"),
        (["--expires", "2001-01-01"], "is over"),
        (["--expires", "99999999d"], "expires"),
        (["--expires", "99999d"], ""),
        (["--origin", "https://a/b"], "origins"),
        (["--repository", "https://github.com/a/b"], "host/owner/name"),
    ],
)
def test_create_refuses_what_would_not_count(run, change, said):
    done = run(*CREATE, *change)
    if not said:
        assert done.exit_code == 0
        return
    assert done.exit_code != 0 and said in (done.output + str(done.exception))
    assert FORM.search(done.output) is None


def test_a_name_is_for_one_key(site, run):
    site.add()
    assert "There is a key called course" in str(run(*CREATE).exception)


def test_keys_are_listed_with_what_they_had(site, run):
    key = site.add(servers=9, origins=[ORIGIN])
    over = site.add("over", expires="2001-01-01")
    site.ask(key, headers={"Origin": "http://localhost"})
    for _ in range(3):
        site.store.use_key(FORM.fullmatch(key)[1], 9, DAY_SECONDS)
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert (rows["course"]["used"], rows["course"]["servers_per_day"], rows["course"]["state"]) == (3, 9, "valid")
    assert rows["over"]["state"] == "expired"
    text = run("list").stdout
    assert re.search(r"^course +valid +3 +9 +small ", text, re.MULTILINE)
    for secret in (key, over, site.entries["course"]["hash"]):
        assert secret[-40:] not in text + json.dumps(rows)


@pytest.mark.parametrize("how", ["name", "id", "key"])
def test_revoke_takes_a_name_an_id_or_the_key_itself(site, run, how):
    key = site.add()
    what = {"name": "course", "id": FORM.fullmatch(key)[1], "key": key}[how]
    done = run("revoke", what, "--why", "leaked", "--as", "eve")
    assert done.exit_code == 0, done.output
    assert "apiKeys.keys.course" in done.output
    assert_problem(site.ask(key), "key-revoked", 403)
    (revoked,) = site.store.revoked_keys().values()
    assert (revoked.name, revoked.by, revoked.why) == ("course", "eve", "leaked")


def test_revoke_says_when_there_is_no_such_key_but_takes_any_id(site, run, store):
    assert isinstance(run("revoke", "nothing", "--why", "x").exception, ActionRefused)
    assert run("revoke", "0123456789abcdef", "--why", "x").exit_code == 0
    with pytest.raises(KeyRevoked):
        store.use_key("0123456789abcdef", 5, DAY_SECONDS)


def test_the_same_over_http(site):
    site.internal.get("/readyz")
    body = {"by": "eve", "name": "course", "tier": "small", "servers_per_day": 5, "expires": LATER}
    answer = site.internal.post("/api/keys", json=body)
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    key = answer.json["key"]
    site.entries = answer.json["values"]["apiKeys"]["keys"]
    site.write()
    assert site.ask(key).status_code == 201
    site.internal.get("/readyz")
    (row,) = site.internal.get("/api/keys").json["keys"]
    assert (row["name"], row["used"]) == ("course", 1)
    assert_problem(site.internal.post("/api/keys", json=body), "refused", 409)
    assert_problem(site.internal.post("/api/keys", json=body | {"name": "x", "tier": "huge"}), "bad-request", 400)
    answer = site.internal.post("/api/keys/revocations", json={"by": "eve", "why": "leaked", "key": "course"})
    assert (answer.status_code, answer.json["state"]) == (200, "done")
    assert_problem(site.ask(key), "key-revoked", 403)
    assert_problem(
        site.internal.post("/api/keys/revocations", json={"by": "eve", "why": "x", "key": "nothing"}), "no-such-key", 404
    )
    for method, path in (("get", "/api/keys"), ("post", "/api/keys"), ("post", "/api/keys/revocations")):
        answer = getattr(site.internal, method)(path, headers={"Authorization": f"Bearer {key}"})
        assert_problem(answer, "unauthorized", 401)


def test_explain_says_by_which_key_a_server_has_network(site, store):
    key = site.add()
    by = site.services.keys.find(key).label
    grant = Grant.new("small", "api-client", time.time())
    store.publish(ALICE, KnownServer("u", "small", grant.id, label="small", rule="api-client", by=by))
    assert site.operators.explain(ALICE)["because"] == f"Network of the tier small, by the rule api-client by {by}."


def checked(site):
    health = (site.operators, site.store.health())[1]
    checks = doctor.check_api_keys(health["verifiers"], health["revoked_keys"], time.time())
    return [(check.state, check.text) for check in checks]


def test_doctor_tells_of_keys_that_are_revoked_expired_or_wrong(site):
    assert checked(site) == [("ok", "none")]
    site.add()
    assert checked(site) == [("ok", "1, all valid")]
    site.operators.revoke_key("course", "eve", "leaked")
    site.add("over", expires="2001-01-01")
    site.entries["bad"] = good_entry(tier="huge")
    site.write()
    found = checked(site)
    assert [state for state, _ in found] == ["problem", "warning", "warning"]
    assert "no tier 'huge'" in found[0][1] and "course" in found[1][1] and "over" in found[2][1]


def test_a_scrape_does_not_look_through_all_of_redis_nor_asks_for_each_key(site, store, monkeypatch):
    for number in range(20):
        site.add(f"key-{number}")
    site.internal.get("/readyz")
    site.internal.get("/metrics")  # loads the script
    store._redis.config_resetstat()
    before = store._redis.info("stats")["total_reads_processed"]
    site.internal.get("/metrics")
    asked = store._redis.info("stats")["total_reads_processed"] - before
    assert "cmdstat_scan" not in store._redis.info("commandstats")
    assert asked < 15
    store._redis.config_resetstat()
    assert store.verifier_is_there()
    assert "cmdstat_scan" not in store._redis.info("commandstats")


def test_the_metrics_have_no_more_labels_than_there_are_keys(site):
    key = site.add()
    for wrong in wrong_keys(key):
        site.ask(wrong)
    site.ask(key)
    text = site.internal.get("/metrics").text
    assert set(re.findall(r'binder_egress_api_key\w*\{key="(.*?)"', text)) == {"", "course"}


# -- what the document says


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_the_commands_for_operators_in_the_document_do_what_it_says(site, run):
    commands = [shlex.split(block.replace("\\\n", ""))[2:] for block in blocks("sh") if block.startswith("egress keys ")]
    create, listing, revoke = commands
    done = run(*create)
    assert done.exit_code == 0, done.output
    made = yaml.safe_load(done.output[done.output.index("apiKeys:") :])
    (shown,) = map(yaml.safe_load, blocks("yaml"))
    hidden = {"id": "", "hash": "", "expires": ""}
    entry, example = (values["apiKeys"]["keys"]["statistics-101"] for values in (made, shown))
    assert entry | hidden == example | hidden
    Entry.model_validate(example)
    site.entries = made["apiKeys"]["keys"]
    site.write()
    assert "statistics-101  valid" in run(*listing).output
    assert run(*revoke).exit_code == 0
    assert "statistics-101  revoked" in run(*listing).output


class Builds(BaseHTTPRequestHandler):
    """A hub that remembers which passes builds came with, and hands the rest to the verifier."""

    verifier: str
    tokens: ClassVar[list[str]]

    def do_GET(self):
        self.tokens += parse_qs(urlsplit(self.path).query)["egress_token"]
        self._answer(200, b'data: {"phase": "ready"}\n\n', "text/event-stream")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        headers["X-Forwarded-For"] = CLIENT
        answer = requests.post(self.verifier + self.path, data=body, headers=headers, timeout=10)
        self._answer(answer.status_code, answer.content, answer.headers["Content-Type"])

    def _answer(self, status, content, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(redis_server, tmp_path, site):
    """The address of a hub with a real verifier that reads the file of `site`."""
    process = VerifierProcess(redis_server, api_keys_file=str(site.file), tiers={"verified": {}, "small": {}})
    handler = type("Handler", (Builds,), {"verifier": process.public, "tokens": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.tokens
    server.shutdown()
    server.server_close()
    process.stop()


EVENT_SOURCE = "globalThis.EventSource = class { constructor(address) { fetch(address).then(() => process.exit(0)); } };"


@pytest.mark.parametrize("language", ["sh", "python", "js"])
def test_the_examples_for_owners_in_the_document_launch_with_a_pass(hub, site, language):
    address, tokens = hub
    key = site.add("owner")
    code = next(block for block in blocks(language) if not block.startswith("egress "))
    command = {
        "sh": ["bash", "-euo", "pipefail", "-c", code],
        "python": [sys.executable, "-c", code],
        "js": ["node", "--input-type=module", "-e", f"{EVENT_SOURCE}\nconst hub = process.env.HUB, key = process.env.KEY;\n{code}"],
    }[language]
    environment = {"PATH": os.environ["PATH"], "HUB": address, "KEY": key, "no_proxy": "*"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (token,) = tokens
    assert site.services.passes.read(token, time.time()).key == FORM.fullmatch(key)[1]


def test_the_client_gets_a_pass_for_a_key_and_is_told_what_is_wrong(hub, site):
    asked, key = Verifier(f"{hub[0]}/egress/"), site.add("owner")
    assert asked.pass_for_key(key)["servers"] == 1
    site.operators.revoke_key("owner", "eve", "leaked")
    for wrong, kind in ((key, "key-revoked"), ("another-key", "key-refused")):
        with pytest.raises(NotGiven) as caught:
            asked.pass_for_key(wrong)
        assert caught.value.kind == kind


def test_every_answer_that_the_document_lists_is_a_kind_of_problem():
    listed = re.findall(r"^\| (\d{3}) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    found = {kind: int(status) for status, kinds in listed for kind in re.findall(r"`(.*?)`", kinds)}
    assert found == {kind: TITLES[kind][0] for kind in found}
    assert {kind for kind in TITLES if kind.startswith("key-") or "-keys" in kind} <= set(found)
