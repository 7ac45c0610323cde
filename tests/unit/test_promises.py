"""Promises: a launch that is announced before its solution, and the pass that keeps it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import Mock

import pytest

from binder_egress.model.grants import Block
from binder_egress.model.passes import LEEWAY_SECONDS, BadPass, Pass, Passes
from binder_egress.model.promise_token import is_promise
from binder_egress.model.records import Server
from binder_egress.model.serialization import read_origin
from binder_egress.store.errors import StoreUnavailable
from binder_egress.store.promised_launches import ANNOUNCED_TTL_SECONDS, PROMISE_TTL_SECONDS, promise_key
from tests.support.apps import CLIENT, NETWORK, get_pass, internal_client, launch, new_promise, public_client, solve
from tests.support.reconciling import list_and_converge

ALICE = Server("alice")
REPOSITORY = "https://example.com/a/b"


@pytest.fixture
def promise():
    return new_promise()


def keep(client, promise):
    """Solve a challenge, and name a promise. Returns the verifier's word about it."""
    answer = client.post("/egress/passes", json={"provider": "altcha", "solution": solve(client), "promise": promise})
    assert answer.status_code == 201, answer.text
    return answer.json["promise"]


def state(client, promise):
    answer = client.get(f"/egress/promises/{promise}")
    assert answer.status_code == 200, answer.text
    return answer.json["state"]


def label(cluster, user="alice"):
    (pod,) = [pod for pod in cluster.pods.values() if pod.server.user == user]
    return pod.label


@pytest.fixture
def server(internal, promise, reconciler, cluster):
    """The pod of Alice's server, which was launched with the promise and runs without a tier."""
    launch(internal, token=promise)
    pod = cluster.add("alice", "uid-1", ready=True)
    list_and_converge(reconciler)
    return pod


# -- the states of a launch when its promise is kept


def test_launch_with_a_promise_that_nobody_keeps_gets_no_egress_and_neighbours_learn_nothing(public, internal, services, promise):
    decision = launch(internal, token=promise)
    assert (decision["tier"], decision["rule"], decision["pass_outcome"]) == ("unverified", "default", "promised")
    assert public.get(f"/egress/promises/{promise}").json == {"state": "announced", "tier": "unverified", "access": "none"}
    assert state(public_client(services, "203.0.113.9"), promise) == "open"


def test_promise_that_is_kept_first_gives_the_launch_its_tier(public, internal, promise):
    assert keep(public, promise) == {"state": "kept", "tier": None, "access": None}
    decision = launch(internal, token=promise)
    assert (decision["tier"], decision["rule"], decision["pass_outcome"]) == ("verified", "valid-pass", "free")
    assert public.get(f"/egress/promises/{promise}").json == {"state": "granted", "tier": "verified", "access": "network"}


def test_promise_that_is_kept_while_the_launch_waits_counts_as_a_pass_that_came_with_it(
    public, internal, store, promise, reconciler, cluster
):
    launch(internal, token=promise)
    assert keep(public, promise) == {"state": "granted", "tier": "verified", "access": "network"}
    assert store.pending(ALICE, set()).launch.grant.rule == "valid-pass"
    cluster.add("alice", "uid-1")
    list_and_converge(reconciler)
    assert label(cluster) == "verified"


def test_promise_that_is_kept_once_there_is_a_pod_unlocks_it(public, store, promise, reconciler, cluster, server):
    assert label(cluster) is None
    assert keep(public, promise)["state"] == "announced", "the pod does not carry the grant yet"
    assert store.pending(ALICE, set()).unlock.grant.rule == "unlock"
    list_and_converge(reconciler)
    assert (label(cluster), state(public, promise)) == ("verified", "granted")
    # Where the network opens the tier late, the launch page does not call it access before.
    store.publish(ALICE, replace(store.known(ALICE), opens_at=int(time.time()) + 30))
    assert public.get(f"/egress/promises/{promise}").json == {"state": "announced", "tier": "verified", "access": "none"}


