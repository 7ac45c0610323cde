"""Open connections when a tier goes, with the part that ends them on each node: by packets, with each of the network plugins.

Each stream echoes 50 times a second, and says when its last echo came.
"""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.support.cluster.commands import egress
from tests.support.cluster.packets import assert_reaches, python_in
from tests.support.cluster.stage import Stage
from tests.support.cluster.timeouts import POD_SECONDS
from tests.support.waiting import eventually

ENDED_SECONDS = 3.0
"""The time from the end of a command to the last echo. The documentation promises one second; a busy machine gets more."""

STREAM_SECONDS = 25.0
"""For how long streams echo: on a busy machine the command itself has taken seven seconds."""

START_SECONDS = 15
"""Until the part has started on a busy machine, and has heard of changed tiers."""

ON_SECONDS = 5
"""A stream that echoes for so long afterwards was not ended."""

LAN = "10.99.0.10"
"""A private address of the small internet of ci/cluster. The base policy opens it here, as sites do for a server of theirs."""

SMALL = {"cidrs": {"0.0.0.0/0": True, "2000::/3": True}, "ports": {"tcp": {"80": True}}, "rank": 0}
VALUES = (
    "--set=connections.enabled=true",
    f"--set-json=tiers.small={json.dumps(SMALL)}",
    "--set-json=base.egress=" + json.dumps({"lan": {"to": [{"ipBlock": {"cidr": f"{LAN}/32"}}]}}),
)

PORT = 7777

ECHOES = """
import json, socket, sys, threading, time
seconds, port, streams = float(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
end, last, begun = time.time() + seconds, {}, threading.Barrier(len(streams) + 1)

def echo(name, kind, host, to):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, getattr(socket, kind)) as stream:
        stream.settimeout(5)
        stream.connect((host, to))
        try:
            while time.time() < end:
                stream.send(b"E")
                stream.recv(1)
                if name not in last:
                    begun.wait(20)
                last[name] = time.time()
                time.sleep(0.02)
        except OSError:
            pass

def answer():
    with socket.create_server(("", port)) as server:
        connection, _ = server.accept()
        while data := connection.recv(1):
            connection.send(data)

threads = [threading.Thread(target=echo, args=(name, *stream), daemon=True) for name, stream in streams.items()]
for thread in threads:
    thread.start()
threading.Thread(target=answer, daemon=True).start()
begun.wait(20)
print("all echo", flush=True)
for thread in threads:
    thread.join()
print(json.dumps(last), flush=True)
"""
"""Runs in a pod. Arguments: for how many seconds, the port on which it echoes, and name → kind of socket, host and port."""


@dataclass
class Streams:
    """The streams of a pod, which have begun."""

    program: subprocess.Popen[str]
    into: threading.Thread
    last: dict[str, float]

    def ended_after(self, at: float) -> dict[str, float]:
        """Wait for the end. Returns name → seconds from a Unix time to the last echo."""
        assert self.program.stdout
        self.into.join(POD_SECONDS)
        last = self.last | json.loads(self.program.stdout.readline())
        after = {name: round(echo - at, 2) for name, echo in last.items()}
        print("seconds to the last echo:", after)
        return after


def begin(stage: Stage, user: str, seconds: float) -> Streams:
    """Begin streams in each direction, for some seconds."""
    known = stage.targets()
    tls, http, udp = (known[f"public {name}"].partition("://")[2] for name in ("TCP", "HTTP", "UDP"))
    streams = {
        "TCP": ("SOCK_STREAM", *tls.rsplit(":", 1)),
        "HTTP's port": ("SOCK_STREAM", http, 80),
        "UDP": ("SOCK_DGRAM", *udp.rsplit(":", 1)),
        "private": ("SOCK_STREAM", LAN, 80),
    }
    if six := known.get("public IPv6"):
        streams["IPv6"] = ("SOCK_STREAM", six.split("[")[1].rstrip("]"), 443)
    asked = {name: (kind, host, int(port)) for name, (kind, host, port) in streams.items()}
    program = python_in(stage, user, ECHOES, str(seconds), str(PORT), json.dumps(asked))
    assert program.stdout and program.stdout.readline() == "all echo\n", "not all streams began"
    last: dict[str, float] = {}

    def into(address: str) -> None:
        with socket.create_connection((address, PORT), 20) as connection:
            until = time.time() + seconds - 1
            while time.time() < until:
                connection.send(b"E")
                connection.recv(1)
                last["into the pod"] = time.time()
                time.sleep(0.02)

    thread = threading.Thread(target=into, args=(stage.pod(user)["status"]["podIP"],), daemon=True)
    thread.start()
    eventually(lambda: "into the pod" in last, what="no stream into the pod")
    return Streams(program, thread, last)


