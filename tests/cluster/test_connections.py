"""Open connections when a tier goes, with the part that ends them on each node: by packets, with each of the network plugins.

Streams echo 50 times a second, or every eight seconds, or download; each says when its last byte came.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from binder_egress.model.grants import Egress, Rule
from binder_egress.model.serialization import write_grant
from tests.support.cluster import egress_proxy
from tests.support.cluster.commands import egress
from tests.support.cluster.packets import assert_reaches, python_in
from tests.support.cluster.stage import QUICK, Stage
from tests.support.cluster.timeouts import POD_SECONDS, RECONCILER_SECONDS
from tests.support.waiting import eventually

ENDED_SECONDS = 3.0
"""The time from the end of a command to the last echo. The documentation promises one second; a busy machine gets more."""

STREAM_SECONDS = 25.0
"""For how long streams echo: on a busy machine the command itself has taken seven seconds."""

START_SECONDS = 15
"""Until the part has started on a busy machine, and has heard of changed tiers."""

WRITTEN_SECONDS = 35
"""Until the reconciler has written the tiers of all pods, which it does every 30 s."""

ON_SECONDS = 5
"""A stream that echoes for so long afterwards was not ended."""

LAN = "10.99.0.10"
"""A private address of the small internet of ci/cluster. The base policy opens it here, as sites do for a server of theirs."""

SMALL = {
    "cidrs": {"0.0.0.0/0": True, "2000::/3": True}, "ports": {"tcp": {"443": True}}, "rank": 0,
    "hosts": {egress_proxy.LISTED: True},
}  # fmt: skip
VALUES = (
    "--set=connections.enabled=true",
    "--set=base.allowHub=true",
    f"--set-json=tiers.small={json.dumps(SMALL)}",
    *egress_proxy.VALUES,
    "--set-json=base.egress=" + json.dumps({"lan": {"to": [{"ipBlock": {"cidr": f"{LAN}/32"}}]}}),
)

LECTURE, LECTURE_SECONDS = 50, 60
"""The pods whose leases end together, and how long their leases are: it takes half a minute to begin them one after the other."""

ATTENDS = """
import socket, sys, time
stream = last = None
while not stream:
    try:
        stream = socket.create_connection((sys.argv[1], sys.argv[2]), 1)
    except OSError:
        time.sleep(0.2)
stream.settimeout(5)
try:
    while True:
        stream.send(b"E")
        stream.recv(1)
        last = time.time()
        time.sleep(0.05)
except OSError:
    print(last)
"""
"""Runs in a pod: says when the last byte of a stream came back. Arguments: host, port."""

STREAMS = """
import json, socket, sys, threading, time
seconds, streams = float(sys.argv[1]), json.loads(sys.argv[2])
end, last, saw = time.time() + seconds, {}, {}

def connect(kind, host, to):
    while True:
        stream = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, getattr(socket, kind))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        stream.settimeout(5)
        try:
            stream.connect((host, to))
            return stream
        except OSError:
            time.sleep(1)

def echo(stream, pause=0.02):
    while True:
        stream.send(b"E")
        stream.recv(1)
        yield pause

def idle(stream):
    return echo(stream, 8)

def download(stream):
    stream.setblocking(False)
    try:
        while True:
            stream.send(b"E" * 65536)
    except BlockingIOError:
        stream.settimeout(5)
    while stream.recv(1024):
        yield 0.02

def requests(stream):
    while True:
        stream.send(b"GET /hub/api/ HTTP/1.1\\r\\nHost: hub\\r\\n\\r\\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += stream.recv(4096) or b"gone}"
        if not answer.startswith(b"HTTP/1.1 200"):
            raise OSError(answer)
        yield 0.1

def follow(name, way, *to):
    try:
        with connect(*to) as stream:
            for pause in way(stream):
                last[name] = time.time()
                if last[name] + pause > end:
                    return
                time.sleep(pause)
    except OSError as error:
        saw[name] = type(error).__name__

def burst(name, *to):
    while time.time() < end:
        threading.Thread(target=follow, args=(name, echo, *to), daemon=True).start()
        time.sleep(0.2)

for name, (way, *to) in streams.items():
    task = (burst, (name, *to)) if way == "burst" else (follow, (name, globals()[way], *to))
    threading.Thread(target=task[0], args=task[1], daemon=True).start()
while len(last) < len(streams):
    time.sleep(0.1)