def test_pod_that_comes_while_the_launch_is_decided_again_is_unlocked(site, store, promise, make_reconciler, cluster, monkeypatch):
    """Between the look at the launch and the decision, the reconciler gives the pod what it had decided before."""
    tiers = {"small": {"rank": 1}, "verified": {"rank": 2}}
    public, internal, _ = site(tiers=tiers, trusted_repositories={"example.com/a/b": "small"})
    reconciler, redeem = make_reconciler(tiers=tiers), store.redeem
    launch(internal, token=promise)

    def late(*args, **named):
        monkeypatch.setattr(store, "redeem", redeem)
        cluster.add("alice", "uid-1", ready=True)
        list_and_converge(reconciler)
        return redeem(*args, **named)

    monkeypatch.setattr(store, "redeem", late)
    keep(public, promise)
    list_and_converge(reconciler)
    assert label(cluster) == "verified"


def test_promise_that_is_kept_while_the_launch_is_decided_counts(public, internal, store, promise, monkeypatch):
    promised = store.promised

    def late(*args):
        found = promised(*args)
        monkeypatch.setattr(store, "promised", promised)
        keep(public, promise)
        return found

    monkeypatch.setattr(store, "promised", late)
    assert launch(internal, token=promise)["tier"] == "verified"


# -- what is already better, and the order of rules


def test_kept_promise_follows_the_order_of_rules(site, promise):
    """A pass comes before a trusted repository, and after mode `allow` and the refusals."""
    public, internal, _ = site(tiers={"verified": {}, "small": {}}, trusted_repositories={"example.com/a/b": "small"})
    assert launch(internal, token=promise)["tier"] == "small"
    assert keep(public, promise)["tier"] == "verified"


def test_kept_promise_of_a_refused_launch_gives_nothing(site, promise):
    public, internal, _ = site(blocked_repositories=["example.com/a/*"])
    assert launch(internal, token=promise)["rule"] == "blocked-repository"
    assert keep(public, promise) == {"state": "refused", "tier": "unverified", "access": "none"}


def test_launch_that_a_block_refused_gets_its_tier_after_the_block_is_removed(public, internal, store, promise):
    store.add_block(Block("x", "repository", "example.com/a/b", read_origin("eve"), "mining", 1), [])
    assert (launch(internal, token=promise)["rule"], state(public, promise)) == ("blocked", "refused")
    store.remove_block("x")
    assert state(public, promise) == "announced"
    assert keep(public, promise)["state"] == "granted"


def test_server_with_something_better_keeps_it(site, store, promise, make_reconciler, cluster):
    tiers = {"verified": {"rank": 1}, "large": {"rank": 2}}
    public, internal, _ = site(tiers=tiers, authenticated_users={"*": "large"})
    reconciler = make_reconciler(tiers=tiers)
    launch(internal, token=promise, authenticated=True)
    cluster.add("alice", "uid-1", ready=True)
    list_and_converge(reconciler)
    keep(public, promise)
    list_and_converge(reconciler)
    assert label(cluster) == "large" and store.pending(ALICE, set()).unlock is None


@pytest.mark.parametrize("tiers", [("large", "verified"), ("verified", "large"), ("verified", "large", "verified")], ids="-".join)
def test_largest_of_the_passes_that_keep_a_promise_counts(site, store, promise, tiers):
    """Whoever knows the promise, behind the visitor's own address, would otherwise make the server smaller by keeping it again."""
    public, internal, made = site(tiers={"verified": {"rank": 1}, "large": {"rank": 2}})
    issued_at = float(store.use_solution("altcha", "id", 2e9, 60, lambda _: None))
    for tier in tiers:
        issued = made.passes.sign(Passes.new(tier, 1, issued_at, 300))
        assert public.post(f"/egress/promises/{promise}", json={"token": issued}).json["state"] == "kept"
    assert launch(internal, token=promise)["tier"] == "large"


# -- whose it is


def test_neighbour_who_reads_a_promise_in_a_log_gets_nothing_with_it(public, internal, store, promise):
    """Before and after the launch of the visitor, who loses nothing."""
    launch(internal, user="mallory", token=promise, client_address="203.0.113.9")
    launch(internal, token=promise)
    launch(internal, user="eve", token=promise, client_address="203.0.113.9")
    assert keep(public, promise)["state"] == "granted"
    given = {user: store.pending(Server(user), set()).launch.grant.tier for user in ("mallory", "alice", "eve")}
    assert given == {"mallory": "unverified", "alice": "verified", "eve": "unverified"}
    assert launch(internal, user="mallory", token=promise, client_address="203.0.113.9")["tier"] == "unverified"


