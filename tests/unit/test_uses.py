"""Uses of a pass: one server at a time holds a use, also when many launches arrive at once."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import pytest

from binder_egress.decisions.presented import REJECTED_PASSES
from binder_egress.model.passes import Passes
from binder_egress.model.records import KnownServer, PassOutcome, Server
from binder_egress.store.redeeming import MOVE_WINDOW_SECONDS, MOVES, REDEEMED
from binder_egress.web.app import create_services
from tests.support import apps
from tests.support.lost_answers import LostAnswers
from tests.support.store import Store


def waiting(store, user):
    """Returns the waiting grant of a user's server, or None if there is none or it is withdrawn."""
    found = store.pending(Server(user), set())
    if found.launch is None or found.launch.grant.tier == "unverified" or found.launch.grant.id in found.withdrawn:
        return None
    return found.launch.grant


def outcomes(internal, token, *launches):
    """Launch one server after the other, each given as user and further fields; returns the outcomes of the pass."""
    return [apps.launch(internal, user, token=token, **fields)["pass_outcome"] for user, fields in launches]


OTHER_REPOSITORY = {"repository": "https://example.com/c/d"}
OTHER_NETWORK = {"client_address": "203.0.113.9"}


def test_outcomes_of_the_script_are_all_known():
    """An outcome that code does not know would count as rejected, and its client would get no sentence."""
    script = (resources.files("binder_egress.store") / "lua/redeem.lua").read_text()
    assert set(re.findall(r"return {'([a-z-]+)'}", script)) == (
        REDEEMED | {PassOutcome.OUTRANKED} | REJECTED_PASSES.keys() | {"launch-changed"}
    )


def test_repeated_launch_of_a_server_keeps_its_use_and_replaces_its_grant(public, internal, store):
    token = apps.get_pass(public)
    decisions = [apps.launch(internal, "a", token=token) for _ in range(3)]
    assert [decision["pass_outcome"] for decision in decisions] == ["free", "held", "held"]
    assert [apps.is_withdrawn(store, decision["grant"]) for decision in decisions] == [True, True, False]
    assert waiting(store, "a").id == decisions[-1]["grant"]


@pytest.mark.parametrize("other", [OTHER_REPOSITORY, OTHER_NETWORK, OTHER_REPOSITORY | OTHER_NETWORK])
def test_pass_is_used_up_for_another_repository_or_network(public, internal, store, other):
    token = apps.get_pass(public)
    assert outcomes(internal, token, ("a", {}), ("b", other)) == ["free", "used-up"]
    assert waiting(store, "a")
    assert waiting(store, "b") is None


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        # Moving the use would leave connections open, and a person working there would lose egress without notice.
        ("running", "used-up"),
        ("running, launched again", "used-up"),
        # BinderHub retries a launch if the server did not come up.
        ("not ready yet", "moved"),
        ("gone", "moved"),
    ],
)
def test_server_loses_its_use_unless_it_is_running(public, internal, store, state, outcome):
    token = apps.get_pass(public)
    first = apps.launch(internal, "a", token=token)
    store.publish(Server("a"), KnownServer("uid-a"))
    if state == "running, launched again":
        apps.launch(internal, "a")
    elif state != "not ready yet":
        store.settle(Server("a"), store.pending(Server("a"), set()).launch)
    if state == "gone":
        store.forget(Server("a"))
    assert apps.launch(internal, "b", token=token)["pass_outcome"] == outcome
    assert apps.is_withdrawn(store, first["grant"]) == (outcome == "moved")
    assert bool(waiting(store, "b")) == (outcome == "moved")


def test_use_of_an_unlocked_server_does_not_move(public, internal, store):
    token = apps.get_pass(public)
    store.publish(Server("a"), KnownServer("uid-a", repository="https://example.com/a/b"))
    assert public.post("/egress/servers/a", json={"token": token}).status_code in (200, 202)
    assert apps.launch(internal, "b", token=token, repository="https://example.com/a/b")["pass_outcome"] == "used-up"


