"""The egress proxy in the cluster: how tests install it, and how a program in a pod uses it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.cluster.packets import python_in
from tests.support.cluster.stage import Stage
from tests.support.cluster.timeouts import TIER_SECONDS
from tests.support.waiting import eventually

LISTED, PRIVATE, OTHER = "public.example", "private.example", "other.example"
"""Names of hosts. The local internet knows the first two; the proxy refuses the last one without asking DNS."""

VALUES = (
    "--set=proxy.enabled=true",
    f"--set=unverified.hosts.{LISTED.replace('.', chr(92) + '.')}=true",
    f"--set=unverified.hosts.{PRIVATE.replace('.', chr(92) + '.')}=true",
    "--set=tiers.verified.hosts.\\*=true",
    "--set=publicUrl=https://hub.example.org",
)

ASK = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=15).status)
except urllib.error.HTTPError as error:
    print(error.code, error.reason, "|", error.read().decode().strip(), "|", error.headers["Proxy-Status"])
except Exception as error:
    print(type(error).__name__, error)
"""
"""Runs in a pod: requests an address, like a program that knows the proxy only from the variables."""

HOLD = """
import os, socket, ssl, sys, time, urllib.parse
proxy = urllib.parse.urlsplit(sys.argv[2] if len(sys.argv) > 2 else os.environ["HTTPS_PROXY"])
connection = socket.create_connection((proxy.hostname, proxy.port), 15)
connection.sendall(f"CONNECT {sys.argv[1]}:443 HTTP/1.1\\r\\nHost: {sys.argv[1]}:443\\r\\n\\r\\n".encode())
assert b" 200 " in connection.recv(4096)
secure = ssl._create_unverified_context().wrap_socket(connection, server_hostname=sys.argv[1])
number = 0
try:
    while True:
        secure.sendall(b"E")
        assert secure.recv(1) == b"E"
        number += 1
        if number == 1:
            print("open", flush=True)
        time.sleep(0.05)
except Exception as error:
    print("ended", time.time(), flush=True)
"""
"""Runs in a pod: a tunnel that echoes until it is cut, and the time of that. The second argument is another proxy address."""


@contextmanager
def installed(stage: Stage, *more: str) -> Iterator[None]:
    """Our chart with the proxy, until the end of the block."""
    with stage.installed(*VALUES, *more):
        await_variables(stage)
        yield


def launch(stage: Stage) -> str:
    """Launch without a pass. Returns the user of a server that reaches a listed host through the proxy."""
    user = stage.launch().user
    ask_until(stage, user, f"http://{LISTED}/", "200")
    return user


@contextmanager
def tunnel(stage: Stage, user: str, *way: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a user's pod that holds an open tunnel, perhaps by way of another address of the proxy (`HOLD`)."""
    with python_in(stage, user, HOLD, LISTED, *way) as held:
        try:
            assert held.stdout and held.stdout.readline() == "open\n"
            yield held
        finally:
            held.kill()


def pod_variables(stage: Stage) -> dict[str, str]:
    """The proxy's variables in new pods."""
    return stage.get("configmap", "binder-egress-proxy-variables").get("data", {})


def await_variables(stage: Stage, **more: str) -> None:
    """Wait until the reconciler has written them."""
    expected = {"address": f"http://{stage.cluster_ip('binder-egress-proxy')}:3128", "node": "1", **more}
    eventually(lambda: expected.items() <= pod_variables(stage).items(), TIER_SECONDS, lambda: pod_variables(stage))


def ask(stage: Stage, user: str, url: str) -> str:
    """The answer that a program in a user's pod gets from an address."""
    return stage.inside(user, "python3", "-c", ASK, url).strip()


def who(stage: Stage, user: str) -> dict[str, str]:
    """The proxy's answer about the pod that asks."""
    address = stage.cluster_ip("binder-egress-proxy")
    code = f"import urllib.request as u; print(u.build_opener(u.ProxyHandler({{}})).open('http://{address}:3128/').read().decode())"
    return json.loads(stage.inside(user, "python3", "-c", code))


def ask_until(stage: Stage, user: str, url: str, expected: str) -> str:
    """Ask again until the answer contains a text. The policies of a new pod may be late, and so may each replica of the proxy."""

    def as_expected() -> str:
        seen = ask(stage, user, url)
        return seen if expected in seen else ""

    return eventually(as_expected, TIER_SECONDS, lambda: f"{expected!r} is not in {ask(stage, user, url)!r}")
