"""What a command says of a label that was taken off: that it was seen to act, or on which node, for which servers and why not."""

import json
import time
from functools import partial

import pytest

from binder_egress.decisions.acted import why_not
from binder_egress.gatecheck.label_delay import LIMIT_SECONDS
from binder_egress.model.grants import Egress
from binder_egress.model.serialization import by_key
from binder_egress.operators import actions
from binder_egress.operators.actions import CommandOperators
from binder_egress.web.app import create_services
from tests.support.apps import internal_client, make_settings
from tests.support.egress_command import run_egress
from tests.support.operators import start
from tests.support.reconciling import ALICE, granted, running
from tests.support.waiting import eventually

NOW = 1000.0
ACTS = {"on": 0.2, "off": 0.1, "at": NOW - 10}
PLUGIN = "the network plugin of n1"


@pytest.mark.parametrize(
    ("measured", "before", "says"),
    [
        ({**ACTS, "at": NOW}, ACTS, ""),
        ({"off": 0.1, "at": NOW}, {}, ""),
        ({**ACTS, "since": NOW - 180}, ACTS, f"{PLUGIN} has not acted on labels for 3 min"),
        ({**ACTS, "off": LIMIT_SECONDS, "since": NOW - 180}, ACTS, f"{PLUGIN} has not acted on labels for 3 min"),
        # The reconciler did not get round to this node.
        (ACTS, ACTS, ""),
        ({**ACTS, "since": NOW - 1}, ACTS, ""),
        ({**ACTS, "at": NOW - 90}, {**ACTS, "at": NOW - 90}, f"nobody has seen {PLUGIN} act on labels for 90 s"),
        ({"reason": "403 Forbidden"}, {"reason": "403 Forbidden"}, f"nobody has seen {PLUGIN} act on labels yet"),
        (None, {}, f"nobody sees whether {PLUGIN} acts on labels, as no canary runs there"),
        # Known to be late: a canary whose label acted at once says nothing about the pod's.
        ({**ACTS, "off": 26.4, "at": NOW}, {**ACTS, "off": 26.4}, "on n1, labels act up to 26 s late, except in the egress proxy"),
        ({**ACTS, "off": 26.4, "since": NOW - 40}, {**ACTS, "off": 26.4}, f"{PLUGIN} has not acted on labels for 40 s"),
    ],
)
def test_only_what_was_seen_is_called_done(measured, before, says):
    assert why_not("n1", measured, before, NOW) == says


# -- commands, and the in-cluster interface


class Measuring:
    """What the reconciler measures at once, when it is asked to: nothing on nodes that hang."""

    def __init__(self, store):
        self.store, self.hang = store, set()
        for node in ("n1", "n2"):
            store.publish_measured(node, {"off": 0.1, "at": time.time()})

    def soon(self, nodes):
        for node in nodes:
            measured = self.store.measured()[node]
            acts = {**measured, "since": time.time() - 180} if node in self.hang else {"off": 0.1, "at": time.time()}
            self.store.publish_measured(node, acts)


@pytest.fixture
def measuring(store, monkeypatch):
    monkeypatch.setattr("binder_egress.operators.actions.confirmation.WAIT_SECONDS", 1.0)
    return Measuring(store)


@pytest.fixture
def site(make, measuring, cluster, monkeypatch):
    """A reconciler that works, with alice on n1 and bob on n2, both with egress, and carol on no node yet."""
    reconciler = make(seen={"soon": measuring.soon})
    for user, uid, node in (("alice", "uid-1", "n1"), ("bob", "uid-2", "n2"), ("carol", "uid-3", "")):
        start(cluster, reconciler, user, uid, node=node)
    with running(reconciler):
        yield reconciler


@pytest.fixture
def egress(redis_server, store, monkeypatch, capsys):
    return partial(run_egress, monkeypatch, capsys, BINDER_EGRESS_REDIS_URL=redis_server.url)


HANGS = "the network plugin of n1 has not acted on labels for 3 min: `egress revoke SERVER --stop` ends a pod.\n"


