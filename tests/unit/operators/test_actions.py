"""Operators' actions: what they do and refuse, their in-cluster interface, and the commands."""

import json
import logging
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest

from tests.support.apps import get_pass, internal_client, launch, make_settings, public_client
from tests.support.egress_command import run_egress
from tests.support.metrics import value
from tests.support.operators import BOB, REPOSITORY, pod, serve, start
from tests.support.reconciling import ALICE, granted, list_and_converge, make_grant, record_launch, running
from tests.support.waiting import eventually
from verifier.grants import Block, Rule
from verifier.operators import actions
from verifier.operators.actions import ActionRefused, CommandOperators
from verifier.records import KnownServer, Server
from verifier.texts import read_origin, write_known
from verifier.web.app import create_services

# -- actions


def test_action_waits_for_the_reconciler_which_logs_it(reconciler, cluster, store, redis_server, caplog, monkeypatch):
    monkeypatch.setattr("verifier.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 60)
    said = {}

    def logged():
        found = (record for record in caplog.records if hasattr(record, "fields") and "by" in record.fields)
        said.update({record.getMessage(): record.fields for record in found})
        return {"revoke", "unblock", "grant", "block", "pod"} <= set(said)

    operators = CommandOperators(make_settings(redis_server), store)
    cluster.add(**granted(make_grant()))
    with caplog.at_level(logging.INFO), running(reconciler):
        eventually(lambda: store.known(ALICE))
        done = actions.revoke(operators, ALICE, "eve", "mining")
        assert (done["state"], done["blocked"], done["tier"]) == ("done", True, "unverified")
        assert cluster.labelled() == set()
        assert actions.unblock(operators, "alice", "eve", "asked nicely")["state"] == "done"
        done = actions.grant(operators, ALICE, "small", "eve", "a course")
        assert (done["state"], done["tier"], done["rule"], done["by"]) == ("done", "small", "operator", "eve")
        assert pod(cluster).label == "small"
        # There is no server to wait for.
        monkeypatch.setattr("verifier.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 0)
        assert actions.block(operators, "repository", "github.com/x/y", "eve", "w") | {"block": ""} == {
            "state": "done",
            "block": "",
            "what": "github.com/x/y",
            "servers": 0,
        }
        eventually(logged)
    assert (said["revoke"]["by"], said["revoke"]["why"], said["revoke"]["user"]) == ("eve", "mining", "alice")
    assert said["unblock"]["why"] == "asked nicely"


def test_action_without_a_reconciler_is_pending_and_takes_effect_later(operators, store, redis_server, cluster, make, in_redis):
    start(cluster, make())
    assert actions.revoke(operators, ALICE, "eve", "mining")["state"] == "pending"
    assert "not put it on the pod yet" in actions.explain(operators, ALICE)["because"]
    # The verifier refuses an unlock already.
    public = public_client(create_services(make_settings(redis_server), store))
    token = get_pass(public)
    assert public.post("/egress/servers/alice", json={"token": token}).status_code == 403
    in_redis.delete(*in_redis.keys("binder-egress:unlock:*"), "nothing")
    later = make()
    list_and_converge(later)
    assert cluster.labelled() == set()


@pytest.mark.parametrize("allowed", [True, False])
def test_stop_deletes_the_pod_only_if_that_is_allowed(make, cluster, store, redis_server, allowed, impatient):
    reconciler = make(may_stop_pods=allowed)
    start(cluster, reconciler)
    operators = CommandOperators(make_settings(redis_server, may_stop_pods=allowed), store)
    if not allowed:
        with pytest.raises(ActionRefused, match=r"reconciler\.mayStopPods"):
            actions.revoke(operators, ALICE, "eve", "mining", stop=True)
        assert store.blocks() == []
        store.ask_to_stop(ALICE, "uid-1")  # something else writes to Redis directly
    else:
        actions.revoke(operators, ALICE, "eve", "mining", stop=True)
    serve(reconciler, store)
    assert pod(cluster).ended == allowed
    assert bool(pod(cluster).label) != allowed


def test_stop_is_confirmed_once_the_pod_is_deleted(make, cluster, store, operators, in_redis):
    """The block that the pod carries already says nothing about that."""
    reconciler = make(may_stop_pods=True)
    start(cluster, reconciler)
    actions.revoke(operators, ALICE, "eve", "mining")
    serve(reconciler, store)
    assert actions.revoke(operators, ALICE, "eve", "mining")["state"] == "done"
    store.ask_to_stop(ALICE, "uid-0")
    list_and_converge(reconciler)
    assert not pod(cluster).ended, "that was another pod"
    assert actions.revoke(operators, ALICE, "eve", "mining", stop=True)["state"] == "pending"
    assert "Its pod is to be stopped" in actions.explain(operators, ALICE)["because"]
    cluster.down = True
    serve(reconciler, store)
    assert store.pending(ALICE, set()).stop == "uid-1"
    assert in_redis.ttl("binder-egress:stop:alice/") > 600
    cluster.down = False
    list_and_converge(reconciler)
    assert pod(cluster).ended and store.pending(ALICE, set()).stop == ""
    assert "Its pod is to be stopped" not in actions.explain(operators, ALICE)["because"]
    # Asked again while the pod takes its time to end.
    actions.revoke(operators, ALICE, "eve", "mining", stop=True)
    list_and_converge(reconciler)
    assert store.pending(ALICE, set()).stop == ""


def test_confirmed_stop_is_done(make, cluster, store, redis_server, monkeypatch):
    monkeypatch.setattr("verifier.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 60)
    cluster.add(**granted(make_grant()))
    with running(make(may_stop_pods=True)):
        eventually(lambda: store.known(ALICE))
        done = actions.revoke(
            CommandOperators(make_settings(redis_server, may_stop_pods=True), store), ALICE, "eve", "mining", stop=True
        )
    assert done["state"] == "done" and pod(cluster).ended


def test_stop_of_a_later_pod_outlives_the_end_of_an_earlier_one(make, cluster, store):
    reconciler = make(may_stop_pods=True)
    start(cluster, reconciler)
    store.ask_to_stop(ALICE, "uid-1")
    cluster.before_delete = lambda: store.ask_to_stop(ALICE, "uid-2")
    list_and_converge(reconciler)
    assert pod(cluster).ended and store.pending(ALICE, set()).stop == "uid-2"


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda o: actions.grant(o, Server("nobody"), "verified", "e", "w"), "no-such-server"),
        (lambda o: actions.revoke(o, Server("nobody"), "e", "w"), "no-such-server"),
        (lambda o: actions.explain(o, Server("nobody")), "no-such-server"),
        (lambda o: o.find("jupyter-nobody"), "no-such-server"),
        (lambda o: actions.block(o, "server", "nobody", "e", "w"), "no-such-server"),
        (lambda o: actions.unblock(o, "nothing", "e"), "no-such-block"),
        (lambda o: actions.unblock(o, "alice", "e"), "no-such-block"),
        (lambda o: actions.grant(o, ALICE, "gold", "e", "w"), "bad-request"),
        (lambda o: actions.grant(o, ALICE, "unverified", "e", "w"), "bad-request"),
        (lambda o: actions.block(o, "repository", "*", "e", "w"), "bad-request"),
        (lambda o: actions.block(o, "repository", "name", "e", "w"), "bad-request"),
        (lambda o: actions.block(o, "repository", "github.com/*/name", "e", "w"), "bad-request"),
        (lambda o: actions.block(o, "repository", "https://GitHub.com/*", "e", "w"), "bad-request"),
        (lambda o: actions.block(o, "network", "github.com", "e", "w"), "bad-request"),
        (lambda o: actions.grants(o, network="x"), "bad-request"),
    ],
)
def test_impossible_action_is_refused_with_a_sentence(alice, operators, act, kind):
    with pytest.raises(ActionRefused) as caught:
        act(operators)
    assert caught.value.kind == kind
    assert str(caught.value).endswith(".")