print("all began", flush=True)
time.sleep(max(0, end - time.time()))
print(json.dumps([last, saw]), flush=True)
"""
"""Runs in a pod. Arguments: for how many seconds, and name → way, kind of socket, host and port. A download is what the server
sends back of some megabytes, at 50 kB a second, and the pod sends nothing but acknowledgements; a burst is five more connections in
each second; requests go over one connection. It says when the last byte of each came, and what the program saw if it ended."""


LIVE = {"private", "into the pod", "through a Service"}
"""The streams that nothing ends."""

FOLLOW = """
import json, socket, sys, time
end = time.time() + float(sys.argv[2])
with socket.create_connection((sys.argv[1], 8888), 20) as stream:
    while time.time() < end:
        stream.send(b"E")
        assert stream.recv(1)
        last = time.time()
        time.sleep(0.02)
print(last)
"""
"""Runs in the hub's pod: a connection to a user's own server, as the hub's proxy opens one for a WebSocket. Arguments: its address,
and for how many seconds."""


@dataclass
class Streams:
    """The streams of a pod, which have begun.

    Attributes:
        saw: what the program saw when a stream ended, by its name; filled at the end.
    """

    program: subprocess.Popen[str]
    into: Future[str]
    saw: dict[str, str] = field(default_factory=dict)

    def ended_after(self, at: float) -> dict[str, float]:
        """Wait for the end. Returns name → seconds from a Unix time to the last echo."""
        assert self.program.stdout
        last, self.saw = json.loads(self.program.stdout.readline())
        last["into the pod"] = float(self.into.result(POD_SECONDS))
        after = {name: round(echo - at, 2) for name, echo in last.items()}
        print("seconds to the last echo:", after, self.saw)
        return after


def begin(stage: Stage, user: str, seconds: float, *ways: str) -> Streams:
    """Begin streams in each direction, for some seconds. `ways` names others than those that echo."""
    known = stage.targets()
    tcp, http, udp = (known[f"public {name}"].partition("://")[2] for name in ("TCP", "HTTP", "UDP"))
    streams = {
        "TCP": ("echo", "SOCK_STREAM", *tcp.rsplit(":", 1)),
        "port 443": ("echo", "SOCK_STREAM", http, 443),
        "UDP": ("echo", "SOCK_DGRAM", *udp.rsplit(":", 1)),
        "idle TCP": ("idle", "SOCK_STREAM", *tcp.rsplit(":", 1)),
        "idle UDP": ("idle", "SOCK_DGRAM", *udp.rsplit(":", 1)),
        "burst": ("burst", "SOCK_STREAM", *tcp.rsplit(":", 1)),
        "download": ("download", "SOCK_STREAM", *tcp.rsplit(":", 1)),
        "private": ("echo", "SOCK_STREAM", LAN, 80),
        "through a Service": ("requests", "SOCK_STREAM", stage.cluster_ip("hub"), 8081),
    }
    if six := known.get("public IPv6"):
        host = six.split("[")[1].rstrip("]")
        streams |= {"IPv6": ("echo", "SOCK_STREAM", host, 443), "download, IPv6": ("download", "SOCK_STREAM", host, 9000)}
        streams |= {"UDP, IPv6": ("echo", "SOCK_DGRAM", host, 443), "idle TCP, IPv6": ("idle", "SOCK_STREAM", host, 443)}
    always = ("echo", "requests", *ways)
    asked = {name: (way, kind, host, int(port)) for name, (way, kind, host, port) in streams.items() if way in always}
    program = python_in(stage, user, STREAMS, str(seconds), json.dumps(asked))
    assert program.stdout and program.stdout.readline() == "all began\n", "not all streams began"
    address = stage.pod(user)["status"]["podIP"]
    command = ("exec", "deployment/hub", "--", "python3", "-c", FOLLOW, address, str(seconds - 1))
    return Streams(program, ThreadPoolExecutor(1).submit(stage.kubectl, *command))


@pytest.fixture(scope="module", autouse=True)
def installed(stage: Stage, local_cluster: str) -> Iterator[None]:
    with stage.installed(*VALUES):
        stage.kubectl("rollout", "status", "daemonset/binder-egress-connections", f"--timeout={POD_SECONDS}s")
        egress_proxy.await_variables(stage)
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
    """Streams of another server go on. What begins right after an unlock goes on, too."""
    user, other = stage.launch_verified(), stage.launch_verified("fake/other/repo/main")
    streams, others = begin(stage, user, STREAM_SECONDS, "idle", "burst", "download"), begin(stage, other, STREAM_SECONDS)
    with blocked(stage, user):
        at = time.time()
        after = streams.ended_after(at)
        assert {name for name, seconds in after.items() if seconds > ENDED_SECONDS} == LIVE, after
        assert min(seconds for name, seconds in after.items() if "download" in name) > after["TCP"] - 5, "they were over before"
        assert min(*(after[name] for name in LIVE), *others.ended_after(at).values()) > ON_SECONDS
        (said,) = parts_said(stage, stage.pod(user)["metadata"]["uid"])
        assert said["connections"] >= len(after) - len(LIVE)
        assert {saw for name, saw in streams.saw.items() if "UDP" not in name} == {"TimeoutError"}, streams.saw
        assert not set(said) & {"address", "addresses"} and "203.0.113" not in json.dumps(said)
        labels = f'{{node="{stage.pod(user)["spec"]["nodeName"]}",tier="unverified"}}'
        counted = f"binder_egress_connections_ended_total{labels}"
        eventually(lambda: stage.metrics().get(counted, 0) >= said["connections"], RECONCILER_SECONDS, f"no {counted}")
    stage.unlock_well(user)
    again = begin(stage, user, 2 * ON_SECONDS)
    at = time.time()
    assert min(again.ended_after(at).values()) > ON_SECONDS, "connections of the new tier were ended"
    assert_reaches(stage, user, egress=True, always=frozenset({"hub", "private range"}))


@pytest.mark.long
def test_a_part_that_is_killed_meanwhile_ends_connections_after_its_restart(stage: Stage) -> None:
    user = stage.launch_verified()
    streams = begin(stage, user, 2 * STREAM_SECONDS, "burst")
    delete = ("delete", "pod", "--force", "-l", "app.kubernetes.io/component=connections")
    killing = threading.Thread(target=stage.kubectl, args=delete)
    with blocked(stage, user):
        killing.start()
        at = time.time()
        after = streams.ended_after(at)
        killing.join()
    assert {name for name, seconds in after.items() if seconds > START_SECONDS} == LIVE, after


@pytest.mark.long
def test_a_smaller_tier_keeps_what_it_opens_and_a_part_that_was_away_ends_the_rest(stage: Stage) -> None:
    user = stage.launch_verified()
    with egress_proxy.tunnel(stage, user) as through_the_proxy:
        with away(stage):
            streams = begin(stage, user, 45)
            egress(stage, "grant", user, "--tier", "small", "--why", "a test")
            stage.await_tier(user, "small")
            time.sleep(ON_SECONDS)
            away_until = time.time()
        back = time.time()
        after = streams.ended_after(back)
        assert through_the_proxy.poll() is None
    assert {name for name, seconds in after.items() if seconds > START_SECONDS} == LIVE | {"port 443", "IPv6"}, after
    assert all(seconds > away_until - back for seconds in after.values()), "something ended while nobody was there to end it"


def attend(stage: Stage, name: str) -> dict:
    """A pod as KubeSpawner writes it, on the node of users' servers, with one stream."""
    names = {"hub.jupyter.org/username": name, "hub.jupyter.org/servername": ""}
    host, port = stage.targets()["public TCP"].removeprefix("tcp://").rsplit(":", 1)
    program = {"name": "c", "image": "localhost/user-server:1", "command": ["python3", "-c", ATTENDS, host, port]}
    labels = {**names, "component": "singleuser-server"}
    spec = {"automountServiceAccountToken": False, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    metadata = {"name": name, "labels": labels, "annotations": names}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, "containers": [program]}}