def test_next_attempt_of_binderhub_takes_the_promise_of_a_launch_that_waits(public, internal, store, promise):
    launch(internal, token=promise)
    launch(internal, user="alice-2", token=promise)
    keep(public, promise)
    given = {user: store.pending(Server(user), set()).launch.grant.tier for user in ("alice", "alice-2")}
    assert given == {"alice": "unverified", "alice-2": "verified"}


def test_next_attempt_of_binderhub_takes_the_promise_of_a_server_that_does_not_get_ready(
    public, internal, promise, reconciler, cluster
):
    """The promise was kept when the first pod was there, so that pod has the use by an unlock."""
    launch(internal, token=promise)
    cluster.add("alice", "uid-1")
    list_and_converge(reconciler)
    keep(public, promise)
    list_and_converge(reconciler)
    assert label(cluster) == "verified"
    assert launch(internal, user="alice-2", token=promise)["pass_outcome"] == "moved"


def test_server_that_is_up_keeps_its_promise(public, internal, promise, reconciler, cluster, server):
    launch(internal, user="bob", token=promise)
    cluster.add("bob", "uid-2", ready=True)
    keep(public, promise)
    list_and_converge(reconciler)
    assert (label(cluster), label(cluster, "bob")) == ("verified", None)


def test_two_launches_at_the_same_instant_get_one_pass(public, services, store, promise):
    start, users = threading.Barrier(2), ["alice", "bob"]

    def announce(user):
        client = internal_client(services)
        start.wait(60)
        launch(client, user=user, token=promise)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(announce, users))
    keep(public, promise)
    assert sorted(store.pending(Server(user), set()).launch.grant.tier for user in users) == ["unverified", "verified"]


def test_later_server_of_the_same_name_gets_nothing(public, internal, promise, reconciler, cluster, server):
    cluster.remove(server)
    list_and_converge(reconciler)
    launch(internal)
    cluster.add("alice", "uid-2", ready=True)
    list_and_converge(reconciler)
    assert keep(public, promise)["state"] == "kept"
    list_and_converge(reconciler)
    assert label(cluster) is None


def test_later_launch_of_the_same_server_gets_nothing(public, internal, store, promise):
    launch(internal, token=promise)
    launch(internal, token=new_promise())
    assert keep(public, promise)["state"] == "kept"
    assert store.pending(ALICE, set()).launch.grant.tier == "unverified"


@pytest.mark.parametrize(
    ("kind", "what"), [("server", ALICE.key), ("repository", "example.com/a/b"), ("network", NETWORK)], ids=lambda value: value
)
def test_promise_that_is_kept_after_a_block_gives_nothing(
    public, services, store, promise, reconciler, cluster, server, kind, what
):
    store.add_block(Block("x", kind, what, read_origin("eve"), "mining", 1, uid="uid-1"), [ALICE])
    issued = Pass(**vars(Passes.new("verified", 1, float(store.use_solution("altcha", "id", 2e9, 60, lambda _: None)), 60)))
    kept = services.promises.keep(promise, issued, CLIENT, NETWORK, 1e9)
    assert (kept.outcome, kept.grant) == ("blocked", None)
    list_and_converge(reconciler)
    assert (label(cluster), state(public, promise)) == (None, "refused")


def test_wiped_redis_leaves_the_pass_to_be_presented(public, redis_server, store, promise, reconciler, cluster, server, impatient):
    redis_server.wipe()
    store.ping()
    list_and_converge(reconciler)
    answer = public.post("/egress/passes", json={"provider": "altcha", "solution": solve(public), "promise": promise})
    assert answer.json["promise"]["state"] == "kept"
    public.post("/egress/servers/alice", json={"token": answer.json["token"]})
    list_and_converge(reconciler)
    assert label(cluster) == "verified"


# -- what it costs


def test_promise_is_forgotten(public, internal, in_redis, promise):
    """A hundred thousand launches in an hour leave a quarter of their promises at a time (D-466)."""
    key, first = promise_key(promise, NETWORK), new_promise()
    assert (state(public, promise), in_redis.keys("binder-egress:promise:*")) == ("open", []), "a question writes nothing"
    launch(internal, token=promise)
    assert 0 < in_redis.ttl(key) <= ANNOUNCED_TTL_SECONDS
    # Nothing is decided again, as for a server that is up.
    in_redis.delete(*in_redis.keys("binder-egress:launch:*"))
    keep(public, promise)
    assert 0 < in_redis.ttl(key) <= ANNOUNCED_TTL_SECONDS

    # One that is kept first waits for its launch.
    key = promise_key(first, NETWORK)
    keep(public, first)
    assert PROMISE_TTL_SECONDS - 60 < in_redis.ttl(key) <= PROMISE_TTL_SECONDS
    launch(internal, token=first)
    assert 0 < in_redis.ttl(key) <= ANNOUNCED_TTL_SECONDS