def test_revocation_is_done_once_a_label_was_seen_to_act(site, egress, measuring):
    assert egress("revoke", "alice", "--why", "mining") == (0, "alice is blocked.\n", "")
    measuring.hang = {"n1"}
    # The same again changes nothing on the pod, and is measured again.
    assert egress("revoke", "alice", "--why", "mining") == (5, "", f"alice: written; {HANGS}")
    assert egress("revoke", "bob", "--why", "mining")[:2] == (0, "bob is blocked.\n")
    assert egress("revoke", "carol", "--why", "mining")[:2] == (0, "carol is blocked.\n"), "where nothing runs, nothing is open"
    code, out, _ = egress("revoke", "alice", "--why", "mining", "--json")
    assert code == 5 and [row["servers"] for row in json.loads(out)["not_acted"]] == [["alice"]]


def test_block_of_several_servers_says_it_for_each(site, egress, measuring):
    measuring.hang = {"n1", "n2"}
    code, out, error = egress("block", "repository", "github.com/owner/*", "--why", "mining")
    lines = error.splitlines()
    assert (
        (code, out, len(lines)) == (5, "", 2) and lines[0].startswith("alice: written as ") and "(running servers that" in lines[0]
    )
    assert "; the network plugin of n2 has not acted on labels for 3 min: " in lines[1] and lines[1].startswith("bob: ")


def test_withdrawn_grants_of_an_api_key_say_it_too(site, egress, cluster, measuring):
    key = "0123456789abcdef"
    grant = Egress.new("verified", "api-client", time.time(), origin=by_key("course", key))
    cluster.add("dave", "uid-4", node="n1", **granted(grant))
    eventually(lambda: json.loads(egress("grants", "--user", "dave", "--json")[1]))
    measuring.hang = {"n1"}
    assert egress("keys", "revoke", key, "--why", "leaked")[0] == 0, "running servers keep their tier"
    code, _, error = egress("keys", "revoke", key, "--servers", "--why", "leaked")
    assert code == 5 and error == f"dave: written; {HANGS}"


def test_late_labels_are_said_without_a_wait_and_a_stopped_pod_needs_none(site, egress, store, measuring):
    store.publish_measured("n1", {"off": 26.4, "at": time.time()})
    measuring.soon = None
    code, _, error = egress("revoke", "alice", "--why", "mining")
    assert code == 5 and error.startswith("alice: written; on n1, labels act up to 26 s late, except in the egress proxy: ")


def test_without_canaries_on_nodes_nothing_is_called_done(site, egress, store):
    store.forget_measured()
    code, _, error = egress("revoke", "alice", "--why", "mining")
    assert code == 5 and "as no canary runs there" in error


def test_answers_over_http_carry_the_same(site, store, redis_server, measuring):
    internal = internal_client(create_services(make_settings(redis_server), store))
    who = {"by": "eve", "why": "mining"}
    answer = internal.post("/api/revocations", json={"user": "bob", **who})
    assert (answer.status_code, answer.json["state"], answer.json["not_acted"]) == (200, "done", [])
    measuring.hang = {"n1", "n2"}
    answer = internal.post("/api/blocks", json={"kind": "network", "what": "198.51.100.7", **who})
    assert (answer.status_code, answer.json["state"]) == (202, "pending")
    why = "the network plugin of n1 has not acted on labels for 3 min"
    assert answer.json["not_acted"][0] == {"node": "n1", "servers": ["alice"], "why": why}


def test_in_mode_observe_no_label_has_to_act(site, store, redis_server):
    store.forget_measured()
    watching = CommandOperators(make_settings(redis_server, mode="observe"), store)
    assert actions.revoke(watching, ALICE, "eve", "mining")["state"] == "done"


def test_request_to_measure_names_nodes_and_no_servers(store):
    """On both lists, whichever process asks."""
    store.ask_to_measure(["n1", "n2"])
    store._wakes = "wake"
    store.ask_to_measure(["n3"])
    woken = store.woken(0.01)
    assert (woken.nodes, woken.commanded, woken.servers, woken.everything) == ({"n1", "n2", "n3"}, set(), set(), False)