def test_grant_to_a_blocked_or_refused_server_is_refused(alice, store, operators, redis_server):
    actions.revoke(operators, ALICE, "eve", "mining")
    with pytest.raises(ActionRefused, match="blocked"):
        actions.grant(operators, ALICE, "verified", "eve", "w")
    actions.unblock(operators, store.blocks()[0].id, "eve")
    blocking = CommandOperators(make_settings(redis_server, blocked_repositories=["github.com/owner/name"]), store)
    with pytest.raises(ActionRefused, match="blocked-repository"):
        actions.grant(blocking, ALICE, "verified", "eve", "w")


def test_unblock_of_one_server_cannot_end_a_block_of_many(alice, reconciler, store, operators):
    block = actions.block(operators, "repository", "github.com/owner/*", "eve", "mining")["block"]
    serve(reconciler, store)
    with pytest.raises(ActionRefused, match=block):
        actions.unblock(operators, "alice", "eve")
    with pytest.raises(ActionRefused, match=f"already blocked, by eve: {block}"):
        actions.block(operators, "repository", "https://github.com/OWNER/*", "mallory", "x")


def test_block_that_no_pod_carries_yet_is_found_by_its_server(alice, store, operators):
    block = actions.block(operators, "server", "alice", "eve", "mining")["block"]
    assert actions.unblock(operators, "alice", "eve")["block"] == block
    assert store.blocks() == []
    block = actions.block(operators, "repository", "github.com/owner/*", "eve", "mining")["block"]
    with pytest.raises(ActionRefused, match=f"shares its block with others: remove {block}"):
        actions.unblock(operators, "alice", "eve")


