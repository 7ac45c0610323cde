"""The verifier beside others that issue and check challenges: the same three requests to each, on the same cores, in turns.

Each is a server of its own on loopback, with the settings that it comes with, except that challenges are quickly solved: what the
server does for one stays the same. Servers and Redis have one core, and who asks has the other. A rate is requests by the processor
time of the server and of Redis, so it does not depend on how fast the requests come.
Decisions: D-365, D-366.

  bench_peers.py FOLDER [requests in a round]     FOLDER is what studies/peers/build prints
"""

import base64
import hashlib
import json
import os
import re
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path

import altcha
import redis
from bench import GUNICORN, console, process
from once import unless_once
from processes import memory_mib, processor_seconds
from rich.table import Table

from tests.support.apps import RedisServer, VerifierProcess
from tests.support.cluster.stage import TOP
from tests.support.ports import free_port

ROUNDS, CONNECTIONS = unless_once(5, 1), 8
"""Rounds that count, after one that does not; and connections that stay open, on each of which one request follows the other."""

CAP_TASKS = 50
"""SHA-256 tasks of one challenge of Cap: the default of @cap.js/server."""


@dataclass(frozen=True)
class Request:
    """One request, and the status of its answer."""

    path: str
    status: int
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, connection: HTTPConnection) -> bytes:
        """Send it.

        Returns:
            The body of the answer.
        """
        headers = {"Host": f"127.0.0.1:{connection.port}", **self.headers}
        if self.body is None:
            connection.request("GET", self.path, headers=headers)
        else:
            connection.request("POST", self.path, json.dumps(self.body), headers | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == self.status, (self.path, answer.status, content[:200])
        return content


@dataclass
class Peer:
    """A server that runs.

    Args:
        name: what the tables call it, with the version.
        port: where it listens, on loopback.
        processes: its processes.
        issue: asks for a challenge.
        redeem: makes of the answer's body a request that presents the solution.
        refused: makes of that request one that is refused; None where there is nothing like that.
    """

    name: str
    port: int
    processes: list[int]
    issue: Request
    redeem: Callable[[bytes], Request] | None = None
    refused: Callable[[Request], Request] | None = None

    def send(self, requests: list[Request]) -> list[bytes]:
        """Send requests by all connections at once: the bodies of the answers."""

        def one(start: int) -> list[bytes]:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
            found = [request.send(connection) for request in requests[start::CONNECTIONS]]
            connection.close()
            return found

        answers: list[bytes] = [b""] * len(requests)
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            for start, found in enumerate(threads.map(one, range(CONNECTIONS))):
                answers[start::CONNECTIONS] = found
        return answers


# -- the peers


def altcha_payload(challenge: dict[str, object]) -> str:
    """The solution of a challenge of ALTCHA."""
    found = altcha.Challenge.from_dict(challenge)
    solution = altcha.solve_challenge(found)
    assert solution
    return str(altcha.Payload(found, solution).to_base64())


def redeem_altcha(answer: bytes) -> Request:
    """To ALTCHA's libraries."""
    return Request("/redeem", 200, {"payload": altcha_payload(json.loads(answer))})


def redeem_ours(answer: bytes) -> Request:
    """To the verifier."""
    solution = altcha_payload(json.loads(answer)["providers"][0]["challenge"])
    return Request("/egress/passes", 201, {"provider": "altcha", "solution": solution})


def redeem_cap(answer: bytes) -> Request:
    """To Cap: for each task the number after whose digits the hash of the salt begins as it should."""
    given = json.loads(answer)
    challenge, token = given["challenge"], given["token"]
    assert challenge["c"] == CAP_TASKS

    def drawn(seed: str, length: int) -> str:
        """As `prng` in @cap.js/server: FNV-1a, then xorshift, as hexadecimal digits."""
        state = 2166136261
        for letter in seed.encode():
            state = (state ^ letter) * 16777619 % 2**32
        text = ""
        while len(text) < length:
            state ^= state << 13 & 0xFFFFFFFF
            state ^= state >> 17
            state ^= state << 5 & 0xFFFFFFFF
            text += f"{state:08x}"
        return text[:length]

    solutions = []
    for task in range(1, challenge["c"] + 1):
        salt, wanted = drawn(f"{token}{task}", challenge["s"]), drawn(f"{token}{task}d", challenge["d"])
        number = 0
        while not hashlib.sha256(f"{salt}{number}".encode()).hexdigest().startswith(wanted):
            number += 1
        solutions.append(number)
    return Request("/redeem", 200, {"token": token, "solutions": solutions})


def again(request: Request) -> Request:
    """What was accepted, a second time."""
    return Request(request.path, 403, request.body)


def start_peers(stack: ExitStack, server: RedisServer, folder: Path) -> list[Peer]:
    """Start all, until the stack ends."""

    def node(kind: str, *arguments: str) -> tuple[int, list[int]]:
        port = free_port()
        return port, stack.enter_context(process(["node", str(folder / "server.mjs"), kind, str(port), *arguments], port))

    def flask() -> tuple[int, list[int]]:
        port = free_port()
        command = [sys.executable, *GUNICORN, f"--bind=127.0.0.1:{port}", f"--pythonpath={TOP}/studies/peers", "app:app"]
        return port, stack.enter_context(process(command, port, REDIS_URL=server.url))

    # One client presents all solutions, so the price must not rise.
    settings = {"captcha_providers": {"altcha": {"counterMax": 2}}, "fairness_doubled_after": 0}
    ours = VerifierProcess(server, **settings)
    stack.callback(ours.stop)
    port, get = int(ours.public.rsplit(":", 1)[1]), Request("/challenge", 200)
    return [
        Peer(f"bare Flask {version('flask')} + Redis", *flask(), Request("/bare", 200)),
        Peer("binder-egress", port, ours.processes(), Request("/egress/challenge", 200), redeem_ours, again),
        Peer(f"altcha {version('altcha')} (PyPI) + Flask + Redis", *flask(), get, redeem_altcha, again),
        Peer(f"altcha-lib {npm(folder, 'altcha-lib')} (npm)", *node("altcha", "quick"), get, redeem_altcha, again),
        Peer(f"@cap.js/server {npm(folder, '@cap.js/server')} (npm)", *node("cap", "quick"), get, redeem_cap, again),
        oauth2_proxy(stack, folder),
    ]


def npm(folder: Path, package: str) -> str:
    """The version of a package of npm."""
    return str(json.loads((folder / "node_modules" / package / "package.json").read_text())["version"])


def oauth2_proxy(stack: ExitStack, folder: Path) -> Peer:
    """oauth2-proxy as ingress controllers ask it: whether a cookie, which is its whole session, is good. It has no solutions.

    In place of a challenge it begins a sign-in, and what it refuses is a request without the cookie.
    """
    port = free_port()
    known = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "htpasswd"
    known.write_text("user:{SHA}" + base64.b64encode(hashlib.sha1(b"word").digest()).decode() + "\n")
    options = {
        "http-address": f"127.0.0.1:{port}", "provider": "github", "client-id": "id", "client-secret": "secret",
        "cookie-secret": secrets.token_hex(16), "cookie-secure": "false", "email-domain": "*", "htpasswd-file": str(known),
        "upstream": "static://202",
    }  # fmt: skip
    processes = stack.enter_context(
        process([str(folder / "oauth2-proxy"), *(f"--{name}={text}" for name, text in options.items())], port)
    )
    connection = HTTPConnection("127.0.0.1", port)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/oauth2/sign_in", "username=user&password=word", form)
    answer = connection.getresponse()
    cookie = (answer.getheader("Set-Cookie") or "").split(";")[0]
    connection.close()
    (number,) = re.findall(r"oauth2-proxy/v7 v(\S+)", (TOP / "studies/peers/go.mod").read_text())
    return Peer(
        f"oauth2-proxy {number} (Go)",
        port,
        processes,
        Request("/oauth2/start?rd=/", 302),
        lambda _: Request("/oauth2/auth", 202, headers={"Cookie": cookie}),
        lambda request: Request(request.path, 401),
    )


# -- the measurements


def rates(folder: Path, number: int) -> None:
    """Requests by processor time, and memory."""
    cores = sorted(os.sched_getaffinity(0))
    server = RedisServer()
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, cores[:1])
        server.start()
        stack.callback(server.stop)
        peers = start_peers(stack, server, folder)
        os.sched_setaffinity(0, cores[-1:])
        client = stack.enter_context(redis.Redis.from_url(server.url))
        store = [client.info("server")["process_id"]]
        for peer in peers:
            peer.send([peer.issue])
        time.sleep(2)
        idle = [memory_mib(*peer.processes) for peer in peers]
        loaded = list(idle)
        found: list[list[list[float]]] = [[[], [], []] for _ in peers]
        trips = []
        for turn in range(ROUNDS + 1):
            for index, peer in enumerate(peers):

                def timed(requests: list[Request], kind: int, index: int = index, peer: Peer = peer) -> list[bytes]:
                    began = processor_seconds(*peer.processes, *store)
                    answers = peer.send(requests)
                    found[index][kind].append(len(requests) / (processor_seconds(*peer.processes, *store) - began))
                    loaded[index] = max(loaded[index], memory_mib(*peer.processes))
                    return answers

                issued = timed([peer.issue] * number, 0)
                if peer.redeem and peer.refused:
                    solved = [peer.redeem(answer) for answer in issued]
                    timed(solved, 1)
                    timed([peer.refused(request) for request in solved], 2)
                said = ", ".join(f"{values[-1]:,.0f}" for values in found[index] if values)
                console.print(f"round {turn} of {ROUNDS}: {peer.name}: {said} per second and core")
            own = [os.getpid(), *store]
            began = processor_seconds(*own)
            for _ in range(number):
                client.get("something")
            trips.append(number / (processor_seconds(*own) - began))
            console.print(f"round {turn} of {ROUNDS}: one GET by redis-py: {trips[-1]:,.0f} per second and core")
    table = Table(
        "per second and core", "issue", "of bare", "verify", "of bare", "refuse", "of bare", "MiB idle", "loaded",
        title=f"Medians of {ROUNDS} rounds of {number:,} requests", title_justify="left",
    )  # fmt: skip
    floor = statistics.median(found[0][0][1:])
    for peer, kinds, least, most in zip(peers, found, idle, loaded, strict=True):
        medians = [statistics.median(values[1:]) if values else None for values in kinds]
        cells = [cell for rate in medians for cell in ((f"{rate:,.0f}", f"{rate / floor:.2f}") if rate else ("", ""))]
        table.add_row(peer.name, *cells, f"{least:.0f}", f"{most:.0f}")
    trip = statistics.median(trips[1:])
    table.add_row(f"one GET by redis-py {version('redis')}", f"{trip:,.0f}", f"{trip / floor:.2f}")
    console.print(table)


if __name__ == "__main__":
    console.print(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} before we began")
    rates(Path(sys.argv[1]), unless_once(400, 8))
