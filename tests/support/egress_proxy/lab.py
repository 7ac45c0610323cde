"""The egress proxy in a network namespace of its own, for programs that try it, which `in_namespace` starts.

One process is pods, which are source addresses; servers on public, private and special addresses, which answer for every name; and
the egress proxy, as the product runs it, except for the feed and DNS, which are dictionaries here.
"""

import asyncio
import ipaddress
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

from binder_egress.model.networks import NetworkSet
from binder_egress.model.records import AddressChange, AddressVersion, PodAddresses
from binder_egress.proxy.connections import Proxy
from binder_egress.proxy.decide import Policy, TierHosts
from binder_egress.proxy.hosts import HostList
from binder_egress.proxy.limits import Limits
from binder_egress.proxy.metrics import Metrics
from binder_egress.proxy.process import listen
from binder_egress.proxy.resolve import TRIES, TRY_SECONDS, Resolver
from tests.support import TOP
from tests.support.charts import VALUES
from tests.support.egress_proxy import attempts
from tests.support.egress_proxy.internet import CANARIES, start_internet

WAIT_SECONDS = 20.0
"""Seconds for things that happen immediately."""

PROXY, PROXY6 = "10.42.255.1", "fd42::1"
CUT = attempts.Pod(PROXY, "10.42.0.7")
"""A pod whose tier changes."""

PODS = {
    attempts.LISTED: attempts.Pod(PROXY, "10.42.0.5"),
    attempts.ANY: attempts.Pod(PROXY, "10.42.0.6"),
    attempts.BLOCKED: attempts.Pod(PROXY, "10.42.0.8"),
    attempts.STRANGER: attempts.Pod(PROXY, "10.42.0.9"),
    attempts.TWICE: attempts.Pod(PROXY, "10.42.0.10"),
    attempts.COURSE: attempts.Pod(PROXY, "10.42.0.11"),
    attempts.SIX: attempts.Pod(PROXY6, "fd42::5"),
}

EXCEPT = list(VALUES["except"])
"""The addresses that no tier reaches, by the chart's values."""


def policy(*hosts: str) -> Policy:
    """Unverified servers reach these hosts, verified ones any."""
    return Policy({"unverified": TierHosts(HostList(list(hosts))), "full": TierHosts(HostList(["*"]))})


class Running:
    """A proxy on the event loop of its own thread, and what the reconciler would publish: the tier of each pod."""

    def __init__(self, proxy: Proxy, tiers: dict[attempts.Pod, str]) -> None:
        self.proxy, self.loop = proxy, asyncio.new_event_loop()
        self._version = self._known = 0
        self.loop.run_until_complete(self._begin(tiers))
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def _begin(self, tiers: dict[attempts.Pod, str]) -> None:
        pods = {f"{pod.address}/": [PodAddresses(pod.address, pod.address, "", (pod.address,), tiers[pod])] for pod in tiers}
        self.proxy.identities.load(AddressVersion(), pods)
        self._tasks = [
            asyncio.create_task(task) for task in (self.proxy.serve(listen(attempts.PORT)), self.proxy.watch(), self._beat())
        ]

    async def _beat(self) -> None:
        """Publish as the reconciler does: the state is valid for half a minute after its last message."""
        while True:
            self.proxy.identities.apply(AddressChange(AddressVersion(self._known)))
            await asyncio.sleep(1)

    def publish(self, user: str, pod: attempts.Pod, tier: str, blocked: bool = False, repository: str = "") -> None:
        """Publish a pod, as the reconciler does, and wait until the proxy knows it."""
        self._version += 1
        pods = (PodAddresses(f"uid-{user}", user, "", (pod.address,), tier, blocked, repository),) if tier else ()
        change = AddressChange(AddressVersion(self._version), f"{user}/", pods)

        async def apply() -> None:
            self._known = change.version.number
            assert self.proxy.identities.apply(change)

        asyncio.run_coroutine_threadsafe(apply(), self.loop).result()

    def end(self, found: dict) -> NoReturn:
        """End the program, as `end`: no part of the proxy has ended before."""
        assert not any(task.done() for task in self._tasks)
        end(found)


