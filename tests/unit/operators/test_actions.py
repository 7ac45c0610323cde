"""Operators' actions: what they do and refuse, their in-cluster interface, and the commands."""

import json
import logging
import time
from functools import partial
from types import SimpleNamespace

import pytest

from binder_egress.model.grants import Block, Rule
from binder_egress.model.records import KnownServer, Server
from binder_egress.model.serialization import read_origin, write_known
from binder_egress.operators import actions
from binder_egress.operators.actions import ActionRefused, CommandOperators
from binder_egress.web.app import create_services
from tests.support.apps import get_pass, internal_client, launch, make_settings, public_client
from tests.support.clock import Clock
from tests.support.egress_command import run_egress
from tests.support.metrics import value
from tests.support.operators import BOB, REPOSITORY, pod, serve, start
from tests.support.reconciling import ALICE, list_and_converge, make_grant, record_launch, running
from tests.support.waiting import eventually

# -- actions


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


def test_pod_is_not_stopped_if_that_is_not_allowed(alice, reconciler, cluster, store, redis_server, impatient):
    operators = CommandOperators(make_settings(redis_server), store)
    with pytest.raises(ActionRefused, match=r"reconciler\.mayStopPods"):
        actions.revoke(operators, ALICE, "eve", "mining", stop=True)
    assert store.blocks() == []
    store.ask_to_stop(ALICE, "uid-1")  # something else writes to Redis directly
    serve(reconciler, store)
    assert (pod(cluster).ended, pod(cluster).label) == (False, "verified")


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


def test_stop_of_a_later_pod_outlives_the_end_of_an_earlier_one(make, cluster, store):
    reconciler = make(may_stop_pods=True)
    start(cluster, reconciler)
    store.ask_to_stop(ALICE, "uid-1")
    cluster.before_delete = lambda: store.ask_to_stop(ALICE, "uid-2")
    list_and_converge(reconciler)
    assert pod(cluster).ended and store.pending(ALICE, set()).stop == "uid-2"


def test_grant_to_a_blocked_or_refused_server_is_refused(alice, store, operators, redis_server):
    actions.revoke(operators, ALICE, "eve", "mining")
    with pytest.raises(ActionRefused, match="blocked"):
        actions.grant(operators, ALICE, "verified", "eve", "w")
    actions.unblock(operators, store.blocks()[0].id, "eve")
    blocking = CommandOperators(make_settings(redis_server, blocked_repositories=["github.com/owner/name"]), store)
    with pytest.raises(ActionRefused, match="blocked-repository"):
        actions.grant(blocking, ALICE, "verified", "eve", "w")


def test_unblock_of_one_server_ends_its_block_and_no_block_of_many(alice, reconciler, store, operators):
    """Also before a pod carries the block."""
    block = actions.block(operators, "server", "alice", "eve", "mining")["block"]
    assert actions.unblock(operators, "alice", "eve")["block"] == block
    assert store.blocks() == []
    block = actions.block(operators, "repository", "github.com/owner/*", "eve", "mining")["block"]
    for _ in range(2):
        with pytest.raises(ActionRefused, match=f"shares its block with others: remove {block}"):
            actions.unblock(operators, "alice", "eve")
        serve(reconciler, store)
    with pytest.raises(ActionRefused, match=f"already blocked, by eve: {block}"):
        actions.block(operators, "repository", "https://github.com/OWNER/*", "mallory", "x")


@pytest.mark.parametrize("before", ["server", "network"])
@pytest.mark.parametrize("wiped", [True, False])
def test_revoked_server_stays_blocked_after_another_block_ends(
    make_reconciler, cluster, store, operators, before, wiped, redis_server
):
    clock = Clock(time.time())
    reconciler = make_reconciler(clock=clock)
    start(cluster, reconciler)
    what = "alice" if before == "server" else "198.51.100.0/24"
    first = actions.block(operators, before, what, "eve", "mining", until=clock.now + 60)["block"]
    serve(reconciler, store)
    with pytest.raises(ActionRefused, match=f"already blocked, by eve: {first}"):
        actions.block(operators, before, what, "mallory", "x", until=clock.now + 600)
    actions.revoke(operators, ALICE, "mallory", "scanning")
    (permanent,) = [block.id for block in store.blocks() if block.until is None]
    assert (permanent == first, len(store.blocks())) == ((True, 1) if before == "server" else (False, 2))
    if wiped:
        serve(reconciler, store)
        redis_server.wipe()
    clock.now += 61
    list_and_converge(reconciler)
    assert (pod(cluster).grant.rule, pod(cluster).grant.origin.text, pod(cluster).grant.until) == (Rule.BLOCKED, "mallory", None)
    actions.unblock(operators, "alice", "eve")
    serve(reconciler, store)
    assert not pod(cluster).annotated


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


