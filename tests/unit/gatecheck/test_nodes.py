"""What is known of each node: what its canary says, whether its network plugin acts, and how its user pods began."""

import json
import socket
import threading
from collections import Counter
from types import SimpleNamespace

import pytest

from binder_egress.gatecheck import canaries, probe
from binder_egress.gatecheck.canaries import Word, ask, ask_all
from binder_egress.gatecheck.check import Canary, Findings, Watcher
from binder_egress.gatecheck.doctor import OK, PROBLEM, WARNING, _nodes, table
from binder_egress.gatecheck.nodes import FRESH_SECONDS, NOT_KNOWN, OPEN, SHUT, Nodes, judged, seen_by_proxy
from binder_egress.settings import ReconcilerSettings, load
from tests.support.canaries import pod
from tests.support.metrics import families

NOW = 1000.0
FRESH = Word(NOW - 20, {"hub": True, "kubelet": True})
ACTS = {"on": 0.2, "off": 0.1}


@pytest.mark.parametrize(
    ("word", "labels", "guards", "state", "why"),
    [
        (FRESH, ACTS, {"closed": 3}, SHUT, ""),
        (FRESH, {}, {}, SHUT, ""),  # not measured yet
        (Word(NOW, {"hub": False, "kubelet": True}), ACTS, {}, OPEN, "its canary reached hub"),
        (Word(NOW - FRESH_SECONDS - 1, {"hub": True}), ACTS, {}, NOT_KNOWN, "does not answer"),
        (Word(NOW - FRESH_SECONDS - 1, {"hub": False}), ACTS, {}, NOT_KNOWN, "does not answer"),
        (None, ACTS, {"closed": 1}, NOT_KNOWN, "does not answer"),
        (None, ACTS, {"open": 2, "unclear": 1}, OPEN, "start guards of 3 pods"),
        # The canary's packets say more than a guard that saw something minutes ago.
        (FRESH, ACTS, {"open": 1}, SHUT, ""),
        (Word(NOW, {}), ACTS, {}, NOT_KNOWN, "none of its targets"),
        # A plugin that hangs changes nothing for the canary, which it knows.
        (FRESH, {**ACTS, "since": NOW - 4.9}, {}, SHUT, ""),
        (FRESH, {**ACTS, "since": NOW - 6}, {}, NOT_KNOWN, "has not acted on a label for 6 s"),
        (FRESH, {"on": 26.0, "off": 31.0, "since": NOW - 50}, {}, SHUT, ""),
        # A plugin that hung a moment ago makes nobody more patient.
        (FRESH, {"on": 60.0, "off": 0.1, "since": NOW - 61}, {}, NOT_KNOWN, "has not acted on a label for 61 s"),
        (FRESH, {**ACTS, "reason": "the network plugin has not acted on the label"}, {}, NOT_KNOWN, "new pods may be open"),
    ],
)
def test_node_is_shut_only_if_everything_says_so(word, labels, guards, state, why):
    found = judged(word, True, labels, guards, NOW)
    assert found[0] == state and why in found[1] and bool(found[1]) == (state != SHUT)


def test_node_without_a_canary_is_not_known():
    assert judged(None, False, {}, {"closed": 5}, NOW) == (NOT_KNOWN, "it has no canary")


@pytest.fixture
def place():
    """Two nodes with canaries, n1 and n2, and user pods on n1 and n3. Tests change what is said."""
    place = SimpleNamespace(now=NOW, running=[pod("a", "n1"), pod("b", "n2"), pod("single", "n3", "canary")])
    place.said = {"n1": FRESH, "n2": FRESH}
    place.nodes = Nodes(
        SimpleNamespace(running=lambda: place.running),
        SimpleNamespace(of=lambda node: dict(ACTS)),
        lambda: {"n1": Counter({"closed": 2, "": 1}), "n3": Counter({"blocked": 1})},
        lambda: {"n1"},
        lambda: place.now,
        lambda pods: {name: word for name, word in place.said.items() if any(one["spec"]["nodeName"] == name for one in pods)},
    )
    place.nodes.turn()
    return place


def test_rows_have_each_node_with_user_pods_or_a_canary(place):
    rows = place.nodes.rows()
    assert {name: (row["state"], row["user_pods"], row["agent"]) for name, row in rows.items()} == {
        "n1": (SHUT, 3, True),
        "n2": (SHUT, 0, False),
        "n3": (NOT_KNOWN, 1, False),
    }
    assert rows["n1"]["guards"] == {"closed": 2}


