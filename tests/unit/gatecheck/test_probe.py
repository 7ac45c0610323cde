"""The probe: its attempts, its reports, and the comparison in `helm test`."""

import json
import socket
import subprocess
import sys
import threading
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from binder_egress.commands.processes import cli
from binder_egress.gatecheck import check, helm_test, probe
from binder_egress.pods import start_guard
from tests.support import TOP


@pytest.fixture
def closed():
    with socket.socket() as holder:  # bound, but nobody listens: connections are refused
        holder.bind(("127.0.0.1", 0))
        yield "tcp://127.0.0.1:{1}".format(*holder.getsockname())


def test_listening_port_is_reached_and_a_refusing_one_is_not(closed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert probe.reaches("tcp://127.0.0.1:{1}".format(*server.getsockname())) is True
    assert probe.reaches(closed) is False


def test_target_that_does_not_answer_is_shut_and_was_tried(monkeypatch):
    """Many network plugins drop what policies forbid."""
    monkeypatch.setattr(probe, "neighbour", lambda: "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        port = full.getsockname()[1]
        for target in (f"tcp://127.0.0.1:{port}", f"link-local://:{port}"):
            assert probe.reaches(target, 0.1) is False


def test_dns_is_reached_if_anything_answers_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        questions = []

        def answer():
            question, address = server.recvfrom(512)
            questions.append(question)
            server.sendto(question[:2] + b"\x81\x83", address)

        threading.Thread(target=answer, daemon=True).start()
        target = "dns://127.0.0.1:{1}/a.example".format(*server.getsockname())
        assert probe.reaches(target) is True
        assert questions[0].endswith(b"\x01a\x07example\x00\x00\x01\x00\x01")
        assert probe.reaches(target, timeout=0.1) is False  # nothing answers any more


def test_dns_server_is_that_of_resolv_conf(tmp_path):
    (tmp_path / "resolv.conf").write_text("search a.example\nnameserver 10.43.0.10\nnameserver 10.43.0.11\n")
    assert probe.own_dns_server(tmp_path / "resolv.conf") == "10.43.0.10"
    assert probe.own_dns_server(tmp_path / "none") == ""


ROUTE = "Iface\tDestination\tGateway \tFlags\neth0\t0000580A\t00000000\t0001\neth0\t00000000\t0100007F\t0003\n"
ARP = "IP address       HW type     Flags       HW address            Mask     Device\n"


OWN = "fe80000000000000bc2411fffe00ab01 02 40 20 80     eth0\n"


@pytest.mark.parametrize(
    ("inet6", "arp", "expected"),
    [
        (OWN, "127.0.0.1 0x1 0x2 be:24:11:00:ab:01 * eth0\n", "fe80::bc24:11ff:fe00:ab01%eth0"),
        (OWN, "127.0.0.1 0x1 0x2 ee:ee:ee:ee:ee:ee * eth0\n", "fe80::ecee:eeff:feee:eeee%eth0"),
        (OWN, "127.0.0.1 0x1 0x0 00:00:00:00:00:00 * eth0\n", None),
        ("00000000000000000000000000000001 01 80 10 80       lo\n", "127.0.0.1 0x1 0x2 be:24:11:00:ab:01 * eth0\n", None),
        (None, "", None),
    ],
)
def test_neighbour_is_the_gateway_of_a_pod_with_a_link_local_address(tmp_path, inet6, arp, expected):
    if inet6 is not None:  # IPv6 may be switched off entirely
        (tmp_path / "if_inet6").write_text(inet6)
    (tmp_path / "route").write_text(ROUTE)
    (tmp_path / "arp").write_text(ARP + arp)
    assert probe.neighbour(tmp_path) == expected


def test_neighbour_is_found_as_soon_as_the_own_address_is_no_longer_tentative(tmp_path, monkeypatch):
    """Seen in a new network namespace: flags c0, and 80 two seconds later. Until then, connecting fails without a packet."""
    addresses = tmp_path / "if_inet6"
    addresses.write_text(OWN.replace("20 80", "20 c0"))
    (tmp_path / "route").write_text(ROUTE)
    (tmp_path / "arp").write_text(ARP + "127.0.0.1 0x1 0x2 be:24:11:00:ab:01 * eth0\n")
    monkeypatch.setattr(probe, "TENTATIVE_SECONDS", 0.0)
    assert probe.neighbour(tmp_path) is None, "another machine has the address"
    monkeypatch.setattr(probe, "TENTATIVE_SECONDS", 60.0)
    monkeypatch.setattr(probe.time, "sleep", lambda seconds: addresses.write_text(OWN))
    assert probe.neighbour(tmp_path) == "fe80::bc24:11ff:fe00:ab01%eth0"


def test_link_local_target_without_a_neighbour_is_not_tried(monkeypatch):
    monkeypatch.setattr(probe, "neighbour", lambda: None)
    assert probe.reaches("link-local://:10250") is None


def test_targets_are_expanded_and_skipped_without_their_variable():
    targets = {"api": "tcp://$(HOST):$(PORT)", "hub": "tcp://$(HUB_SERVICE_HOST):8081", "db": "tcp://10.0.0.9:5432"}
    environment = {probe.TARGETS_VARIABLE: json.dumps(targets), "HOST": "fd00::1", "PORT": "443"}
    assert probe.targets_of(environment) == {"api": "tcp://[fd00::1]:443", "db": "tcp://10.0.0.9:5432"}


@pytest.mark.parametrize(
    ("answers", "patience", "awaited", "found"),
    [
        # Each is tried twice, and one success counts.
        ({"a": [False, True], "b": [False, False], "c": [None]}, 0, None, {"a": True, "b": False, "c": None}),
        # A late target is waited for.
        *(({"a": [False] * 5 + [True]}, 5, awaited, {"a": True}) for awaited in (None, [], ["a"])),
        # A target that must be shut never answers. The awaited target shows that the tier's policy is in force.
        ({"shut": [False, False], "open": [False] * 5 + [True]}, 60, ["open"], {"open": True, "shut": False}),
    ],
)
def test_awaited_targets_come_first_and_the_others_are_not_waited_for(answers, patience, awaited, found):
    tried, left = [], {target: list(each) for target, each in answers.items()}

    def reaches(target):
        tried.append(target)
        return left[target].pop(0)

    assert probe.try_all(dict(zip(answers, answers, strict=True)), patience, awaited, reaches=reaches) == found
    assert not any(left.values()) and (tried == ["open"] * 6 + ["shut"] * 2 or "open" not in answers)


def test_targets_are_tried_at_the_same_time():
    """One after the other, shut targets would each take their time-out."""
    together = threading.Barrier(7)
    assert set(probe.try_all(dict.fromkeys("abcdefg", ""), reaches=lambda _: bool(together.wait(30) + 1)).values()) == {True}


def test_pod_of_helm_test_is_told_what_it_awaits(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(start_guard, "guard", lambda environment, seconds: {})
    monkeypatch.setattr(probe, "try_all", lambda *args: asked.append(args) or {})
    targets = json.dumps({"a": "tcp://192.0.2.1:9"})
    for more in ({}, {probe.AWAITED_VARIABLE: '["a"]', probe.PATIENCE_VARIABLE: "30"}):
        probe.once({probe.TARGETS_VARIABLE: targets} | more, tmp_path / "message")
    assert asked == [({"a": "tcp://192.0.2.1:9"}, 0.0, []), ({"a": "tcp://192.0.2.1:9"}, 30.0, ["a"])]


@pytest.fixture
def canary(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "SEEN_FILE", tmp_path / "seen")
    monkeypatch.setattr(probe, "HEARTBEAT_FILE", tmp_path / "beat")
    monkeypatch.setattr(probe, "SHUT_FILE", tmp_path / "shut")
    waited = []
    monkeypatch.setattr(start_guard, "guard", lambda environment, seconds: waited.append(1))

    def run(**targets):
        probe.canary({probe.TARGETS_VARIABLE: json.dumps(targets), probe.INTERVAL_VARIABLE: "0.01"}, tmp_path / "message")
        return json.loads((tmp_path / "message").read_text())["reached"]

    run.waited = waited
    return run


def test_canary_ends_when_its_result_changes_or_has_not_been_said_for_long(canary, closed, monkeypatch):
    assert canary(a=closed) == {"a": False}  # the first result counts as a change
    often, twice = [False] * probe.ROUNDS_UNTIL_SAID_AGAIN, [False] * probe.ROUNDS_UNTIL_SAID_TWICE
    answers = [*twice, *often, *often, False, False, True]
    monkeypatch.setattr(probe, "try_all", lambda targets: {"a": answers.pop(0)})
    for left in ([*often, *often, False, False, True], [*often, False, False, True], [False, False, True]):
        assert (canary(a=closed), answers) == ({"a": False}, left)
    assert (canary(a=closed), answers) == ({"a": True}, [])
    assert canary.waited == [1] and probe.HEARTBEAT_FILE.exists()


PROXY = {probe.PROXY_VARIABLE: "10.43.0.9", probe.ADDRESSES_VARIABLE: "10.42.0.5,fd42::5"}


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        (["10.42.0.5"], "shown"),
        (["fd42:0::5"], "shown"),
        (["10.42.0.1"], "hidden"),
        ([OSError(), ValueError(), "no address", "10.42.0.5"], "shown"),
        ([OSError()] * 100, "silent"),
    ],
)
def test_proxy_says_whether_the_network_hides_addresses(answers, seen):
    ask = Mock(side_effect=[{"address": answer} if isinstance(answer, str) else answer for answer in answers])
    assert probe.seen_by_proxy(PROXY, ask, patience=1) == seen
    assert all(call.args[0] == ("10.43.0.9", 3128) and call.args[1] > 0 for call in ask.call_args_list)


@pytest.mark.parametrize(
    "environment", [{}, *({probe.PROXY_VARIABLE: host} for host in ("", "$(BINDER_EGRESS_PROXY_SERVICE_HOST)"))]
)
def test_proxy_that_does_not_exist_is_not_asked(environment):
    assert probe.seen_by_proxy(environment) == ""


def test_canary_goes_on_while_the_proxy_comes_and_goes(canary, tmp_path, monkeypatch):
    """If the canary ends beside a silent proxy, it tells what the proxy saw before."""
    monkeypatch.setattr(probe, "ROUNDS_UNTIL_SAID_TWICE", 99)
    answers = ["silent", "silent", "shown", "silent", "shown", "silent", "hidden", "silent", "hidden", "silent", "shown", "hidden"]
    rounds = [*(({"a": False}, seen) for seen in answers), ({"a": True}, "silent"), ({"a": True}, "shown")]
    monkeypatch.setattr(probe, "try_all", lambda targets: rounds[0][0])
    monkeypatch.setattr(probe, "seen_by_proxy", lambda environment: rounds.pop(0)[1])
    ends = []
    while rounds:
        canary()
        ends.append(json.loads((tmp_path / "message").read_text())["proxy"])
    assert ends == ["silent", "shown", "hidden", "shown", "hidden", "hidden", "shown"]


@pytest.mark.parametrize(
    ("reached", "ready"),
    [
        ({"a": False, "b": False}, True),
        ({"a": False, "b": None}, True),
        ({"a": False, "b": True}, False),
        ({"a": None}, False),
        ({}, False),
    ],
)
def test_canary_is_ready_while_all_targets_are_shut(canary, monkeypatch, reached, ready):
    """And only after the first result, if it was started again."""
    probe.SHUT_FILE.touch()
    seen = []
    monkeypatch.setattr(probe, "try_all", lambda targets: seen.append(probe.SHUT_FILE.exists()) or reached)
    canary()
    assert (seen[0], probe.SHUT_FILE.exists()) == (False, ready)
    # The canary is no longer ready once a target is open.
    monkeypatch.setattr(probe, "try_all", lambda targets: {"a": True})
    canary()
    assert not probe.SHUT_FILE.exists()


@pytest.mark.parametrize(
    ("command", "reached", "fails"),
    [
        (probe.shut, {"a": False, "b": None}, None),
        (probe.shut, {"a": False, "b": True}, "must be shut, and is open: b"),
        (probe.shut, {"a": None}, "nothing could be tried"),
        (probe.shut, {}, "nothing could be tried"),
        (probe.control, {"a": True, "b": False}, None),
        (probe.control, {"a": False, "b": None}, "reaches nothing either"),
    ],
)
def test_pods_judge_their_own_result_without_a_comparison(tmp_path, monkeypatch, command, reached, fails):
    monkeypatch.setattr(start_guard, "guard", lambda environment, seconds: {})
    monkeypatch.setattr(probe, "try_all", lambda *args: reached)
    if fails is None:
        command({}, tmp_path / "message")
    else:
        with pytest.raises(SystemExit, match=fails) as ended:
            command({}, tmp_path / "message")
        assert ended.value.code != 0
    # The result stays in either case.
    assert json.loads((tmp_path / "message").read_text()) == {"reached": reached}


def test_canary_that_cannot_connect_reports_nothing(canary, closed, monkeypatch):
    monkeypatch.setattr(start_guard, "able", lambda: False)
    with pytest.raises(SystemExit, match="cannot even connect"):
        canary(a=closed)


def test_probe_needs_only_the_standard_library():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import binder_egress.gatecheck.probe; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", code, str(TOP / "verifier")], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {
        "binder_egress",
        "binder_egress.gatecheck",
        "binder_egress.gatecheck.probe",
        "binder_egress.pods",
        "binder_egress.pods.start_guard",
    }
    assert {name for name in loaded if name.startswith("binder_egress")} == ours


