"""Network namespaces for scans: pods, and an internet of thousands of addresses that answer, refuse or drop.

    python -m tests.support.scan_networks scan ADDRESS… [--rate R] [--seconds S] [--hold S] [--ports N] [--processes N]
    python -m tests.support.scan_networks serve [PORT]
    python -m tests.support.scan_networks knocks

The first connects to all of these addresses, N ports of each, R a second or as fast as it can, from N processes. The second is the
internet. The third prints when a destination is first seen at any interface in monotonic seconds, the source and the destination.
The module needs the standard library alone: the scanner also runs in pods of a cluster.
"""

import argparse
import asyncio
import ipaddress
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TOP = Path(__file__).parents[2]

SO_RCVBUFFORCE = 33

PORT, CLOSED_PORT = 80, 81
"""The port that answers at all addresses of `ANSWERING`; any other refuses."""

ANSWERING, DROPPING, ANSWERING6 = "198.18.0.0/16", "198.19.0.0/16", "2001:db8:5::/64"
AT_ONCE = 500
"""The most attempts that a scanner has open."""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Networks:
    """The namespace of the internet, and of each pod."""

    def __init__(self) -> None:
        self.name = f"scans-{os.getpid()}"
        self.started: list[subprocess.Popen[str]] = []
        self.namespaces: list[str] = []
        self.internet = self._add("internet")
        self.ip(self.internet, f"route add local {ANSWERING} dev lo")
        self.ip(self.internet, f"-6 route add local {ANSWERING6} dev lo")
        self.start(self.internet, sys.executable, "-m", "tests.support.scan_networks", "serve", stdout=subprocess.PIPE)
        assert self.started[-1].stdout and self.started[-1].stdout.readline() == "ready\n"

    def _add(self, name: str) -> str:
        namespace = f"{self.name}-{name}"
        run("ip", "netns", "add", namespace)
        self.namespaces.append(namespace)
        run("nsenter", f"--net=/run/netns/{namespace}", "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        self.ip(namespace, "link set lo up")
        return namespace

    def ip(self, namespace: str, words: str) -> None:
        run("ip", "-netns", namespace, *words.split())

    def pod(self, number: int) -> tuple[str, int]:
        """Another pod: its namespace, and its pause process."""
        pod = self._add(f"pod{number}")
        self.ip(self.internet, f"link add pod{number} type veth peer name eth0 netns {pod}")
        for namespace, link, end in ((self.internet, f"pod{number}", 1), (pod, "eth0", 2)):
            self.ip(namespace, f"link set {link} up")
            self.ip(namespace, f"address add 10.77.{number}.{end}/24 dev {link}")
            self.ip(namespace, f"-6 address add fd77:{number}::{end}/64 dev {link} nodad")
        self.ip(pod, f"route add default via 10.77.{number}.1")
        self.ip(pod, f"-6 route add default via fd77:{number}::1")
        pause = self.start(pod, "sleep", "3600").pid
        while Path(f"/proc/{pause}/comm").read_text() != "sleep\n":
            time.sleep(0.01)
        return pod, pause

    def start(self, namespace: str, *command: str, **more: object) -> "subprocess.Popen[str]":
        """Start a program in a namespace; it is ended with the networks."""
        inside = ["nsenter", f"--net=/run/netns/{namespace}", *command]
        environment = {**os.environ, "PYTHONPATH": f"{TOP}:{TOP}/verifier"}
        self.started.append(subprocess.Popen(inside, text=True, cwd=TOP, env=environment, **more))  # type: ignore[call-overload]
        return self.started[-1]

    def scan(self, pod: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a scanner in a pod, as the module says."""
        return self.start(pod, sys.executable, "-m", "tests.support.scan_networks", "scan", *arguments)

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        for namespace in self.namespaces:
            run("ip", "netns", "delete", namespace)


@contextmanager
def networks() -> Iterator[Networks]:
    made = Networks()
    try:
        yield made
    finally:
        made.end()


def serve(port: int) -> None:
    """Answer on a port of all addresses until the process is killed: accept, and close after the first bytes or two seconds."""
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                await reader.read(1)
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer, sock=server) as listening:
            print("ready", flush=True)
            await listening.serve_forever()

    asyncio.run(main())


def targets(networks: list[str], ports: int) -> Iterator[tuple[str, int]]:
    """Where a scanner connects to: `10.0.0.0/16:80` is one port of each address."""
    for network in networks:
        addresses, _, port = network.rpartition(":")
        for address in itertools.islice(ipaddress.ip_network(addresses), 1, 65_000):
            for more in range(ports):
                yield str(address), int(port) + more


def knocks() -> None:
    """Print what arrives, as the module says."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    known: set[bytes] = set()
    while True:
        packet, (_, protocol, kind, *_) = packets.recvfrom(200)
        if kind == socket.PACKET_OUTGOING or protocol not in (0x0800, 0x86DD):
            continue
        four = protocol == 0x0800
        start = (packet[0] & 15) * 4 if four else 40
        if packet[9 if four else 6] != socket.IPPROTO_TCP or packet[start + 13] & 0x12 != 0x02:
            continue
        addresses = packet[12:20] if four else packet[8:40]
        key = addresses + packet[start + 2 : start + 4]
        if key not in known:
            known.add(key)
            half = len(addresses) // 2
            print(time.monotonic(), *(ipaddress.ip_address(one) for one in (addresses[:half], addresses[half:])), flush=True)


async def scan(told: argparse.Namespace, own: int) -> None:
    """Connect, as the module says, from one of the processes. A connection that is not answered in `hold` seconds is given up."""
    loop, began, gate = asyncio.get_running_loop(), time.monotonic(), asyncio.Semaphore(AT_ONCE)
    tasks = set()

    async def attempt(address: str, port: int) -> None:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as one, suppress(OSError, TimeoutError):
            one.setblocking(False)
            async with asyncio.timeout(told.hold):
                await loop.sock_connect(one, (address, port))
                await loop.sock_sendall(one, b"x")
        gate.release()

    for number, target in enumerate(targets(told.networks, told.ports)):
        if time.monotonic() - began > told.seconds:
            break
        if number % told.processes != own:
            continue
        if told.rate:
            await asyncio.sleep(max(0.0, began + number / told.rate - time.monotonic()))
        await gate.acquire()
        tasks.add(task := asyncio.create_task(attempt(*target)))
        task.add_done_callback(tasks.discard)
    for task in list(tasks):
        await task


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["scan", "serve", "knocks"])
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--hold", type=float, default=1)
    parser.add_argument("--ports", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    told = parser.parse_args()
    if told.part == "serve":
        serve(int((told.networks or [PORT])[0]))
    if told.part == "knocks":
        knocks()
    children = []
    for number in range(1, told.processes):
        if not (child := os.fork()):
            asyncio.run(scan(told, number))
            os._exit(0)
        children.append(child)
    asyncio.run(scan(told, 0))
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