@pytest.fixture(scope="module", autouse=True)
def installed(stage: Stage, local_cluster: str) -> Iterator[None]:
    with stage.installed(*VALUES):
        stage.kubectl("rollout", "status", "daemonset/binder-egress-connections", f"--timeout={POD_SECONDS}s")
        yield


@contextmanager
def blocked(stage: Stage, user: str) -> Iterator[None]:
    """The server's tier is taken away, for the time of the block."""
    egress(stage, "revoke", user, "--why", "a test")
    try:
        yield
    finally:
        egress(stage, "unblock", user)


@contextmanager
def away(stage: Stage) -> Iterator[None]:
    """The part runs on no node meanwhile. It is there again afterwards."""

    def select(nodes: str) -> None:
        patch = {"spec": {"template": {"spec": {"nodeSelector": {"nobody": nodes}}}}}
        stage.kubectl("patch", "daemonset", "binder-egress-connections", "-p", json.dumps(patch).replace('"null"', "null"))

    try:
        select("here")
        eventually(lambda: not stage.pods_of("connections"), POD_SECONDS)
        yield
    finally:
        select("null")
    stage.kubectl("rollout", "status", "daemonset/binder-egress-connections", f"--timeout={POD_SECONDS}s")


def parts_said(stage: Stage, uid: str) -> list[dict]:
    """What the parts on the nodes logged about a pod."""
    said = stage.kubectl("logs", "-l", "app.kubernetes.io/component=connections", "--tail=-1")
    return [line for line in map(json.loads, said.splitlines()) if line.get("uid") == uid]


def test_a_revocation_ends_what_the_tier_opened_and_nothing_else(stage: Stage) -> None:
    """Streams of another server go on, and an unlock opens everything again."""
    user, other = stage.launch_verified(), stage.launch_verified("fake/other/repo/main")
    streams, others = begin(stage, user, STREAM_SECONDS), begin(stage, other, STREAM_SECONDS)
    with blocked(stage, user):
        at = time.time()
        after = streams.ended_after(at)
        assert {name for name, seconds in after.items() if seconds > ENDED_SECONDS} == {"private", "into the pod"}, after
        assert min(after["private"], after["into the pod"], *others.ended_after(at).values()) > ON_SECONDS
        (said,) = parts_said(stage, stage.pod(user)["metadata"]["uid"])
        assert said["connections"] >= len(after) - 2
        assert not set(said) & {"address", "addresses"} and "203.0.113" not in json.dumps(said)
    stage.unlock_well(user)
    assert_reaches(stage, user, egress=True, always=frozenset({"private range"}))


@pytest.mark.long
def test_a_smaller_tier_keeps_what_it_opens_and_a_part_that_was_away_ends_the_rest(stage: Stage) -> None:
    user = stage.launch_verified()
    with away(stage):
        streams = begin(stage, user, 45)
        egress(stage, "grant", user, "--tier", "small", "--why", "a test")
        stage.await_tier(user, "small")
        time.sleep(ON_SECONDS)
        away_until = time.time()
    back = time.time()
    after = streams.ended_after(back)
    assert {name for name, seconds in after.items() if seconds > START_SECONDS} == {"private", "into the pod", "HTTP's port"}, after
    assert all(seconds > away_until - back for seconds in after.values()), "something ended while nobody was there to end it"
