"""API keys: their form, and the pass that a key earns."""

import json
import re
import time

import jsonschema
import pytest
import yaml

from tests.support.api_keys import CREATE, DOCUMENT, LATER, ORIGIN, checked
from tests.support.apps import launch, reconciler, run_pod, solve
from tests.support.public_port import assert_problem
from verifier import api_keys as keys
from verifier.api_keys import FORM
from verifier.gatecheck import doctor
from verifier.passes import Passes
from verifier.records import Server

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