def test_grants_are_listed_and_filtered(alice, reconciler, cluster, operators):
    cluster.add("bob", "uid-2", repository="https://github.com/x/y", client="10.0.0.1")
    list_and_converge(reconciler)
    for only, users in (
        ({}, {"alice", "bob"}),
        ({"user": "al*"}, {"alice"}),
        ({"tier": "verified"}, {"alice"}),
        ({"tier": "unverified"}, {"bob"}),
        ({"repository": "github.com/owner/*"}, {"alice"}),
        ({"network": "198.51.100.0/24"}, {"alice"}),
        ({"network": "198.51.100.0/24", "tier": "unverified"}, set()),
    ):
        assert {row["user"] for row in actions.grants(operators, **only)} == users, only


def test_thousands_of_servers_are_asked_for_in_parts(operators, in_redis):
    """Redis must answer within half a second, and serves no other client meanwhile."""
    in_redis.mset({f"binder-egress:server:user-{number}/": write_known(KnownServer(f"uid-{number}")) for number in range(2001)})
    in_redis.config_resetstat()
    assert len(actions.grants(operators)) == 2001
    asked = in_redis.info("commandstats")["cmdstat_evalsha"]
    assert asked["calls"] - asked["failed_calls"] == 3


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
    assert found["open_connections"] is None
    assert (found["label"], found["uid"], found["repository"]) == ("verified", "uid-1", "r")
    watching = CommandOperators(make_settings(redis_server, mode="observe", blocked_repositories=["x.y/z"]), store)
    assert "In mode observe every server has the network" in actions.explain(watching, ALICE)["because"]
    actions.revoke(operators, ALICE, "eve", "mining")
    serve(reconciler, store)
    found = actions.explain(operators, ALICE)
    assert found["because"] == "No network: blocked by eve: mining."
    assert found["open_connections"] == "may go on: nothing that ends them was seen on its node"
    store.publish_gatecheck(json.dumps({"connections": [store.known(ALICE).node]}))
    assert actions.explain(operators, ALICE)["open_connections"] == "those that it may not have are ended on its node"
    assert (found["label"], found["blocked"], [block["why"] for block in found["blocks"]]) == (None, True, ["mining"])


def test_explain_says_what_the_reconciler_decided_and_works_nothing_out(make, cluster, store, operators, redis_server, caplog):
    caplog.set_level("INFO")
    cluster.add(repository=REPOSITORY)
    list_and_converge(make(blocked_repositories=["github.com/owner/*"]))
    # Values that this command has, and that the reconciler does not have yet.
    later = CommandOperators(make_settings(redis_server, self_networks=["0.0.0.0/0"]), store)
    found = actions.explain(later, ALICE)
    assert (found["reason"], found["because"]) == ("nothing", "No network: the rule blocked-repository refuses it.")
    record_launch(store, make_grant())
    list_and_converge(make(blocked_repositories=["github.com/owner/*"]))
    found = actions.explain(later, ALICE)
    assert (found["reason"], store.known(ALICE).refused_by) == ("kept", "")
    assert [record.fields["reason"] for record in caplog.records if record.message == "pod"] == ["launch"]


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
    monkeypatch.setattr("binder_egress.reconciler.loop.RESYNC_SECONDS", 0.1)
    actions.block(operators, "network", "192.0.2.1", "eve", "w", until=1)
    store.add_block(Block("old", "server", "alice/", read_origin("eve"), "w", 1, None, "uid-1"), [])
    actions.block(operators, "network", "192.0.2.2", "eve", "w")
    with running(reconciler):
        eventually(lambda: len(store.blocks()) == 1)
    assert [block.what for block in store.blocks()] == ["192.0.2.2/32"]


