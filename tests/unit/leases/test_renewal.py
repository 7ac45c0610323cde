"""What renews a lease at the verifier, and what clients and users are told of it."""

import time

import pytest

from binder_egress.decisions import leases
from binder_egress.decisions.presented import REJECTED_PASSES
from binder_egress.model.grants import UNVERIFIED, Block, Rule
from binder_egress.model.records import KnownServer
from binder_egress.model.serialization import read_origin
from binder_egress.operators import actions
from binder_egress.operators.actions import CommandOperators
from binder_egress.web.app import create_services
from binder_egress.web.problems import TYPE
from tests.support.apps import carried, get_pass, internal_client, is_withdrawn, launch, make_settings, public_client, solve
from tests.support.leases import LEASE, TIERS, reconciler_settings
from tests.support.reconciling import ALICE


@pytest.fixture
def leasing(redis_server, store):
    """Services of a verifier whose proof of work grants a tier with a lease."""
    quick = {"cost": 1, "counterMax": 5, "tier": "blocked"}
    return create_services(make_settings(redis_server, tiers=TIERS, captcha_providers={"altcha": quick}, may_stop_pods=True), store)


@pytest.fixture
def client(leasing):
    return public_client(leasing)


def publish_lease(store, tier, left, grant="old", **fields):
    """Publish a server as the reconciler does; its lease ends in `left` seconds."""
    values = {"rule": "unlock", "until": int(time.time()) + left}
    store.publish(ALICE, KnownServer("uid-1", carried(tier, grant, **{**values, **fields}), "https://example.com/a/b"))


def post(client, **body):
    return client.post("/egress/servers/alice/", json=body)


def waiting(store):
    pending = store.pending(ALICE, set())
    return pending.unlock and pending.unlock.grant


def json_status(client):
    answer = client.get("/egress/servers/alice", headers={"Accept": "application/json"})
    return {name: answer.json[name] for name in ("tier", "until", "expires_in", "on_expiry", "unlockable", "renewable_in")}


# -- renewal


def test_lease_is_renewed_in_its_second_half_and_nothing_is_spent_before(client, store, impatient):
    publish_lease(store, "blocked", LEASE // 2 + 30)
    token, solution = get_pass(client), solve(client, "unlock")
    for body in ({"token": token}, {"provider": "altcha", "solution": solution}):
        answer = post(client, **body)
        assert (answer.status_code, answer.json["state"], answer.json["renewable_in"] > 0) == (200, "granted", True)
    assert waiting(store) is None
    publish_lease(store, "blocked", LEASE // 2 - 5)
    for body in ({"token": token}, {"provider": "altcha", "solution": solution}):
        answer = post(client, **body)
        assert (answer.status_code, answer.json["state"]) == (202, "pending")
        assert (waiting(store).tier, waiting(store).rule) == ("blocked", "renewal")


def test_pass_for_another_tier_does_not_renew_and_is_not_spent(client, store, impatient):
    publish_lease(store, "stopped", 10)
    solution = solve(client, "unlock")
    for body in ({"token": get_pass(client)}, {"provider": "altcha", "solution": solution}):
        answer = post(client, **body)
        assert (answer.status_code, answer.json["tier"]) == (200, "stopped")
    assert waiting(store) is None
    publish_lease(store, "blocked", 10)
    assert post(client, provider="altcha", solution=solution).status_code == 202


def test_renewal_of_a_blocked_or_refused_server_is_refused(client, store, impatient):
    publish_lease(store, "blocked", 10)
    store.add_block(Block("block", "repository", "example.com/a/*", read_origin("eve"), "w", 0), [])
    answer = post(client, token=get_pass(client))
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "blocked")
    assert waiting(store) is None
    assert json_status(client)["renewable_in"] is None
    text = client.get("/egress/servers/alice", headers={"Accept": "text/plain"}).text
    assert "Time left" in text and "enew" not in text


def test_renewal_takes_no_use_from_another_server(client, store, leasing, impatient):
    token = get_pass(client)
    first = launch(internal_client(leasing), "bob", token=token)
    publish_lease(store, "blocked", 10)
    answer = post(client, token=token)
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "pass-refused")
    assert not is_withdrawn(store, first["grant"])


