"""The reconciler with thousands of servers: the real process and the real API server with etcd. Only the pods are simulated.

A pod here is an object that nobody runs. This script creates it, bound to a node that does not exist, and writes its status as a
kubelet would. That is all that the reconciler can see of a pod, and needs no simulated kubelet (kwok) of another project.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import requests
from processes import processor_seconds
from rich.console import Console
from rich.table import Table

from binder_egress.gatecheck.label_delay import MARK
from binder_egress.gatecheck.probe import MARK_PORT, WORD_PORT
from binder_egress.model.grants import Egress
from binder_egress.model.labels import GATECHECK_LABEL, GRANT_ANNOTATION, START_GUARD_CONTAINER, TIER_LABEL
from binder_egress.model.records import Record, Server
from binder_egress.model.serialization import write_grant
from binder_egress.settings import CommonSettings, load
from binder_egress.store import pending
from binder_egress.store.announcements import Announced
from binder_egress.store.connection import connect
from tests.support.apps import RedisServer
from tests.support.control_plane import ADMIN, ControlPlane
from tests.support.processes import peak_mib
from tests.support.store import Store

console = Console(width=None if sys.stdout.isatty() else 120)

NAMESPACE = "binder"
STEADY = 130
"""Seconds over which the idle reconciler's processor time is taken: two turns of whatever it does every minute."""

LAUNCHES, RATE = 300, 10
"""Launches that are watched, and how many begin in a second."""

SERVERS_OF_A_NODE = 20
"""10,000 servers are on 500 nodes."""

WAITS = 3600
"""Seconds that grants wait here, and that a step may take. On a busy machine a restart takes longer than a grant waits."""

START = """
import sys
from kubernetes.config import incluster_config
incluster_config.SERVICE_TOKEN_FILENAME, incluster_config.SERVICE_CERT_FILENAME = sys.argv.pop(1), sys.argv.pop(1)
from binder_egress.commands.processes import main
main()
"""
"""The command, with its ServiceAccount's files elsewhere."""


@dataclass
class Figures:
    """What was measured with a number of servers.

    Attributes:
        servers: how many.
        restart: seconds from the process's start to the last of 100 patches that waited for it, all over the list.
        wiped: the same to the last server published, with an empty Redis.
        work: seconds of processor time that it took for `restart`; other programs on the machine do not change it.
        peak: MiB, the most memory that it had by then.
        steady: share of a core when nothing happens.
        requests: its API requests for each launch.
        late: seconds from a pod's creation to its label, median and 99th percentile.
        busy: share of a core at `RATE` launches a second.
        known: seconds until the state of each node is known, with a canary on each, `SERVERS_OF_A_NODE` servers a node.
        watched: share of a core when nothing happens, with these canaries.
    """

    servers: int
    restart: float
    wiped: float
    work: float
    peak: float
    steady: float
    requests: dict[str, float]
    late: tuple[float, float]
    busy: float
    known: float
    watched: float


class ApiServer(ControlPlane):
    """The API server, and how many requests about pods it has answered."""

    def requests(self) -> Counter[str]:
        """How many requests about pods it has answered, by verb, without a kubelet's requests."""
        found: Counter[str] = Counter()
        for line in self.ask("GET", "/metrics").text.splitlines():
            if line.startswith("apiserver_request_total{") and 'resource="pods"' in line and 'subresource=""' in line:
                name = re.search(r'verb="(\w+)"', line)
                assert name
                found[name[1]] += int(float(line.rsplit(" ", 1)[1]))
        return found


def node(number: int) -> str:
    """The node of a server."""
    return f"node-{number // SERVERS_OF_A_NODE}"


