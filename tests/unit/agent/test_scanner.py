"""The process that matches rules: it answers, and its faults end nothing else."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from binder_egress.agent import scanner as module
from binder_egress.agent.scanner import MAX_MATCHES, SCAN_BYTES, ScanFailed, Scanner
from tests.support import TOP, made_up_miner
from tests.support.doc_examples import section

PLAIN = {"words": 'rule word { strings: $a = "needle" condition: $a }'}


@pytest.fixture
def scan(tmp_path):

    def scan(scanner, content):
        (tmp_path / "file").write_bytes(content)
        with (tmp_path / "file").open("rb") as file:
            scanned, found = scanner.scan(file.fileno())
        assert scanned == hashlib.sha256(content).hexdigest()
        return found

    return scan


def test_rules_match_their_bytes_alone_and_an_unreadable_file_leaves_the_process_ready(scan, tmp_path):
    with Scanner(PLAIN) as scanner:
        assert scanner.broken == {}
        assert scan(scanner, b"hay") == [] and scan(scanner, b"") == []
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(IsADirectoryError):
            scanner.scan(folder)
        os.close(folder)
        assert scan(scanner, b"hay needle hay") == [("words", "word")]


def test_broken_rules_are_reported_and_the_rest_goes_on(scan):
    rules = {
        "half": "rule bad { condition: nope }\nrule good { condition: true }",
        "syntax": "rule {",
        "include": 'include "/etc/passwd"\nrule after { condition: true }',
        "module": 'import "nothing"\nrule m { condition: nothing.x }',
        **PLAIN,
    }
    with Scanner(rules) as scanner:
        assert set(scanner.broken) == {"half", "syntax", "include", "module"}
        assert scanner.broken["half"] == ["line 1: unknown identifier `nope`"]
        assert {("half", "good"), ("words", "word")} <= set(scan(scanner, b"needle"))


def test_many_rules_of_one_list_do_not_hide_those_of_another(scan):
    decoys = "\n".join(f"rule decoy{number} {{ condition: true }}" for number in range(2 * MAX_MATCHES))
    with Scanner({"decoys": decoys, **PLAIN}) as scanner:
        found = scan(scanner, b"needle")
    assert [name for name, _ in found] == ["decoys"] * MAX_MATCHES + ["words"]


def test_only_the_beginning_of_a_large_file_is_read(tmp_path):
    with (tmp_path / "large").open("wb+") as file, Scanner(PLAIN) as scanner:
        file.truncate(1 << 40)
        file.seek(SCAN_BYTES)
        file.write(b"needle")
        file.flush()
        file.seek(0)
        assert scanner.scan(file.fileno()) == (hashlib.sha256(bytes(SCAN_BYTES)).hexdigest(), [])


def test_rule_that_takes_too_long_ends(scan, monkeypatch):
    """A rule that counts for ever, on bytes of a stranger's choice."""
    pairs = "for all i in (0..filesize - 1) : (for all j in (0..filesize - 1) : (uint8(i) + uint8(j) < 1024))"
    monkeypatch.setattr(module, "ANSWER_SECONDS", 60.0)
    rules = {"slow": f"rule slow {{ condition: {pairs} }}", **PLAIN}
    with Scanner(rules) as scanner:
        with pytest.raises(ScanFailed, match="timeout"):
            scan(scanner, b"needle" * 100_000)
        # It ended by itself, so the process is ready for the next file.
        assert scan(scanner, b"needle") == [("slow", "slow"), ("words", "word")]


@pytest.mark.parametrize(("sent", "said"), [(signal.SIGSTOP, "timeout"), (signal.SIGKILL, "crashed")])
def test_process_that_does_not_answer_or_crashes_is_reported(scan, monkeypatch, sent, said):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    with Scanner(PLAIN) as scanner:
        os.kill(scanner.pid, sent)
        with pytest.raises(ScanFailed, match=said):
            scan(scanner, b"needle")


FULL = """
import os, resource, socket, sys
from binder_egress.agent.scanner import Scanner

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
ours, theirs = socket.socketpair()
socket.send_fds(ours, [b"x"], [0] * 200)
try:
    socket.send_fds(ours, [b"x"], [0])
except OSError:
    with Scanner({"words": 'rule word { strings: $a = "needle" condition: $a }'}) as scanner, open(sys.argv[1], "rb") as file:
        print(scanner.scan(file.fileno())[1])
"""
"""A process of a user who has as many descriptors under way as the kernel allows."""


@pytest.mark.skipif(os.getuid() != 0, reason="gives up root's rights")
def test_descriptors_that_a_pod_has_under_way_stop_no_scan(tmp_path):
    """The kernel counts them for each user, and the agent is the user pods' user."""
    (tmp_path / "file").write_bytes(b"hay needle hay")
    rights = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    command = ["setpriv", *rights, sys.executable, "-c", FULL, tmp_path / "file"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TOP)
    assert (done.stdout, done.stderr) == ("[('words', 'word')]\n", "")


@pytest.mark.parametrize("rules", ["rule " * 2_000, "rule a { condition: " + "(" * 100_000, "\0\0\0"])
def test_rules_that_are_nonsense_do_not_end_the_agent(rules, scan):
    try:
        with Scanner({"nonsense": rules, **PLAIN}) as scanner:
            assert scanner.broken["nonsense"] and scan(scanner, b"needle")
    except ScanFailed as error:
        assert str(error) == "crashed"


def test_example_rules_find_the_made_up_miner_and_its_script(tmp_path, scan):
    """The two rules of docs/agent.md, which are the project's own."""
    (rules,) = section("docs/agent.md", "YARA rules", "yara")
    made_up_miner.build(tmp_path / "miner")
    made_up_miner.compiled(tmp_path / "compiled")
    with Scanner({"examples": rules}) as scanner:
        assert scanner.broken == {}
        for name in ("miner", "compiled"):
            assert scan(scanner, (tmp_path / name).read_bytes()) == [("examples", "pool_client")], name
        assert scan(scanner, made_up_miner.SCRIPT.encode()) == [("examples", "pool_script")]
        for ordinary in ("/bin/sh", "/usr/bin/python3", "/bin/sleep", __file__):
            with open(ordinary, "rb") as file:
                assert scanner.scan(file.fileno())[1] == [], ordinary