@pytest.fixture
def now():
    """The time of `timed`, in seconds."""
    return [time.time()]


@pytest.fixture
def timed(make_reconciler, now):
    """A reconciler with a clock that a test sets."""
    return make_reconciler(clock=lambda: now[0])


@pytest.mark.parametrize(("before", "is_wiped"), [("server", True), ("network", True), ("network", False)])
def test_revoked_server_stays_blocked_after_another_block_ends(timed, now, cluster, store, operators, before, is_wiped, in_redis):
    start(cluster, timed)
    actions.block(operators, before, "alice" if before == "server" else "198.51.100.0/24", "eve", "mining", until=now[0] + 60)
    serve(timed, store)
    actions.revoke(operators, ALICE, "mallory", "scanning")
    if is_wiped:
        serve(timed, store)
        in_redis.flushall()
    now[0] += 61
    list_and_converge(timed)
    assert (pod(cluster).grant.rule, pod(cluster).grant.origin.text, pod(cluster).grant.until) == (Rule.BLOCKED, "mallory", None)
    actions.unblock(operators, "alice", "eve")
    serve(timed, store)
    assert not pod(cluster).annotated


def test_revocation_makes_a_temporary_block_permanent(timed, now, cluster, store, operators):
    start(cluster, timed)
    block = actions.block(operators, "server", "alice", "eve", "mining", until=now[0] + 60)["block"]
    serve(timed, store)
    with pytest.raises(ActionRefused, match=f"already blocked, by eve: {block}"):
        actions.block(operators, "server", "alice", "mallory", "x", until=now[0] + 600)
    actions.revoke(operators, ALICE, "mallory", "scanning")
    assert [(found.id, found.until) for found in store.blocks()] == [(block, None)]
    now[0] += 61
    list_and_converge(timed)
    assert (pod(cluster).grant.rule, pod(cluster).grant.until) == (Rule.BLOCKED, None)


