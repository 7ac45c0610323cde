"""UDP packets from user pods with a source address that is not the pod's, judged by those who hear them.

An answer would go to the made-up address, so the sender cannot tell what got through.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from tests.support.cluster.stage import Stage

PORT = 9555
"""Where everybody listens."""

ELSEWHERE, ELSEWHERE4 = "2001:db8:ffff::66", "198.18.0.66"
"""Addresses that nobody has, of the ranges for documentation (RFC 3849) and for benchmarks (RFC 2544)."""

SEND = """
import json, socket, sys
for host, source, word in json.loads(sys.argv[1]) * 3:
    six = ":" in source
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        # IPV6_FREEBIND (linux/in6.h) and IP_FREEBIND (linux/in.h). A program needs no privilege for them.
        sender.setsockopt(*((socket.IPPROTO_IPV6, 78) if six else (socket.IPPROTO_IP, 15)), 1)
        try:
            sender.bind((source, 0))
            sender.sendto(word.encode(), socket.getaddrinfo(host, PORT, type=socket.SOCK_DGRAM)[0][4])
        except OSError:
            print(word)
""".replace("PORT", str(PORT))
"""Runs in a user pod. Argument: a list of host, source and word, as JSON. Prints the words that the kernel does not send."""

HEAR = """
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ear:
    ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    ear.bind(("::", PORT))
    while True:
        print(ear.recv(1000).decode(), flush=True)
""".replace("PORT", str(PORT))
"""Runs where packets may arrive: prints the word of each."""


@dataclass(frozen=True)
class MadeUp:
    """A packet that is tried: where it goes, its made-up source address, and who hears it if nothing stops it."""

    host: str
    source: str
    hearer: str


@contextmanager
def hearing(*command: str) -> Iterator[set[str]]:
    """The words that arrive at a place. `command` runs Python there, for instance `nsenter … python3`."""
    heard: set[str] = set()

    def read(lines: IO[str]) -> None:
        heard.update(line.strip() for line in lines)

    process = subprocess.Popen([*command, "-uc", HEAR], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert process.stdout
    reader = threading.Thread(target=read, args=(process.stdout,))
    reader.start()
    try:
        yield heard
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def send(stage: Stage, pod: str, tried: dict[str, MadeUp], prefix: str) -> set[str]:
    """Send packets from a pod, each with `prefix` and its name as the word. Returns those that the pod's kernel refused to send."""
    packets = json.dumps([[each.host, each.source, f"{prefix} {name}"] for name, each in tried.items()])
    refused = stage.kubectl("exec", pod, "--", "python3", "-c", SEND, packets).splitlines()
    return {line.removeprefix(f"{prefix} ") for line in refused}


def send_from_here(host: str, word: str) -> None:
    """Send a packet from this process' network, with its own address."""
    source = "::" if ":" in host else "0.0.0.0"
    subprocess.run([sys.executable, "-c", SEND, json.dumps([[host, source, word]])], check=True)