# -- the comparison

EXPECTED = {"unverified": {"api": False, "dns": False}, "verified": {"api": False, "dns": True}}
WELL = {"": {"api": True, "dns": True}, "unverified": {"api": False, "dns": False}, "verified": {"api": False, "dns": True}}


def seen(**changes):
    return {who: {**targets, **changes.get(who or "control", {})} for who, targets in WELL.items()}


@pytest.mark.parametrize(
    ("changes", "row", "passes"),
    [
        ({}, "unverified  api  shut  ok", True),
        ({}, "verified  dns  open  ok", True),
        ({"unverified": {"api": True}}, "unverified  api  open  FAILED: must be shut", False),
        ({"verified": {"dns": False}}, "verified  dns  shut  FAILED: must be open", False),
        # A target that no pod reaches proves nothing.
        ({"control": {"dns": False}}, "unverified  dns  shut  cannot tell: the control pod does not reach it either", True),
        ({"control": {"api": False}}, "verified  FAILED: nothing that must be shut could be told from something dead", False),
        ({"verified": {"api": None}}, "verified  FAILED: nothing that must be shut could be told from something dead", False),
    ],
)
def test_results_are_compared_with_the_expectation(changes, row, passes):
    rows, passed = helm_test.verdicts(seen(**changes), EXPECTED)
    assert passed is passes and row in ["  ".join(filter(None, found)) for found in rows]