class Lab(Running):
    """The proxy with the pods of `PODS`."""

    def __init__(self) -> None:
        closed = NetworkSet(ipaddress.ip_network(cidr) for cidr in EXCEPT)
        policy = Policy(
            {
                "unverified": TierHosts(HostList(attempts.LISTED_HOSTS), closed=closed),
                "full": TierHosts(HostList(["*"]), closed=closed),
            },
            frozenset({"hub.example"}),
            "https://hub.example/egress/servers/",
            repositories={"github.com/org/course": HostList(["api.course.example", "private.example"])},
        )
        self.rebound = 0
        self.later = 0.0  # seconds by which answers of DNS appear older
        self.asked: set[str] = set()
        resolver = Resolver(self.resolve, lambda: time.monotonic() + self.later)
        super().__init__(Proxy(policy, Limits(60, 1000, 0, 400), resolver, Metrics(), True, identity_wait_seconds=0.3), {})
        self.publish("listed", PODS[attempts.LISTED], "unverified")
        self.publish("six", PODS[attempts.SIX], "unverified")
        self.publish("blocked", PODS[attempts.BLOCKED], "unverified", blocked=True)
        self.publish("any", PODS[attempts.ANY], "full")
        self.publish("course", PODS[attempts.COURSE], "unverified", repository="https://github.com/org/course")
        self.publish("one", PODS[attempts.TWICE], "full")
        self.publish("another", PODS[attempts.TWICE], "full")
        while "hub.example" not in self.asked:
            time.sleep(0.01)

    def resolve(self, name: str) -> list[str]:
        """Resolve as DNS would. One name has another address in every answer."""
        self.asked.add(name)
        if name == "rebind.example":
            self.rebound += 1
            return [attempts.PUBLIC[0]] if self.rebound % 2 else [attempts.PRIVATE]
        return attempts.addresses(name)


def in_namespace(module: str, resolver: str = "") -> dict:
    """Run a program in a new network namespace with the lab's addresses, and return the JSON that it prints.

    The DNS server `resolver` is asked as the chart's pod asks. Without one it is the machine's, which does not exist there.
    """
    inside = ["ip link set lo up"]
    pods = (pod.address for pod in (CUT, *PODS.values()))
    for address in (PROXY, PROXY6, *pods, *attempts.PUBLIC, attempts.PUBLIC6, attempts.OWN, *CANARIES):
        inside.append(f"ip address add {address}/{'128 nodad' if ':' in address else '32'} dev lo")
    with tempfile.NamedTemporaryFile("w") as resolv_conf:
        if resolver:
            resolv_conf.write(f"nameserver {resolver}\noptions timeout:{TRY_SECONDS} attempts:{TRIES}\n")
            resolv_conf.flush()
            inside.append(f"mount --bind {resolv_conf.name} /etc/resolv.conf")
        inside.append(f"exec {shlex.join([sys.executable, '-m', module])}")
        command = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-ec", "\n".join(inside)]
        environment = {**os.environ, "PYTHONPATH": f"{TOP}:{TOP}/verifier"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=TOP, env=environment, check=False)
    assert not done.returncode, done.stderr[-5000:]
    return json.loads(done.stdout)


def end(found: dict) -> NoReturn:
    """In the namespace: print what was seen, and end the program with all of its threads."""
    print(json.dumps(found), flush=True)
    os._exit(0)


def begin(folder: Path) -> Lab:
    """In the namespace: start the internet and the proxy."""
    start_internet(folder, (*attempts.PUBLIC, attempts.PUBLIC6, attempts.OWN, *CANARIES, "127.0.0.1", "::1"))
    return Lab()
