"""Attacks of ci/attack that should earn nothing, or no more than was paid for."""

import base64
import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from attack_passes import THREADS, Door
from attack_solver import Solved, Solver

from binder_egress.gate.fairness import TOLERANCE
from binder_egress.model.grants import Egress
from binder_egress.model.passes import serializer
from binder_egress.model.records import Server
from binder_egress.reconciler.loop import Reconciler
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store.connection import connect
from tests.support.apps import API_TOKEN, RedisServer, VerifierProcess
from tests.support.fake_cluster import FakeCluster
from tests.support.store import Store
from tests.support.waiting import eventually

ADDRESS = "198.51.100.7"
"""The attacker's address (RFC 5737)."""

REPOSITORY = "https://example.com/a/b"

TRIES = 20
"""How often each attack that should earn nothing is tried."""

UNLOCKS, LAUNCHES, RENEWALS = 5, 12, 4
"""Servers of others that are unlocked; launches with one pass; and leases that are to be renewed, of launches and of unlocks."""

SERVERS, ROUNDS = 20, 3
"""Servers of a farm, and how often the lease of each is renewed."""


class Place:
    """A verifier and a reconciler, with pods in memory.

    Args:
        redis_server: a Redis of its own.
        lease: seconds of a lease; 0: none.
        behind: seconds by which the reconciler's clock is behind. For the verifier, a lease that begins there is shorter by that,
            so the attacker need not wait until it can be renewed.
        cost: rounds of a key derivation.
        settings: more of the verifier's.
    """

    def __init__(self, redis_server: RedisServer, lease: int = 0, behind: float = 0, cost: int = 1, **settings: object) -> None:
        tiers = {"verified": {"lease": lease}}
        self._verifier = VerifierProcess(redis_server, captcha_providers={"altcha": {"cost": cost}}, tiers=tiers, **settings)
        self.door = Door(f"{self._verifier.public}/egress")
        self._internal = Door(f"{self._verifier.internal}/api", API_TOKEN)
        self.cluster = FakeCluster()
        for_reconciler = load(ReconcilerSettings, redis_url=redis_server.url, tiers=tiers)
        self._client = connect(for_reconciler)
        self.store = Store(self._client)
        self._reconciler = Reconciler(for_reconciler, self.cluster, self.store, lambda: time.time() - behind)
        self._over = threading.Event()
        self._rounds = 0
        self._thread = threading.Thread(target=self._reconcile)
        self._thread.start()

    def _reconcile(self) -> None:
        while not self._over.wait(0.01):
            self._reconciler.heartbeat()
            self._reconciler.list_pods()
            while self._reconciler.run_once():
                pass
            self._rounds += 1

    def stop(self) -> None:
        """Stop both."""
        self._over.set()
        self._thread.join()
        self._client.close()
        self._verifier.stop()

    def launch(self, user: str, token: str | None = None, client: str = ADDRESS) -> None:
        """Launch: BinderHub's hook reports it, and a pod appears."""
        self.tell(user, token, client)
        self.appear(user)

    def tell(self, user: str, token: str | None, client: str = ADDRESS) -> None:
        """Report a launch, as BinderHub's hook does."""
        body = {
            "user": user, "server": "", "image": "image:1", "repository": REPOSITORY, "token": token,
            "client_address": "10.0.0.1", "forwarded_for": client, "requested_at": time.time(), "context": True,
        }  # fmt: skip
        status, said = self._internal.ask("POST", "/launches", client, body)
        assert status == 200, said

    def appear(self, user: str) -> None:
        """Create the ready pod of a launch, and wait until the reconciler has published it."""
        self.cluster.add(user, f"uid-{user}", ready=True, repository=REPOSITORY)
        eventually(lambda: self.store.known(Server(user)) is not None)

    def go(self, user: str) -> None:
        """End the pod, and wait until that is known."""
        self.cluster.remove(f"jupyter-{user}--")
        eventually(lambda: self.store.known(Server(user)) is None)

    def has_egress(self, user: str) -> bool:
        """Whether the pod carries a tier, which the tier's policy selects."""
        return Server(user) in self.cluster.labelled()

    def settled(self, user: str) -> bool:
        """Whether a pod has egress, after the reconciler has gone through all pods once more."""
        seen = self._rounds
        eventually(lambda: self._rounds > seen + 1)
        return self.has_egress(user)


@contextmanager
def place(**options: Any) -> Iterator[Place]:
    """A place with a Redis of its own; both are stopped at the end."""
    server = RedisServer()
    server.start()
    try:
        made = Place(server, **options)
        try:
            yield made
        finally:
            made.stop()
    finally:
        server.stop()


def get_pass(door: Door, solver: Solver, client: str = ADDRESS) -> str:
    """A pass, for a solution at the current price."""
    status, body = door.present(client, solver.vector(door.challenge(client)).payload)
    assert status == 201, body
    token: str = body["token"]
    return token


def count(outcomes: Sequence[bool]) -> dict[str, int]:
    """How often something was tried, and how often it worked."""
    return {"tried": len(outcomes), "got": sum(outcomes)}


