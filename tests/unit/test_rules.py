"""Each rule at a launch and at an unlock, and the order of rules."""

import re

import pytest

from binder_egress.model.grants import Block
from binder_egress.model.records import KnownServer, Server
from binder_egress.model.serialization import read_origin
from binder_egress.web.problems import TYPE
from tests.support.apps import carried, get_pass, launch, solve
from tests.support.metrics import value

REPOSITORY = "https://example.com/a/b"  # of apps.launch and apps.run_pod


pytestmark = pytest.mark.usefixtures("impatient")


def add_block(store, kind, what, until=None, uid=""):
    store.add_block(Block(f"id-{kind}", kind, what, read_origin("eve"), "mining", 0, until, uid), [])


def decided(decision):
    return decision["tier"], decision["rule"]


def refused(answer, detail):
    assert (answer.status_code, answer.json["type"]) == (403, f"{TYPE}blocked"), answer.text
    assert detail in answer.json["detail"]


# -- refusals

REFUSING = {
    "blocked-repository": {"blocked_repositories": ["example.com/a/*"]},
    "own-network": {"self_networks": ["198.51.100.0/24"]},
}


@pytest.mark.parametrize("rule", REFUSING)
@pytest.mark.parametrize("mode", ["captcha", "observe", "allow"])
def test_refused_launch_gets_no_egress_even_with_a_pass(site, rule, mode):
    public, internal, _ = site("203.0.113.9", mode=mode)
    token = get_pass(public)
    granting = {"trusted_repositories": {"example.com/a/b": "verified"}, "authenticated_users": {"*": "verified"}}
    _, internal, services = site(mode=mode, **granting, **REFUSING[rule])
    decision = launch(internal, token=token, authenticated=True)
    assert decided(decision) == ("unverified", rule)
    labels = {"tier": "unverified", "rule": rule, "pass_outcome": "none"}
    assert value(internal, "binder_egress_launches_total", **labels) == 1
    assert services.store.pending(Server("alice"), set()).launch.grant.rule == rule


@pytest.mark.parametrize(("kind", "what"), [("repository", "example.com/a/b"), ("network", "198.51.100.0/24")])
@pytest.mark.parametrize("mode", ["captcha", "allow"])
def test_blocked_launch_gets_no_egress_and_keeps_its_pass(site, store, kind, what, mode):
    public, internal, _ = site("203.0.113.9", mode=mode)
    token = get_pass(public)
    add_block(store, kind, what)
    assert decided(launch(internal, token=token)) == ("unverified", "blocked")
    # The refusal does not use up the pass.
    elsewhere = {"repository": "https://example.com/c/d", "client_address": "203.0.113.9"}
    assert launch(internal, "bob", token=token, **elsewhere)["tier"] == "verified"


def test_first_matching_rule_is_named(site, store):
    _, internal, _ = site(blocked_repositories=["example.com/a/b"], self_networks=["198.51.100.7/32"])
    assert decided(launch(internal)) == ("unverified", "blocked-repository")
    add_block(store, "repository", "example.com/*")
    assert decided(launch(internal)) == ("unverified", "blocked")


OURS = ("10.1.2.3", "::ffff:10.1.2.3", " 10.1.2.3 ", "2001:db8::7", "100.64.0.9")  # other code takes private ones for one client
OTHERS = ("11.0.0.1", "2001:db9::7", "", None, "garbage", "10.1.2.3, 11.0.0.1")


@pytest.mark.parametrize("address", OURS + OTHERS)
def test_address_in_our_own_networks_is_recognised(site, address):
    public, internal, _ = site(self_networks=["10.0.0.0/8", "2001:db8::/32", "100.64.0.0/10"])
    said = decided(launch(internal, token=get_pass(public), client_address=address))
    assert said == (("unverified", "own-network") if address in OURS else ("verified", "valid-pass"))


# -- refusals at POST passes and at an unlock


def test_pass_request_from_our_own_networks_is_refused(site, in_redis):
    public, internal, _ = site(self_networks=["198.51.100.0/24"])
    solution = solve(public)
    refused(public.post("/egress/passes", json={"provider": "altcha", "solution": solution}), "network")
    labels = {"provider": "altcha", "purpose": "launch", "outcome": "own-network"}
    assert value(internal, "binder_egress_solutions_total", **labels) == 1
    # The refusal does not use up the solution; from another network it would belong to another client.
    assert not in_redis.keys("binder-egress:solution:*")


