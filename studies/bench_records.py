"""What grows with the number of servers, without Kubernetes: each process with as many pods, and Redis with what they keep in it.

`bench_scale` makes the pods, and the reconciler gets them as the API server's answers would be, in pages. All else is the real
code with a real Redis: so a hundred thousand servers need some minutes, and no cluster. Each figure is from a process of its own.
Times are processor time, which other programs on the machine change least.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
import requests
from bench_scale import pod, status
from processes import processor_seconds
from rich.console import Console
from rich.table import Table

from binder_egress.gate.fairness import Charge
from binder_egress.model.grants import Block, Egress, Origin
from binder_egress.model.passes import Pass
from binder_egress.model.records import Record, Server
from binder_egress.proxy.identities import Identities
from binder_egress.reconciler.loop import Reconciler
from binder_egress.reconciler.user_pods import PODS_PER_PAGE, Pod, UserPods
from binder_egress.settings import CommonSettings, ReconcilerSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.keys import redis_key
from binder_egress.store.promised_launches import promise_key
from binder_egress.store.redeeming import Use
from tests.support.apps import API_TOKEN, RedisServer, VerifierProcess
from tests.support.processes import peak_mib, resident_mib
from tests.support.store import Store

console = Console(width=None if sys.stdout.isatty() else 120)

PASSES = 5_000
"""Passes, launches and lines of the wake list whose size in Redis is taken, for one of each."""

BLOCKED = 0.01
"""The share of servers that have a block of their own, in the figures with blocks."""

MIB = 2**20


def user(number: int) -> Server:
    """A server of `bench_scale.pod`."""
    return Server(f"owner-repository-{number:06}")


class Pages(UserPods):
    """So many user pods that never change, as a list of the API server brings them, in pages.

    Args:
        servers: how many.
    """

    def __init__(self, servers: int):
        self._servers = servers

    def list(self) -> tuple[list[Pod], str]:
        grant = Egress.new("verified", "valid-pass", time.time())
        found: list[Pod] = []
        for first in range(0, self._servers, PODS_PER_PAGE):
            # As text, because the process has that in memory too while it reads it.
            answer = json.dumps([self._body(number, grant) for number in range(first, min(first + PODS_PER_PAGE, self._servers))])
            found += filter(None, map(Pod.from_json, json.loads(answer)))
        return found, "1"

    @staticmethod
    def _body(number: int, grant: Egress) -> dict[str, Any]:
        body = pod(number, grant if number % 2 else None) | status(number)
        body["metadata"] |= {"uid": f"0b1c2d3e-4f50-6172-8394-{number:012}", "resourceVersion": str(1_000_000 + number)}
        body["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        body["status"]["podIPs"] = [{"ip": body["status"]["podIP"]}, {"ip": f"fd00:10:42::{number // 65536:x}:{number % 65536:x}"}]
        return body


def spent(call: Callable[[], object]) -> float:
    """Seconds of processor time of a call in this process."""
    used = time.process_time()
    call()
    return time.process_time() - used


def measured_reconciler(url: str, servers: int, proxy: bool) -> dict[str, float]:
    """The reconciler, in this process and thread."""
    settings = load(ReconcilerSettings, redis_url=url, tiers={"verified": {}}, proxy=proxy)
    worker = Reconciler(settings, Pages(servers), Store(connect(settings)))

    def converge() -> None:
        while worker.run_once():
            pass

    worker.list_pods()
    found: dict[str, float] = {}
    found["first heartbeat, s"] = spent(worker.heartbeat)
    found["all servers after a start, s"] = spent(converge)
    worker.resync()
    found["resync, s"] = spent(converge)
    worker.heartbeat()  # The last one may be over by now, and then this one is like the first.
    seconds = spent(lambda: [(worker.heartbeat(), worker.enqueue_due()) for _ in range(20)])
    found["what it does each second, ms"] = seconds / 20 * 1000
    return {"MiB": peak_mib(os.getpid()), **found}


def measured_proxy(url: str) -> dict[str, float]:
    """What the egress proxy keeps of the pods."""
    store = Store(connect(load(CommonSettings, redis_url=url)))
    before = resident_mib(os.getpid())
    known = Identities()

    async def loaded() -> None:
        known.load(*store.addresses())

    used = spent(lambda: asyncio.run(loaded()))
    pods, most = len(known), peak_mib(os.getpid())
    return {"pods": pods, "MiB more than without": most - before, "all addresses at once, s": used}


def measured_passes(url: str) -> dict[str, float]:
    """Bytes of Redis for one of each thing that a launch leaves there."""
    store, client = Store(connect(load(CommonSettings, redis_url=url))), redis.Redis.from_url(url)
    store.ping()
    time.sleep(1.1)  # A pass of the second in which Redis began would be from before it.
    now, found = time.time(), {}
    repository, image = "https://github.com/owner/repository", str(pod(0)["spec"]["containers"][0]["image"])

    def size(kind: str, add: Callable[[int], object]) -> None:
        add(PASSES)  # with what there is once, scripts for instance
        before = client.info("memory")["used_memory"]
        for number in range(PASSES):
            add(number)
        found[kind] = (client.info("memory")["used_memory"] - before) / PASSES

    def solution(number: int) -> None:
        network = f"198.51.{number // 256 % 256}.{number % 256}/32"
        store.use_solution("altcha", f"{number:032x}", now, 600, lambda blocks: None, [Charge(network, 3600, None, 0)])

    def used(number: int) -> None:
        grant = Egress(f"{number:016x}", "verified", "valid-pass", int(now))
        record = Record(grant, image, repository=repository, client="198.51.100.7")
        given = Pass(f"{number:032x}", "verified", 1, now, now + 300)
        outcome = store.redeem(Use(given, user(number), record, "198.51.100.7/32", 300))
        assert outcome == "free", outcome

    def promise(number: int) -> None:
        text, network, name = f"promise-{number:032x}", "198.51.100.7/32", user(number).key
        store.keep(text, network, Pass(f"{number:032x}", "verified", 1, now, now + 300))
        client.hset(promise_key(text, network), "server", name)

    size("solution, and what it is charged, B", solution)
    size("promise, B", promise)
    kept = redis_key(f"keeps:{0:032x}")
    size("that a pass keeps it, B", lambda number: client.set(redis_key(f"keeps:{-number:032x}"), client.get(kept) or "", ex=420))
    found["promise, B"] -= found["that a pass keeps it, B"]
    size("pass, and launch that waits, B", used)
    found["line of the wake list, B"] = client.memory_usage("binder-egress:wake", samples=0) / PASSES
    before = redis_memory(client)
    client.delete(*client.keys("binder-egress:launch:*"))
    found["launch that waits, B"] = (before - redis_memory(client)) * MIB / PASSES
    found["pass, B"] = (
        found.pop("pass, and launch that waits, B") - found["launch that waits, B"] - found["line of the wake list, B"]
    )
    return found


def redis_memory(client: redis.Redis) -> float:
    """MiB of Redis' data."""
    return float(client.info("memory")["used_memory"]) / MIB


