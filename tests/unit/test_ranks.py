"""Larger tiers: a server with a tier can get one of a higher rank, and loses nothing by it."""

import re
import time

import pytest

from binder_egress.decisions.leases import larger, outranking
from binder_egress.model.grants import Block, Rule
from binder_egress.model.passes import Passes
from binder_egress.model.records import KnownServer, Server
from binder_egress.model.serialization import read_origin
from binder_egress.web.problems import TYPE
from tests.support import apps
from tests.support.charges import unlock
from tests.support.reconciling import ALICE

TIERS = {"small": {"internet": False}, "verified": {"internet": True, "rank": 1}, "huge": {"rank": 2}, "other": {}}
HTML, TEXT, JSON = ({"Accept": kind} for kind in ("text/html", "text/plain", "application/json"))
MORE = "Another short check gives your server more access."


pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def site(make_services):
    """Returns a function that makes the services of a site where proof of work earns a tier."""
    providers = {"altcha": apps.QUICK["altcha"] | {"tier": "verified"}}
    return lambda tiers=TIERS: make_services(tiers=tiers, captcha_providers=providers)


def has(store, tier="small", **fields):
    store.publish(ALICE, KnownServer("uid-1", apps.carried(tier, "its-grant", **fields), "https://example.com/a/b"))


def token(services, tier="verified"):
    store = services.store
    return services.passes.sign(Passes.new(tier, 1, store.use_key("k", 10**6, 60, apps.admit), 300))


def waiting(store):
    record = store.pending(ALICE, set()).unlock
    return record and record.grant.tier


# -- order of tiers


@pytest.mark.parametrize(
    ("has", "until", "gets", "is_larger"),
    [
        pytest.param({}, None, {"rank": 1}, True, id="a higher rank"),
        pytest.param({}, None, {}, False, id="the same rank"),
        pytest.param({"rank": 1}, None, {}, False, id="a lower rank"),
        pytest.param({"rank": -2}, None, {"rank": -1}, True, id="negative ranks"),
        pytest.param({}, None, {"rank": 1, "lease": 600}, False, id="it would end"),
        pytest.param({"lease": 600}, 500, {"rank": 1}, True, id="it would not end any more"),
        pytest.param({"lease": 600}, 500, {"rank": 1, "lease": 600}, True, id="it ends later"),
        pytest.param({"lease": 600}, 600, {"rank": 1, "lease": 600}, True, id="it ends at the same time"),
        pytest.param({"lease": 600}, 500, {"rank": 1, "lease": 400}, False, id="it would end earlier"),
        pytest.param({"lease": 600}, 300, {"rank": 1, "lease": 400}, True, id="not any more"),
        pytest.param({"lease": 600}, 300, {"rank": 1, "lease": 600, "on_expiry": "stop"}, False, id="it would be stopped"),
        pytest.param(
            {"lease": 600, "on_expiry": "stop"}, 300, {"rank": 1, "lease": 600, "on_expiry": "stop"}, True, id="as it would be"
        ),
    ],
)
def test_larger_tier_is_larger_in_every_respect(redis_server, has, until, gets, is_larger):
    tiers = {"has": has, "gets": gets}
    settings = apps.make_settings(redis_server, tiers=tiers, allow_tier="has", may_stop_pods=True)
    until = None if until is None else 1000 + until
    assert larger("has", until, settings, 1000.7) == (["gets"] if is_larger else [])


def test_largest_tier_comes_first(redis_server):
    settings = apps.make_settings(redis_server, tiers=TIERS)
    assert larger("small", None, settings, 0) == ["huge", "verified"]
    assert larger("verified", None, settings, 0) == ["huge"]
    assert [larger(tier, None, settings, 0) for tier in ("huge", "unverified", "gone")] == [[], [], []]


def test_unlock_replaces_one_that_waits_if_it_is_larger_in_every_respect(redis_server):
    tiers = {"endless": {}, "leased": {"rank": 1, "lease": 600}, "more": {"rank": 2, "lease": 600}}
    settings = apps.make_settings(redis_server, tiers=tiers, allow_tier="endless")
    kept = {tier: outranking(tier, settings, 1000.7) for tier in tiers}
    assert kept == {"endless": ["leased", "more"], "leased": ["endless", "more"], "more": ["endless"]}


# -- unlocks to a larger tier


