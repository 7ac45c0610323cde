"""API keys that were revoked, or are no longer in the values."""

import time

import pytest

from tests.support.api_keys import Site
from tests.support.apps import carried, get_pass, launch, run_pod
from tests.support.public_port import assert_problem
from tests.support.reconciling import ALICE, converge_due, list_and_converge
from verifier.api_keys import FORM
from verifier.grants import block_in
from verifier.operators import actions
from verifier.reconciler.loop import Reconciler
from verifier.records import KnownServer, Server
from verifier.settings import ReconcilerSettings, load


def test_revoked_key_and_its_passes_get_nothing(site, store):
    key = site.add()
    for_launch, for_unlock = site.get_pass(key), site.get_pass(key)
    run_pod(store)
    done = actions.revoke_key(site.operators, "course", "eve", "leaked")
    assert (done["state"], done["keys"], done["remove"]) == ("done", [FORM.fullmatch(key)[1]], ["apiKeys.keys.course"])
    assert_problem(site.ask(key), "key-revoked", 403)
    decision = launch(site.internal, token=for_launch)
    assert (decision["rule"], decision["pass_outcome"]) == ("default", "key-revoked")
    assert_problem(site.public.post("/egress/servers/alice", json={"token": for_unlock}), "pass-refused", 403)
    assert store.pending(Server("alice"), set()).unlock is None
    assert site.metric("binder_egress_unlocks_total", outcome="key-revoked") == 1
    assert site.metric("binder_egress_api_key_requests_total", outcome="revoked", key="course") == 1
    assert actions.keys(site.operators)[0]["state"] == "revoked"
    # Passes for solutions, and other keys, go on.
    assert launch(site.internal, "bob", token=get_pass(site.public))["rule"] == "valid-pass"
    assert site.ask(site.add("other")).status_code == 201


def test_revoked_id_that_no_verifier_knows_may_be_a_slip(site, run):
    identity = FORM.fullmatch(site.add())[1]
    said = {given: run("revoke", given, "--as", "eve", "--why", "leaked").output for given in (identity[::-1], identity)}
    assert "no verifier has a key with it: is it the right one?" in said[identity[::-1]]
    assert "Now remove apiKeys.keys.course" in said[identity] and "right one" not in said[identity]


def test_lease_is_renewed_by_a_pass_for_a_key_of_the_repository(make_site, store, monkeypatch):
    monkeypatch.setattr("verifier.web.servers.UNLOCK_WAIT_SECONDS", 0)
    site = make_site(tiers={"small": {"lease": 3600}, "verified": {}})
    site.add(repositories=["example.com/a/b"])
    key = site.add("other", repositories=["example.com/a/b"])
    for_good, for_other, for_late = (site.get_pass(key) for _ in range(3))

    def renew(token, repository):
        grant = carried("small", "old", rule="api-client", until=int(time.time()) + 60)
        store.publish(ALICE, KnownServer("uid-1", grant, repository, label="small"))
        return site.public.post("/egress/servers/alice", json={"token": token})

    assert renew(for_good, "https://example.com/a/b").status_code == 202
    grant = store.pending(ALICE, set()).unlock.grant
    assert (grant.tier, grant.rule, grant.origin.text) == ("small", "renewal", f"key other ({FORM.fullmatch(key)[1]})")
    assert_problem(renew(for_other, "https://example.com/c/d"), "pass-refused", 403)
    actions.revoke_key(site.operators, "other", "eve", "leaked")
    assert_problem(renew(for_late, "https://example.com/a/b"), "pass-refused", 403)


@pytest.fixture
def worker(store, redis_server, cluster):
    return Reconciler(load(ReconcilerSettings, redis_url=redis_server.url, tiers={"small": {}, "verified": {}}), cluster, store)


@pytest.mark.parametrize("servers", [False, True])
def test_revocation_reaches_waiting_and_if_asked_running_servers(site, store, worker, cluster, servers):
    """Of this key alone."""
    key, other = site.add(), site.add("other")
    for uid, (user, its_key) in {"uid-1": ("alice", key), "uid-4": ("dave", other)}.items():
        launch(site.internal, user, token=site.get_pass(its_key), image="image:1")
        cluster.add(user, uid, image="image:1", ready=True)
    list_and_converge(worker)
    list_and_converge(worker)
    assert store.pending(ALICE, set()).launch is None
    later = {"bob": site.get_pass(key), "carol": get_pass(site.public), "erin": site.get_pass(other)}
    for user, token in later.items():
        launch(site.internal, user, token=token, image="image:1")
    done = actions.revoke_key(site.operators, "course", "eve", "leaked", servers)
    assert done["withdrawn"] == 1 + servers
    assert (done["state"] == "pending") == servers
    for user in later:
        cluster.add(user, f"uid-{user}", image="image:1")
    worker.take(store.woken(0.01))
    list_and_converge(worker)
    converge_due(worker)
    assert cluster.labelled() == {Server("carol"), Server("dave"), Server("erin")} | (set() if servers else {ALICE})
    assert not block_in(store.known(ALICE).grant, time.time())


def test_revocation_leaves_a_server_that_was_unlocked_a_moment_ago(site, store, worker, cluster):
    """The grant of the unlock stays in Redis for a while."""
    key = site.add()
    for number, user in enumerate(("alice", "bob")):
        cluster.add(user, f"uid-{number}", ready=True)
    list_and_converge(worker)
    for user in ("alice", "bob"):
        site.public.post(f"/egress/servers/{user}", json={"token": site.get_pass(key)})
        if user == "alice":
            list_and_converge(worker)
    assert cluster.labelled() == {ALICE} and store.pending(ALICE, set()).unlock
    assert actions.revoke_key(site.operators, "course", "eve", "leaked")["withdrawn"] == 1
    list_and_converge(worker)
    assert cluster.labelled() == {ALICE}


def test_key_that_left_the_values_is_gone_with_its_passes(site):
    key = site.add()
    token = site.get_pass(key)
    del site.entries["course"]
    site.write()
    assert_problem(site.ask(key), "key-refused", 401)
    decision = launch(site.internal, token=token)
    assert (decision["rule"], decision["pass_outcome"]) == ("default", "key-unknown")


def test_pass_of_another_federation_member_needs_the_key_here(site, tmp_path, redis_server, store):
    elsewhere = Site(tmp_path / "other.json", redis_server, store)
    key = elsewhere.add(repositories=["example.com/a/*"])
    token = elsewhere.get_pass(key)
    assert launch(site.internal, token=token)["pass_outcome"] == "key-unknown"
    site.entries = elsewhere.entries
    site.write()
    assert launch(site.internal, token=token)["rule"] == "api-client"


def test_held_use_is_not_given_again_after_revocation(site):
    key = site.add()
    token = site.get_pass(key)
    assert launch(site.internal, token=token)["tier"] == "small"
    actions.revoke_key(site.operators, "course", "eve", "leaked")
    assert launch(site.internal, token=token)["tier"] == "unverified"