def aside(part: str, *arguments: object) -> dict[str, float]:
    """What this script measures in a process of its own."""
    command = [sys.executable, __file__, part, *map(str, arguments)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


COMMAND = """
import sys, time
from pathlib import Path
from binder_egress.commands.egress import main
try:
    main()
finally:
    sys.stderr.write(Path("/proc/self/status").read_text() + f"seconds: {time.process_time()}")
"""
"""The command, which says at its end what it took. What the system says of a child's memory begins with its parent's."""


def measured_command(url: str) -> dict[str, float]:
    """`egress grants`, as an operator calls it, for all servers."""
    environment = os.environ | {"BINDER_EGRESS_REDIS_URL": url, "BINDER_EGRESS_TIERS": '{"verified": {}}'}
    listed = subprocess.run([sys.executable, "-c", COMMAND, "grants"], env=environment, capture_output=True, text=True, check=True)
    said = dict(re.findall(r"^(VmHWM|seconds):\s+([\d.]+)", listed.stderr, re.MULTILINE))
    return {"lines": listed.stdout.count("\n"), "MiB": int(said["VmHWM"]) / 1024, "s": float(said["seconds"])}


@contextlib.contextmanager
def verifier(server: RedisServer) -> Iterator[tuple[VerifierProcess, int]]:
    """A verifier, and the process of its worker."""
    process = VerifierProcess(server, tiers={"verified": {}})
    try:
        yield process, process.processes()[0]
    finally:
        process.stop()


def measured_verifier(server: RedisServer, servers: int) -> dict[str, float]:
    """The verifier's requests that depend on how many servers or blocks there are. In the second figures `BLOCKED` are blocked."""
    found: dict[str, float] = {}
    bearer = {"Authorization": f"Bearer {API_TOKEN}"}
    store = Store(connect(load(CommonSettings, redis_url=server.url)))
    with verifier(server) as (process, worker):
        session = requests.Session()

        def took(path: str, times: int, body: dict[str, object] | None = None) -> float:
            """Milliseconds of processor time for a request."""
            before = processor_seconds(worker)
            for _ in range(times):
                answer = session.request("POST" if body else "GET", process.internal + path, json=body, headers=bearer, timeout=120)
                assert answer.ok, answer.text
            return (processor_seconds(worker) - before) / times * 1000

        launch = {
            "user": "new", "server": "", "image": "i", "repository": "https://github.com/owner/repository", "token": None,
            "client_address": "198.51.100.7", "requested_at": time.time(), "context": True,
        }  # fmt: skip
        took("/api/launches", 100, launch)
        found["MiB at rest"] = peak_mib(worker)
        for words in ("", f", {BLOCKED:.0%} blocked"):
            if words:
                for number in range(round(servers * BLOCKED)):
                    owner, uid, eve = user(number).key, str(number), Origin("operator", text="eve")
                    block = Block(f"{number:016x}", "server", owner, eve, "mining", int(time.time()), uid=uid)
                    store.add_block(block, [user(number)])
            found[f"launch, ms{words}"] = took("/api/launches", 200, launch)
            found[f"metrics, ms{words}"] = took("/metrics", 50)
        found["list of all servers, ms"] = took("/api/grants", 1)
        found["MiB after it"] = peak_mib(worker)
    return found


def measure(servers: int) -> dict[str, dict[str, float]]:
    """All figures, with so many servers."""
    found: dict[str, dict[str, float]] = {}
    server = RedisServer()
    server.start()
    client: redis.Redis = redis.Redis.from_url(server.url)
    try:
        empty = redis_memory(client)
        found["reconciler"] = aside("reconciler", server.url, servers)
        published = redis_memory(client)
        found["reconciler, with the proxy"] = aside("reconciler-proxy", server.url, servers)
        found["Redis"] = {"servers, MiB": published - empty, "addresses, MiB": redis_memory(client) - published}
        client.config_resetstat()
        found["egress grants"] = aside("command", server.url)
        found["proxy"] = aside("proxy", server.url)
        found["Redis"]["most while a proxy reads all addresses, MiB"] = float(client.info("memory")["used_memory_peak"]) / MIB
        found["verifier"] = measured_verifier(server, servers)
        found[f"reconciler, {BLOCKED:.0%} blocked"] = aside("reconciler", server.url, servers)
        server.wipe()
        found["Redis, for one"] = aside("passes", server.url)
    finally:
        server.stop()
    return found


PARTS: dict[str, Callable[[list[str]], dict[str, float]]] = {
    "reconciler": lambda args: measured_reconciler(args[0], int(args[1]), False),
    "reconciler-proxy": lambda args: measured_reconciler(args[0], int(args[1]), True),
    "proxy": lambda args: measured_proxy(args[0]),
    "command": lambda args: measured_command(args[0]),
    "passes": lambda args: measured_passes(args[0]),
}


def main() -> None:
    """Print the table. Arguments: other numbers of servers; or a part, for a process of its own."""
    if len(sys.argv) > 1 and sys.argv[1] in PARTS:
        print(json.dumps(PARTS[sys.argv[1]](sys.argv[2:])))
        return
    sizes = [int(size) for size in sys.argv[1:]] or [1_000, 20_000, 100_000]
    found = {}
    for servers in sizes:
        began = time.monotonic()
        found[servers] = measure(servers)
        print(f"{servers} servers: {time.monotonic() - began:.0f} s", json.dumps(found[servers]), file=sys.stderr, flush=True)
    table = Table(title="What grows with the number of servers", title_justify="left")
    table.add_column("")
    for servers in sizes:
        table.add_column(f"{servers:,}", justify="right")
    rows = [(part, name) for part, figures in found[sizes[0]].items() for name in figures]
    for part, name in rows:
        table.add_row(f"{part}: {name}", *(f"{found[servers][part][name]:.4g}" for servers in sizes))
    console.print(table)


if __name__ == "__main__":
    main()
