"""The egress proxy in figures: the real process with a real Redis, beside direct connections and a relay that decides nothing.

The relay is the least that a CONNECT proxy in Python does, and the measure of what the egress proxy takes (D-530).

Everything is in a network namespace of its own: pods, which are source addresses; an internet, which is one program; and the proxy,
which has a core with the relay alone where the machine has two. Connections take turns, one after the other; direct ones and those
through the proxy also at a set rate: clients that begin as soon as they can would measure how long their own queue is.
"""

import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path

from once import unless_once
from processes import memory_mib, processor_seconds
from rich.console import Console
from rich.table import Table

from binder_egress.model.records import PodAddresses, Server
from binder_egress.settings import CommonSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.errors import StoreUnavailable
from tests.support.apps import RedisServer
from tests.support.egress_proxy.hellos import extension, hello, server_hello, server_name
from tests.support.store import Store

console = Console(width=None if sys.stdout.isatty() else 120)

TOP = Path(__file__).parents[1]
CORES = sorted(os.sched_getaffinity(0))
PROXY, PORT, ADMIN, RELAY = "10.42.255.1", 3128, 8082, 3129
DIRECT = 0
"""In place of a port at `PROXY`: a direct connection."""

PODS, CHANGING = ("10.42.0.5", "10.42.0.6", "10.42.0.7", "10.42.0.8"), "10.42.0.9"
OTHER = "other.example"
HOSTS = {**{f"ok-{number}.example": f"203.0.113.{number}" for number in range(11, 27)}, OTHER: "203.0.113.11"}
"""Names of the internet, and their addresses. All but one are on the list of unverified servers.

They are many because a closed connection keeps its source port for a minute, and the proxy gives one address half of the ports."""

LISTED = [name for name in HOSTS if name != OTHER]

ANSWER = server_hello()
"""A host's answer to a ClientHello. The proxy ends a tunnel to a host that does not answer with TLS."""

DOWNLOAD_BYTES, DOWNLOADS = unless_once(2_000_000_000, 20_000_000), unless_once(5, 1)
"""Bytes of all downloads of one measurement by one way, and in how many turns."""

ONE_BY_ONE = unless_once(1000, 20)
"""Connections one after the other, for the latency."""

OPEN, NEW, NEW_SECONDS = unless_once(2000, 20), unless_once(500, 20), unless_once(10, 1)
"""Open tunnels, and new ones a second beside them, as many direct ones among these; and for how long."""

CHANGES, KNOWN = 100, unless_once(10_000, 100)
"""Changes that are published a second, and pods that are known, in the second column."""

CROWD = tuple(f"10.42.1.{number}" for number in range(1, 16))
"""Unverified servers that open connections to one host."""

HAMMERED, HELD, BUSY = unless_once(15_000, 500), unless_once(8_000, 100), 50
"""Connections that they try, how many of these stay open, and how many they begin at a time.

Those that end keep their ports for a minute only: if all ended, a slow machine would have too few at a time. More that stay open
need more than 20,000 files in the proxy."""

PORTS = {
    "28,232 source ports, without a limit": ("32768 60999", 10**9),
    "28,232, with it": ("32768 60999", 0),
    "55,536, with it": ("10000 65535", 0),
}
"""Ranges of ports, and how many the proxy takes the machine to have; 0: as many as it has."""

RESTING_SECONDS = unless_once(10, 1)
"""Seconds for which nobody connects."""

TIMES = unless_once(20, 2)
"""Grants, and revocations, that are timed."""