@pytest.mark.parametrize("by", ["launch", "unlock"])
@pytest.mark.parametrize("over", [False, True])
def test_pass_gives_its_server_one_lease(client, store, leasing, impatient, by, over):
    """A pass is valid for five minutes, and a lease may be shorter: with one pass, a server would get several."""
    token = get_pass(client)
    if by == "launch":
        given = launch(internal_client(leasing), "alice", token=token)["grant"]
    else:
        publish_lease(store, UNVERIFIED, 0, grant="", rule="", until=None)
        assert post(client, token=token).status_code == 202
        given = waiting(store).id
    before = waiting(store)
    ended = {"tier": UNVERIFIED, "rule": "expired", "until": None}
    publish_lease(store, **{"tier": "blocked", "left": 10, "grant": given, **(ended if over else {})})
    answer = post(client, token=token)
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "pass-refused")
    assert answer.json["detail"] == REJECTED_PASSES["lease-given"]
    assert waiting(store) == before and not is_withdrawn(store, given)
    assert post(client, token=get_pass(client)).status_code == 202, "another pass does"


def test_two_passes_in_turn_give_a_lease_each(client, store, impatient):
    """The pod then carries a grant that is not the one of the first pass, which may not count again for that reason."""
    publish_lease(store, UNVERIFIED, 0, grant="", rule="", until=None)
    tokens = [get_pass(client) for _ in range(2)]
    for token in tokens:
        assert post(client, token=token).status_code == 202
        publish_lease(store, "blocked", 10, grant=waiting(store).id)
    before = waiting(store)
    over = {"tier": UNVERIFIED, "rule": "expired", "until": None}
    for now in ({"tier": "blocked"}, over):
        publish_lease(store, **{"left": 10, "grant": before.id, **now})
        for token in tokens:
            assert (post(client, token=token).status_code, waiting(store)) == (403, before)


def test_pass_whose_answer_was_lost_renews(client, store, impatient):
    """The client asks again before the reconciler has seen the renewal."""
    publish_lease(store, "blocked", 10)
    token = get_pass(client)
    assert [post(client, token=token).status_code for _ in range(2)] == [202, 202]
    assert waiting(store).rule == "renewal"


def test_pass_of_a_launch_is_presented_again_when_its_server_is_ready(client, store, leasing, impatient):
    """BinderHub's page does so, perhaps before the reconciler has seen the launch, and perhaps twice."""
    token = get_pass(client)
    first = launch(internal_client(leasing), "alice", token=token)["grant"]
    publish_lease(store, UNVERIFIED, 0, grant="", rule="", until=None)
    assert [post(client, token=token).status_code for _ in range(2)] == [202, 202]
    assert is_withdrawn(store, first) and not is_withdrawn(store, waiting(store).id)
    publish_lease(store, "blocked", LEASE, grant=waiting(store).id)
    assert post(client, token=token).json["state"] == "granted"


def test_pass_counts_again_after_a_block_is_lifted(place, client, impatient):
    """The operator revoked the pass's grant by mistake."""
    place.time = time.time()
    reconciler, operators = place.reconciler(), CommandOperators(reconciler_settings(), place.store, lambda: place.time)
    place.cluster.add(ready=True)
    place.turn(reconciler)
    token = get_pass(client)
    assert post(client, token=token).status_code == 202
    place.turn(reconciler)
    actions.revoke(operators, ALICE, "eve", "looked like a miner")
    place.turn(reconciler)
    assert (place.pod().label, post(client, token=token).json["type"]) == (None, TYPE + "blocked")
    actions.unblock(operators, "alice", "eve")
    place.turn(reconciler)
    assert post(client, token=token).status_code == 202
    place.turn(reconciler)
    assert place.pod().label == "blocked"


