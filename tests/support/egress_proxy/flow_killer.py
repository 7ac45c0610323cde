"""A stand-in for cryptnono's flow killer beside the egress proxy, which is a process of its own here.

It follows that program's rule: SIGKILL for a process with more than 24 public destinations, each an address and a port, in 60 s.
The kernel tells that program of each connection; this one looks at those that are open.
"""

import ipaddress
import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from binder_egress.proxy.connections import Proxy
from binder_egress.proxy.limits import Limits
from binder_egress.proxy.metrics import Metrics
from binder_egress.proxy.resolve import Resolver
from tests.support.egress_proxy import attempts, lab
from tests.support.egress_proxy.attempts import ANY, COURSE, LISTED, PORT, Pod, open_tunnel
from tests.support.egress_proxy.internet import start_internet
from tests.support.waiting import eventually

MOST, SECONDS = 24, 60
"""mybinder.org's `unique_destinations_threshold`, and the time that cryptnono remembers a destination."""

NETWORK = "11.1.1.0/24"
"""The internet's hosts. The addresses for documentation would count as private."""

HOSTS = [str(host) for host in ipaddress.ip_network(NETWORK).hosts()][: MOST + 1]
PODS = (LISTED, ANY, COURSE)
"""The servers, which take turns. None of them has more than nine hosts."""


def seen() -> dict:
    """What answers the tunnels, and what became of the proxy and of a pod that connects afterwards."""
    return lab.in_namespace(__spec__.name)


class Killer:
    """The flow killer, for one process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.destinations: dict[tuple[str, int], float] = {}

    def look(self) -> None:
        """Look at the open connections of the process, and kill it if it has had too many destinations."""
        now = time.monotonic()
        self.destinations |= dict.fromkeys(self._connections(), now)
        if sum(now - at <= SECONDS for at in self.destinations.values()) > MOST:
            os.kill(self.pid, signal.SIGKILL)

    def _connections(self) -> list[tuple[str, int]]:
        sockets = set()
        for file in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # It was closed meanwhile.
                sockets.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
        found = []
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[2].split(":")
            host = socket.inet_ntoa(bytes.fromhex(address)[::-1])
            if fields[9] in sockets and not ipaddress.ip_address(host).is_private:
                found.append((host, int(port, 16)))
        return found


def serve() -> None:
    """In the process of the proxy: run it until the end."""

    resolver = Resolver(lambda name: [HOSTS[int(name.split(".")[0])]])
    lab.Running(Proxy(lab.policy(), Limits(), resolver, Metrics()), {lab.PODS[name]: "full" for name in PODS})
    print("ready", flush=True)
    signal.pause()


def main() -> None:
    """In the namespace: open tunnels beside the flow killer, and print what was seen."""
    attempts.answer_seconds = lab.WAIT_SECONDS
    subprocess.run(["ip", "route", "add", "local", NETWORK, "dev", "lo"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        start_internet(Path(folder), HOSTS)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writing, 1)
        serve()
    assert os.read(reading, 5) == b"ready"
    killer, open_ones = Killer(pid), []

    def tunnel(number: int) -> str:
        pod: Pod = lab.PODS[PODS[number % len(PODS)]]
        connection, line = open_tunnel(pod, f"{number}.example:443")
        open_ones.append(connection)
        return str(line)

    found: dict = {"first": [tunnel(number) for number in range(MOST)]}
    killer.look()
    found["destinations"] = len(killer.destinations)
    found["lives"] = os.waitpid(pid, os.WNOHANG) == (0, 0)
    found["last"] = tunnel(MOST)

    def ended() -> bool:
        killer.look()
        ended, status = os.waitpid(pid, os.WNOHANG)
        found["signal"] = os.WTERMSIG(status) if ended else 0
        return bool(ended)

    eventually(ended)
    try:
        socket.create_connection((lab.PROXY, PORT), lab.WAIT_SECONDS)
    except OSError as error:
        found["afterwards"] = str(error)
    lab.end(found)


if __name__ == "__main__":
    main()
