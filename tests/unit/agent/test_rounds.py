"""Rounds: which files are examined, when they are examined again, and what a stranger can do about it."""

import hashlib
import os
from dataclasses import replace
from functools import partial

import pytest

from binder_egress.agent import rounds
from binder_egress.agent.lists import Match
from binder_egress.agent.processes import FileKey, Process, RunFile
from binder_egress.agent.rounds import UNSEEN, Watcher
from binder_egress.agent.scanner import ScanFailed, Scanner
from tests.support import made_up_miner

POD, OTHER = "7c2a4bd3-1a2b-4c3d-9e8f-0a1b2c3d4e5f", "11111111-1a2b-4c3d-9e8f-0a1b2c3d4e5f"
RULES = 'rule word { strings: $a = "needle" condition: $a }'


class Node:
    def __init__(self):
        self.processes = []

    def run(self, pod, *paths, unseen=""):
        self.processes.append((pod, paths, unseen))

    def all(self):
        for pod, paths, unseen in self.processes:
            files = ((FileKey.of(os.stat(path)), path) for path in paths)
            yield Process(pod, unseen, tuple(RunFile(key, partial(os.open, path, os.O_RDONLY)) for key, path in files))


def scanned(file):
    return hashlib.sha256(os.pread(file, rounds.SCAN_BYTES, 0)).hexdigest()


class Scans(Scanner):
    """A scanner with a test's answers, which counts its requests."""

    def __init__(self, *answers, seconds=0):
        self.answers, self.scanned, self.started = list(answers), [], 0
        self.seconds, self.now = seconds, 0.0

    def __call__(self, rules):
        self.started += 1
        self.broken = {}
        return self

    def scan(self, file):
        self.scanned.append(os.fstat(file).st_ino)
        self.now += self.seconds
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        return scanned(file), answer

    def close(self):
        pass


@pytest.fixture
def node():
    return Node()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lists").mkdir()
    return tmp_path / "lists"


@pytest.fixture
def words(folder):
    (folder / "words.yar").write_text(RULES)


@pytest.fixture
def miners(folder):
    (folder / "a.sha256").write_text(f"{hashlib.sha256(b'miner').hexdigest()} m\n")