def test_pass_counts_as_before_when_the_mode_was_allow_meanwhile(place, client, store, impatient):
    """The lease that it gave goes on, and ends at its time. Nobody needs a pass in that mode."""
    place.time = time.time()
    reconciler, allowing = place.reconciler(), place.reconciler(mode="allow", allow_tier="blocked")
    place.cluster.add(ready=True)
    place.turn(reconciler)
    token = get_pass(client)
    assert post(client, token=token).status_code == 202
    for running in (reconciler, allowing, reconciler):
        place.turn(running)
        assert place.pod().grant.id == waiting(store).id
    place.turn(reconciler, after=LEASE)
    assert place.pod().label is None
    assert post(client, token=token).status_code == 403


# -- what clients and users see


@pytest.mark.parametrize(
    ("tier", "left", "fields", "told"),
    [
        ("verified", 0, {"until": None}, (None, None, False, None)),
        ("blocked", LEASE, {}, (LEASE, "end", False, LEASE // 2)),
        ("blocked", 100, {}, (100, "end", False, 0)),
        ("stopped", 100, {"may_stop": True}, (100, "stop", False, 0)),
        ("stopped", 100, {}, (100, "end", False, 0)),
        ("stopped", -5, {"may_stop": True}, (0, "stop", False, 0)),
        ("unverified", 100, {"rule": Rule.EXPIRED}, (100, "stop", True, None)),
        ("unverified", 0, {"rule": Rule.EXPIRED, "until": None}, (None, None, True, None)),
        ("unverified", 100, {"rule": Rule.BLOCKED}, (None, None, False, None)),
        # The values no longer have the lease or the tier.
        ("verified", 100, {}, (100, "end", False, 0)),
        ("gone", 100, {}, (100, "end", False, None)),
    ],
)
def test_json_status_describes_the_lease(client, store, tier, left, fields, told):
    publish_lease(store, tier, left, **fields)
    found = json_status(client)
    seconds, *rest = told
    if seconds is None:
        assert (found["until"], found["expires_in"]) == (None, None)
    else:
        assert abs(found["until"] - time.time() - left) < 5 and abs(found["expires_in"] - seconds) < 5
    assert [found["on_expiry"], found["unlockable"]] == rest[:2]
    assert found["renewable_in"] == rest[2] or abs(found["renewable_in"] - rest[2]) < 5


HOW_TO_RENEW = ["Time left: 1:", "To renew the time, open this page", "/egress/servers/alice/\n"]
OVER = ["no internet access. The time ran out at ", "will be stopped in 1:", "#unlock"]


@pytest.mark.parametrize(
    ("tier", "left", "rule", "texts", "never"),
    [
        ("blocked", 90061, "unlock", ["Time left: 25:01:0", " UTC. After that your server loses", "half of the"], "any browser"),
        ("blocked", 100, "unlock", HOW_TO_RENEW, "second half"),
        ("stopped", 100, "valid-pass", ["two minutes later it is stopped"], "keeps running"),
        ("stopped", 100, "unlock", ["keeps running"], "is stopped"),
        ("unverified", 100, Rule.EXPIRED, OVER, "Time left"),
    ],
)
def test_text_status_has_the_time_left_and_how_to_renew(client, store, tier, left, rule, texts, never):
    publish_lease(store, tier, left, rule=rule, may_stop=rule == "valid-pass")
    text = client.get("/egress/servers/alice", headers={"Accept": "*/*"}).text
    for part in texts:
        assert part in text, text
    assert never not in text


def test_mode_observe_announces_no_stop_of_a_pod(leasing):
    grant = carried(rule=Rule.EXPIRED, until=1_000_000)
    leasing.store.publish(ALICE, KnownServer("u", grant))
    for mode, told in (("captcha", True), ("observe", False)):
        settings = leasing.settings.model_copy(update={"mode": mode})
        assert (leases.left(grant, settings, 10) is not None) is told
        said = actions.explain(CommandOperators(settings, leasing.store), ALICE)["because"]
        assert ("Its pod is stopped after" in said) is told