def free(at: Place, solver: Solver) -> dict[str, dict[str, int]]:
    """Attacks that should earn nothing: replays, solutions for something else, changed challenges, forged passes."""
    door, found = at.door, {}

    def solved(client: str, purpose: str = "launch") -> str:
        return solver.vector(door.challenge(client, purpose)).payload

    def passed(client: str, payload: str) -> bool:
        return door.present(client, payload)[0] == 201

    # Accepted solutions: unchanged, and written differently.
    used = [solved(ADDRESS) for _ in range(TRIES)]
    assert all(passed(ADDRESS, payload) for payload in used)
    found["replays"] = count([passed(ADDRESS, other) for payload in used for other in (payload, *rewritten(payload))])
    # One solution, many times at once: only one is paid for.
    together = []
    with ThreadPoolExecutor(THREADS) as pool:
        for payload in [solved(ADDRESS) for _ in range(TRIES)]:
            got = list(pool.map(passed, [ADDRESS] * THREADS, [payload] * THREADS))
            together += sorted(got)[:-1]
    found["replays at once"] = count(together)
    found["for another network"] = count([passed("203.0.113.9", solved(ADDRESS)) for _ in range(TRIES)])
    found["for another purpose"] = count([passed(ADDRESS, solved(ADDRESS, "unlock")) for _ in range(TRIES)])
    # Addresses that a client adds itself are to the left of the one that the ingress adds.
    dear = price(door.challenge(ADDRESS))
    invented = [f"203.0.113.{index}, {ADDRESS}" for index in range(TRIES)]
    found["invented addresses"] = count([price(door.challenge(client)) < dear for client in invented])
    found["changed challenges"] = count(
        [passed(ADDRESS, other) for _ in range(TRIES) for other in cheapened(door.challenge(ADDRESS))]
    )
    at.launch("forger")
    tokens = [other for _ in range(TRIES) for other in forged(get_pass(door, solver, "203.0.113.20"))]
    outcomes = []
    for token in tokens:
        door.unlock("forger", ADDRESS, token=token)
        outcomes.append(at.settled("forger"))
    found["forged passes"] = count(outcomes)
    return found


def price(challenge: dict[str, Any]) -> float:
    """The price of a challenge, in multiples of the base work."""
    asked: float = challenge["parameters"]["data"]["price"]
    return asked


def rewritten(payload: str) -> list[str]:
    """The same solution, written in other ways that a lenient reader accepts."""
    body = json.loads(base64.b64decode(payload))
    ways = [
        json.dumps(body, indent=2),
        json.dumps(dict(reversed(body.items()))),
        json.dumps({**body, "took": 7}),
        json.dumps({**body, "solution": {**body["solution"], "time": 5}}),
        json.dumps({**body, "solution": {**body["solution"], "derivedKey": body["solution"]["derivedKey"].upper()}}),
    ]
    return [base64.b64encode(text.encode()).decode() for text in ways]


def cheapened(challenge: dict[str, Any]) -> list[str]:
    """Solutions of a challenge that the solver made easier, and answers without any search."""
    asked = challenge["parameters"]

    def written(parameters: dict[str, Any], counter: int, key: bytes) -> str:
        changed = {**challenge, "parameters": parameters}
        return base64.b64encode(
            json.dumps({"challenge": changed, "solution": {"counter": counter, "derivedKey": key.hex()}}).encode()
        ).decode()

    nonce, salt = bytes.fromhex(asked["nonce"]), bytes.fromhex(asked["salt"])
    key = hashlib.pbkdf2_hmac("sha256", nonce + bytes(4), salt, asked["cost"], 32)
    made = bytes.fromhex(asked["keyPrefix"]) + bytes(16)
    data = asked["data"]
    return [
        written({**asked, "keyPrefix": key[:16].hex()}, 0, key),
        written({**asked, "keyPrefix": ""}, 0, key),
        written({name: value for name, value in asked.items() if name != "keySignature"}, 0, made),
        written({**asked, "data": {**data, "price": 1, "network": ""}}, 0, key),
        written(asked, 0, made),
        written(asked, 0, key) if key[:16] != made[:16] else written(asked, 1, key),
    ]


def forged(token: str) -> list[str]:
    """A pass that claims more than it did: with the old signature, none, or one by a guessed key; and with a changed letter."""
    guess = serializer(["guessed"])
    body, dot, signature = token.rpartition(".")
    said = guess.load_payload(body.encode())
    other = guess.dumps({**said, "servers": 100, "exp": said["exp"] + 10**6})
    more = other.rpartition(".")[0]
    return [more + dot + signature, more, f"{more}.", other, token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]]