def test_servers_are_found_by_user_server_pod_and_address(reconciler, cluster, operators):
    cluster.add("alice", "uid-1", server="lab")
    cluster.add("bob", "uid-2")
    list_and_converge(reconciler)
    assert operators.find("alice/lab") == operators.find("jupyter-alice--lab") == Server("alice", "lab")
    assert operators.find("bob") == operators.find("bob/") == BOB
    assert operators.find("https://hub.example.org/binder/egress/servers/bob/#unlock") == BOB
    assert operators.find("http://hub.example.org/egress/servers/alice/lab?qr") == Server("alice", "lab")
    with pytest.raises(ActionRefused):
        operators.find("https://[hub.example.org/egress/servers/bob/")


@pytest.mark.parametrize(
    ("only", "users"),
    [
        ({}, {"alice", "bob"}),
        ({"user": "al*"}, {"alice"}),
        ({"tier": "verified"}, {"alice"}),
        ({"tier": "unverified"}, {"bob"}),
        ({"repository": "github.com/owner/*"}, {"alice"}),
        ({"network": "198.51.100.0/24"}, {"alice"}),
        ({"network": "198.51.100.0/24", "tier": "unverified"}, set()),
    ],
)
def test_grants_are_listed_and_filtered(alice, reconciler, cluster, operators, only, users):
    cluster.add("bob", "uid-2", repository="https://github.com/x/y", client="10.0.0.1")
    list_and_converge(reconciler)
    assert {row["user"] for row in actions.grants(operators, **only)} == users


def test_thousands_of_servers_are_asked_for_in_parts(operators, in_redis):
    """Redis must answer within half a second, and serves no other client meanwhile."""
    in_redis.mset({f"binder-egress:server:user-{number}/": write_known(KnownServer(f"uid-{number}")) for number in range(2001)})
    in_redis.config_resetstat()
    assert len(actions.grants(operators)) == 2001
    assert in_redis.info("commandstats")["cmdstat_mget"]["calls"] == 3


def test_explain_names_the_reasons(make, cluster, store, operators, redis_server):
    reconciler = make()
    cluster.add(repository=REPOSITORY)
    list_and_converge(reconciler)
    assert actions.explain(operators, ALICE)["because"] == "No network: it was launched without a pass, and nobody has unlocked it."
    record_launch(store, make_grant())
    assert actions.explain(operators, ALICE)["waiting"] == [
        {"kind": "launch", "tier": "verified", "rule": "valid-pass", "image": "image:1"}
    ]
    list_and_converge(reconciler)
    found = actions.explain(operators, ALICE)
    assert found["because"] == "Network of the tier verified, by the rule valid-pass."
    assert (found["label"], found["uid"], found["repository"]) == ("verified", "uid-1", "r")
    watching = CommandOperators(make_settings(redis_server, mode="observe", blocked_repositories=["x.y/z"]), store)
    assert "In mode observe every server has the network" in actions.explain(watching, ALICE)["because"]
    actions.revoke(operators, ALICE, "eve", "mining")
    serve(reconciler, store)
    found = actions.explain(operators, ALICE)
    assert found["because"] == "No network: blocked by eve: mining."
    assert (found["label"], found["blocked"], [block["why"] for block in found["blocks"]]) == (None, True, ["mining"])


def test_block_of_a_pod_that_is_gone_is_forgotten(make_reconciler, cluster, store):
    """Each launch reads all blocks. The share limit counts the blocks of ten minutes."""
    made = make_reconciler(started=2000.0)
    cluster.add("alice", "uid-1")
    for name, at, uid in (("old", 1000, "uid-0"), ("new", 1500, "uid-0"), ("running", 1000, "uid-1")):
        store.add_block(Block(name, "server", "alice/", read_origin("eve"), "w", at, uid=uid), [])
    store.add_block(Block("other", "repository", "github.com/owner/name", read_origin("eve"), "w", 1), [])
    made.forget_blocks()
    assert len(store.blocks()) == 4  # The pods are not known yet.
    made.list_pods()
    made.forget_blocks()
    assert {block.id for block in store.blocks()} == {"new", "running", "other"}


