"""A round: compares all files that processes in pods run with the lists, each new file once.

Strangers decide how many files there are, how large they are and how often they are new. So a round has limits on its time and on
the bytes that it reads for one pod. What has waited longest comes first, and the rest waits for the next round. Decisions: D-332,
D-333, D-416.
"""

import hashlib
import logging
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from . import lists
from .lists import Lists, Match
from .processes import CROWDED, HIDDEN, FileKey, Processes, RunFile
from .scanner import SCAN_BYTES, ScanFailed, Scanner

HASHED_BYTES = 128 << 20
"""The largest file whose hash is computed, in bytes. YARA sees the beginning of larger files."""

POD_BYTES = 64 << 20
"""How many bytes of a pod's new files are read in a round. The file that reaches this limit is still read."""

ROUND_SECONDS = 10.0
"""How long a round looks at new files, in seconds."""

POD_SECONDS = 2.5
"""How long a round looks at one pod's new files before other pods' files come first, in seconds. One file may take longer."""

MAX_KNOWN_FILES = 50_000
"""The most files that are remembered, at some 300 bytes each. A pod may run as many programs as it may have processes. If all pods
together run more, those that run most are left out (D-416)."""

CHUNK_BYTES = 1 << 20

UNSEEN = {
    HIDDEN: Match("hidden", "a process hides itself"),
    CROWDED: Match("hidden", "too many scripts or programs to look at all"),
}
"""The match that is reported for a pod with a process that was not seen, by the reason (D-331, D-398)."""

log = logging.getLogger("binder-egress")