def pod(number: int, grant: Egress | None = None) -> dict[str, Any]:
    """A user pod as KubeSpawner makes it for BinderHub, some 8 kB with its status."""
    user = f"owner-repository-{number:06}"
    environment = {f"JUPYTERHUB_SETTING_{name}": f"http://hub:8081/hub/api/users/{user}/{name}" for name in range(20)}
    environment |= {"BINDER_REPO_URL": "https://github.com/owner/repository", "BINDER_CLIENT_IP": "198.51.100.7"}
    container = {
        "name": "notebook",
        "image": "registry.example.org/binder-owner-2drepository-0123ab:0123456789abcdef0123456789abcdef01234567",
        "args": ["python3", "-c", "import os; " + "# a command line as BinderHub's\n" * 10],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": {"limits": {"memory": "2Gi", "cpu": "1"}, "requests": {"memory": "450Mi", "cpu": "10m"}},
        "ports": [{"containerPort": 8888, "name": "notebook-port"}],
        "securityContext": {"allowPrivilegeEscalation": False, "runAsUser": 1000},
    }
    guard = {
        "name": START_GUARD_CONTAINER,
        "image": "registry.example.org/binder-egress/verifier:0.1.0",
        "command": ["python", "/guard.py"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"jupyter-{user}",
            "labels": {
                "app": "jupyterhub", "component": "singleuser-server", "release": "binder", "heritage": "jupyterhub",
                "chart": "jupyterhub-4.2.0", "app.kubernetes.io/name": "jupyterhub", "app.kubernetes.io/instance": "binder",
                "app.kubernetes.io/component": "singleuser-server", "hub.jupyter.org/username": user,
                "hub.jupyter.org/network-access-hub": "true", **({TIER_LABEL: grant.tier} if grant else {}),
            },
            "annotations": {
                "hub.jupyter.org/username": user, "hub.jupyter.org/jupyterhub-version": "5.3.0",
                **({GRANT_ANNOTATION: write_grant(grant)} if grant else {}),
            },
        },
        "spec": {
            "nodeName": node(number), "automountServiceAccountToken": False, "containers": [container], "initContainers": [guard],
            "tolerations": [{"key": "hub.jupyter.org/dedicated", "operator": "Equal", "value": "user", "effect": "NoSchedule"}],
        },
    }  # fmt: skip


def status(number: int) -> dict[str, Any]:
    """What a kubelet writes of it: it runs, and is ready."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    seen = json.dumps({"outcome": "closed", "seconds": 0.33})
    return {
        "status": {
            "phase": "Running",
            "podIP": f"10.{42 + number // 65536}.{number // 256 % 256}.{number % 256}",
            "hostIP": "192.0.2.1",
            "startTime": at,
            "conditions": [{"type": name, "status": "True", "lastTransitionTime": at} for name in conditions],
            "initContainerStatuses": [
                {
                    "name": START_GUARD_CONTAINER, "ready": True, "restartCount": 0, "image": "i", "imageID": "i",
                    "state": {"terminated": {"exitCode": 0, "reason": "Completed", "message": seen}},
                }
            ],
            "containerStatuses": [
                {
                    "name": "notebook", "ready": True, "restartCount": 0, "image": "i", "imageID": "i",
                    "state": {"running": {"startedAt": at}},
                }
            ],
        }
    }  # fmt: skip


def make(api: ApiServer, number: int, grant: Egress | None = None) -> None:
    """A pod appears and is ready."""
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    answer = api.ask("POST", pods, pod(number, grant))
    assert answer.status_code == 201, answer.text
    name = answer.json()["metadata"]["name"]
    answer = api.ask("PATCH", f"{pods}/{name}/status", status(number), "application/strategic-merge-patch+json")
    assert answer.ok, answer.text


class Canaries:
    """A canary on each node, with an address of loopback: it says that everything is shut, and a label opens its port at once.

    Args:
        api: where the pods are.
    """

    def __init__(self, api: ApiServer):
        self._api, self._number, self._ports = api, 0, dict[str, socket.socket]()
        self._words = socket.create_server(("", WORD_PORT), backlog=128)
        for each in (self._say, self._watch):
            threading.Thread(target=each, daemon=True).start()

    def on(self, nodes: int) -> None:
        """Make one for each node that has none yet."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._make, range(self._number, nodes)))
        self._number = nodes

    def _make(self, number: int) -> None:
        name, pods = f"canary-{number}", f"/api/v1/namespaces/{NAMESPACE}/pods"
        metadata = {"name": name, "labels": {GATECHECK_LABEL: "node-canary"}}
        spec = {"nodeName": f"node-{number}", "automountServiceAccountToken": False, "containers": [{"name": "c", "image": "i"}]}
        self._api.ask("POST", pods, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        running = {"name": "c", "ready": True, "restartCount": 0, "image": "i", "imageID": "i", "state": {"running": {}}}
        address = f"127.1.{number // 250}.{number % 250 + 1}"
        status = {"phase": "Running", "podIP": address, "containerStatuses": [running]}
        answer = self._api.ask("PATCH", f"{pods}/{name}/status", {"status": status}, "application/strategic-merge-patch+json")
        assert answer.ok, answer.text

    def _say(self) -> None:
        word = json.dumps({"age": 1.0, "shut": {"dns": True, "hub": True, "kubernetes-api": True, "link-local": True}}).encode()
        while True:
            with self._words.accept()[0] as connection:
                connection.sendall(word)

    def _watch(self) -> None:
        """Open the port of a canary while it has the label."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?watch=1&labelSelector={TIER_LABEL}%3D{MARK}"
        options = {"headers": {"Authorization": f"Bearer {ADMIN}"}, "verify": str(self._api.authority)}
        for line in requests.get(self._api.url + path, stream=True, timeout=(5, None), **options).iter_lines():
            event = json.loads(line)
            address = event["object"]["status"].get("podIP")
            if event["type"] == "ADDED" and address:
                self._ports[address] = socket.create_server((address, MARK_PORT))
            elif event["type"] == "DELETED" and address in self._ports:
                self._ports.pop(address).close()


@contextmanager
def reconciler(api: ApiServer, redis_url: str, log: Path, **settings: str) -> Iterator[int]:
    """The real process: its id. Settings are variables without their prefix, in small letters."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BINDER_EGRESS_")}
    environment |= {
        "BINDER_EGRESS_REDIS_URL": redis_url,
        "BINDER_EGRESS_NAMESPACE": NAMESPACE,
        "BINDER_EGRESS_TIERS": json.dumps({"verified": {}}),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(api.port),
        **{f"BINDER_EGRESS_{name.upper()}": value for name, value in settings.items()},
    }
    token = log.with_name("token")
    token.write_text(ADMIN)
    command = [sys.executable, "-c", START, str(token), str(api.authority), "reconciler"]
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=environment, stderr=file)
    try:
        yield process.pid
        assert process.poll() is None, log.read_text()[-2000:]
    finally:
        process.terminate()
        process.wait()