def test_pass_keeps_one_promise(public, in_redis):
    """One solution would otherwise write as many keys as somebody can send requests, and fill Redis for everybody."""
    token, first = get_pass(public), new_promise()
    assert public.post(f"/egress/promises/{first}", json={"token": token}).json["state"] == "kept"
    for _ in range(3):
        answer = public.post(f"/egress/promises/{new_promise()}", json={"token": token})
        assert (answer.status_code, answer.json["type"].rpartition("#")[2]) == (403, "pass-refused")
    assert in_redis.keys("binder-egress:promise:*") == [promise_key(first, NETWORK)]
    # By then nobody can present the pass.
    assert all(in_redis.ttl(key) <= 300 + 2 * LEEWAY_SECONDS for key in in_redis.keys("binder-egress:keeps:*"))
    assert public.post(f"/egress/promises/{first}", json={"token": token}).status_code == 200


def test_price_counts_when_the_promise_is_kept(site, promise, internal):
    """Somebody who collects promises pays for each as for any pass."""
    public, _, _ = site(fairness_budget=1)
    launch(internal, token=promise)
    keep(public, promise)
    other = new_promise()
    answer = public.post("/egress/passes", json={"provider": "altcha", "solution": solve(public), "promise": other})
    assert answer.status_code == 429
    assert state(public, other) == "open"


# -- other members, other versions, faults


def test_pass_of_another_member_keeps_a_promise_and_a_token_that_is_no_pass_does_not(public, internal, promise):
    launch(internal, token=promise)
    answer = public.post(f"/egress/promises/{promise}", json={"token": new_promise()})
    assert (answer.status_code, answer.json["type"].rpartition("#")[2]) == (403, "pass-refused")
    assert state(public, promise) == "announced"
    answer = public.post(f"/egress/promises/{promise}", json={"token": get_pass(public)})
    assert (answer.status_code, answer.json["state"]) == (200, "granted")


@pytest.mark.parametrize("text", ["promise-1", "promise-" + "G" * 32, "x" * 40, "promise-" + "0" * 33])
def test_other_text_is_refused_with_a_sentence(public, text):
    for answer in (
        public.get(f"/egress/promises/{text}"),
        public.post(f"/egress/promises/{text}", json={"token": "x"}),
        public.post("/egress/passes", json={"provider": "altcha", "solution": "x", "promise": text}),
    ):
        assert (answer.status_code, "promise" in answer.json["detail"]) == (400, True)


def test_release_before_reads_a_promise_as_an_invalid_pass(services, promise):
    with pytest.raises(BadPass, match="not a pass"):
        services.passes.read(promise, 1e9)
    assert is_promise(promise)


def test_pass_is_good_although_the_store_fails_while_it_keeps_the_promise(public, store, promise, monkeypatch):
    monkeypatch.setattr(store, "keep", Mock(side_effect=StoreUnavailable("gone")))
    assert keep(public, promise) is None


def test_pass_that_cannot_be_read_keeps_nothing(public, internal, in_redis):
    for text in ("nonsense", "[]", "null", '{"id": 1}', "[" * 100_000):
        promise = new_promise()
        in_redis.hset(promise_key(promise, NETWORK), "pass", text)
        decision = launch(internal, token=promise)
        assert (decision["tier"], decision["pass_outcome"], state(public, promise)) == ("unverified", "invalid", "announced")
        assert keep(public, promise)["state"] == "granted"


def test_site_that_only_watches_says_nothing_of_access(site, promise):
    public, internal, _ = site(mode="observe")
    launch(internal, token=promise)
    assert keep(public, promise) == {"state": "granted", "tier": "verified", "access": None}


def test_log_of_a_launch_and_of_its_promise_have_one_id(public, internal, promise, caplog):
    with caplog.at_level("INFO"):
        launch(internal, token=promise)
        keep(public, promise)
    found = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("promise") == promise]
    assert [(line["rule"], line["user"]) for line in found] == [("default", "alice"), ("free", "alice")]