def test_expired_blocks_are_deleted_at_a_resync(operators, reconciler, store, monkeypatch):
    monkeypatch.setattr("verifier.reconciler.loop.RESYNC_SECONDS", 0.1)
    actions.block(operators, "network", "192.0.2.1", "eve", "w", until=1)
    store.add_block(Block("old", "server", "alice/", read_origin("eve"), "w", 1, None, "uid-1"), [])
    actions.block(operators, "network", "192.0.2.2", "eve", "w")
    with running(reconciler):
        eventually(lambda: len(store.blocks()) == 1)
    assert [block.what for block in store.blocks()] == ["192.0.2.2/32"]


def test_interrupted_wait_is_no_interrupted_action(alice, operators, reconciler, store, monkeypatch):
    """Somebody notices a slip, presses Ctrl-C, and must not believe that nothing was done."""
    monkeypatch.setattr("verifier.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 60)

    def interrupt(_):
        raise KeyboardInterrupt

    # Not `time.sleep` itself, which the reconciler uses, too.
    monkeypatch.setattr("verifier.operators.actions.confirmation.time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupt))
    done = actions.block(operators, "repository", "github.com/owner/*", "eve", "mining")
    assert (done["state"], [block.id for block in store.blocks()]) == ("pending", [done["block"]])
    serve(reconciler, store)
    assert actions.unblock(operators, done["block"], "eve")["state"] == "pending"


# -- the in-cluster interface


def test_actions_work_over_http(reconciler, cluster, store, redis_server, operators):
    services = create_services(make_settings(redis_server), store)
    internal = internal_client(services)
    start(cluster, reconciler)
    assert [row["user"] for row in internal.get("/api/grants?tier=verified").json["grants"]] == ["alice"]
    who = {"by": "eve", "why": "mining"}
    answer = internal.post("/api/revocations", json={"user": "alice", **who})
    assert (answer.status_code, answer.json["state"]) == (202, "pending")
    serve(reconciler, store)
    assert internal.get("/api/servers/alice").json["because"] == "No network: blocked by eve: mining."
    assert internal.post("/api/revocations", json={"user": "alice", **who}).status_code == 200
    assert internal.post("/api/grants", json={"user": "alice", "tier": "verified", **who}).status_code == 409
    (block,) = internal.get("/api/blocks").json["blocks"]
    assert (block["kind"], block["what"], block["why"]) == ("server", "alice", "mining")
    actions.unblock(operators, block["id"], "eve")
    serve(reconciler, store)
    assert internal.post("/api/grants", json={"user": "alice", "tier": "small", **who}).status_code == 202
    serve(reconciler, store)
    assert pod(cluster).label == "small"
    assert internal.post("/api/blocks", json={"kind": "network", "what": "198.51.100.7", **who}).json["servers"] == 1
    assert value(internal, "binder_egress_blocks", kind="network") == 1
    assert launch(internal, "carol")["rule"] == "blocked"
    assert internal.get("/api/servers/nobody").json["type"].endswith("#no-such-server")


def test_http_can_neither_lift_a_block_nor_stop_a_pod(reconciler, cluster, store, redis_server, operators):
    internal = internal_client(create_services(make_settings(redis_server, may_stop_pods=True), store))
    start(cluster, reconciler)
    who = {"by": "eve", "why": "mining"}
    block = actions.block(operators, "server", "alice", "mallory", "w", until=time.time() + 600)["block"]
    assert internal.delete(f"/api/blocks/{block}?by=eve").status_code == 404
    assert internal.post("/api/revocations", json={"user": "alice", "stop": True, **who}).status_code == 400
    assert internal.post("/api/revocations", json={"user": "alice", "by": "eve"}).status_code == 400, "it needs a reason"
    # A revocation adds a block without an end, and leaves the other one alone.
    assert internal.post("/api/revocations", json={"user": "alice", **who}).status_code == 202
    assert {(found.origin.text, found.until is None) for found in store.blocks()} == {("mallory", False), ("eve", True)}
    # The same again adds nothing, and the command removes both.
    assert internal.post("/api/revocations", json={"user": "alice", **who}).status_code == 202
    assert len(store.blocks()) == 2
    actions.unblock(operators, "alice", "mallory", "w")
    assert store.blocks() == []


def test_http_action_is_logged_by_the_verifier(store, redis_server, caplog):
    internal = internal_client(create_services(make_settings(redis_server), store))
    with caplog.at_level(logging.INFO):
        assert internal.post("/api/blocks", json={"kind": "network", "what": "192.0.2.1", "by": "eve", "why": "w"}).json["block"]
    assert [record.fields["by"] for record in caplog.records if record.getMessage() == "block"] == ["eve"]
    assert store.woken(0.01).actions == []


def test_wake_list_cannot_forge_an_operators_line(reconciler, store, in_redis, caplog):
    in_redis.rpush("binder-egress:wake", json.dumps({"event": "unblock", "by": "eve", "why": "forged"}))
    with caplog.at_level(logging.INFO):
        serve(reconciler, store)
    assert "unblock" not in caplog.messages


# -- the commands


@pytest.fixture
def egress(redis_server, store, monkeypatch, capsys):
    """Run the command as in the reconciler's pod. Returns exit code, standard output and standard error."""
    return partial(run_egress, monkeypatch, capsys, BINDER_EGRESS_REDIS_URL=redis_server.url)


def test_command_loads_no_client_of_others(redis_server, store):
    """The Kubernetes client and Flask take longer to load than the command to run."""
    code = (
        "import sys; from verifier.egress_cli import main; sys.argv = ['egress', 'grants']\n"
        "try: main()\n"
        "finally: assert not {'kubernetes', 'flask'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"BINDER_EGRESS_REDIS_URL": redis_server.url}, capture_output=True)
    assert (done.returncode, done.stdout[:4]) == (0, b"USER"), done.stderr


def test_commands_perform_their_actions(alice, egress, reconciler, cluster):
    with running(reconciler):
        code, out, _ = egress("grants")
        assert code == 0
        header, row = out.splitlines()
        assert header.split() == ["USER", "SERVER", "TIER", "RULE", "AT", "UNTIL", "BY", "CLIENT", "REPOSITORY"]
        assert row.split()[:4] == ["alice", "-", "verified", "valid-pass"]
        assert json.loads(egress("grants", "--tier", "unverified", "--json")[1]) == []
        code, out, _ = egress("revoke", "alice", "--as", "eve", "--why", "mining")
        assert (code, out) == (0, "alice is blocked.\n")
        code, out, _ = egress("explain", "jupyter-alice--")
        assert out.startswith("No network: blocked by eve: mining.\n  user: alice\n")
        assert json.loads(egress("explain", "alice", "--json")[1])["label"] is None
        assert "unverified (blocked)" in egress("grants")[1]
        assert egress("blocks")[1].splitlines()[1].split()[1:3] == ["server", "alice"]
        code, _, error = egress("grant", "alice", "--tier", "verified", "--why", "w")
        assert code == 4 and "stronger than a grant" in error
        assert egress("unblock", "alice")[0] == 0
        assert egress("grant", "alice", "--tier", "verified", "--why", "a course", BINDER_EGRESS_OPERATOR="zoe")[0] == 0
        assert pod(cluster).grant.origin.text == "zoe"
        code, out, _ = egress("block", "repository", "github.com/owner/*", "--for", "12h", "--why", "mining", "--json")
        until = json.loads(egress("blocks", "--json")[1])[0]["until"]
        assert code == 0 and json.loads(out)["servers"] == 1 and 11.9 * 3600 < until - time.time() <= 12 * 3600
        assert cluster.labelled() == set()
        assert "Blocked: 192.0.2.0/24, as " in egress("block", "network", "192.0.2.7/24", "--why", "mining")[1]


def test_blocks_say_where_labels_act_late(alice, egress, reconciler, store):
    store.publish_gatecheck('{"label_delay": {"on": 1.0, "off": 26.4}}')
    late = " For up to 26 s new connections still open, except in the egress proxy: labels act late here.\n"
    with running(reconciler):
        assert egress("block", "network", "192.0.2.7/24", "--why", "mining")[1].endswith(f"from it: 0.{late}")
        assert egress("revoke", "alice", "--why", "mining")[1] == f"alice is blocked.{late}"
        key = "0123456789abcdef"
        assert egress("keys", "revoke", key, "--servers", "--why", "leaked")[1].endswith(late)
        assert "late" not in egress("keys", "revoke", key, "--why", "leaked")[1]
        store.publish_gatecheck('{"label_delay": {"on": 26.4, "off": 5.0}}')
        assert egress("revoke", "alice", "--why", "mining")[1] == "alice is blocked.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["explain", "nobody"], 3, "the reconciler is silent"),
        (["unblock", "nothing"], 3, "no block"),
        (["revoke", "alice"], 2, "--why"),
        (["revoke", "alice", "--stop", "--why", "w"], 4, "reconciler.mayStopPods"),
        (["grant", "alice", "--tier", "gold", "--why", "w"], 2, "gold"),
        (["block", "planet", "earth", "--why", "w"], 2, "planet"),
        (["block", "network", "192.0.2.1", "--for", "long", "--why", "w"], 2, "90m, 12h or 7d"),
        (["block", "network", "198.51.100.0/2", "--why", "w"], 2, "192.0.0.0/2 is wider than a /8"),
        (["block", "network", "::/0", "--why", "w"], 2, "::/0 is wider than a /16"),
        (["block", "repository", "https://github.com/owner/name/tree/main", "--why", "w"], 2, "is not host/owner/name"),
        (["revoke", "alice", "--why", " "], 2, "1 to 1000 characters"),
        (["revoke", "alice", "--why", "w" * 1001], 2, "1 to 1000 characters"),
        (["revoke", "alice", "--why", "w"], 5, "not confirmed it yet"),
        (["block", "server", "alice", "--why", "w"], 5, "servers that it applies to: 1"),
    ],
)
def test_failed_command_has_a_nonzero_exit_code(egress, cluster, reconciler, arguments, code, says):
    if "alice" in arguments:
        start(cluster, reconciler)
    found, out, error = egress(*arguments)
    assert (found, out) == (code, "")
    assert says in error and "Traceback" not in error


def test_command_reports_missing_redis_and_wrong_settings(egress, redis_server):
    assert egress("grants", BINDER_EGRESS_MODE="off")[0] == 2
    redis_server.stop()
    code, _, error = egress("grants")
    assert code == 6 and error.startswith("Redis: ") and "it may be done in part" in error


def test_commands_say_if_the_reconciler_is_silent(alice, egress, store, reconciler):
    silent = "The reconciler is silent, so this may be old.\n"
    assert f"\n{silent}" in egress("explain", "alice")[1]
    assert egress("grants")[2] == silent
    assert egress("blocks", "--json") == (0, "[]\n", silent)
    for command in (("explain", "alice"), ("grants",)):
        reconciler.heartbeat()
        assert "silent" not in "".join(egress(*command)[1:])


def test_user_chosen_names_cannot_send_terminal_escapes(egress, cluster, reconciler):
    start(cluster, reconciler, repository="https://\x9b2J@github.com/x/\x1b[2J\u202ename")
    for command in (("grants",), ("explain", "alice")):
        for json_too in ((), ("--json",)):
            out = egress(*command, *json_too)[1]
            assert not {"\x1b", "\x9b", "\u202e"} & set(out)