def until(condition: Callable[[], bool], began: float) -> float:
    """Seconds from `began` until something is so."""
    while not condition():
        assert time.monotonic() - began < WAITS, f"not within {WAITS} s"
        time.sleep(0.05)
    return time.monotonic() - began


def watch_nodes(api: ApiServer, server: RedisServer, store: Store, nodes: int, log: Path) -> tuple[float, float]:
    """`known` and `watched`, with canaries on so many nodes."""
    began = time.monotonic()
    with reconciler(api, server.url, log, canary="true", node_canaries="true") as process:
        shut = lambda: sum(row["state"] == "shut" for row in ((store.gatecheck() or {}).get("nodes") or {}).values())  # noqa: E731
        known = until(lambda: shut() == nodes, began)
        before, used = time.monotonic(), processor_seconds(process)
        time.sleep(STEADY)
        return known, (processor_seconds(process) - used) / (time.monotonic() - before)


def measure(api: ApiServer, server: RedisServer, store: Store, canaries: Canaries, servers: int, log: Path) -> Figures:
    """All figures, with so many servers there."""
    client = redis.Redis.from_url(server.url, decode_responses=True)
    waiting = [Server(f"owner-repository-{number:06}") for number in range(0, servers, servers // 100)]

    def published() -> int:
        return sum(1 for _ in client.scan_iter("binder-egress:server:*", count=5000))

    server.wipe()
    began = time.monotonic()
    with reconciler(api, server.url, log) as process:
        wiped = until(lambda: published() == servers, began)
        peak = peak_mib(process)
        # The pods' uids, for what waits for them.
        uids = {each: known.uid for each in waiting if (known := store.known(each))}
    carried = {each: (known.grant.id if (known := store.known(each)) else "") for each in waiting}
    for each in waiting:
        store.grant(each, Record(Egress.new("verified", "solution", time.time()), uid=uids[each]))
    began = time.monotonic()
    with reconciler(api, server.url, log) as process:
        restart = until(lambda: all((known := store.known(each)) and known.grant.id != carried[each] for each in waiting), began)
        work = processor_seconds(process)
        time.sleep(10)
        before, used = time.monotonic(), processor_seconds(process)
        time.sleep(STEADY)
        steady = (processor_seconds(process) - used) / (time.monotonic() - before)
        asked, used, before = api.requests(), processor_seconds(process), time.monotonic()
        created: dict[str, float] = {}

        def launch(number: int) -> None:
            name = f"owner-repository-{number:06}"
            image = pod(number)["spec"]["containers"][0]["image"]
            record, now = Record(Egress.new("verified", "valid-pass", time.time()), image), time.time()
            store.record_launch(Server(name), record, 300, Announced(now, True, store.seen_blocks.version))
            created[name] = time.monotonic()
            make(api, number)

        late: list[float] = []

        def labelled() -> bool:
            """Note how late the labels were that came since; whether all have come."""
            for name in list(created):
                if (known := store.known(Server(name))) and known.label == "verified":
                    late.append(time.monotonic() - created.pop(name))
            return not created

        with ThreadPoolExecutor(8) as pool:
            for number in range(LAUNCHES):
                pool.submit(launch, 900_000 + number)
                time.sleep(max(0.0, before + (number + 1) / RATE - time.monotonic()))
                labelled()
        until(labelled, time.monotonic())
        busy = (processor_seconds(process) - used) / (time.monotonic() - before)
        peak = max(peak, peak_mib(process))
    done = api.requests() - asked
    ours = {verb: (count - (LAUNCHES if verb == "POST" else 0)) / LAUNCHES for verb, count in done.items()}
    with ThreadPoolExecutor(8) as pool:
        names = [f"jupyter-owner-repository-{900_000 + number:06}" for number in range(LAUNCHES)]
        list(pool.map(lambda name: api.ask("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}?gracePeriodSeconds=0"), names))
    nodes = -(-servers // SERVERS_OF_A_NODE)
    canaries.on(nodes)
    known, watched = watch_nodes(api, server, store, nodes, log)
    late.sort()
    percentiles = (late[len(late) // 2], late[int(len(late) * 0.99)])
    requests_each = {verb: count for verb, count in ours.items() if count > 0.01}
    return Figures(servers, restart, wiped, work, peak, steady, requests_each, percentiles, busy, known, watched)


def scale(kubeall: str, sizes: list[int]) -> list[Figures]:
    """Measure with more and more servers."""
    pending.UNLOCK_TTL_SECONDS = WAITS
    found: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer()
        server.start()
        api = ApiServer(Path(kubeall), Path(folder))
        try:
            api.add("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            store = Store(connect(load(CommonSettings, redis_url=server.url)))
            canaries, there = Canaries(api), 0
            for servers in sizes:
                with ThreadPoolExecutor(8) as pool:
                    began = time.time()
                    grant = Egress.new("verified", "valid-pass", began)
                    grants = [grant if number % 2 else None for number in range(there, servers)]
                    list(pool.map(make, [api] * len(grants), range(there, servers), grants))
                    print(f"{servers} pods made in {time.time() - began:.0f} s", file=sys.stderr, flush=True)
                there = servers
                found.append(measure(api, server, store, canaries, servers, Path(folder) / "reconciler.log"))
                print(found[-1], file=sys.stderr, flush=True)
        finally:
            api.stop()
            server.stop()
    return found


def main() -> None:
    """Print the table. Arguments: `kubeall`, and other numbers of servers."""
    figures = scale(sys.argv[1], [int(size) for size in sys.argv[2:]] or [100, 1_000, 10_000])
    table = Table(title="The reconciler with many servers", title_justify="left")
    heads = (
        "servers",
        "restart s",
        "Redis wiped s",
        "work s",
        "MiB",
        "idle",
        "requests a launch",
        "label s, p50 / p99",
        "busy",
        "nodes known s",
        "idle",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for row in figures:
        asked = ", ".join(f"{verb} {number:.2f}" for verb, number in sorted(row.requests.items()))
        late = "{:.2f} / {:.2f}".format(*row.late)
        times = (f"{row.restart:.1f}", f"{row.wiped:.1f}", f"{row.work:.1f}", f"{row.peak:.0f}", f"{row.steady:.1%}")
        cells = (*times, asked, late, f"{row.busy:.0%}", f"{row.known:.0f}", f"{row.watched:.1%}")
        table.add_row(f"{row.servers:,}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
