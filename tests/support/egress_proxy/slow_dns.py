"""A DNS server that answers the egress proxy late or not at all: other pods go on, and waiting clients get an answer.

`seen` runs the proxy, with the resolver of the system, in the lab's network namespace.
"""

import itertools
import socket
import ssl
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.egress_proxy import lab
from tests.support.egress_proxy.attempts import COURSE, LISTED, PUBLIC, Pod, connect, first_line, get, open_tunnel
from tests.support.egress_proxy.internet import answer, start_internet
from tests.support.waiting import eventually
from verifier.proxy.connections import Proxy
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.resolve import THREADS, Resolver

SERVER = "10.42.255.1"
"""The address of the DNS server, which is also the proxy's."""

LATE_SECONDS, WAIT_SECONDS = 1.5, 60
"""Seconds until a late answer, and seconds that a client waits."""

SERVER_FAILURE = 2
"""The response code of a DNS server that cannot answer (RFC 1035, section 4.1.1), in the fourth byte of its answer."""

ASKED = THREADS + 8
"""Connections of one server to hosts whose names are never answered: more than the proxy resolves at a time."""


def seen() -> dict:
    """What pods saw before, while and after the DNS server leaves names unanswered, as `main` says."""
    return lab.in_namespace(__spec__.name, resolver=SERVER)


class Dns:
    """A DNS server. Names with `never` are not answered before `awake` is set, those with `late` after a while, and those with
    `lost` when they are asked for again. It fails for names with `failed`."""

    def __init__(self) -> None:
        self.awake = threading.Event()
        self.unanswered: set[bytes] = set()
        self._lost: set[bytes] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((SERVER, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        turn = itertools.count()
        while True:
            question, client = self._socket.recvfrom(4096)
            if b"never" in question and not self.awake.is_set():
                self.unanswered.add(question[12:-4])
                continue
            # The first two bytes are the number of the question.
            if b"lost" in question and question[2:] not in self._lost:
                self._lost.add(question[2:])
                continue
            reply = answer(question, turn)
            if b"failed" in question:
                reply = reply[:3] + bytes([reply[3] | SERVER_FAILURE]) + reply[4:]
            late = LATE_SECONDS if b"late" in question else 0
            threading.Timer(late, self._socket.sendto, (reply, client)).start()


def main() -> None:
    """In the namespace: send requests while names are not answered, and print the results."""
    with tempfile.TemporaryDirectory() as folder:
        start_internet(Path(folder), PUBLIC)
    dns = Dns()
    names = ("ok.example", "fine.example", "other.example")
    policy = lab.policy(*names, *(f"*.{kind}.example" for kind in ("late", "never", "lost", "failed")))
    tiers = dict.fromkeys((lab.PODS[LISTED], lab.PODS[COURSE]), "unverified")
    running = lab.Running(Proxy(policy, Limits(new_per_second=1000), Resolver(), Metrics()), tiers)

    def ask(pod: Pod, host: str) -> str:
        with connect(pod) as connection:
            connection.settimeout(WAIT_SECONDS)
            connection.sendall(get(f"http://{host}/").encode())
            return first_line(connection)

    def never(number: int) -> tuple[str, float]:
        began = time.monotonic()
        return ask(lab.PODS[LISTED], f"{number}.never.example"), time.monotonic() - began

    connection, _ = open_tunnel(lab.PODS[LISTED], "ok.example:443")
    connection.settimeout(WAIT_SECONDS)
    tunnel = ssl._create_unverified_context().wrap_socket(connection, server_hostname="ok.example")

    def both(host: str) -> list[str]:
        """Through the open tunnel, and through a new connection of another pod."""
        tunnel.sendall(b"GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n")
        found = b""
        while b"REACHED" not in found and (more := tunnel.recv(65536)):
            found += more
        return [found.decode(), ask(lab.PODS[COURSE], host)]

    found: dict = {"before": both("ok.example")}
    with ThreadPoolExecutor(ASKED) as pool:
        waiting = [pool.submit(never, number) for number in range(ASKED)]
        eventually(lambda: bool(dns.unanswered))
        found["meanwhile"] = both("fine.example")
        found["late"] = ask(lab.PODS[COURSE], "one.late.example")
        answers = [one.result() for one in waiting]
    found["never"] = sorted({line for line, _ in answers})
    found["lost"] = ask(lab.PODS[COURSE], "one.lost.example")
    found["failed"] = ask(lab.PODS[COURSE], "one.failed.example")
    found["seconds"] = [min(seconds for _, seconds in answers), max(seconds for _, seconds in answers)]
    dns.awake.set()
    eventually(lambda: " 200 " in ask(lab.PODS[LISTED], "0.never.example"))
    found["after"] = both("other.example")
    running.end(found)


if __name__ == "__main__":
    main()
