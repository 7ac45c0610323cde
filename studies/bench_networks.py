"""`ci/bench networks`: how soon a network plugin acts. Each is measured in a cluster of its own, and one table compares them.

bench_networks.py measure FILE     in the cluster; writes the results
bench_networks.py show FILE…       prints the table
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from once import unless_once
from rich.console import Console
from rich.table import Table

from binder_egress.model.grants import Carried, Egress, EndedLease, Rule
from binder_egress.model.labels import GRANT_ANNOTATION, TIER_LABEL, USERNAME_LABEL
from binder_egress.model.serialization import write_grant
from tests.support.cluster.networks import TABLE, running
from tests.support.cluster.stage import QUICK, Stage
from tests.support.cluster.start_guard_pods import attempts, start_pod
from tests.support.cluster.timeouts import RECONCILER_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually

TIMES = unless_once(10, 2)
"""How often the label is set and taken off."""

EXCEPTIONS = [f"23.{number // 250}.{number % 250}.7" for number in range(unless_once(2000, 20))]

PORT = 9999

STREAM = """
import socket, sys, time
while True:
    last = None
    try:
        with socket.create_connection((sys.argv[1], sys.argv[2]), 1) as stream:
            while True:
                stream.send(b"E")
                stream.recv(1)
                if last is None:
                    print("open", flush=True)
                last = time.time()
                time.sleep(0.005)
    except OSError:
        if last:
            print(last, flush=True)
        time.sleep(0.2)