def test_state_has_a_beginning_and_a_word_gets_old(place):
    assert place.nodes.rows()["n1"]["since"] == NOW
    place.said = {"n2": FRESH}
    for seconds, state, since in ((30, SHUT, NOW), (50, NOT_KNOWN, NOW + 50), (90, NOT_KNOWN, NOW + 50)):
        place.now = NOW + seconds
        place.nodes.turn()
        row = place.nodes.rows()["n1"]
        assert (row["state"], row["since"]) == (state, since)


def test_node_that_ended_is_forgotten(place):
    place.running = place.running[:1]
    place.nodes.turn()
    assert set(place.nodes.rows()) == {"n1", "n3"}  # n3 has a user pod


def test_watcher_publishes_nodes_and_logs_each_change_once(place, redis_server, store, internal, caplog):
    namespace = SimpleNamespace(policies=list)
    settings, ended = load(ReconcilerSettings, redis_url=redis_server.url), {"n1": {"unverified": 7}}
    watcher = Watcher(settings, namespace, store, list, dict, place.nodes.rows, lambda: ended)
    caplog.set_level("INFO")
    for hub in (True, False, False, True):
        place.said["n1"] = Word(NOW, {"hub": hub})
        place.nodes.turn()
        watcher.run_once()
    lines = [(record.message, getattr(record, "fields", {})) for record in caplog.records if "node" in record.message]
    changed = ("a node with user pods is not shut", "n3"), ("a node with user pods is not shut", "n1")
    assert [(text, fields.get("node")) for text, fields in lines[:2]] == [*changed]
    assert [text.startswith("over") for text, _ in lines] == [False, False, True]
    found = families(internal)
    assert {one.labels["node"]: one.value for one in found["binder_egress_node_shut"].samples} == {"n1": 1, "n2": 1}
    assert {one.labels["node"]: one.value for one in found["binder_egress_node_user_pods"].samples} == {"n1": 3, "n2": 0, "n3": 1}
    assert {one.labels["node"]: one.value for one in found["binder_egress_node_agent"].samples} == {"n1": 1, "n2": 0, "n3": 0}
    (sample,) = found["binder_egress_connections_ended"].samples
    assert (sample.labels, sample.value) == ({"node": "n1", "tier": "unverified"}, 7)


def test_metrics_say_which_nodes_the_egress_proxy_does_not_serve(place, redis_server, store, internal):
    place.running.append(pod("c", "n3"))
    place.said = {node: Word(NOW, {"hub": True}, said) for node, said in (("n1", "hidden"), ("n2", "silent"), ("n3", "shown"))}
    place.nodes._user_pods = lambda: {"n1": Counter({"unknown_to_proxy": 2, "closed": 1})}
    place.nodes.turn()
    store.publish_gatecheck(Findings(NOW, nodes=place.nodes.rows()).dumps())
    found = families(internal)
    for name, samples in (
        ("proxy_serves", {"n1": 0, "n2": 0, "n3": 1}),
        ("user_pods_unknown_to_proxy", {"n1": 2, "n2": 0, "n3": 0}),
    ):
        assert {one.labels["node"]: one.value for one in found[f"binder_egress_node_{name}"].samples} == samples, name


@pytest.mark.parametrize(
    ("on_nodes", "seen"),
    [
        ((), "shown"),
        (("", ""), "shown"),
        (("silent", "silent"), "silent"),
        (("silent", "shown"), "shown"),
        (("shown", "hidden"), "hidden"),
    ],
)
def test_single_canary_which_repeats_what_it_saw_hides_nothing(place, redis_server, store, internal, on_nodes, seen):
    """With the proxy on other nodes than that canary, the proxy's policy answers it with silence."""
    place.said = {f"n{number}": Word(NOW, {"hub": True}, word) for number, word in enumerate(on_nodes, 1)}
    place.nodes.turn()
    assert seen_by_proxy("shown", place.nodes.rows()) == seen
    namespace = SimpleNamespace(policies=list, canary=lambda: Canary("running", {"hub": True}, "c", "shown"))
    settings = load(ReconcilerSettings, redis_url=redis_server.url, canary=True)
    Watcher(settings, namespace, store, list, dict, place.nodes.rows).run_once()
    samples = families(internal)["binder_egress_proxy_addresses_hidden"].samples
    assert [one.value for one in samples] == {"hidden": [1], "shown": [0], "silent": []}[seen]


