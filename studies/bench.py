"""The measurements of ci/bench."""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import redis
import requests
import yaml
from flask import Flask, request
from once import unless_once
from rich.console import Console
from rich.table import Table
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from traitlets.config import Config

from binder_egress.store.connection import connect
from binder_egress.web.app import create_services
from tests.support.apps import (
    API_TOKEN,
    RedisServer,
    VerifierProcess,
    get_pass,
    internal_client,
    make_settings,
    public_client,
    run_pod,
    solve,
)
from tests.support.cluster.stage import TOP, Stage
from tests.support.cluster.start_guard_pods import Attempts, attempts, guard_of, start_pod
from tests.support.hostile import Cost, costs, site
from tests.support.ports import free_port
from tests.support.processes import children
from tests.support.store import Store

console = Console(width=None if sys.stdout.isatty() else 120)

GUNICORN = ("-m", "gunicorn", "--worker-class=gthread", "--threads=32", "--keep-alive=75", "--no-control-socket")
"""The class of the verifier's worker, and its threads."""

ROUNDS, REQUESTS = unless_once(9, 1), unless_once(100, 2)
"""The turns of each request, and the requests in a turn. With an odd number of turns, the median is a measured value."""

FIRST_CALLS, CALLS = unless_once(100, 1), unless_once(1000, 3)
"""Calls of the hook that do not count, and calls that do."""

BARE = """
import redis
from flask import Flask, jsonify
app, store = Flask(__name__), redis.Redis.from_url({url!r})
@app.post("/api/launches")
def bare():
    store.get("something")
    return jsonify(tier="unverified", rule="default")
"""


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def process(command: list[str], port: int, **environment: str) -> Iterator[list[int]]:
    """Run a server until the end: its processes, as soon as it answers."""
    started = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(400):
            assert started.poll() is None, command
            try:
                # An answer, whichever, for gunicorn listens before it has its worker.
                asked = HTTPConnection("127.0.0.1", port, timeout=20)
                asked.request("GET", "/nothing")
                asked.getresponse().read()
                asked.close()
                break
            except OSError:
                time.sleep(0.05)
        yield [started.pid, *children(started.pid)]
    finally:
        started.terminate()
        started.wait()


def hook() -> None:
    """The hook's delay: the text of values.yaml, calling the verifier, and calling a bare app, in turns."""
    delays: dict[str, list[float]] = {"hook": [], "bare Flask + Redis": []}
    with ExitStack() as stack:
        server = RedisServer()
        server.start()
        stack.callback(server.stop)
        verifier = VerifierProcess(server)
        stack.callback(verifier.stop)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "bare.py").write_text(BARE.format(url=server.url))
        port = free_port()
        command = [sys.executable, *GUNICORN, f"--bind=127.0.0.1:{port}", f"--pythonpath={folder}", "bare:app"]
        stack.enter_context(process(command, port))
        hooks = {"hook": load_hook(verifier.internal), "bare Flask + Redis": load_hook(f"http://127.0.0.1:{port}")}

        async def measure() -> None:
            for number in range(FIRST_CALLS + CALLS):
                for name, call in hooks.items():
                    began = time.perf_counter()
                    await call(None, "image", f"user-{number}", "", "https://example.com/a/b")
                    if number >= FIRST_CALLS:
                        delays[name].append((time.perf_counter() - began) * 1000)

        asyncio.run(measure())
        # The hook swallows every error, so only the verifier knows that it was asked.
        text = requests.get(f"{verifier.internal}/metrics", timeout=5).text
        calls = f"{FIRST_CALLS + CALLS}.0"
        assert 'binder_egress_launches_total{pass_outcome="none",rule="default",tier="unverified"} ' + calls in text, text
        assert 'binder_egress_launches_by_claim_total{brought_pass="no",claim="browser"} ' + calls in text, text
    table = Table(
        f"{CALLS:,} calls each, in turns", "p50 ms", "p99 ms", title="What the hook adds to a launch", title_justify="left"
    )
    for name, values in delays.items():
        table.add_row(name, f"{percentile(values, 0.5):.2f}", f"{percentile(values, 0.99):.2f}")
    ours, base = delays.values()
    table.add_row("ratio", *(f"{percentile(ours, share) / percentile(base, share):.2f}" for share in (0.5, 0.99)))
    console.print(table)