@pytest.mark.long
def test_connections_of_fifty_pods_end_with_their_leases(stage: Stage) -> None:
    names = [f"attends-{number}" for number in range(LECTURE)]
    stage.apply(*[attend(stage, name) for name in names])
    pods = [f"pod/{name}" for name in names]
    stage.kubectl("wait", "--for=condition=Ready", *pods, f"--timeout={POD_SECONDS}s")
    ends = int(time.time()) + LECTURE_SECONDS

    def begin_lease(name: str) -> None:
        grant = write_grant(replace(Egress.new("verified", Rule.UNLOCK, time.time()), until=ends))
        metadata = {"labels": {"binder-egress/tier": "verified"}, "annotations": {"binder-egress/grant": grant}}
        stage.kubectl("patch", "pod", name, "-p", json.dumps({"metadata": metadata}), stage.as_reconciler)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin_lease, names))
    assert time.time() < ends - 1, "leases ended before all had begun"
    stage.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", *pods, f"--timeout={POD_SECONDS}s")
    after = sorted(float(stage.kubectl("logs", name)) - ends for name in names)
    print("seconds from the end of the leases to the last echo:", [round(seconds, 2) for seconds in after])
    assert after[0] > -1, "a stream ended before its lease"
    assert after[-1] < START_SECONDS, after


@pytest.mark.long
def test_mode_deny_ends_what_tiers_opened(stage: Stage) -> None:
    """The last test: in mode deny there is no verifier."""
    user = stage.launch_verified()
    time.sleep(WRITTEN_SECONDS)
    streams = begin(stage, user, 3 * STREAM_SECONDS)
    stage.install_gate(*QUICK, *VALUES, "--set=mode=deny")
    at = time.time()
    after = streams.ended_after(at)
    assert {name for name, seconds in after.items() if seconds > START_SECONDS} == LIVE, after