def pod(who, message, created="2026-01-01T00:00:00Z"):
    state = {"terminated": {"message": message}} if message is not None else {"running": {}}
    meta = {"annotations": {"binder-egress/stands-for": who}, "creationTimestamp": created}
    return {"metadata": meta, "spec": {"nodeName": "n2"}, "status": {"containerStatuses": [{"state": state}]}}


def test_pod_without_a_result_fails_and_a_target_that_does_not_exist_is_skipped():
    pods = [pod("", json.dumps({"reached": WELL[""]})), pod("unverified", "killed"), pod("verified", None)]
    assert helm_test.results(pods) == {"": WELL[""]}
    rows, well = helm_test.verdicts(helm_test.results(pods), EXPECTED)
    assert not well and rows == [(who, "", "", "FAILED: the pod left no result") for who in ("unverified", "verified")]
    rows, well = helm_test.verdicts(WELL, {"unverified": {"api": False, "hub": False}})
    assert well and [row[1] for row in rows] == ["api"]


def saw(who, seen, hour):
    return pod(who, json.dumps({"reached": {}, "proxy": seen}), f"2026-01-01T{hour:02}:00:00Z")


def test_proxy_is_not_judged_by_pods_of_an_earlier_run():
    """Helm deletes only those that it is about to make again: the pod of a tier that has gone stays, and one under another name."""
    pods = [saw("gone", "hidden", 1), saw("verified", "shown", 2), saw("verified", "silent", 1), saw("unverified", "shown", 2)]
    rows, passed = helm_test.seen_by_proxy(pods, EXPECTED)
    assert sorted(row[0] for row in rows) == ["unverified", "verified"] and passed
    # The newest pod of a role counts even if it does not use the proxy any more.
    assert helm_test.seen_by_proxy([saw("verified", "", 2), saw("verified", "silent", 1)], EXPECTED) == ([], True)


def test_command_prints_a_table_and_fails_on_a_difference(monkeypatch):
    pods, wrong = Mock(), {**EXPECTED, "verified": {"dns": False}}
    monkeypatch.setattr(check, "Namespace", lambda namespace: Mock(pods=pods))
    for expected, proxy, said in (
        (EXPECTED, "", "ok"),
        (wrong, "", "FAILED"),
        (EXPECTED, "shown", "shown  ok"),
        (EXPECTED, "hidden", "FAILED on n2: the network hides this pod's address"),
        (EXPECTED, "silent", "FAILED on n2: the egress proxy does not answer, or its policy refuses"),
    ):
        pods.return_value = [pod(who, json.dumps({"reached": targets, "proxy": proxy})) for who, targets in WELL.items()]
        done = CliRunner().invoke(cli, ["helm-test", "--expected", json.dumps(expected)])
        assert (done.exit_code, done.output.splitlines()[0].split()) == ("FAILED" in said, ["pod", "target", "seen"])
        assert said in done.output and ("egress proxy" in done.output) == bool(proxy)
        pods.assert_called_with("binder-egress/gatecheck=test")