def test_similar_names_are_different_servers(public, internal):
    for server in (Server("a"), Server("a/b", "c d"), Server("ü😀%", "/")):
        assert Server.from_key(server.key) == server
    token = apps.get_pass(public)
    assert apps.launch(internal, "a/b", server="", token=token)["pass_outcome"] == "free"
    assert apps.launch(internal, "a", server="b", token=token)["pass_outcome"] == "moved"
    assert apps.launch(internal, "a%2Fb", server="", token=token)["pass_outcome"] == "moved"
    assert apps.launch(internal, "A", server="b", token=token)["pass_outcome"] == "moved"


def test_use_moves_a_limited_number_of_times(public, internal, store):
    token = apps.get_pass(public)
    users = [f"user-{number}" for number in range(MOVES + 3)]
    # A launch that is repeated adds no move.
    said = outcomes(internal, token, *((user, {}) for user in users for _ in range(2)))
    assert said == ["free", "held"] + ["moved", "held"] * MOVES + ["used-up"] * 4
    assert [bool(waiting(store, user)) for user in users] == [False] * MOVES + [True, False, False]


def test_use_moves_within_a_time_window_which_no_move_extends(public, internal, services, in_redis):
    token = apps.get_pass(public)
    apps.launch(internal, "a", token=token)
    key = f"binder-egress:pass:{services.passes.read(token, time.time()).id}"

    def age(seconds):
        uses = json.loads(in_redis.get(key))
        uses[0]["first"] -= seconds
        in_redis.set(key, json.dumps(uses), keepttl=True)

    age(MOVE_WINDOW_SECONDS - 20)
    assert outcomes(internal, token, ("b", {}), ("b", {})) == ["moved", "held"]
    age(21)
    assert outcomes(internal, token, ("c", {})) == ["used-up"]


def test_pass_for_three_servers_has_three_uses(make_services, store):
    services = make_services(pass_servers=3)
    internal, token = apps.internal_client(services), apps.get_pass(apps.public_client(services))
    assert outcomes(internal, token, *((user, {}) for user in "abc")) == ["free"] * 3
    assert outcomes(internal, token, ("d", OTHER_REPOSITORY)) == ["used-up"]
    # A retry follows the attempt that it repeats, so the latest use moves.
    assert outcomes(internal, token, ("e", {})) == ["moved"]
    assert [bool(waiting(store, user)) for user in "abcde"] == [True, True, False, False, True]
    # It is of the same repository.
    token = apps.get_pass(apps.public_client(services))
    outcomes(internal, token, ("a", {}), ("b", OTHER_REPOSITORY), ("c", OTHER_NETWORK))
    assert outcomes(internal, token, ("d", {})) == ["moved"]
    assert [bool(waiting(store, user)) for user in "abcd"] == [False, True, True, True]


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("repositories", [1, 100])
def test_hundred_simultaneous_launches_leave_the_grants_of_one_pass(make_services, store, servers, repositories):
    services = make_services(pass_servers=servers)
    token = apps.get_pass(apps.public_client(services))
    start = threading.Barrier(20, timeout=60)
    internal = apps.internal_client(services)

    def go(number):
        if number < 20:
            start.wait()
        return apps.launch(
            apps.another(internal), f"user-{number}", token=token, repository=f"https://example.com/{number % repositories}"
        )

    with ThreadPoolExecutor(20) as pool:
        decisions = list(pool.map(go, range(100)))
    holding = [user for user in (f"user-{number}" for number in range(100)) if waiting(store, user)]
    assert len(holding) == servers
    said = [decision for decision in decisions if decision["tier"] == "verified"]
    assert len(said) <= servers * (1 + MOVES)
    assert len([decision for decision in said if not apps.is_withdrawn(store, decision["grant"])]) == servers