@pytest.mark.parametrize(
    ("known", "values", "block", "rule"),
    [
        ({}, {"blocked_repositories": ["example.com/a/b"]}, None, "blocked-repository"),
        ({"client": "10.0.0.7"}, {"self_networks": ["10.0.0.0/8"]}, None, "own-network"),
        # The unlock comes from inside, the launch came from outside.
        ({}, {"self_networks": ["198.51.100.0/24"]}, None, "own-network"),
        ({}, {}, ("repository", "example.com/a/*"), "blocked"),
        ({"client": "203.0.113.9"}, {}, ("network", "203.0.113.9/32"), "blocked"),
        ({}, {}, ("network", "198.51.100.7/32"), "blocked"),
        ({}, {}, ("server", "alice/", None, "uid-1"), "blocked"),
        ({"grant": carried(identity="g", rule="blocked")}, {}, None, "blocked"),  # on the pod only; Redis has lost it
    ],
)
@pytest.mark.parametrize("how", ["pass", "solution"])
def test_unlock_is_refused_by_the_rules_of_a_launch(site, store, known, values, block, rule, how, in_redis):
    public, internal, _ = site(**values)
    elsewhere, _, _ = site("203.0.113.200")
    body = {"token": get_pass(elsewhere)} if how == "pass" else {"provider": "altcha", "solution": solve(public, "unlock")}
    if block:
        add_block(store, *block)
    store.publish(Server("alice"), KnownServer("uid-1", repository=REPOSITORY, **known))
    answer = public.post("/egress/servers/alice", json=body)
    refused(answer, "network" if rule == "own-network" else "operators")
    assert "example.com" not in answer.text and "mining" not in answer.text
    assert value(internal, "binder_egress_unlocks_total", outcome=rule) == 1
    assert store.pending(Server("alice"), set()).unlock is None
    assert not in_redis.keys("binder-egress:pass:*")
    shown = public.get("/egress/servers/alice", headers={"Accept": "application/json"}).json
    assert (shown["tier"], shown["access"], shown["unlockable"]) == ("unverified", "none", False)
    assert (shown["larger"], shown["renewable_in"]) == ([], None)
    for kind in ("text/plain", "text/html"):
        page = public.get("/egress/servers/alice", headers={"Accept": kind}).text
        assert re.search("The operators of this site (do not offer more here|blocked it at [0-9: -]+ UTC)[.]", page)
        assert "Solving a check would not change that." in page
        assert "&#34;unlockable&#34;: true" not in page and (kind == "text/plain" or re.search('<div id="how"[^>]* hidden>', page))
        assert "open this page in any browser" not in re.sub('data-messages="[^"]*"', "", page)


# -- grants


TRUSTED = {"trusted_repositories": {"github.com/Jupyter/Demo": "small"}}
LISTED = {"authenticated_users": {"alice": "small"}, "authenticated_groups": {"staff": "verified", "students": "small"}}
EVERYBODY = {"authenticated_users": {"*": "small", "alice": "verified"}, "authenticated_groups": {"staff": "verified"}}


@pytest.mark.parametrize(
    ("settings", "launched", "tier", "rule"),
    [
        (TRUSTED, {"repository": "https://github.com/jupyter/demo.git"}, "small", "trusted-repository"),
        (TRUSTED, {"repository": "https://github.com/jupyter/demo2"}, "unverified", "default"),
        (TRUSTED, {"repository": "https://www.github.com/jupyter/demo"}, "unverified", "default"),
        (LISTED, {"user": "alice"}, "small", "authenticated"),
        (LISTED, {"user": "alice", "groups": ["staff"]}, "small", "authenticated"),
        (LISTED, {"user": "bob", "groups": ["staff", "other"]}, "verified", "authenticated"),
        (LISTED, {"user": "bob", "groups": ["other"]}, "unverified", "default"),
        (LISTED, {"user": "*"}, "unverified", "default"),
        # The first group of the settings decides, not the first one of the user.
        (LISTED, {"user": "bob", "groups": ["staff", "students"]}, "verified", "authenticated"),
        (LISTED, {"user": "bob", "groups": ["students", "staff"]}, "verified", "authenticated"),
        # The rule for all users who logged in comes last.
        (EVERYBODY, {"user": "alice"}, "verified", "authenticated"),
        (EVERYBODY, {"user": "bob"}, "small", "authenticated"),
        (EVERYBODY, {"user": "carol", "groups": ["staff"]}, "verified", "authenticated"),
        (TRUSTED | EVERYBODY, {"repository": "https://github.com/jupyter/demo"}, "small", "trusted-repository"),
    ],
)
def test_launch_gets_the_tier_of_its_repository_or_user_without_a_pass(site, settings, launched, tier, rule):
    _, internal, _ = site(**settings)
    assert decided(launch(internal, authenticated=True, **launched)) == (tier, rule)
    # Names that BinderHub generates belong to no person.
    nobody = (tier, rule) if rule == "trusted-repository" else ("unverified", "default")
    assert decided(launch(internal, authenticated=False, **launched)) == nobody


def test_valid_pass_precedes_a_trusted_repository_bad_pass_does_not(site):
    public, internal, _ = site(trusted_repositories={"example.com/a/b": "small"})
    assert decided(launch(internal, token=get_pass(public))) == ("verified", "valid-pass")
    decision = launch(internal, "bob", token="garbage")
    assert (*decided(decision), decision["pass_outcome"]) == ("small", "trusted-repository", "invalid")


def test_mode_allow_precedes_a_valid_pass_which_keeps_its_use(site):
    public, internal, _ = site(mode="allow", allow_tier="small")
    decision = launch(internal, token=get_pass(public))
    assert (*decided(decision), decision["pass_outcome"]) == ("small", "mode-allow", "none")


def test_blocks_that_stand_are_counted_by_kind(site, store):
    _, internal, _ = site()
    store.publish(Server("alice"), KnownServer("uid-1"))
    add_block(store, "server", "alice/", uid="uid-1")
    add_block(store, "repository", "example.com/d/e", until=1)
    assert [value(internal, "binder_egress_blocks", kind=kind) for kind in ("server", "repository")] == [1, 0]
    store.forget(Server("alice"))
    assert value(internal, "binder_egress_blocks", kind="server") == 0
