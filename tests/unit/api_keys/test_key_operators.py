"""API keys and operators: the commands, the in-cluster interface, doctor, metrics, and keys that are revoked or left the values."""

import json
import re
import time

import pytest

from binder_egress.gate.api_keys import DAY_SECONDS, FORM
from binder_egress.model.grants import Egress, block_in
from binder_egress.model.records import KnownServer, Server
from binder_egress.operators import actions
from binder_egress.operators.actions import ActionRefused
from binder_egress.reconciler.loop import Reconciler
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store.errors import KeyRevoked
from tests.support.api_keys import CREATE, LATER, ORIGIN, Site, checked, good_entry, wrong_keys
from tests.support.apps import admit, carried, get_pass, launch, run_pod
from tests.support.public_port import assert_problem
from tests.support.reconciling import ALICE, converge_due, list_and_converge


def test_create_keeps_the_key_nowhere_and_logs_who_made_it(run, store, in_redis):
    done = run(*CREATE, "--as", "eve", "--why", "a course", "--json")
    key = json.loads(done.stdout)["key"]
    (action,) = store.woken(0.01).actions
    said = {"event": "create-key", "by": "eve", "by_kind": "operator", "why": "a course", "key": "course", "tier": "small"}
    assert said.items() <= action.items()
    dump = str([in_redis.dump(name) for name in in_redis.scan_iter()]) + str(action)
    assert key[-40:] not in dump


def test_create_refuses_a_useless_key(run):
    for *change, said in (
        ("--name", "A b", "name"),
        ("--tier", "huge", "there is none called 'huge'"),
        ("--expires", "tomorrow", "not a date"),
        ("--expires", "2001-01-01", "is in the past"),
        ("--expires", "99999999d", "expires"),
        ("--origin", "https://a/b", "origins"),
    ):
        done = run(*CREATE, *change)
        assert done.exit_code != 0 and said in (done.output + str(done.exception)), change
        assert FORM.search(done.output) is None


def test_keys_are_listed_with_their_use(site, run):
    key = site.add(servers=9, origins=[ORIGIN])
    over = site.add("over", expires="2001-01-01")
    site.ask(key, headers={"Origin": "http://localhost"})
    for _ in range(3):
        site.store.use_key(FORM.fullmatch(key)[1], 9, DAY_SECONDS, admit)
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert (rows["course"]["used"], rows["course"]["servers_per_day"], rows["course"]["state"]) == (3, 9, "valid")
    assert rows["over"]["state"] == "expired"
    text = run("list").stdout
    assert re.search(r"^course +valid +3 +9 +small ", text, re.MULTILINE)
    for secret in (key, over, site.entries["course"]["hash"]):
        assert secret[-40:] not in text + json.dumps(rows)


def test_revoke_takes_a_name_an_id_or_the_key_itself(site, run, in_redis):
    key = site.add()
    for what in ("course", FORM.fullmatch(key)[1], key):
        in_redis.delete("binder-egress:revoked")
        done = run("revoke", what, "--why", "leaked", "--as", "eve")
        assert done.exit_code == 0, done.output
        assert "apiKeys.keys.course" in done.output
        assert_problem(site.ask(key), "key-revoked", 403)
        assert in_redis.hkeys("binder-egress:revoked") == [FORM.fullmatch(key)[1]]
        (line,) = map(json.loads, in_redis.lrange("binder-egress:actions", 0, -1))
        assert line["event"] == "revoke-key" and (line["key"], line["by"], line["why"]) == ("course", "eve", "leaked")
        in_redis.delete("binder-egress:actions")


def test_revocation_counts_whatever_its_entry_says(site, run, in_redis):
    """A verifier that is taken over may add any text."""
    key = site.add()
    for text in ("", "[", "[]", "{}", '{"id": 7}', "[" * 10_000):
        in_redis.hset("binder-egress:revoked", FORM.fullmatch(key)[1], text)
        assert_problem(site.ask(key), "key-revoked", 403)
        (row,) = json.loads(run("list", "--json").stdout)
        assert (row["name"], row["state"]) == ("course", "revoked")
        assert site.metric("binder_egress_api_key_servers", key="course") == 0
        assert [state for state, said in checked(site) if said.startswith("revoked, but still in the values: course")] == [
            "warning"
        ]


def test_operators_have_the_same_over_http(site):
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
    unknown = {"by": "eve", "why": "x", "key": "nothing"}
    assert_problem(site.internal.post("/api/keys/revocations", json=unknown), "no-such-key", 404)


def test_explain_says_by_which_key_a_server_has_network(site, store):
    key = site.add()
    origin = site.services.api_keys.find(key).origin
    grant = Egress.new("small", "api-client", time.time(), origin)
    store.publish(ALICE, KnownServer("u", grant, label="small"))
    because = f"Network of the tier small, by the rule api-client by {origin.text}."
    assert actions.explain(site.operators, ALICE)["because"] == because


