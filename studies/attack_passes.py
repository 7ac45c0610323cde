"""Gets many passes from a verifier, for ci/attack: from many networks, with challenges fetched while they are cheap."""

import http.client
import ipaddress
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from attack_solver import Solved, Solver, average_tries, seconds

from binder_egress.gate.fairness import TOLERANCE

THREADS = 8
"""The number of requests at a time."""


class Door:
    """A verifier's public port, as clients behind an ingress reach it.

    Args:
        address: its URL, with the path: `http://127.0.0.1:8080/egress`.
        bearer: a token, for the port of BinderHub's hook.
    """

    def __init__(self, address: str, bearer: str = "") -> None:
        self._at = urlsplit(address)
        self._more = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        self._local = threading.local()

    def ask(self, method: str, path: str, client: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Send a request, on this thread's connection.

        Args:
            method: `GET` or `POST`.
            path: below `/egress`.
            client: the client's address, as the ingress reports it.
            body: an object, sent as JSON.

        Returns:
            The status and the body.
        """
        headers = {"X-Forwarded-For": client, "Accept": "application/json", "Content-Type": "application/json", **self._more}
        text = None if body is None else json.dumps(body)
        for attempt in (1, 2):
            if attempt == 2 or not hasattr(self._local, "connection"):
                self._local.connection = http.client.HTTPConnection(self._at.hostname or "", self._at.port, timeout=60)
            try:
                self._local.connection.request(method, self._at.path + path, text, headers)
                answer = self._local.connection.getresponse()
                return answer.status, json.loads(answer.read())
            except (http.client.RemoteDisconnected, ConnectionError):
                # The verifier closes a connection after some requests. Nothing that is sent here gains anything when sent twice.
                if attempt == 2:
                    raise
        raise AssertionError

    def challenge(self, client: str, purpose: str = "launch") -> dict[str, Any]:
        """A challenge of proof of work."""
        status, body = self.ask("GET", f"/challenge?purpose={purpose}", client)
        assert status == 200, body
        found: dict[str, Any] = body["providers"][0]["challenge"]
        return found

    def present(self, client: str, payload: str) -> tuple[int, dict[str, Any]]:
        """Exchange a solution for a pass."""
        return self.ask("POST", "/passes", client, {"provider": "altcha", "solution": payload})

    def unlock(self, user: str, client: str, **body: str) -> tuple[int, dict[str, Any]]:
        """Unlock or renew a server, with `token` or with `provider` and `solution`."""
        return self.ask("POST", f"/servers/{user}/", client, body)


@dataclass(frozen=True)
class Network:
    """A network whose passes share one price.

    Attributes:
        doubled_after: charges after which its price has doubled.
        address: from the number of a pass to the address that requests it.
    """

    doubled_after: int
    address: Callable[[int], str]


@dataclass(frozen=True)
class Attacker:
    """An attacker with some networks."""

    name: str
    networks: list[Network]

    def documented(self, passes: int) -> float:
        """The price of so many passes by docs/fairness.md, in base works: the sum of all prices."""
        return sum(
            sum(1 + number / network.doubled_after for number in range(part))
            for network, part in zip(self.networks, self.shares(passes), strict=True)
        )

    def shares(self, passes: int) -> list[int]:
        """How many passes each network gets: the same number, which is cheapest."""
        each, more = divmod(passes, len(self.networks))
        return [each + (number < more) for number in range(len(self.networks))]


def addresses(number: int, first: str, doubled_after: int) -> list[Network]:
    """Some IPv4 addresses, each a network."""
    start = ipaddress.IPv4Address(first)
    return [Network(doubled_after, lambda _, at=str(start + index): at) for index in range(number)]


def spread(site: str, bits: int, doubled_after: int) -> Network:
    """An IPv6 network in which `bits` bits can be chosen. Its /64s are used in turn, each in another /56 than the one before if
    there are several."""

    def address(number: int) -> str:
        link = number % 2**bits
        if bits == 16:
            link = (link % 256) << 8 | link // 256
        return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(site)) + (link << 64) + 1))

    return Network(doubled_after, address)


def attackers(doubled_after: int, turn: int) -> list[Attacker]:
    """The attackers of docs/fairness.md. `turn` keeps their networks apart from another turn's."""
    first = int(ipaddress.IPv4Address("198.18.0.0")) + turn * 4096  # RFC 2544: not used on the internet
    home = f"2001:db8:{turn:x}"
    return [
        Attacker("1 address", addresses(1, str(ipaddress.IPv4Address(first)), doubled_after)),
        Attacker("10 addresses", addresses(10, str(ipaddress.IPv4Address(first + 1)), doubled_after)),
        Attacker("1000 addresses", addresses(1000, str(ipaddress.IPv4Address(first + 11)), doubled_after)),
        Attacker("/64", [spread(f"{home}64::", 0, doubled_after)]),
        Attacker("/56", [spread(f"{home}56::", 8, 2 * doubled_after)]),
        Attacker("/48", [spread(f"{home}48::", 16, 8 * doubled_after)]),
    ]


@dataclass
class Haul:
    """What an attacker gained and spent."""

    passes: int = 0
    refused: int = 0
    solved: list[Solved] = field(default_factory=list)

    def add(self, door: Door, client: str, found: Solved) -> None:
        """Present a solution."""
        status, body = door.present(client, found.payload)
        self.solved.append(found)
        if status == 201:
            self.passes += 1
        else:
            assert body["type"].endswith("price-risen"), body
            self.refused += 1


def in_turn(door: Door, solver: Solver, network: Network, passes: int) -> Haul:
    """Fetch, solve and present one after the other, as an honest client does."""
    haul = Haul()
    while haul.passes < passes:
        client = network.address(haul.passes)
        haul.add(door, client, solver.vector(door.challenge(client)))
    return haul


def in_advance(door: Door, solver: Solver, network: Network, passes: int) -> Haul:
    """Fetch each challenge as early as allowed, when it is cheapest: at half of the price at the time of its solution."""
    haul: Haul = Haul()
    stock: deque[tuple[str, Solved]] = deque()
    fetched = 0
    while haul.passes < passes:
        # A challenge of the price 1 + n / d is accepted up to the price 2 + 2 n / d, the price after d + 2 n charges.
        good_for = int(network.doubled_after * (TOLERANCE - 1) + TOLERANCE * haul.passes)
        while fetched < passes + haul.refused and fetched <= good_for:
            client = network.address(fetched)
            stock.append((client, solver.vector(door.challenge(client))))
            fetched += 1
        haul.add(door, *stock.popleft())
    return haul


def attack(door: Door, solver: Solver, attacker: Attacker, passes: int, advance: bool, speed: dict[str, Any]) -> dict[str, Any]:
    """Get passes, from all networks at once."""
    way = in_advance if advance else in_turn
    with ThreadPoolExecutor(THREADS) as pool:
        work = [
            pool.submit(way, door, solver, network, part)
            for network, part in zip(attacker.networks, attacker.shares(passes), strict=True)
            if part
        ]
        hauls = [each.result() for each in work]
    solved = [found for haul in hauls for found in haul.solved]
    tries = sum(found.tries for found in solved)
    spent, documented = sum(found.price for found in solved), attacker.documented(passes)
    return {
        "name": attacker.name,
        "in_advance": advance,
        "passes": sum(haul.passes for haul in hauls),
        "base_works": spent,
        "documented": documented,
        "saved": round(1 - spent / documented, 6) + 0.0,
        "last_price": max(found.price for found in solved),
        "refused": sum(haul.refused for haul in hauls),
        "tries": tries,
        **seconds(spent * average_tries(1), speed),
    }


def never_stops(door: Door, solver: Solver, client: str, cores: int, window: int, base_seconds: float) -> int:
    """Get passes with some cores without a pause. Returns how many in a window, once the price has settled.

    The window is short, and all other times are shortened in proportion: this machine solves within milliseconds, and then waits
    until that many cores would have finished.

    Args:
        door: a verifier with this window.
        solver: the solver.
        client: the address.
        cores: how many.
        window: seconds.
        base_seconds: the time of one core for the average work at the base price, shortened as much as the window.
    """
    began = done = time.monotonic()
    got: list[float] = []
    while done < began + 2.5 * window:
        found = solver.vector(door.challenge(client))
        done = max(done + found.price * base_seconds / cores, time.monotonic())
        time.sleep(max(0.0, done - time.monotonic()))
        status, _ = door.present(client, found.payload)
        if status == 201:
            got.append(time.monotonic())
    return sum(at > got[-1] - window for at in got)


def really_solved(door: Door, solver: Solver, number: int, cores: int) -> dict[str, Any]:
    """Get passes at the base price and the default number of rounds, with both solvers, on all cores.

    Args:
        door: a verifier with the default proof of work.
        solver: the solver.
        number: how many with vectors; a quarter of that number with the client's solver.
        cores: how many at a time.
    """

    def one(way: Callable[[dict[str, Any]], Solved], client: str) -> Solved:
        found = way(door.challenge(client))
        status, body = door.present(client, found.payload)
        assert status == 201, body
        return found

    result = {}
    for name, way, many, net in (("client", solver.client, max(1, number // 4), 1), ("vector", solver.vector, number, 2)):
        with ThreadPoolExecutor(cores) as pool:
            found = list(pool.map(one, [way] * many, [f"203.0.{net}.{index}" for index in range(many)]))
        result[name] = {
            "passes": many,
            "tries": sum(each.tries for each in found),
            "core_seconds": sum(each.core_seconds for each in found),
        }
    return result