@dataclass
class Round:
    """The results of a round.

    Attributes:
        found: the pods in which something matched, each match once.
        pods: the uids of all pods that have a process.
        processes: the number of processes whose program could be read.
        unseen: the number that could not be read, or only in part, by reason (`processes.HIDDEN`, …).
        waiting: the number of new files that are left for the next round.
        counts: the number of files that were `hashed` and `scanned`, are too `large` for a hash or `gone`; the number of failed
            scans, by the word in `ScanFailed`; and the `bytes` that were read.
    """

    found: list[tuple[str, Match]] = field(default_factory=list)
    pods: set[str] = field(default_factory=set)
    processes: int = 0
    unseen: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class Watcher:
    """Looks at a node, round by round.

    Args:
        processes: the processes of its pods.
        folders: the folders that have the lists.
        scanner: starts the process that matches rules.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        processes: Processes,
        folders: Sequence[Path],
        scanner: Callable[[Mapping[str, str]], Scanner] = Scanner,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._processes, self._folders, self._start, self._clock = processes, folders, scanner, clock
        self._signature: object = None
        self.lists = Lists()
        """The lists in force, with their problems."""
        # The matches of each file, by its key; and by its hash, for the same program in another pod (D-397).
        self._known: dict[FileKey, list[Match]] = {}
        self._by_sum: dict[str, list[Match]] = {}
        self._waiting: dict[FileKey, int] = {}  # the round since which it has waited, or in which it could last not be opened
        self._number = 0

    def round(self) -> Round:
        """Do one round."""
        self._number += 1
        self._read_lists()
        done = Round()
        run: defaultdict[str, dict[FileKey, RunFile]] = defaultdict(dict)
        seen: Counter[str] = Counter()
        unseen: set[tuple[str, Match]] = set()
        for process in self._processes.all():
            done.pods.add(process.pod)
            if process.unseen:
                done.unseen[process.unseen] += 1
                if process.unseen in UNSEEN:
                    unseen.add((process.pod, UNSEEN[process.unseen]))
            else:
                seen[process.pod] += 1
            done.processes += bool(process.files)
            for file in process.files:
                run[process.pod].setdefault(file.key, file)
        for pod in _crowded(run):
            del run[pod]
            done.unseen[CROWDED] += seen[pod]
            unseen.add((pod, UNSEEN[CROWDED]))
        files = {key: (pod, file) for pod, of in run.items() for key, file in of.items()}
        # A file that is no longer run is forgotten, and looked at again if it comes back.
        self._known = {key: matches for key, matches in self._known.items() if key in files}
        fresh = {key: file for key, file in files.items() if key not in self._known}
        unseen |= self._look_at(fresh, done)
        kept = {id(matches) for matches in self._known.values()}
        self._by_sum = {digest: matches for digest, matches in self._by_sum.items() if id(matches) in kept}
        self._waiting = {key: self._waiting.get(key, self._number) for key in fresh if key not in self._known}
        done.waiting = len(self._waiting)
        matches = {(pod, match) for pod, of in run.items() for key in of for match in self._known.get(key, ())}
        done.found = sorted(matches | unseen, key=lambda row: (row[0], row[1].list_name, row[1].label))
        return done

    def _read_lists(self) -> None:
        try:
            signature = lists.signature(self._folders)
        except OSError:  # a list was being replaced
            return
        if signature == self._signature:
            return
        self._signature, self.lists = signature, lists.read(self._folders)
        self._known, self._by_sum = {}, {}
        # Each list by itself, so that one on which the compiler fails does not keep out another.
        for name, rules in sorted(self.lists.rules.items()):
            try:
                with self._start({name: rules}) as scanner:
                    problems = scanner.broken.get(name, [])
            except ScanFailed as error:
                del self.lists.rules[name]
                problems = [f"cannot be compiled: {error}"]
            except OSError as error:
                del self.lists.rules[name]
                problems = [f"cannot be compiled now: {error.strerror}"]
                self._signature = None  # The next round reads the lists again.
            for problem in problems:
                self.lists.note(name, problem)
        told = {"hashes": len(self.lists.hashes), "rules": sorted(self.lists.rules)}
        log.info("lists", extra={"fields": told})
        for name, problems in self.lists.broken.items():
            for problem in problems[:20]:
                log.error("list is broken", extra={"fields": {"list": name, "problem": problem}})

    def _look_at(self, fresh: Mapping[FileKey, tuple[str, RunFile]], done: Round) -> set[tuple[str, Match]]:
        """Look at new files: the pods take turns, each with the file that has waited longest; last come the files of a pod that has
        used its time.

        Args:
            fresh: the files, each with a pod that runs it.
            done: the results so far.

        Returns:
            The pods that have made a program unreadable.
        """
        unseen: set[tuple[str, Match]] = set()
        began = self._clock()
        read: Counter[str] = Counter()
        spent: defaultdict[str, float] = defaultdict(float)
        put_off: set[FileKey] = set()
        order = self._in_turns(fresh)
        with ExitStack() as stack:
            scanner: list[Scanner] = []
            for key in order:
                pod, file = fresh[key]
                if self._clock() - began > ROUND_SECONDS:
                    break
                if read[pod] > POD_BYTES:
                    continue
                if spent[pod] > POD_SECONDS and key not in put_off:
                    put_off.add(key)
                    order.append(key)
                    continue
                started, before = self._clock(), done.counts["bytes"]
                if self._examine(key, file, done, scanner, stack):
                    done.unseen[HIDDEN] += 1
                    unseen.add((pod, UNSEEN[HIDDEN]))
                read[pod] += done.counts["bytes"] - before
                spent[pod] += self._clock() - started
        return unseen

    def _in_turns(self, fresh: Mapping[FileKey, tuple[str, RunFile]]) -> list[FileKey]:
        """New files in the order in which they are looked at. See `_look_at` for the argument."""
        # The order among files that are new at the same time is random, so that nobody can come last on purpose.
        waited = sorted(fresh, key=lambda key: (self._waiting.get(key, self._number), random.random()))
        turns: Counter[str] = Counter()
        turn: dict[FileKey, int] = {}
        for key in waited:
            turn[key] = turns[fresh[key][0]]
            turns[fresh[key][0]] += 1
        return sorted(waited, key=lambda key: turn[key])

    def _examine(self, key: FileKey, file: RunFile, done: Round, scanner: list[Scanner], stack: ExitStack) -> bool:
        """Look at a file, and remember its matches. Returns whether it is a program that its pod has made unreadable."""
        try:
            descriptor = file.open()
        except OSError as error:
            self._wait(key)
            done.counts["gone"] += 1
            # The kernel hides a process whose program was unreadable from the start, so this one is hidden, too.
            return isinstance(error, PermissionError) and file.is_program
        try:
            now = FileKey.of(os.fstat(descriptor))
            # The times may differ: a pod that touches a program again and again must not hide it.
            if (now.device, now.inode) == (key.device, key.inode):
                self._known[key] = self._matches(descriptor, now, done, scanner, stack)
            else:
                done.counts["gone"] += 1
        except OSError as error:
            self._wait(key)
            log.warning("a file cannot be read: %s", error.strerror)
        finally:
            os.close(descriptor)
        return False

    def _wait(self, key: FileKey) -> None:
        """Let a file that failed come last among the files that wait for the next round."""
        self._waiting[key] = self._number + 1

    def _matches(self, file: int, key: FileKey, done: Round, scanner: list[Scanner], stack: ExitStack) -> list[Match]:
        digest = beginning = ""
        if key.size <= HASHED_BYTES:
            digest, beginning = _sums(file, key.size)
            done.counts["hashed"] += 1
            done.counts["bytes"] += key.size
            if digest in self._by_sum:
                return self._by_sum[digest]
        else:
            done.counts["large"] += 1
        matches = list(self.lists.hashes.get(digest, ()))
        if self.lists.rules and key.size:
            done.counts["bytes"] += min(key.size, SCAN_BYTES)
            try:
                if not scanner:
                    scanner.append(stack.enter_context(self._start(self.lists.rules)))
                scanned, rules = scanner[0].scan(file)
                matches += [Match(name, rule) for name, rule in rules]
                done.counts["scanned"] += 1
                # The file's owner may show different bytes to the two reads, so as to accuse or to hide other pods' files.
                if digest and scanned == beginning:
                    self._by_sum[digest] = matches
            except ScanFailed as error:
                # A file on which the scanner failed is remembered with the matches of its hash, and is not tried again. The same
                # program in another pod is tried, because nobody knows which bytes the scanner had.
                while scanner:
                    scanner.pop().close()
                done.counts[f"scan-{error}"] += 1
                log.warning(
                    "a file could not be scanned", extra={"fields": {"why": str(error), "sha256": digest, "bytes": key.size}}
                )
        return matches


def _crowded(run: Mapping[str, Collection[FileKey]]) -> list[str]:
    """The pods that are left out so that the files of all others can be remembered: those that run most files.

    Args:
        run: the files that each pod runs.
    """
    together, pods = sum(map(len, run.values())), []
    for pod in sorted(run, key=lambda pod: (-len(run[pod]), pod)):
        if together <= MAX_KNOWN_FILES:
            break
        together -= len(run[pod])
        pods.append(pod)
    return pods


def _sums(file: int, size: int) -> tuple[str, str]:
    """The SHA-256 of the first `size` bytes of a file, even if it grows meanwhile, and of those that the scanner sees of them. The
    latter is empty if the file is shorter by now: its owner may write the rest while it is read."""
    digest, at, chunk, sums = hashlib.sha256(), 0, memoryview(bytearray(CHUNK_BYTES)), []
    for end in (min(size, SCAN_BYTES), size):
        while at < end and (number := os.preadv(file, [chunk[: end - at]], at)):
            digest.update(chunk[:number])
            at += number
        if at < end:
            return digest.hexdigest(), ""
        sums.append(digest.hexdigest())
    return sums[1], sums[0]