"""
"""Runs in a pod: a connection that echoes, and another when nothing has come back for a second; when each had its last echo.
Arguments: host and port."""

SETTLE_SECONDS = 0.5
"""After a change was seen, until the next one. A connection that fails by chance on a busy machine is over by then."""


def pods(stage: Stage) -> list[dict[str, Any]]:
    """A pod that the policies know and the reconciler does not, one that connects to it, and the policy that lets it once there is
    a tier: the label opens both directions, as it does in the reconciler's own measurement. And a pod that the reconciler knows,
    with a stream."""

    host, port = stage.targets()["public TCP"].removeprefix("tcp://").rsplit(":", 1)

    # KubeSpawner writes it into both.
    known = {USERNAME_LABEL: "stream"}

    def pod(name: str, component: str, *command: str, **names: str) -> dict[str, Any]:
        container = {"name": "c", "image": "localhost/user-server:1", "command": list(command), "imagePullPolicy": "IfNotPresent"}
        spec = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "containers": [container]}
        metadata = {"name": name, "labels": {"component": component, **names}, "annotations": names}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    opened = {
        "podSelector": {"matchLabels": {"binder-egress/tier": "verified"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"component": "outside"}}}], "ports": [{"port": PORT}]}],
    }
    return [
        pod("inside", "singleuser-server", "probe", "serve", f":{PORT}"),
        pod("outside", "outside", "sleep", "infinity"),
        pod("stream", "singleuser-server", "python3", "-c", STREAM, host, port, **known),
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "bench"}, "spec": opened},
    ]


class Watch:
    """A connection every 10 ms from a pod to an address. A context manager.

    Args:
        stage: the cluster.
        pod: the pod's name.
        address: `host:port`.
    """

    def __init__(self, stage: Stage, pod: str, address: str) -> None:
        command = ["kubectl", "--namespace", stage.namespace, "exec", pod, "--", "probe", "watch", address]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._changes: list[tuple[float, str]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            when, state = line.split()
            self._changes.append((float(when), state))

    def first(self, state: str, known: int) -> float:
        """Unix time in milliseconds of the first change to a state after so many changes, once it has stayed so."""
        eventually(lambda: self._changes[known:] and self._changes[-1][1] == state, TIER_SECONDS, f"never {state}")
        time.sleep(SETTLE_SECONDS)
        return next(when for when, seen in self._changes[known:] if seen == state)

    @property
    def known(self) -> int:
        """How many changes there were so far."""
        return len(self._changes)


def toggles(stage: Stage, times: int) -> dict[str, list[float]]:
    """Set the tier's label and take it off. Returns milliseconds from the return of `kubectl label` to the first packet (`on`) and
    to the first refusal (`off`), and how much later that was seen in the other direction, into the pod (`on in`, `off in`)."""
    found: dict[str, list[float]] = {"on": [], "off": [], "on in": [], "off in": []}
    address = next(pod["status"]["podIP"] for pod in stage.get("pods")["items"] if pod["metadata"]["name"] == "inside")
    with ExitStack() as stack:
        out = stack.enter_context(Watch(stage, "inside", stage.targets()["public TCP"].removeprefix("tcp://")))
        into = stack.enter_context(Watch(stage, "outside", f"{address}:{PORT}"))
        out.first("closed", 0), into.first("closed", 0)
        for _ in range(times):
            for change, label, state in (("on", "binder-egress/tier=verified", "open"), ("off", "binder-egress/tier-", "closed")):
                known = out.known, into.known
                stage.kubectl("label", "pod", "inside", label, stage.as_reconciler)
                began = time.time() * 1000
                passed = out.first(state, known[0])
                found[change].append(passed - began)
                found[f"{change} in"].append(into.first(state, known[1]) - passed)
    return found


def cuts(stage: Stage, times: int) -> list[float]:
    """Take a tier away from a pod with an open stream. Returns milliseconds from the return of `kubectl patch` to its last echo."""
    found = []

    def said() -> list[str]:
        """A word when a stream begins, perhaps before the pod is isolated, and one when it has ended."""
        return stage.kubectl("logs", "stream").split()

    def give(grant: Carried, label: str | None) -> None:
        metadata = {"labels": {TIER_LABEL: label}, "annotations": {GRANT_ANNOTATION: write_grant(grant)}}
        stage.kubectl("patch", "pod", "stream", "--type=merge", "-p", json.dumps({"metadata": metadata}), stage.as_reconciler)

    for _ in range(times):
        given = Egress.new("verified", Rule.UNLOCK, time.time())
        give(given, "verified")
        eventually(lambda: len(said()) % 2, TIER_SECONDS, "no stream begins")
        time.sleep(SETTLE_SECONDS)
        give(EndedLease(given.id, int(time.time())), None)
        ended = time.time()
        eventually(lambda: len(said()) % 2 == 0, TIER_SECONDS, "a stream does not end")
        found.append((float(said()[-1]) - ended) * 1000)
    return found


def measured(stage: Stage) -> dict[str, float]:
    """Seconds that the reconciler has measured with the canary."""
    name = 'binder_egress_label_delay_seconds{change="%s"}'
    eventually(lambda: name % "off" in stage.metrics(), 2 * RECONCILER_SECONDS, "the reconciler measures nothing")
    return {change: stage.metrics()[name % change] for change in ("on", "off")}


def measure() -> dict[str, Any]:
    """Measure the network plugin of this cluster."""
    stage = Stage()
    stage.install_gate(*QUICK)
    # `Stage.targets()` names it; there is no JupyterHub here.
    stage.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hub"}, "spec": {"ports": [{"port": 8081}]}})
    stage.apply(*pods(stage))
    stage.kubectl("wait", "--for=condition=Ready", "pod/inside", "pod/outside", "pod/stream", "--timeout=120s")
    found: dict[str, Any] = {"network": TABLE["networks"][running().name], "label": toggles(stage, TIMES)}
    for number in range(8):
        start_pod(stage, f"early-{number}", None)
    found["start"] = [max(each.last) for each in attempts(stage).values()]
    found["reconciler"] = measured(stage)
    stage.install_gate(*QUICK, "--set=connections.enabled=true")
    stage.rollout("daemonset/binder-egress-connections")
    found["cut"] = cuts(stage, TIMES)
    with tempfile.NamedTemporaryFile("w") as values:
        json.dump({"bannedAddresses": {"many": EXCEPTIONS}}, values)
        values.flush()
        stage.install_gate(*QUICK, f"--values={values.name}")
    found["exceptions"] = toggles(stage, TIMES)
    return found


def milliseconds(values: list[float]) -> str:
    """Median and extremes."""
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def show(found: list[dict[str, Any]]) -> None:
    """Print one table."""
    title = f"Network plugins: ms after `kubectl label` returned, median of {TIMES} (extremes)"
    table = Table("", *(each["network"] for each in found), title=title, title_justify="left")

    def add(name: str, cell: Any) -> None:
        table.add_row(name, *(cell(each) for each in found))

    def early(each: dict[str, Any]) -> str:
        last = [when for when in each["start"] if when >= 0]
        return f"{len(last)} of {len(each['start'])}" + (f", the last packet after {milliseconds(last)} ms" if last else "")

    add("isolated pods that got something out at their start", early)
    for with_exceptions, key in (("", "label"), (", with 2,000 exceptions", "exceptions")):
        add(f"label to the first packet{with_exceptions}", lambda each, key=key: milliseconds(each[key]["on"]))
        add(f"label off to the last packet{with_exceptions}", lambda each, key=key: milliseconds(each[key]["off"]))
    add("label off to the last packet of an open connection, with connections.enabled", lambda each: milliseconds(each["cut"]))
    add("packets into the pod later than out of it, when it was set", lambda each: milliseconds(each["label"]["on in"]))
    add("packets into the pod longer than out of it, when it was taken off", lambda each: milliseconds(each["label"]["off in"]))
    add(
        "what the reconciler measured, set / taken off",
        lambda each: " / ".join(f"{1000 * each['reconciler'][way]:.0f}" for way in ("on", "off")),
    )
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        Path(sys.argv[2]).write_text(json.dumps(measure()))
    else:
        show([json.loads(Path(file).read_text()) for file in sys.argv[2:]])