def test_doctor_tells_of_keys_that_are_revoked_expired_or_wrong(site):
    assert checked(site) == [("ok", "none")]
    site.add()
    assert checked(site) == [("ok", "1, all valid")]
    actions.revoke_key(site.operators, "course", "eve", "leaked")
    site.add("over", expires="2001-01-01")
    site.entries["bad"] = good_entry(tier="huge")
    site.write()
    found = checked(site)
    assert [state for state, _ in found] == ["problem", "warning", "warning"]
    assert "no tier 'huge'" in found[0][1] and "course" in found[1][1] and "over" in found[2][1]


def test_scrape_neither_scans_redis_nor_asks_for_each_key(site, store, in_redis):
    for number in range(20):
        site.add(f"key-{number}")
    site.internal.get("/readyz")
    site.internal.get("/metrics")  # loads the script
    in_redis.config_resetstat()
    before = in_redis.info("stats")["total_reads_processed"]
    site.internal.get("/metrics")
    asked = in_redis.info("stats")["total_reads_processed"] - before
    assert "cmdstat_scan" not in in_redis.info("commandstats")
    assert asked < 15
    in_redis.config_resetstat()
    assert store.verifier_is_there()
    assert "cmdstat_scan" not in in_redis.info("commandstats")


def test_metrics_have_labels_of_known_keys_alone(site):
    key = site.add()
    for wrong in wrong_keys(key):
        site.ask(wrong)
    site.ask(key)
    text = site.internal.get("/metrics").text
    assert set(re.findall(r'binder_egress_api_key\w*\{key="(.*?)"', text)) == {"", "course"}


# -- keys that are revoked, or are no longer in the values


def test_revoked_key_and_its_passes_get_nothing(site, store):
    key = site.add()
    for_launch, for_unlock, held = (site.get_pass(key) for _ in range(3))
    assert launch(site.internal, "carol", token=held)["tier"] == "small"
    run_pod(store)
    done = actions.revoke_key(site.operators, "course", "eve", "leaked")
    assert (done["state"], done["keys"], done["remove"]) == ("done", [FORM.fullmatch(key)[1]], ["apiKeys.keys.course"])
    assert_problem(site.ask(key), "key-revoked", 403)
    decision = launch(site.internal, token=for_launch)
    assert (decision["rule"], decision["pass_outcome"]) == ("default", "key-revoked")
    assert launch(site.internal, "carol", token=held)["tier"] == "unverified"
    assert_problem(site.public.post("/egress/servers/alice", json={"token": for_unlock}), "pass-refused", 403)
    assert store.pending(Server("alice"), set()).unlock is None
    assert site.metric("binder_egress_unlocks_total", outcome="key-revoked") == 1
    assert site.metric("binder_egress_api_key_requests_total", outcome="revoked", key="course") == 1
    assert actions.keys(site.operators)[0]["state"] == "revoked"
    # Passes for solutions, and other keys, go on.
    assert launch(site.internal, "bob", token=get_pass(site.public))["rule"] == "valid-pass"
    assert site.ask(site.add("other")).status_code == 201


def test_revoked_id_that_no_verifier_knows_may_be_a_slip(site, run, store):
    identity = FORM.fullmatch(site.add())[1]
    said = {given: run("revoke", given, "--as", "eve", "--why", "leaked").output for given in (identity[::-1], identity)}
    assert "no verifier has a key with it: is it the right one?" in said[identity[::-1]]
    assert "Now remove apiKeys.keys.course" in said[identity] and "right one" not in said[identity]
    assert isinstance(run("revoke", "nothing", "--why", "x").exception, ActionRefused)
    for revoked in said:
        with pytest.raises(KeyRevoked):
            store.use_key(revoked, 5, DAY_SECONDS, admit)


def test_lease_is_renewed_by_a_pass_for_a_key_of_the_repository(make_site, store, monkeypatch):
    monkeypatch.setattr("binder_egress.web.servers.UNLOCK_WAIT_SECONDS", 0)
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


def test_key_counts_with_its_passes_while_it_is_in_the_values_here(site, tmp_path, redis_server, store):
    elsewhere = Site(tmp_path / "other.json", redis_server, store)  # another federation member
    key = elsewhere.add(repositories=["example.com/a/*"])
    token = elsewhere.get_pass(key)
    for entries in ({}, elsewhere.entries, {}):
        site.entries = entries
        site.write()
        decision = launch(site.internal, token=token)
        if entries:
            assert site.ask(key).status_code == 201 and decision["rule"] == "api-client"
        else:
            assert_problem(site.ask(key), "key-refused", 401)
            assert (decision["rule"], decision["pass_outcome"]) == ("default", "key-unknown")
