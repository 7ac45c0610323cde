"""Which targets a user pod reaches, by packets that are sent from inside it."""

import subprocess
from collections.abc import Collection

from tests.support.cluster.stage import OPEN, Stage
from tests.support.cluster.timeouts import STALL_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually


def assert_reaches(
    stage: Stage,
    user: str,
    egress: bool,
    more: dict[str, str] | None = None,
    always: frozenset[str] = frozenset(),
    closing: Collection[str] = (),
) -> dict[str, bool]:
    """Compare what a pod reaches with what it should. No pod may reach `more`, and every pod reaches `always`.

    Targets that must be shut must be so at every attempt, except those in `closing`, which were open a moment ago. Others may take
    a while: on a busy machine, kube-router applies a tier's policy seconds after the label is set.
    """
    targets = stage.targets() | (more or {})
    reached: dict[str, bool] = {}
    missing: list[str] = []
    still: list[str] = []

    def is_as_it_should_be() -> bool:
        reached.update(stage.battery(user, targets))
        expected = {name: name in always or (egress and name in OPEN) for name in reached}
        missing[:] = sorted(name for name in reached if expected[name] and not reached[name])
        still[:] = sorted(name for name in reached if reached[name] and not expected[name])
        through = [name for name in still if name not in closing]
        assert not through, f"{user} reaches what must be shut: {', '.join(through)}"
        return not missing and not still

    eventually(is_as_it_should_be, TIER_SECONDS, lambda: f"{user} does not reach {missing}, still reaches {still}")
    return reached


def forbidden(stage: Stage) -> dict[str, str]:
    """The targets that no user pod may reach, whatever its tier."""
    neighbour = stage.launch("fake/bystander/repo/main").user
    found = {
        "in-cluster port of the verifier": f"http://{stage.cluster_ip('binder-egress')}:8081/healthz",
        "public port of the verifier, by Service": f"http://{stage.cluster_ip('binder-egress')}:80/egress/challenge",
        "Redis": f"tcp://{stage.cluster_ip('binder-egress-redis')}:6379",
        "proxy of the hub": f"http://{stage.cluster_ip('proxy-public')}:80",
        "BinderHub": f"http://{stage.cluster_ip('binder')}:80",
        "API server": f"https://{stage.get('service', 'kubernetes', '-n', 'default')['spec']['clusterIP']}",
        "kubelet": f"https://{stage.pod(neighbour)['status']['hostIP']}:10250",
    }
    for address in stage.pod(neighbour)["status"]["podIPs"]:
        ip = address["ip"]
        found[f"server of a neighbour, {'IPv6' if ':' in ip else 'IPv4'}"] = (
            f"tcp://[{ip}]:8888" if ":" in ip else f"tcp://{ip}:8888"
        )
    return found


def python_in(stage: Stage, user: str, code: str, *arguments: str) -> subprocess.Popen[str]:
    """A program in a user's pod. Its output can be read while it runs."""
    context = ["--context", stage.context] if stage.context else []
    command = ["kubectl", *context, "-n", stage.namespace, "exec", stage.pod_name(user), "-c", "notebook", "--"]
    return subprocess.Popen([*command, "python3", "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


STREAM = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as connection:
    connection.settimeout(float(sys.argv[3]))
    connection.sendall(b"E")
    while connection.recv(1) == b"E":
        if sys.stdout:
            print("open", flush=True)
            sys.stdout = None
        time.sleep(0.01)
        connection.sendall(b"E")
"""
"""Runs in a pod: a connection that echoes, until nothing comes back for some seconds. Arguments: host, port, those seconds."""


def stream(stage: Stage, user: str) -> subprocess.Popen[str]:
    """An open connection from a user's pod to the internet, over which a byte comes back every 10 ms."""
    host, _, port = stage.targets()["public TCP"].removeprefix("tcp://").rpartition(":")
    running = python_in(stage, user, STREAM, host, port, str(STALL_SECONDS))
    assert running.stdout and running.stdout.readline() == "open\n", "no connection"
    return running