@pytest.fixture
def file(tmp_path):
    def file(name, content=b"content"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return file


def test_made_up_miner_is_found_by_sum_and_by_rule(node, folder, tmp_path):
    digest = made_up_miner.build(tmp_path / "miner")
    (folder / "miners.sha256").write_text(f"{digest} made-up\n")
    (folder / "words.yar").write_text('rule pool { strings: $a = "stratum+tcp" condition: $a }')
    node.run(POD, tmp_path / "miner")
    node.run(OTHER, "/bin/sleep")
    done = Watcher(node, [folder]).round()
    assert done.found == [(POD, Match("miners", "made-up")), (POD, Match("words", "pool"))]
    assert done.pods == {POD, OTHER} and done.processes == 2


def test_file_is_read_once(node, folder, file, words):
    """The same program in another pod is not matched again, either."""
    node.run(POD, file("a"))
    scans = Scans()
    watcher = Watcher(node, [folder], scans)
    assert watcher.round().counts["hashed"] == 1 and len(scans.scanned) == 1
    assert watcher.round().counts["hashed"] == 0
    node.run(OTHER, file("b"))
    done = watcher.round()
    assert done.counts["hashed"] == 1 and len(scans.scanned) == 1


def test_changed_file_is_read_again_and_a_changed_list_counts_without_a_restart(node, folder, file):
    """This also holds for a file whose owner set its size and time back."""
    path = file("a", b"harmless")
    before = path.stat()
    node.run(POD, path)
    watcher = Watcher(node, [folder], Scans())
    assert watcher.round().found == []
    listed = f"{hashlib.sha256(b'miner...').hexdigest()} m\n"
    (folder / "a.sha256").write_text(listed)
    assert watcher.round().found == []
    path.write_bytes(b"miner...")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watcher.round().found == [(POD, Match("a", "m"))]
    for text, found in (("", []), (listed, [(POD, Match("a", "m"))])):
        (folder / "a.sha256").write_text(text)
        assert watcher.round().found == found


def test_list_at_which_the_compiler_fails_keeps_no_other_out(node, folder, file):
    for name in "abc":
        (folder / f"{name}.yar").write_text(RULES)
    node.run(POD, file("a", b"needle"))

    class Failing(Scans):
        def __call__(self, rules):
            if "b" in rules:
                raise ScanFailed("timeout")
            return super().__call__(rules)

    watcher = Watcher(node, [folder], scans := Failing())
    assert watcher.round().counts["scanned"] == 1 and len(scans.scanned) == 1
    assert watcher.lists.broken == {"b": ["cannot be compiled: timeout"]} and set(watcher.lists.rules) == {"a", "c"}


def test_file_that_breaks_the_scanner_is_not_tried_again_and_speaks_for_no_other_file(node, folder, file, words):
    node.run(POD, file("a", b"1"))
    node.run(OTHER, file("b", b"2"))
    scans = Scans(ScanFailed("crashed"), [("words", "word")])
    watcher = Watcher(node, [folder], scans)
    done = watcher.round()
    assert done.counts["scan-crashed"] == 1 and len(done.found) == 1
    assert watcher.round().counts == {} and len(scans.scanned) == 2
    assert scans.started == 3  # once for the lists, and again after the crash
    # The same program in another pod is scanned itself.
    scans.answers = [[("words", "word")]]
    node.run("third", file("c", b"1"))
    assert ("third", Match("words", "word")) in watcher.round().found


@pytest.mark.parametrize(("shown", "hidden"), [(b"harmless", b"a needle"), (b"a needle", b"harmless")])
def test_file_that_changes_between_hash_and_scan_speaks_for_no_other_file(node, folder, file, shown, hidden, words):
    """Its owner shows the hash one content and the rules another, so that other pods' files are accused, or are not looked at."""

    class Changing(Scanner):
        def scan(self, opened):
            if os.fstat(opened).st_ino != attacker.stat().st_ino:
                return super().scan(opened)
            # As a write through a shared mapping of a file in memory, this changes no time in its key.
            before = attacker.stat()
            attacker.write_bytes(hidden)
            found = super().scan(opened)
            attacker.write_bytes(shown)
            os.utime(attacker, ns=(before.st_atime_ns, before.st_mtime_ns))
            return found

    attacker = file("attacker", shown)
    node.run(POD, attacker)
    watcher = Watcher(node, [folder], Changing)
    assert watcher.round().found == ([(POD, Match("words", "word"))] if b"needle" in hidden else [])
    node.processes = [(POD, (attacker,), ""), (OTHER, (file("other", shown),), "")]
    found = watcher.round().found
    assert ((OTHER, Match("words", "word")) in found) == (b"needle" in shown)


def test_program_of_which_the_rules_see_the_beginning_is_scanned_once(node, folder, file, monkeypatch, words):
    """Two files that only begin in the same way are two programs."""
    monkeypatch.setattr(rounds, "SCAN_BYTES", 10)
    (folder / "a.sha256").write_text(f"{hashlib.sha256(b'the needle and an end').hexdigest()} m\n")
    for name, end in (("a", b"an end"), ("b", b"an end"), ("c", b"another")):
        node.run(POD, file(name, b"the needle and " + end))
    watcher = Watcher(node, [folder], scans := Scans())
    assert watcher.round().found == [(POD, Match("a", "m"))] and len(scans.scanned) == 2


def test_large_file_has_no_sum(node, folder, file, monkeypatch, words):
    monkeypatch.setattr(rounds, "HASHED_BYTES", 10)
    node.run(POD, file("large", b"needle and more"))
    done = Watcher(node, [folder]).round()
    assert done.found == [(POD, Match("words", "word"))] and (done.counts["large"], done.counts["hashed"]) == (1, 0)


def test_pod_with_many_files_keeps_no_other_waiting(node, folder, file, monkeypatch, miners):
    monkeypatch.setattr(rounds, "POD_BYTES", 20)
    for number in range(50):
        node.run(POD, file(f"decoy{number}", b"%10d" % number))
    node.run(OTHER, file("miner", b"miner"))
    watcher = Watcher(node, [folder], Scans())
    done = watcher.round()
    assert done.found == [(OTHER, Match("a", "m"))]
    assert done.waiting == 47 and done.counts["bytes"] == 3 * 10 + 5


def test_decoys_that_are_always_new_do_not_hide_a_file(node, folder, file, monkeypatch, miners):
    """Files that have waited longer come first."""
    monkeypatch.setattr(rounds, "POD_BYTES", 0)
    miner = file("miner", b"miner")
    watcher = Watcher(node, [folder], Scans())
    found = []
    for attempt in range(2):
        node.processes = []
        for number in range(200):
            node.run(POD, file(f"decoy{attempt}-{number}", b"%d %d" % (attempt, number)))
        node.run(POD, miner)
        found = found or watcher.round().found
    # One file a round: in the second round, only the miner is left of the first round's files.
    assert found == [(POD, Match("a", "m"))]


def test_round_ends_in_time(node, folder, file, words):
    for number in range(20):
        node.run(POD, file(str(number), b"%d" % number))
    scans = Scans(seconds=3)
    done = Watcher(node, [folder], scans, lambda: scans.now).round()
    assert done.counts["scanned"] == 4 and done.waiting == 16


def test_pod_with_slow_files_keeps_no_other_waiting(node, folder, file, words):
    """Each of these files takes as long as a scan may, and has waited longer."""

    class Slow(Scans):
        def scan(self, file):
            if os.fstat(file).st_size > 100:
                self.now += 5
                raise ScanFailed("timeout")
            return scanned(file), [("words", "word")]

    for number in range(60):
        node.run(POD, file(f"slow{number}", b"%200d" % number))
    scans = Slow()
    watcher = Watcher(node, [folder], scans, lambda: scans.now)
    watcher.round()
    node.run(OTHER, file("miner", b"needle"))
    done = watcher.round()
    assert done.found == [(OTHER, Match("words", "word"))]
    assert done.counts["scan-timeout"] == 3  # The remaining time is still used.


def test_pods_with_most_files_are_left_out_and_reported_and_all_others_looked_at(node, folder, file, monkeypatch, miners):
    """Seven pods together run more files than are remembered, and others each round."""
    monkeypatch.setattr(rounds, "MAX_KNOWN_FILES", 20)
    watcher = Watcher(node, [folder], Scans())
    for attempt in range(3):
        node.processes = []
        node.run(OTHER, file(f"miner{attempt}", b"miner"))
        for pod in range(7):
            for number in range(4 if pod else 9):
                node.run(f"pod-{pod}", file(f"decoy{attempt}-{pod}-{number}", b"%d %d %d" % (attempt, pod, number)))
        done = watcher.round()
        # 9 and six times 4 decoys, of which four times 4 leave a place for the other.
        left_out = ["pod-0", "pod-1", "pod-2"]
        assert done.found == [(OTHER, Match("a", "m")), *((pod, UNSEEN["crowded"]) for pod in left_out)]
        assert (done.unseen, done.waiting, done.counts["hashed"]) == ({"crowded": 17}, 0, 17)


def test_pods_take_turns(node, folder, file, words):
    """One that runs a new program is not kept waiting by those that run many, even if these have waited longer."""
    for number in range(120):
        node.run(f"pod-{number % 5}", file(str(number), b"%20d" % number))
    scans = Scans(seconds=1)
    watcher = Watcher(node, [folder], scans, lambda: scans.now)
    watcher.round()
    for attempt in range(3):
        path = file(f"miner{attempt}", b"miner %d" % attempt)
        node.run(OTHER, path)
        watcher.round()
        assert path.stat().st_ino in scans.scanned


def test_file_that_was_replaced_is_left_for_the_next_round_and_one_that_was_touched_is_not(node, folder, file, miners):
    path = file("miner", b"miner")
    key = FileKey.of(path.stat())

    def look(key, path):
        node.all = lambda: [Process(POD, files=(RunFile(key, partial(os.open, path, os.O_RDONLY)),))]
        return Watcher(node, [folder], Scans()).round()

    done = look(replace(key, inode=key.inode + 1), path)
    assert done.counts == {"gone": 1} and done.waiting == 1
    assert look(key, "/none").counts == {"gone": 1}
    assert look(replace(key, modified=1, changed=1), path).found == [(POD, Match("a", "m"))]


@pytest.mark.parametrize("is_program", [True, False])
def test_unreadable_program_is_reported_as_a_hidden_process(node, folder, file, is_program):
    """A script may be unreadable to the agent alone: it is found by its path."""

    def refuse():
        raise PermissionError

    key = FileKey.of(file("miner").stat())
    node.all = lambda: [Process(POD, files=(RunFile(key, refuse, is_program),))]
    done = Watcher(node, [folder], Scans()).round()
    assert (done.found, done.unseen["hidden"]) == (([(POD, UNSEEN["hidden"])], 1) if is_program else ([], 0))


def test_pod_with_scripts_that_open_slowly_and_then_fail_keeps_no_other_waiting(node, folder, file, miners):
    now = [0.0]

    def fail():
        now[0] += 1
        raise OSError("too many parts")

    key = FileKey.of(file("script").stat())
    slow = [Process(POD, files=tuple(RunFile(replace(key, inode=number), fail) for number in range(1, 61)))]
    node.all = lambda: slow
    watcher = Watcher(node, [folder], Scans(), lambda: now[0])
    watcher.round()
    path = file("miner", b"miner")
    node.all = lambda: [*slow, Process(OTHER, files=(RunFile(FileKey.of(path.stat()), partial(os.open, path, os.O_RDONLY)),))]
    assert (OTHER, Match("a", "m")) in watcher.round().found


def test_file_that_is_written_while_it_is_read_speaks_for_no_other_file(node, folder, file, monkeypatch, words):
    """It is shorter at first, then whole, and the scanner sees only what was there at first."""

    class Beginning(Scans):
        def scan(self, opened):
            found = super().scan(opened)
            return (hashlib.sha256(b"").hexdigest(), []) if len(self.scanned) == 1 else found

    read, missing = os.preadv, [True]
    monkeypatch.setattr(os, "preadv", lambda *arguments: 0 if missing and missing.pop() else read(*arguments))
    node.run(POD, file("attacker"))
    node.run(OTHER, file("other"))
    Watcher(node, [folder], scans := Beginning()).round()
    assert len(scans.scanned) == 2


def test_unseen_processes_are_counted_and_those_that_hide_something_reported(node, folder, file, miners):
    """The program of a crowded process is compared, though a script of it was not looked at."""
    for unseen in ("other-user", "other-user", "other-group", "hidden"):
        node.run(POD, unseen=unseen)
    node.run(OTHER, file("miner", b"miner"), unseen="crowded")
    done = Watcher(node, [folder], Scans()).round()
    assert done.unseen == {"other-user": 2, "other-group": 1, "hidden": 1, "crowded": 1} and done.processes == 1
    assert sorted(done.found, key=str) == sorted(
        [(OTHER, Match("a", "m")), (OTHER, UNSEEN["crowded"]), (POD, UNSEEN["hidden"])], key=str
    )


def test_memory_is_bounded_by_running_programs(monkeypatch, node, folder, file):
    """Files that come and go leave nothing behind, so there is always room for the next one."""
    monkeypatch.setattr(rounds, "MAX_KNOWN_FILES", 2)
    watcher = Watcher(node, [folder], Scans())
    for number in range(5):
        node.processes = []
        node.run(POD, file(str(number), b"%d" % number))
        assert watcher.round().waiting == 0