def quantile(values: list[float], share: float) -> float:
    """The value below which a share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# -- the internet, the relay, and the one who publishes: programs of their own


class Internet(asyncio.Protocol):
    """A host: reads a ClientHello, answers it, and sends as many bytes as it says."""

    chunk = memoryview(bytes(1 << 18))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.left, self.paused = transport, -1, False

    def data_received(self, data: bytes) -> None:
        if self.left < 0:
            found = re.search(rb"BYTES=(\d+);", data)
            self.transport.write(ANSWER)
            self.left = int(found[1]) if found else 0
            self.resume_writing()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while self.left > 0 and not self.paused:
            part = self.chunk[: self.left]
            self.left -= len(part)
            self.transport.write(part)


async def internet() -> None:
    """Serve until the end."""
    server = await asyncio.get_running_loop().create_server(Internet, sorted(set(HOSTS.values())), 443, backlog=4096)
    await server.serve_forever()


async def relay() -> None:
    """Accept, connect to the host that is named, and copy bytes both ways: no questions, limits, counts or logs."""
    loop = asyncio.get_running_loop()

    async def copy(source: socket.socket, sink: socket.socket) -> None:
        buffer = memoryview(bytearray(1 << 16))
        while came := await loop.sock_recv_into(source, buffer):
            await loop.sock_sendall(sink, buffer[:came])
        sink.shutdown(socket.SHUT_WR)

    async def serve(client: socket.socket) -> None:
        with client, socket.socket() as host, contextlib.suppress(OSError, IndexError):
            host.setblocking(False)
            name = (await loop.sock_recv(client, 4096)).split()[1].decode().rpartition(":")[0]
            await loop.sock_connect(host, (HOSTS[name], 443))
            await loop.sock_sendall(client, b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(copy(client, host), copy(host, client))

    with socket.create_server((PROXY, RELAY), backlog=4096) as server:
        server.setblocking(False)
        serving = set()
        while True:
            task = loop.create_task(serve((await loop.sock_accept(server))[0]))
            serving.add(task)
            task.add_done_callback(serving.discard)


def publish(url: str) -> None:
    """Publish `KNOWN` pods, then `CHANGES` changes a second."""
    store = Store(connect(load(CommonSettings, redis_url=url)))

    def pod(number: int, tier: str) -> None:
        address = f"10.60.{number // 250}.{number % 250 + 1}"
        found = PodAddresses(f"u{number}", f"user-{number}", "", (address,), tier, False, "https://github.com/someone/something")
        with contextlib.suppress(StoreUnavailable):
            store.publish_addresses(Server(f"user-{number}"), [found])

    for number in range(KNOWN):
        pod(number, "unverified")
    began = time.monotonic()
    for number in range(10**9):
        pod(number % KNOWN, "full" if number // KNOWN % 2 == 0 else "unverified")
        time.sleep(max(0.0, began + (number + 1) / CHANGES - time.monotonic()))


# -- pods

turns = itertools.cycle(LISTED)
"""Hosts, each in its turn."""


async def begin(pod: str, port: int = PORT, bytes_: int = 0, host: str = "") -> socket.socket:
    """Connect to a host, or to the next one of the list, and send a ClientHello, through the port at `PROXY` or directly.

    Raises:
        ConnectionError: the proxy refuses.
    """
    loop, found, host = asyncio.get_running_loop(), socket.socket(), host or next(turns)
    try:
        found.setblocking(False)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen with the other end
        found.bind((pod, 0))
        await loop.sock_connect(found, (PROXY, port) if port else (HOSTS[host], 443))
        if port:
            await loop.sock_sendall(found, f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
            if b" 200 " not in (head := await loop.sock_recv(found, 4096)):
                raise ConnectionError(head[:40])
        await loop.sock_sendall(found, hello(server_name(host), extension(16, b"BYTES=%d;" % bytes_)))
    except BaseException:
        found.close()
        raise
    return found


async def once(pod: str, port: int = PORT, bytes_: int = 0, host: str = "") -> float:
    """One connection: the seconds until everything that was asked for has come."""
    loop, began, buffer = asyncio.get_running_loop(), time.perf_counter(), bytearray(1 << 18 if bytes_ else len(ANSWER))
    with await begin(pod, port, bytes_, host) as connection:
        left = bytes_ + len(ANSWER)
        while left:
            if not (came := await loop.sock_recv_into(connection, buffer)):
                raise ConnectionError
            left -= came
    return time.perf_counter() - began


@dataclass
class Seen:
    """What a measurement of latency saw: seconds of each connection, by way, and how many failed."""

    direct: list[float] = field(default_factory=list)
    relayed: list[float] = field(default_factory=list)
    proxied: list[float] = field(default_factory=list)
    failed: int = 0

    def added(self, share: float, way: list[float]) -> float:
        """Milliseconds that a way added."""
        return (quantile(way, share) - quantile(self.direct, share)) * 1000

    def __str__(self) -> str:
        more = f"p99 {self.added(0.99, self.proxied):.1f}; direct {quantile(self.direct, 0.5) * 1000:.1f}"
        return f"{self.added(0.5, self.proxied):.1f}  ({more})"


async def one_by_one(number: int) -> Seen:
    """So many connections by each way, in turns, one after the other."""
    seen = Seen()
    for turn in range(number):
        pod = PODS[turn % len(PODS)]
        seen.direct.append(await once(pod, DIRECT))
        seen.relayed.append(await once(pod, RELAY))
        seen.proxied.append(await once(pod))
    return seen


async def at_rate(rate: int, seconds: float) -> Seen:
    """Begin so many connections a second by each way, in turns."""
    seen, began, number = Seen(), time.perf_counter(), int(rate * seconds) * 2

    async def one(turn: int) -> None:
        await asyncio.sleep(began + turn / rate / 2 - time.perf_counter())
        try:
            took = await once(PODS[turn // 2 % len(PODS)], PORT if turn % 2 else DIRECT)
        except OSError:
            seen.failed += 1
        else:
            (seen.proxied if turn % 2 else seen.direct).append(took)

    await asyncio.gather(*map(one, range(number)))
    return seen


class Bench:
    """The proxy's process, what is published, and the measurements.

    Args:
        folder: for its files.
        source_ports: how many the proxy takes the machine to have; 0: as many as it has.
    """

    def __init__(self, folder: Path, source_ports: int = 0):
        self.resting = 0.0
        self.redis = RedisServer()
        self.redis.start()
        self.store = Store(connect(load(CommonSettings, redis_url=self.redis.url)))
        tiers = {"unverified": {"hosts": LISTED}, "full": {"hosts": ["*"]}}
        (folder / "tiers.json").write_text(json.dumps(tiers))
        settings = {
            "REDIS_URL": self.redis.url,
            "PROXY_TIERS": str(folder / "tiers.json"),
            "PROXY_CONNECTIONS": "10000",
            "PROXY_NEW_PER_SECOND": "10000",
            "PROXY_ALL_CONNECTIONS": "100000",
        }
        environment = {**os.environ, **{f"BINDER_EGRESS_{name}": value for name, value in settings.items()}}
        ports = f"process.source_ports = lambda: {source_ports}; " if source_ports else ""
        code = f"from binder_egress.commands.processes import main; from binder_egress.proxy import process; {ports}main()"
        command = [sys.executable, "-c", code, "proxy"]
        # Cut connections are logged, as in an installation.
        self.proxy = subprocess.Popen(command, env=environment, cwd=TOP, stderr=(folder / "log").open("w"))
        self.relay = self._role("relay")
        self.others = [self.relay, self._role("internet")]
        # The proxy has a core for itself.
        if len(CORES) > 1:
            for process in (self.proxy.pid, 0, *(other.pid for other in self.others)):
                os.sched_setaffinity(process, CORES[:1] if process in (self.proxy.pid, self.relay.pid) else CORES[1:])
        for number, address in enumerate(PODS):
            self.give(f"pod-{number}", address, "full")
        for number, address in enumerate(CROWD):
            self.give(f"crowd-{number}", address, "unverified")
        threading.Thread(target=self._beat, daemon=True).start()
        while not self.ready():
            time.sleep(0.1)

    def _role(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__, *arguments])

    def _beat(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):
                self.store.beat_addresses()
            time.sleep(1)

    def give(self, user: str, address: str, tier: str) -> None:
        """Publish a pod, as the reconciler does."""
        self.store.publish_addresses(Server(user), [PodAddresses(f"uid-{user}", user, "", (address,), tier)])

    def metric(self, name: str) -> float:
        """One of the proxy's metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/metrics", timeout=10) as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def ready(self) -> bool:
        """Whether the proxy, the relay and the internet serve."""
        one, other = (HOSTS[OTHER], 443), (PROXY, RELAY)
        with contextlib.suppress(OSError), socket.create_connection(one), socket.create_connection(other):
            return self.metric("binder_egress_proxy_knows_pods") == 1
        return False

    @property
    def cpu(self) -> float:
        """Seconds of processor time that the proxy has used."""
        return processor_seconds(self.proxy.pid)

    @property
    def both(self) -> tuple[float, float]:
        """The same beyond what it uses at rest, and what the relay has used."""
        return self.cpu - self.resting * time.monotonic(), processor_seconds(self.relay.pid)

    def _of_relay(self, before: tuple[float, float], number: float) -> str:
        """What the proxy has used since then, in multiples of what the relay has; and for one of a number, of both."""
        own, plain = (now - then for now, then in zip(self.both, before, strict=True))
        return f"{own / plain:.2f}  ({own / number:.2f} / {plain / number:.2f})"

    @property
    def waited(self) -> float:
        """Seconds for which the proxy could have run, and another program had its core."""
        return int(Path(f"/proc/{self.proxy.pid}/schedstat").read_text().split()[1]) / 1e9

    @property
    def memory(self) -> float:
        """Bytes of the proxy in memory; of pages that several processes use, its part."""
        return memory_mib(self.proxy.pid) * 2**20

    def know_many(self) -> None:
        """Publish `KNOWN` pods, and go on with `CHANGES` changes a second."""
        self.others.append(self._role("publish", self.redis.url))
        while self.metric("binder_egress_proxy_pods") < KNOWN + len(PODS):
            time.sleep(0.5)

    async def measure(self) -> list[str]:
        """One column of the table."""
        found, idle = [f"{self.memory / 1e6:.0f}"], self.cpu
        await asyncio.sleep(RESTING_SECONDS)
        self.resting = (self.cpu - idle) / RESTING_SECONDS
        found.append(f"{self.resting:.3f}")
        for number in (1, 50):
            part, took, before = DOWNLOAD_BYTES // DOWNLOADS // number, {PORT: 0.0, RELAY: 0.0, DIRECT: 0.0}, self.both
            for port in tuple(took) * DOWNLOADS:
                began = time.perf_counter()
                await asyncio.gather(*(once(PODS[turn % len(PODS)], port, part) for turn in range(number)))
                took[port] += time.perf_counter() - began
            speeds = (f"{DOWNLOAD_BYTES / 1e6 / seconds:.0f}" for seconds in took.values())
            found += [self._of_relay(before, DOWNLOAD_BYTES / 1e9), " / ".join(speeds)]
        before, waited = self.both, self.waited
        seen = await one_by_one(ONE_BY_ONE)
        found += [self._of_relay(before, ONE_BY_ONE / 1000), str(seen), f"{seen.added(0.5, seen.relayed):.1f}"]
        found.append(f"{(self.waited - waited) / len(seen.proxied) * 1000:.1f}")
        empty = self.memory
        held = await asyncio.gather(*(self._held(begin(PODS[turn % len(PODS)])) for turn in range(OPEN)))
        found.append(f"{(self.memory - empty) / OPEN / 1000:.1f}")
        began = self.cpu
        seen = await at_rate(NEW, NEW_SECONDS)
        found += [str(seen), f"{(self.cpu - began) / NEW_SECONDS:.2f}", str(seen.failed)]
        for connection in held:
            connection.close()
        while self.metric('binder_egress_proxy_open_connections{who="verified"}'):
            await asyncio.sleep(0.5)
        return found + await self._changes()

    async def hammer(self, host: str) -> list[str]:
        """Connections of a verified server to a host, before and after unverified ones have opened many to it."""
        before = await self._to(host)
        turns, held, reached = iter(range(HAMMERED)), [], 0

        async def some() -> None:
            nonlocal reached
            for turn in turns:
                with contextlib.suppress(ConnectionError):
                    connection = await begin(CROWD[turn % len(CROWD)], host=host)
                    reached += 1
                    if len(held) < HELD:
                        held.append(connection)
                    else:
                        connection.close()

        await asyncio.gather(*(some() for _ in range(BUSY)))
        found = [*before, f"{reached:,}", *await self._to(host)]
        for connection in held:
            connection.close()
        return found

    async def _to(self, host: str) -> list[str]:
        began, took = self.cpu, []
        for _ in range(ONE_BY_ONE // 2):
            took.append(await once(PODS[0], host=host))
        return [f"{(self.cpu - began) / len(took) * 1000:.2f}", f"{quantile(took, 0.5) * 1000:.1f}"]

    async def _held(self, beginning: Awaitable[socket.socket]) -> socket.socket:
        connection = await beginning
        await asyncio.get_running_loop().sock_recv(connection, 1)
        return connection

    async def _changes(self) -> list[str]:
        """Milliseconds from the reconciler's call to what pods notice."""
        loop, grants, cuts = asyncio.get_running_loop(), [], []
        self.give("changing", CHANGING, "unverified")
        for _ in range(TIMES):
            with contextlib.suppress(ConnectionError):
                while True:
                    (await begin(CHANGING, host=OTHER)).close()
            began, connection = time.perf_counter(), None
            self.give("changing", CHANGING, "full")
            while not connection:
                with contextlib.suppress(ConnectionError):
                    connection = await begin(CHANGING, host=OTHER)
            grants.append((time.perf_counter() - began) * 1000)
            await loop.sock_recv(connection, 1)
            began = time.perf_counter()
            self.give("changing", CHANGING, "unverified")
            with contextlib.suppress(ConnectionError):
                while await loop.sock_recv(connection, 65536):
                    pass
            cuts.append((time.perf_counter() - began) * 1000)
            connection.close()
        return [f"{quantile(values, 0.5):.0f}  (most {max(values):.0f})" for values in (grants, cuts)]

    def end(self) -> None:
        """End what was started."""
        for process in (self.proxy, *self.others):
            process.kill()
            process.wait()
        self.redis.stop()


ROWS = {
    "MB at rest": "40",
    "CPU s for a second without connections": "",
    "a GB, one download: CPU, as a multiple of the relay  (s: proxy / relay)": "1.25",
    "… MB/s: proxy / relay / direct": "",
    "a GB, 50 downloads: CPU, as a multiple of the relay  (s: proxy / relay)": "1.25",
    "… MB/s: proxy / relay / direct ": "",
    "a connection, one after the other: CPU, as a multiple of the relay  (ms: proxy / relay)": "2",
    "… ms added, p50": "",
    "… ms that the relay adds, p50": "",
    "… ms that the proxy waited for its core, a connection": "0",
    f"kB an idle tunnel, {OPEN:,} of them": "10",
    f"ms added, p50, {NEW} new ones a second beside these": "",
    "… CPU s for a second of them": "",
    "… connections that failed": "0",
    "ms from a grant to working": "100",
    "ms from a revocation to the cut": "100",
}
"""What is measured, and what is aimed at: at most so much."""

HAMMER_ROWS = (
    "CPU ms a connection of a verified server, before",
    "… ms that it takes, p50",
    f"connections of unverified servers, of {HAMMERED:,} tried",
    "CPU ms a connection of a verified server, after these",
    "… ms that it takes, p50",
)
"""What is measured with unverified servers that open connections to one host."""


def inside() -> None:
    """In the namespace: measure, and print the table."""
    found = []
    # Each with a process of its own: what the other one did would be in its memory.
    for knows_many in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder))
            try:
                if knows_many:
                    bench.know_many()
                found.append(asyncio.run(bench.measure()))
            finally:
                bench.end()
    table = Table("", "aim", f"{len(PODS)} pods known", f"{KNOWN:,} pods, {CHANGES} changes a second")
    table.title, table.title_justify = "The egress proxy, one process", "left"
    for (name, aim), *columns in zip(ROWS.items(), *found, strict=True):
        table.add_row(name, aim, *columns)
    console.print(table)
    columns = []
    # Each with a host of its own: the ports of the one before are still kept.
    for host, (ports, has) in zip(LISTED, PORTS.values(), strict=False):
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(ports)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), has)
            try:
                columns.append(asyncio.run(bench.hammer(host)))
            finally:
                bench.end()
    table = Table("", *PORTS)
    table.title, table.title_justify = f"{len(CROWD)} unverified servers, and one host", "left"
    for name, *values in zip(HAMMER_ROWS, *columns, strict=True):
        table.add_row(name, *values)
    console.print(table)


def main() -> None:
    """Make the namespace, and measure in it."""
    with tempfile.NamedTemporaryFile("w") as hosts:
        hosts.write("127.0.0.1 localhost\n")
        hosts.writelines(f"{address} {name}.\n" for name, address in HOSTS.items())  # as the proxy asks: with the dot at the end
        hosts.flush()
        inner = ["ip link set lo up", f"mount --bind {hosts.name} /etc/hosts", "ulimit -n $(ulimit -Hn)"]
        inner += [f"ip address add {address}/32 dev lo" for address in (PROXY, CHANGING, *PODS, *CROWD, *set(HOSTS.values()))]
        inner += [f"exec {sys.executable} {__file__} inside"]
        # With a process namespace, so that nothing outlives it.
        alone = ["--map-root-user", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
        command = ["unshare", *alone, "sh", "-ec", "\n".join(inner)]
        sys.exit(subprocess.run(command, cwd=TOP, check=False).returncode)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["internet"]:
            asyncio.run(internet())
        case ["relay"]:
            asyncio.run(relay())
        case ["publish", url]:
            publish(url)
        case ["inside"]:
            inside()
        case _:
            main()