def test_hundred_simultaneous_launches_and_unlocks_leave_one_grant(public, internal, store, impatient):
    token = apps.get_pass(public)
    for number in range(50):
        apps.run_pod(store, f"unlocked-{number}")

    def go(number):
        if number % 2:
            apps.launch(apps.another(internal), f"launched-{number // 2}", token=token)
        else:
            apps.another(public).post(f"/egress/servers/unlocked-{number // 2}", json={"token": token})

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(go, range(100)))
    grants = [waiting(store, f"launched-{number}") for number in range(50)]
    for number in range(50):
        found = store.pending(Server(f"unlocked-{number}"), set())
        grants.append(found.unlock and found.unlock.grant.id not in found.withdrawn)
    assert len([grant for grant in grants if grant]) == 1


def test_launch_without_a_pass_removes_the_waiting_grant(public, internal, store):
    apps.launch(internal, "a", token=apps.get_pass(public))
    apps.launch(internal, "a")
    assert waiting(store, "a") is None


def test_waiting_grant_ends_with_the_launch_timeout_and_its_withdrawal_later(public, internal, store, settings, in_redis):
    token = apps.get_pass(public)
    first = apps.launch(internal, "a", token=token, image="image:2")
    record = store.pending(Server("a"), set()).launch
    assert (record.image, record.repository, record.uid) == ("image:2", "https://example.com/a/b", None)
    assert settings.launch_timeout - 5 < in_redis.ttl("binder-egress:launch:a/") <= settings.launch_timeout
    apps.launch(internal, "b", token=token)
    assert in_redis.ttl(f"binder-egress:withdrawn:{first['grant']}") > settings.launch_timeout


# -- the epoch


def test_pass_from_before_a_wipe_gives_nothing(public, internal, store, redis_server):
    used, unused = apps.get_pass(public), apps.get_pass(public)
    apps.launch(internal, "a", token=used)
    redis_server.wipe()
    for token in (used, unused):
        assert outcomes(internal, token, ("a", {}), ("b", {})) == ["before-epoch", "before-epoch"]
    assert waiting(store, "b") is None
    apps.run_pod(store)
    assert public.post("/egress/servers/alice", json={"token": unused}).status_code == 403
    assert store.pending(Server("alice"), set()).unlock is None


def test_pass_that_is_the_first_thing_after_a_wipe_counts(internal, services, store, redis_server):
    """A pass for an API key is issued without a challenge, which would have begun the epoch."""
    redis_server.wipe()
    issued_at = store.use_key("0123456789abcdef", 1, 60, apps.admit)
    token = services.passes.sign(Passes.new("verified", 1, issued_at, 300))
    assert outcomes(internal, token, ("a", {})) == ["free"]


def test_wipe_during_many_uses_leaves_at_most_one(public, internal, redis_server, store):
    token = apps.get_pass(public)

    def go(number):
        if number == 20:
            redis_server.wipe()
        return apps.launch(apps.another(internal), f"user-{number}", token=token, repository=str(number))

    with ThreadPoolExecutor(8) as pool:
        decisions = list(pool.map(go, range(60)))
    assert len([decision for decision in decisions if decision["tier"] == "verified"]) == 1
    assert not [user for user in range(60) if waiting(store, f"user-{user}")]


def test_epoch_is_written_once(store, in_redis):
    store.ping()
    first = in_redis.get("binder-egress:epoch")
    store.ping()
    store.heartbeat(time.time(), {})
    assert in_redis.get("binder-egress:epoch") == first
    assert in_redis.ttl("binder-egress:epoch") == -1


def test_unknown_networks_count_as_one_network(public, internal):
    token = apps.get_pass(public)
    assert outcomes(internal, token, ("a", {"client_address": "10.0.0.1"}), ("b", {"client_address": None})) == ["free", "moved"]
    assert outcomes(internal, token, ("c", {"client_address": apps.CLIENT})) == ["used-up"]


def test_lost_answer_of_redis_costs_no_use(settings, store):
    """If Redis did the work but its answer was lost, the client repeats the call and gets the same answer."""
    with LostAnswers.from_url(settings.redis_url, decode_responses=True) as client:
        services = create_services(settings, Store(client))
        decision = apps.launch(apps.internal_client(services), "a", token=apps.get_pass(apps.public_client(services)))
    assert (decision["tier"], apps.is_withdrawn(store, decision["grant"])) == ("verified", False)
    assert [["free"], ["held"]] in client.answers