@pytest.mark.parametrize(
    ("said", "state", "says"),
    [
        (
            Word(NOW, {"hub": False}),
            PROBLEM,
            "n1 (3 user pods) is open for 0 s: its canary reached hub",
        ),
        (FRESH, PROBLEM, "n3 (1 user pods) is not known for 0 s: it has no canary"),
        (
            Word(NOW, {"hub": True}, "hidden"),
            PROBLEM,
            "n1 (3 user pods): the egress proxy sees another",
        ),
        (Word(NOW, {"hub": True}, "silent"), PROBLEM, "n1 (3 user pods): pods do not reach the egress proxy, or its"),
        (FRESH, WARNING, "n3 (1 user pods) has no agent"),
    ],
)
def test_doctor_names_the_node_and_what_was_seen(place, said, state, says):
    place.said["n1"] = said
    place.nodes.turn()
    lines = _nodes(place.nodes.rows(), NOW)
    assert [line for line in lines if line.state == state and says in line.text], lines


def test_doctor_has_one_line_for_nodes_that_are_shut(place):
    place.running.append(pod("c", "n3"))
    place.said["n3"] = FRESH
    place.nodes._agents = lambda: None
    place.nodes.turn()
    assert [(line.state, line.text) for line in _nodes(place.nodes.rows(), NOW)] == [(OK, "2 with user pods, and each is shut")]
    (line,) = _nodes(place.nodes.rows(), NOW, ["n1", "n2"])
    assert line.state == WARNING and line.text.startswith("n3 (1 user pods): nothing ends open connections when a tier goes")


def test_table_has_a_row_for_each_node(place):
    head, first, second, third = table(place.nodes.rows(), NOW)
    assert head[0] == "node" and first == ["n1", "3", "shut", "20 s ago", "0.2 s, 0.1 s", "closed 2", "yes"]
    assert second[:3] == ["n2", "0", "shut"] and third[2:4] == ["not known", "silent"] and third[-1] == "none"


# -- asking a canary


@pytest.fixture
def said(monkeypatch):
    """Returns a function that has one connection at the canary's port answered with some bytes, and asks."""

    def said(answer):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            monkeypatch.setattr(canaries, "WORD_PORT", listener.getsockname()[1])

            def serve():
                connection = listener.accept()[0]
                connection.sendall(answer)
                connection.close()

            thread = threading.Thread(target=serve)
            thread.start()
            found = ask("127.0.0.1", lambda: NOW)
            thread.join()
            return found

    return said


def test_word_has_the_age_that_the_canary_says(said):
    assert said(b'{"shut": {"hub": true, "dns": false}, "proxy": "shown", "age": 12.5}') == Word(
        NOW - 12.5, {"hub": True, "dns": False}, "shown"
    )
    # Nobody has seen the future.
    assert said(b'{"shut": {}, "age": -100}').at == NOW


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"[]", b'{"shut": 1, "age": 1}', b'{"shut": {}}', b'{"shut": {}, "age": "x"}', b"\xff" * 9000]
)
def test_answer_that_cannot_be_read_is_none(said, answer):
    assert said(answer) is None


def test_canary_that_does_not_answer_has_no_word(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(canaries, "WORD_PORT", listener.getsockname()[1])
        monkeypatch.setattr(canaries, "ASK_SECONDS", 0.05)
        assert ask("127.0.0.1") is None
    assert ask_all([pod(), pod("b", "n2")], lambda address: None) == {}


def test_canary_of_a_node_tells_its_last_result(monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "HEARTBEAT_FILE", tmp_path / "beat")
    monkeypatch.setattr(probe, "_wait_for_isolation", lambda environment: None)
    ports, listen = [], probe.listen
    monkeypatch.setattr(probe, "listen", lambda port, say: ports.append(listen(port, say)))
    monkeypatch.setattr(canaries, "ASK_SECONDS", 5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = socket.create_server(("127.0.0.1", 0))
        targets = {"open": f"tcp://127.0.0.1:{listener.getsockname()[1]}", "shut": f"tcp://127.0.0.1:{closed.getsockname()[1]}"}
        closed.close()
        environment = {probe.TARGETS_VARIABLE: json.dumps(targets), probe.INTERVAL_VARIABLE: "0"}

        def rounds():
            monkeypatch.setattr(canaries, "WORD_PORT", ports[0])
            assert ask("127.0.0.1") is None, "before the first round there is nothing to say"
            yield 1

        probe.node(environment, 0, rounds)
        assert ask("127.0.0.1").targets == {"open": False, "shut": True}
    assert (tmp_path / "beat").exists()