def others(at: Place, solver: Solver) -> dict[str, dict[str, int]]:
    """Unlock somebody else's server, and try to use the same solution or pass for the attacker's own server."""
    outcomes = []
    for index in range(UNLOCKS):
        mine, theirs = f"mine-{index}", f"theirs-{index}"
        for user in (mine, theirs):
            at.launch(user)
        solution = solver.vector(at.door.challenge(ADDRESS, "unlock")).payload
        token = get_pass(at.door, solver)
        for body in ({"provider": "altcha", "solution": solution}, {"token": token}):
            # The first of the two is spent on the stranger's server; the second says that the server has its tier.
            at.door.unlock(theirs, "203.0.113.30", **body)
            at.door.unlock(theirs, ADDRESS, **body)
        eventually(lambda theirs=theirs: at.has_egress(theirs))  # type: ignore[misc]
        at.door.unlock(mine, ADDRESS, provider="altcha", solution=solution)
        outcomes.append(at.settled(mine))
        # If the stranger's server did not need a pass, the attacker still has it: one server for one pass.
        at.door.unlock(mine, ADDRESS, token=token)
        at.door.unlock(f"mine-{index - 1}", ADDRESS, token=token)
        outcomes.append(at.settled(mine) and not at.has_egress(theirs))
        for user in (mine, theirs):
            at.go(user)
    return {"unlocks of others": count(outcomes)}


def moves(at: Place, solver: Solver) -> dict[str, int]:
    """Send one pass with many launches: at the same time, and one after the other, each when the previous server is gone."""
    token = get_pass(at.door, solver)
    users = [f"at-once-{index}" for index in range(LAUNCHES)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(at.tell, users, [token] * LAUNCHES))
        list(pool.map(at.appear, users))
    at_once = sum([at.settled(user) for user in users])
    for user in users:  # And with unlocks of running servers: does one more get egress?
        at.door.unlock(user, ADDRESS, token=token)
    at_once = max(at_once, sum([at.settled(user) for user in users]))
    for user in users:
        at.go(user)
    token, in_turn = get_pass(at.door, solver), 0
    for index in range(LAUNCHES):
        user = f"in-turn-{index}"
        at.launch(user, token)
        in_turn += at.settled(user)
        at.go(user)
    return {"launches": LAUNCHES, "at_once": at_once, "in_turn": in_turn}


def second_renewals(at: Place, solver: Solver) -> dict[str, dict[str, int]]:
    """Try to get more than one lease for a pass: renew with the pass that gave the lease, as long as it is valid, and with two
    passes in turn.

    Args:
        at: a place with a lease that can be renewed as soon as it has begun.
        solver: the solver.
    """

    def renewed(user: str, token: str) -> bool:
        before = at.store.known(Server(user))
        # The end of a lease is a whole second: until the clock shows the next one, a new lease would look like the old one.
        time.sleep(2)
        at.door.unlock(user, ADDRESS, token=token)
        at.settled(user)
        after = at.store.known(Server(user))
        assert before and before.grant.until and after and after.grant.until
        return after.grant.until > before.grant.until

    outcomes = []
    for index in range(RENEWALS):
        user, token = f"tenant-{index}", get_pass(at.door, solver)
        at.launch(user, token if index % 2 else None)
        if not index % 2:
            at.door.unlock(user, ADDRESS, token=token)
        eventually(lambda user=user: at.has_egress(user))  # type: ignore[misc]
        outcomes.append(renewed(user, token))
        other = get_pass(at.door, solver)
        assert renewed(user, other), "another pass does not renew"
        outcomes += [renewed(user, token), renewed(user, other)]
        at.go(user)
    return {"second leases for a pass": count(outcomes)}


def farm(at: Place, solver: Solver, doubled_after: int) -> dict[str, Any]:
    """Renew the leases of servers as cheaply as a farm with one address can: with all challenges fetched in advance.

    Args:
        at: a place with a lease that can be renewed as soon as it has begun.
        solver: the solver.
        doubled_after: charges after which the price has doubled.
    """
    client, grants, spent = "203.0.113.50", 0, 0.0
    users = [f"farm-{index}" for index in range(SERVERS)]

    def renewed(user: str, before: str) -> bool:
        known = at.store.known(Server(user))
        return known is not None and isinstance(known.grant, Egress) and known.grant.id != before

    for user in users:
        at.launch(user)
    stock: deque[Solved] = deque()
    for _ in range(ROUNDS + 1):
        for user in users:
            while len(stock) + grants <= int(doubled_after * (TOLERANCE - 1) + TOLERANCE * grants) and len(stock) < 2 * SERVERS:
                stock.append(solver.vector(at.door.challenge(client, "unlock")))
            used = stock.popleft()
            before = at.store.known(Server(user))
            status, body = at.door.unlock(user, client, provider="altcha", solution=used.payload)
            assert status in (200, 202), body
            assert before
            # On a slow machine, the answer comes before the grant.
            eventually(lambda user=user, before=before: renewed(user, before.grant.id))  # type: ignore[misc]
            grants, spent = grants + 1, spent + used.price
    for user in users:
        at.go(user)
    documented = sum(1 + number / doubled_after for number in range(grants))
    return {"servers": SERVERS, "rounds": ROUNDS, "grants": grants, "base_works": spent, "documented": documented}