@pytest.mark.parametrize(("server", "outcome"), [("mallory", "used-up"), ("alice", "held")])
def test_use_for_a_larger_tier_stays_with_its_server_when_that_is_gone(site, store, server, outcome):
    """It has given its time to that server, so it does not move like the use of an attempt that failed."""
    services = site()
    passed = token(services)
    has(store)
    assert unlock(apps.public_client(services), token=passed).status_code == 202
    grant = store.pending(ALICE, set()).unlock.grant
    store.forget(ALICE)
    assert apps.launch(apps.internal_client(services), server, token=passed)["pass_outcome"] == outcome
    assert apps.is_withdrawn(store, grant.id) is (outcome == "held")


def test_pass_for_a_larger_tier_counts_until_its_server_has_it(site, store):
    services = site(tiers={"small": {"lease": 600}, "verified": {"rank": 1, "lease": 600}})
    client, passed, soon = apps.public_client(services), token(services), int(time.time()) + 500
    has(store, until=soon)
    # An answer was lost.
    assert [unlock(client, token=passed).status_code for _ in range(2)] == [202, 202]
    grant = store.pending(ALICE, set()).unlock.grant
    for now in ({"tier": "verified", "until": soon}, {"tier": "unverified", "rule": Rule.EXPIRED}):
        store.publish(ALICE, KnownServer("uid-1", apps.carried(identity=grant.id, **now)))
        unlock(client, token=passed)
        assert store.pending(ALICE, set()).unlock.grant == grant
    assert unlock(client, token=token(services)).status_code == 202


def test_larger_unlock_replaces_a_smaller_one_that_waits_and_no_other_does(site, store, in_redis):
    services = site()
    client = apps.public_client(services)
    has(store, "unverified")
    for tier in ("small", "verified", "huge", "huge"):
        assert unlock(client, token=token(services, tier)).status_code == 202
        assert waiting(store) == tier
    for tier in ("verified", "small"):
        answer = unlock(client, token=token(services, tier))
        assert (answer.status_code, answer.json["state"], waiting(store)) == (202, "pending", "huge")
    assert len(in_redis.keys("binder-egress:pass:*")) == 4, "a pass that gave nothing keeps its use"


@pytest.mark.parametrize("why", ["withdrawn", "of an earlier pod", "on the pod"])
def test_unlock_that_waits_no_longer_keeps_no_other_out(site, store, why):
    services = site()
    client = apps.public_client(services)
    has(store, "unverified")
    assert unlock(client, token=token(services, "huge")).status_code == 202
    grant = store.pending(ALICE, set()).unlock.grant
    if why == "withdrawn":
        store.withdraw([grant.id])
    elif why == "of an earlier pod":
        store.publish(ALICE, KnownServer("uid-2", apps.carried("unverified")))
    else:
        store.publish(ALICE, KnownServer("uid-1", apps.carried("unverified", grant.id, rule="expired")))
    assert unlock(client, token=token(services, "small")).status_code == 202
    assert waiting(store) == "small"


def test_pass_is_not_taken_from_another_server(site, store):
    services = site()
    client, passed = apps.public_client(services), token(services)
    apps.run_pod(store, "bob", "uid-2")
    assert client.post("/egress/servers/bob", json={"token": passed}).status_code == 202
    bobs = store.pending(Server("bob"), set()).unlock.grant
    has(store)
    answer = unlock(client, token=passed)
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "pass-refused")
    assert not apps.is_withdrawn(store, bobs.id) and waiting(store) is None


def test_refused_server_gets_no_larger_tier(site, store):
    services = site()
    has(store)
    store.add_block(Block("l", "repository", "example.com/a/b", read_origin("eve"), "", int(time.time())), [])
    client = apps.public_client(services)
    answer = unlock(client, token=token(services))
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "blocked")
    assert waiting(store) is None
    assert client.get("/egress/servers/alice", headers=JSON).json["larger"] == []
    for headers in (HTML, TEXT):
        assert MORE not in shown(client, headers)


# -- the page


def shown(client, headers):
    return re.sub(r'data-\S+="[^"]*"', "", client.get("/egress/servers/alice", headers=headers).text)


@pytest.mark.parametrize(("tier", "offered"), [("small", True), ("verified", False), ("huge", False), ("unverified", False)])
def test_page_offers_larger_tiers(site, store, tier, offered):
    client = apps.public_client(site())
    has(store, tier)
    assert client.get("/egress/servers/alice", headers=JSON).json["larger"] == (["verified"] if offered else [])
    then = "Then: Programs in it can open connections to the internet"
    for headers, way in ((HTML, "Get more access</button>"), (TEXT, "http://localhost/egress/servers/alice/\n")):
        text = shown(client, headers)
        assert [said in text for said in (MORE, then, way)] == [offered] * 3