def test_interrupted_wait_is_no_interrupted_action(alice, operators, reconciler, store, monkeypatch):
    """Somebody notices a slip, presses Ctrl-C, and must not believe that nothing was done."""
    monkeypatch.setattr("binder_egress.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 60)

    def interrupt(_):
        raise KeyboardInterrupt

    # Not `time.sleep` itself, which the reconciler uses, too.
    monkeypatch.setattr(
        "binder_egress.operators.actions.confirmation.time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupt)
    )
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


def test_http_action_is_logged_by_the_verifier_and_the_wake_list_forges_no_line(reconciler, store, redis_server, in_redis, caplog):
    caplog.set_level(logging.INFO)
    internal = internal_client(create_services(make_settings(redis_server), store))
    assert internal.post("/api/blocks", json={"kind": "network", "what": "192.0.2.1", "by": "eve", "why": "w"}).json["block"]
    (said,) = [record.fields for record in caplog.records if record.getMessage() == "block"]
    assert (said["by"], said["by_kind"]) == ("eve", "operator")
    assert store.woken(0.01).actions == []
    in_redis.rpush("binder-egress:wake", json.dumps({"event": "unblock", "by": "eve", "why": "forged"}))
    serve(reconciler, store)
    assert "unblock" not in caplog.messages


# -- the commands


@pytest.fixture
def egress(redis_server, store, monkeypatch, capsys):
    return partial(run_egress, monkeypatch, capsys, BINDER_EGRESS_REDIS_URL=redis_server.url)


def test_commands_perform_their_actions_which_the_reconciler_confirms_and_logs(make, egress, cluster, caplog, monkeypatch):
    monkeypatch.setattr("binder_egress.operators.actions.confirmation.CONFIRMATION_WAIT_SECONDS", 60)
    caplog.set_level(logging.INFO)
    reconciler = make(may_stop_pods=True)
    start(cluster, reconciler)
    with running(reconciler):
        code, out, _ = egress("grants")
        assert code == 0
        header, row = out.splitlines()
        assert header.split() == ["USER", "SERVER", "TIER", "RULE", "AT", "UNTIL", "BY", "CLIENT", "REPOSITORY"]
        assert row.split()[:4] == ["alice", "-", "verified", "valid-pass"]
        assert json.loads(egress("grants", "--tier", "unverified", "--json")[1]) == []
        code, out, _ = egress("revoke", "alice", "--as", "eve", "--why", "mining")
        assert (code, out, cluster.labelled()) == (0, "alice is blocked.\n", set())
        code, out, _ = egress("explain", "jupyter-alice--")
        assert out.startswith("No network: blocked by eve: mining.\n  user: alice\n")
        assert json.loads(egress("explain", "alice", "--json")[1])["label"] is None
        assert "unverified (blocked)" in egress("grants")[1]
        assert egress("blocks")[1].splitlines()[1].split()[1:3] == ["server", "alice"]
        code, _, error = egress("grant", "alice", "--tier", "verified", "--why", "w")
        assert code == 4 and "stronger than a grant" in error
        assert egress("unblock", "alice", "--why", "asked nicely")[0] == 0
        assert egress("grant", "alice", "--tier", "verified", "--why", "a course", BINDER_EGRESS_OPERATOR="zoe")[0] == 0
        assert (pod(cluster).label, pod(cluster).grant.rule, pod(cluster).grant.origin.text) == ("verified", "operator", "zoe")
        code, out, _ = egress("block", "repository", "github.com/owner/*", "--for", "12h", "--why", "mining", "--json")
        until = json.loads(egress("blocks", "--json")[1])[0]["until"]
        assert code == 0 and json.loads(out)["servers"] == 1 and 11.9 * 3600 < until - time.time() <= 12 * 3600
        assert cluster.labelled() == set()
        # There is no server to wait for.
        code, out, _ = egress("block", "network", "192.0.2.7/24", "--why", "mining")
        assert code == 0 and "Blocked: 192.0.2.0/24, as " in out
        assert egress("revoke", "alice", "--stop", "--why", "mining", BINDER_EGRESS_MAY_STOP_PODS="true")[0] == 0
        assert pod(cluster).ended

        def logged():
            found = [record for record in caplog.records if hasattr(record, "fields") and "by" in record.fields]
            said = {record.getMessage(): record.fields for record in reversed(found)}
            return said if {"revoke", "unblock", "grant", "block"} <= said.keys() else {}

        said = eventually(logged)
    assert (said["revoke"]["by"], said["revoke"]["why"], said["revoke"]["user"]) == ("eve", "mining", "alice")
    assert (said["unblock"]["why"], said["grant"]["by"]) == ("asked nicely", "zoe")


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("explain nobody", 3, "the reconciler is silent"),
        ("grant nobody --tier=verified --why=w", 3, "nobody"),
        ("revoke jupyter-nobody --why=w", 3, "nobody"),
        ("block server nobody --why=w", 3, "nobody"),
        ("unblock nothing", 3, "no block"),
        ("unblock alice", 3, "is not blocked"),
        ("revoke alice", 2, "--why"),
        ("revoke alice --stop --why=w", 4, "reconciler.mayStopPods"),
        ("grant alice --tier=gold --why=w", 2, "gold"),
        ("grant alice --tier=unverified --why=w", 2, "unverified"),
        ("block planet earth --why=w", 2, "planet"),
        ("block network 192.0.2.1 --for=long --why=w", 2, "90m, 12h or 7d"),
        ("block network 198.51.100.0/2 --why=w", 2, "192.0.0.0/2 is wider than a /8"),
        ("block network ::/0 --why=w", 2, "::/0 is wider than a /16"),
        ("block network github.com --why=w", 2, "github.com"),
        ("grants --network=x", 2, "x"),
        *(
            (f"block repository {name} --why=w", 2, "is not host/owner/name")
            for name in ("*", "name", "github.com/*/name", "https://GitHub.com/*", "https://github.com/owner/name/tree/main")
        ),
        ("revoke alice --why=", 2, "1 to 1000 characters"),
        (f"revoke alice --why={'w' * 1001}", 2, "1 to 1000 characters"),
        ("revoke alice --why=w", 5, "not confirmed it yet"),
        ("block server alice --why=w", 5, "servers that it applies to: 1"),
    ],
)
def test_failed_command_has_a_nonzero_exit_code_and_a_sentence(egress, cluster, reconciler, operators, command, code, says):
    if "alice" in command:
        start(cluster, reconciler)
    found, out, error = egress(*command.split())
    assert (found, out) == (code, "")
    assert says in error and "Traceback" not in error and error.rstrip().endswith((".", ")"))


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
