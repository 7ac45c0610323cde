"""YARA rules, matched in a separate process: bytes that strangers choose may make a parser crash or run for ever.

    python3 -P -m binder_egress.agent.scanner SOCKET

reads the rules from the socket, as one JSON line, and answers with the broken ones. Then it gets the content of one file at a time,
in chunks, and answers with the SHA-256 of the bytes that it scanned and the rules that match.

It does not get the open file: the kernel limits how many descriptors a user has under way between processes, and the user pods are
the same user (D-409).
"""

import contextlib
import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

SCAN_BYTES = 16 << 20
"""How many bytes YARA sees, from the beginning of a file. A static build of a known miner has about 8 MiB."""

SCAN_SECONDS = 5
"""How long YARA may look at one file, in seconds. It stops a little later (yara-x, `Scanner.set_timeout`)."""

ANSWER_SECONDS = 10.0
"""Seconds after which a process that has not answered is ended: twice the time that it should need."""

COMPILE_SECONDS = 30.0
"""How long the rules may take to compile, in seconds."""

MEMORY_BYTES = 128 << 20
"""The memory limit of the process, in bytes. The container's limit would end the agent, too."""

CHUNK_BYTES = 1 << 20
"""The most bytes that are sent at once."""

LENGTH_BYTES = 4
"""The bytes of a chunk's length, which is sent before it. A chunk without content ends a file."""

MAX_MATCHES = 8
"""The most rules of one list that are reported for one file."""

BROKEN_CHARACTERS = 300
"""How many characters of each error in the rules are reported."""


class ScanFailed(Exception):
    """The process did not answer, or it ended. The text says which. No process is running now."""


class Scanner:
    """A process that matches rules, as a context manager: it runs until the end of the block.

    Args:
        rules: YARA rules by the name of the list.

    Raises:
        ScanFailed: the rules make it crash or take too long.
        OSError: it cannot be started.
    """

    def __init__(self, rules: Mapping[str, str]):
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                # It imports nothing from its current folder, and inherits only this descriptor.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "binder_egress.agent.scanner", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        except OSError:
            self._socket.close()
            raise
        self.pid = self._process.pid
        """The number (PID) of the process."""
        self._answers = self._socket.makefile("rb")
        try:
            self._socket.settimeout(COMPILE_SECONDS)
            self._send(json.dumps(dict(rules)).encode() + b"\n")
            self.broken: dict[str, list[str]] = self._answer()
            """What is wrong with the rules, by the name of the list."""
        except ScanFailed:
            self.close()
            raise

    def scan(self, file: int) -> tuple[str, list[tuple[str, str]]]:
        """Match a file: its first `SCAN_BYTES`.

        Args:
            file: an open regular file.

        Returns:
            The SHA-256 of the bytes that were scanned, in hexadecimal; and the lists and rules that match them.

        Raises:
            ScanFailed: the process crashed or took too long. It is ended, and a new one is needed.
            OSError: the file cannot be read.
        """
        content, at, unreadable = b"-", 0, None
        try:
            self._socket.settimeout(ANSWER_SECONDS)
            while content:
                try:
                    content = os.pread(file, min(CHUNK_BYTES, SCAN_BYTES - at), at)
                except OSError as error:
                    content, unreadable = b"", error
                at += len(content)
                self._send(len(content).to_bytes(LENGTH_BYTES) + content)
            found = self._answer()
        except ScanFailed:
            self.close()
            raise
        if unreadable:
            raise unreadable
        if not isinstance(found, list):
            raise ScanFailed(str(found))
        scanned, matching = found
        return scanned, [(list_name, rule) for list_name, rule in matching]

    def close(self) -> None:
        """End the process."""
        self._answers.close()
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _send(self, content: bytes) -> None:
        try:
            self._socket.sendall(content)
        except TimeoutError:
            raise ScanFailed("timeout") from None
        except OSError:
            raise ScanFailed("crashed") from None

    def _answer(self) -> Any:
        try:
            line = self._answers.readline()
        except TimeoutError:
            raise ScanFailed("timeout") from None
        except OSError:
            line = b""
        try:
            return json.loads(line)
        except ValueError:
            raise ScanFailed("crashed") from None


def few_of_each(matching: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first `MAX_MATCHES` rules of each list, so that one list's matches do not crowd out another's.

    Args:
        matching: pairs of a list and a rule.
    """
    told: Counter[str] = Counter()
    kept = []
    for list_name, rule in matching:
        told[list_name] += 1
        if told[list_name] <= MAX_MATCHES:
            kept.append((list_name, rule))
    return kept


def serve(connection: socket.socket) -> None:
    """Answer at this end of the socket, as the module says, until the other end is closed."""
    import yara_x

    received = connection.makefile("rb")
    rules = json.loads(received.readline())
    compiler = yara_x.Compiler()
    compiler.enable_includes(False)
    compiler.ignore_invalid_rules(True)
    broken: dict[str, list[str]] = {}
    for name, source in rules.items():
        compiler.new_namespace(name)
        before = len(compiler.errors())
        with contextlib.suppress(yara_x.CompileError):  # The compiler also lists it among its errors.
            compiler.add_source(source, origin=name)
        if wrong := compiler.errors()[before:]:
            broken[name] = [f"line {error.get('line', '?')}: {error['title']}"[:BROKEN_CHARACTERS] for error in wrong]
    scanner = yara_x.Scanner(compiler.build())
    scanner.set_timeout(SCAN_SECONDS)
    scanner.max_matches_per_pattern(1000)
    connection.sendall(json.dumps(broken).encode() + b"\n")
    while head := received.read(LENGTH_BYTES):
        chunks = []
        while length := int.from_bytes(head):
            chunks.append(received.read(length))
            head = received.read(LENGTH_BYTES)
        content = b"".join(chunks)
        del chunks
        try:
            matching = [(rule.namespace, rule.identifier) for rule in scanner.scan(content).matching_rules]
            # Of the very bytes that were scanned: a file can change between two reads (D-397).
            found: object = [hashlib.sha256(content).hexdigest(), few_of_each(matching)]
        except yara_x.TimeoutError:
            found = "timeout"
        except yara_x.ScanError:
            found = "failed"
        del content
        connection.sendall(json.dumps(found).encode() + b"\n")


def main() -> None:
    """The process. It has a memory limit, leaves no core file and starts no other process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
