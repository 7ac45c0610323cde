"""The node guard on a node that is a network namespace: the links that it stands on, and the packets that it drops.

tests/cluster/test_battery.py has it on the nodes of real network plugins.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import eventually

SECONDS = 30
PROGRAM = Path(__file__).parents[2] / "verifier/binder_egress/pods/node_guard.py"

HEAR = """
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ear:
    ear.bind(("::", 9))
    while True:
        print(ear.recv(100).decode(), flush=True)
"""

SEND = """
import socket, sys
host, source, word = sys.argv[1:]
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND (linux/in6.h)
    sender.bind((source, 0))
    sender.sendto(word.encode(), socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0][4])
"""

ADDRESS, ELSEWHERE = "2001:db8::1", "2001:db8:ffff::66"
"""The node's address, and one that nobody has."""


class Node:
    """A network namespace, and others that are linked to it."""

    def __init__(self) -> None:
        self.name = f"guard-{os.getpid()}"
        self.namespaces: list[str] = []
        self.add(self.name)
        self.ip(self.name, f"address add {ADDRESS}/128 dev lo")

    def add(self, namespace: str) -> None:
        run("ip", "netns", "add", namespace)
        self.namespaces.append(namespace)
        # Without looking for duplicates, addresses can be used at once.
        run(*self.inside(namespace), "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        self.ip(namespace, "link set lo up")

    def ip(self, namespace: str, words: str) -> str:
        return run("ip", "-netns", namespace, *words.split())

    def rules(self) -> str:
        # Not a table by its name, which is not found while the guard replaces it.
        return run(*self.inside(), "nft", "list", "ruleset")

    def inside(self, namespace: str = "") -> tuple[str, ...]:
        return ("nsenter", f"--net=/run/netns/{namespace or self.name}")

    def join(self, link: str, bridge: str = "") -> None:
        """A link of the node's, or a port of its bridge, whose other end is in a namespace with the default route to the node."""
        there = f"{self.name}-{link}"
        self.add(there)
        self.ip(self.name, f"link add {link} type veth peer name eth0 netns {there}")
        self.ip(self.name, f"link set {link} up" + (f" master {bridge}" if bridge else ""))
        self.ip(there, "link set eth0 up")
        self.ip(there, f"-6 route add default via {self.local(bridge or link)} dev eth0")

    def local(self, link: str) -> str:
        (found,) = json.loads(self.ip(self.name, f"-json -6 address show dev {link} scope link"))
        return str(found["addr_info"][0]["local"])

    def tried(self, link: str, bridge: str = "") -> set[str]:
        """Which kinds of packets arrive from beyond a link, if they come in through the link or its bridge."""
        words = {
            "link-local": (f"{self.local(bridge or link)}%eth0", "::"),
            "multicast": ("ff02::1%eth0", ELSEWHERE),
            "made-up": (ADDRESS, ELSEWHERE),
        }
        with subprocess.Popen((*self.inside(), sys.executable, "-uc", HEAR), stdout=subprocess.PIPE, text=True) as ear:
            try:
                eventually(lambda: ":9 " in run(*self.inside(), "ss", "-lnu"), SECONDS)
                for word, (host, source) in words.items():
                    run(*self.inside(f"{self.name}-{link}"), sys.executable, "-c", SEND, host, source, word)
                # What was sent before has been handled by then.
                run(*self.inside(), sys.executable, "-c", SEND, "::1", "::", "end")
                assert ear.stdout
                return {line.strip() for line in iter(ear.stdout.readline, "end\n")}
            finally:
                ear.kill()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, (command, done.stderr)
    return done.stdout


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    for namespace in made.namespaces:
        run("ip", "netns", "delete", namespace)


@pytest.fixture
def guard(node: Node) -> Iterator[subprocess.Popen[str]]:
    """The program, started when the test asks for it; a test makes the links before."""
    with subprocess.Popen((*node.inside(), sys.executable, PROGRAM), stdout=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


EVERYTHING = {"link-local", "multicast", "made-up"}


@pytest.fixture
def links(node: Node) -> None:
    """What nodes have: links to pods, with and without a bridge, under names of several network plugins, and links of their own."""
    for link in ("eni1a2b", "gke3c4d", "calif00"):
        node.join(link)
    for bridge in ("cbr7", "br0"):
        node.ip(node.name, f"link add {bridge} type bridge")
        node.ip(node.name, f"link set {bridge} up")
    node.join("veth5e6f", "cbr7")
    # A bridge over a network card, here a tunnel, with a virtual machine.
    node.ip(node.name, "link add wire type vxlan id 7 dstport 4789 local ::1")
    node.ip(node.name, "link set wire master br0 up")
    node.join("guest", "br0")
    # A node that is itself a container.
    node.join("uplink")
    node.ip(node.name, "-6 route add default dev uplink")


def test_guard_covers_links_of_pods_whatever_their_names_and_no_other_even_when_it_is_killed(node, links, guard):
    assert guard.stdout.readline() == "guards the links of pods: 4; the node's own, which it leaves alone: br0, uplink\n"
    for link in ("eni1a2b", "gke3c4d", "calif00"):
        assert node.tried(link) == set(), link
    assert node.tried("veth5e6f", "cbr7") == set()
    assert node.tried("guest", "br0") == node.tried("uplink") == EVERYTHING
    guard.kill()
    guard.wait(SECONDS)
    assert node.tried("eni1a2b") == set()


def test_link_that_is_new_is_covered_before_the_guard_knows_it(node, guard):
    """The guard is stopped while it waits: a program that it runs would go on."""
    guard.stdout.readline()
    guard.send_signal(signal.SIGSTOP)
    node.join("azv8a9b")
    assert node.tried("azv8a9b") == set()
    guard.send_signal(signal.SIGCONT)
    eventually(lambda: '"azv8a9b"' in node.rules(), SECONDS)


def test_guard_without_a_link_of_a_pod_says_so_and_removes_its_rules_when_told_to_end(node, guard):
    assert guard.stdout.readline().startswith("guards NOTHING, because this node has no link of a pod; ")
    assert "elements" not in node.rules().partition("chain")[0]
    node.join("cali1")
    assert guard.stdout.readline().startswith("guards the links of pods: 1; ")
    eventually(lambda: 'elements = { "cali1" }' in node.rules(), SECONDS)
    guard.terminate()
    assert guard.wait(SECONDS) == 0
    assert node.rules() == ""
    assert node.tried("cali1") == EVERYTHING