def load_hook(verifier: str) -> Callable[..., Awaitable[None]]:
    """The hook of values.yaml, for a verifier at an address."""
    values = yaml.safe_load((TOP / "chart/values.yaml").read_text())
    os.environ |= {"BINDER_EGRESS_API": verifier, "BINDER_EGRESS_API_TOKEN": API_TOKEN}
    config = Config()
    exec(values["integration"]["binderhub"]["extraConfig"]["zz-binder-egress"], {"c": config})
    headers = HTTPHeaders({"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "X-Forwarded-For": "198.51.100.7"})
    connection: Any = SimpleNamespace(context=SimpleNamespace(address=("192.0.2.1", 1), remote_ip="192.0.2.1", protocol="http"))
    seen = HTTPServerRequest("GET", "/build/gh/a/b/HEAD", headers=headers, host="h", connection=connection)
    launch: Callable[..., Awaitable[None]] = config.Launcher.pre_launch_hook

    async def call(*args: Any) -> None:
        config.BinderHub.badge_base_url(SimpleNamespace(request=seen, settings={"base_url": "/"}))
        await launch(*args)

    return call


def requests_per_core() -> None:
    """Requests per second of processor time, in one process, without a network: the code's own cost."""
    server = RedisServer()
    server.start()
    # Solved before the clock runs; an easy challenge, but with the usual key derivation.
    quick = {"altcha": {"counterMax": 2}}
    # One client presents them all, so the price must not rise.
    settings = make_settings(server, captcha_providers=quick, fairness_doubled_after=0)
    client = connect(settings)
    store = Store(client)
    store.ping()
    services = create_services(settings, store)
    public, internal = public_client(services), internal_client(services)
    run_pod(store)

    app = Flask("bare")
    plain = redis.Redis.from_url(server.url)

    @app.post("/")
    def bare() -> dict[str, Any]:
        plain.get("something")
        return {"got": request.get_json()}

    other = app.test_client()
    solutions = [solve(public) for _ in range(ROUNDS * REQUESTS)]
    tokens = [get_pass(public) for _ in range(ROUNDS * REQUESTS)]
    body = {"user": "u", "server": "", "image": "i", "repository": "r", "client_address": "198.51.100.7", "context": True}

    calls: dict[str, Callable[[int], Any]] = {
        "bare Flask + Redis": lambda _: other.post("/", json=body),
        "GET challenge": lambda _: public.get("/egress/challenge"),
        "POST passes": lambda i: public.post("/egress/passes", json={"provider": "altcha", "solution": solutions[i]}),
        "GET servers/…": lambda _: public.get("/egress/servers/alice/"),
        "POST /api/launches, no pass": lambda i: internal.post("/api/launches", json={**body, "user": f"n{i}"}),
        "POST /api/launches, pass": lambda i: internal.post("/api/launches", json={**body, "user": f"p{i}", "token": tokens[i]}),
    }
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for part in range(ROUNDS):
        for name, call in calls.items():
            began = time.process_time()
            for index in range(part * REQUESTS, (part + 1) * REQUESTS):
                assert call(index).status_code < 300
            rounds[name].append(REQUESTS / (time.process_time() - began))
    rates = {name: statistics.median(found) for name, found in rounds.items()}
    client.close()
    plain.close()
    server.stop()
    table = Table("request", "per second and core", "of bare Flask", title="Requests", title_justify="left")
    for name, found in rates.items():
        table.add_row(name, f"{found:,.0f}", f"{found / rates['bare Flask + Redis']:.2f}")
    console.print(table)


REMEASURED = 4
"""A hostile request that seems to cost more ordinary ones than this is measured again."""


def hostile() -> None:
    """What each field that a stranger chooses costs in its most expensive shape, in ordinary requests. The aim is 5 at most."""
    most: dict[str, Cost] = {}
    with site() as made:
        for cost in costs(made, lambda cost: cost.ratio < REMEASURED):
            if cost.ratio > (most[cost.field.name].ratio if cost.field.name in most else 0):
                most[cost.field.name] = cost
    table = Table("field", "most expensive shape", "ms", "ordinary requests", title="Hostile requests", title_justify="left")
    for cost in sorted(most.values(), key=lambda cost: -cost.ratio):
        table.add_row(cost.field.name, cost.shape, f"{1000 * max(cost.times.values()):.2f}", f"{cost.ratio:.1f}")
    console.print(table)


def unlock(stage: Stage) -> None:
    """From the accepted unlock to the first packet that gets through, and from `kubectl label` returning to the same, in turns."""
    times = unless_once(10, 1)
    delays: dict[str, list[float]] = {"unlock": [], "kubectl label": []}
    address = stage.targets()["public TCP"].removeprefix("tcp://")
    for number in range(times):
        user = stage.launch(f"fake/unlock/{number}/main").user
        solution = stage.solve("unlock")
        delays["unlock"].append(first_packet(stage, user, address, lambda user=user, s=solution: present(stage, user, s)))
        stage.delete_user_pods()
        delays["kubectl label"].append(labelled(stage, f"bare-{number}", address))
        said = ", ".join(f"{name} {values[-1]:.0f} ms" for name, values in delays.items())
        console.print(f"{number + 1} of {times}: {said}")
    table = Table(
        f"{times} times each", "median ms", "max ms", title="From the call's start to the first packet", title_justify="left"
    )
    for name, values in delays.items():
        table.add_row(name, f"{statistics.median(values):.0f}", f"{max(values):.0f}")
    table.add_row("ratio", f"{statistics.median(delays['unlock']) / statistics.median(delays['kubectl label']):.2f}", "")
    console.print(table)


def labelled(stage: Stage, name: str, address: str) -> float:
    """Milliseconds from `kubectl label` to the first packet of a pod that the policies know and the reconciler does not."""
    image = ("--image=localhost/probe:1", "--image-pull-policy=IfNotPresent")
    stage.kubectl("run", name, *image, "--labels=component=singleuser-server", "--command", "--", "sleep", "600")
    stage.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    time.sleep(2)
    label = ("label", "pod", name, "binder-egress/tier=verified", stage.as_reconciler)
    took = first_packet(stage, None, address, lambda: stage.kubectl(*label), pod=name)
    stage.kubectl("delete", "pod", name, "--now", "--wait=false")
    return took


def present(stage: Stage, user: str, solution: str) -> None:
    """Unlock with a solution."""
    answer: requests.Response = stage.unlock(user, provider="altcha", solution=solution)
    assert answer.json().get("state") == "granted", answer.text


def first_packet(stage: Stage, user: str | None, address: str, act: Callable[[], object], pod: str = "") -> float:
    """Milliseconds from the start of `act` to the first connection from a pod that stands."""
    pod = pod or stage.pod(user or "")["metadata"]["name"]
    command = ["kubectl", "-n", stage.namespace, "exec", pod, "--", "probe", "watch", address]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watch.stdout
    try:
        assert watch.stdout.readline().split()[1] == "closed"
        began = time.time() * 1000
        act()
        when, state = watch.stdout.readline().split()
        assert state == "open"
        return float(when) - began
    finally:
        watch.terminate()
        watch.wait()


MEASURED = """
import json, os, sys, time
began = time.time()
used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)[2]
ended = time.time()
with open("/dev/termination-log", "r+") as file:
    said = json.load(file) | {"began": began, "ended": ended, "processor": used.ru_utime + used.ru_stime}
    file.seek(0)
    json.dump(said, file)
"""
"""Runs a start guard, and adds to its message when its process began and ended, in Unix seconds, and its processor time."""


def guard(stage: Stage) -> None:
    """What gets out of pods that start one by one and eight at once, without the start guard and with it, and what it costs."""
    guard = guard_of(stage.pod(stage.launch().user))
    guard["command"] = ["python3", "-c", MEASURED, *guard["command"]]
    columns = ("", "got something out", "last packet, median ms", "max ms")
    out = Table(*columns, title="The first moments of a pod", title_justify="left")
    parts = (
        "pod is made … guard's process begins", "… its Python has started", "… it has seen the pod isolated",
        "… the user's first instruction", "all of it", "the same without guard", "processor time of the guard",
    )  # fmt: skip
    costs: list[list[str]] = []
    for at_once, rounds in ((1, unless_once(8, 1)), (8, unless_once(2, 1))):
        seen: dict[str, list[tuple[float, Attempts]]] = {"without guard": [], "with guard": []}
        for kind in list(seen) * rounds:
            made = {}
            for number in range(at_once):
                start_pod(stage, f"early-{number}", guard if kind == "with guard" else None)
                made[f"early-{number}"] = time.time()
            seen[kind] += [(made[name], pod) for name, pod in attempts(stage).items()]
        for kind, each in seen.items():
            last = [max(pod.last) for _, pod in each if any(pod.reached)]
            figures = (f"{statistics.median(last):.0f}", f"{max(last):.0f}") if last else ("–", "–")
            out.add_row(f"{kind}, {at_once} at once", f"{len(last)} of {len(each)}", *figures)
        guarded = [
            (
                pod.said["began"] - made,
                pod.said["ended"] - pod.said["began"] - pod.said["seconds"],
                pod.said["seconds"],
                pod.began - pod.said["ended"],
                pod.began - made,
            )
            for made, pod in seen["with guard"]
        ]
        bare = statistics.median(pod.began - made for made, pod in seen["without guard"])
        processor = statistics.median(pod.said["processor"] for _, pod in seen["with guard"])
        costs.append([f"{seconds:.3f}" for seconds in (*map(statistics.median, zip(*guarded, strict=True)), bare, processor)])
    console.print(out)
    table = Table("from … to", "1 at once", "8 at once", title="What the start guard costs, median s", title_justify="left")
    for row in zip(parts, *costs, strict=True):
        table.add_row(*row)
    console.print(table)


def memory(stage: Stage) -> None:
    """Proportional memory of all processes of each pod, a minute after the last request."""
    time.sleep(unless_once(60, 1))
    table = Table("pod", "MiB", title="Idle memory (PSS)", title_justify="left")
    for component in ("verifier", "reconciler", "redis"):
        pod = stage.get("pods", "-l", f"app.kubernetes.io/component={component}")["items"][0]["metadata"]["name"]
        text = stage.kubectl("exec", pod, "--", "sh", "-c", "cat /proc/[0-9]*/smaps_rollup 2>/dev/null || true")
        table.add_row(component, f"{sum(int(line.split()[1]) for line in text.splitlines() if line.startswith('Pss:')) / 1024:.0f}")
    console.print(table)


def main(parts: list[str]) -> None:
    """Run the parts."""
    if "hook" in parts:
        hook()
    if "requests" in parts:
        requests_per_core()
    if "hostile" in parts:
        hostile()
    if {"unlock", "guard", "memory"} & set(parts):
        stage = Stage()
        stage.install_gate()
        stage.install_binderhub()
        if "unlock" in parts:
            unlock(stage)
        if "guard" in parts:
            stage.delete_user_pods()
            guard(stage)
        if "memory" in parts:
            stage.delete_user_pods()
            memory(stage)
        stage.close()


if __name__ == "__main__":
    main(sys.argv[1:])
