"""Solves the verifier's proof of work as fast as this machine can, for ci/attack."""

import base64
import ctypes
import hashlib
import json
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altcha

from binder_egress.captcha.altcha import Options

DEFAULTS = Options()
"""The chart's proof of work: 2,500 rounds a try, answers from 0 to 4,000."""

CARD_ROUNDS_PER_SECOND = 9e9
"""Rounds of PBKDF2-HMAC-SHA-256 a second of one consumer graphics card (tobtu.com/minimum-password-settings)."""

SPEED_ROUNDS = 5
"""How often each speed is measured."""

RANDOM_ORDERS = 20
"""How often the same answers are looked for at random."""


@dataclass(frozen=True)
class Solved:
    """A solved challenge.

    Attributes:
        payload: the solution, as `POST passes` accepts it.
        price: the price of the challenge, in multiples of the base work.
        tries: counters that were tried, in order from 0.
        most: the largest possible answer.
        core_seconds: processor time that it took.
    """

    payload: str
    price: float
    tries: int
    most: int
    core_seconds: float


class Solver:
    """Solves challenges of `PBKDF2/SHA-256`, with the processor's vectors or with OpenSSL."""

    def __init__(self) -> None:
        """Compile the solver for this machine."""
        source = Path(__file__).with_name("attack_solver.c")
        with tempfile.TemporaryDirectory() as folder:
            library = f"{folder}/solver.so"
            subprocess.run(["gcc", "-O3", "-march=native", "-shared", "-fPIC", "-o", library, source], check=True)
            self._library = ctypes.CDLL(library)
        self._library.solve.restype = ctypes.c_int64
        numbers = [ctypes.c_uint32] * 3
        self._library.solve.argtypes = [ctypes.c_char_p, ctypes.c_char_p, *numbers, ctypes.c_char_p, ctypes.c_char_p]
        self.lanes: int = self._library.lanes()
        self._lock = threading.Lock()
        self.found: list[Solved] = []
        """All solved challenges."""

    def vector(self, challenge: dict[str, Any]) -> Solved:
        """Solve a challenge with as many tries at once as a vector has lanes, on one core."""
        asked = challenge["parameters"]
        texts = (bytes.fromhex(asked[name]) for name in ("nonce", "salt", "keyPrefix"))
        nonce, salt, prefix = texts
        assert (asked["algorithm"], len(nonce), len(salt), len(prefix)) == ("PBKDF2/SHA-256", 16, 16, 16), asked
        key = ctypes.create_string_buffer(32)
        most = largest_answer(asked["data"]["price"])
        began = time.thread_time()
        counter = self._library.solve(nonce, salt, asked["cost"], 0, most + 1, prefix, key)
        return self._note(challenge, counter, key.raw, time.thread_time() - began)

    def client(self, challenge: dict[str, Any]) -> Solved:
        """Solve a challenge as the project's client does, with OpenSSL."""
        began = time.thread_time()
        solution = altcha.solve_challenge(altcha.Challenge.from_dict(challenge))
        assert solution
        return self._note(challenge, solution.counter, bytes.fromhex(solution.derived_key), time.thread_time() - began)

    def _note(self, challenge: dict[str, Any], counter: int, key: bytes, core_seconds: float) -> Solved:
        price = challenge["parameters"]["data"]["price"]
        most = largest_answer(price)
        # The range must follow from the price.
        assert 0 <= counter <= most, (counter, most)
        payload = {"challenge": challenge, "solution": {"counter": counter, "derivedKey": key.hex()}}
        found = Solved(base64.b64encode(json.dumps(payload).encode()).decode(), price, counter + 1, most, core_seconds)
        with self._lock:
            self.found.append(found)
        return found

    def speed(self) -> dict[str, Any]:
        """Tries a core-second with the default key derivation: medians, measured in turn."""
        nonce, salt, key, none = b"n" * 16, b"s" * 16, ctypes.create_string_buffer(32), b"\0" * 16
        rates: dict[str, list[float]] = {"client": [], "vector": []}
        for _ in range(SPEED_ROUNDS):
            began = time.thread_time()
            for number in range(200):
                hashlib.pbkdf2_hmac("sha256", nonce + number.to_bytes(4, "big"), salt, DEFAULTS.cost, 32)
            rates["client"].append(200 / (time.thread_time() - began))
            began = time.thread_time()
            self._library.solve(nonce, salt, DEFAULTS.cost, 0, 64 * self.lanes, none, key)
            rates["vector"].append(64 * self.lanes / (time.thread_time() - began))
        client, vector = (statistics.median(found) for found in rates.values())
        card = CARD_ROUNDS_PER_SECOND / DEFAULTS.cost
        return {
            "cores": os.cpu_count(),
            "lanes": self.lanes,
            "client": client,
            "vector": vector,
            "graphics_card": card,
            "vector_ratio": vector / client,
            "graphics_card_ratio": card / client,
        }


def largest_answer(price: float) -> int:
    """The largest answer of a challenge, which is public: anybody knows the chart's `counterMax` and reads the price."""
    return round(DEFAULTS.counterMax * price)


def average_tries(price: float) -> float:
    """Tries on average, counting from 0."""
    return largest_answer(price) / 2 + 1


def orders(answers: Sequence[tuple[int, int]]) -> dict[str, float]:
    """The cost of other orders of trying for the same answers, as shares of the documented average.

    Args:
        answers: (answer, largest answer), from challenges of one price.
    """
    dice = random.Random(7)
    documented = sum(most / 2 + 1 for _, most in answers) / len(answers)

    def giving_up(share: float) -> float:
        tries = solved = 0
        for answer, most in answers:
            limit = int((most + 1) * share)
            tries += min(answer + 1, limit)
            solved += answer < limit
        return tries / max(1, solved)

    def mean(tries: Callable[[int, int], int], times: int = 1) -> float:
        return sum(tries(*one) for one in answers for _ in range(times)) / len(answers) / times

    found = {
        "from 0": mean(lambda answer, most: answer + 1),
        "from the end": mean(lambda answer, most: most - answer + 1),
        "from the middle": mean(lambda answer, most: (answer - most // 2) % (most + 1) + 1),
        "at random": mean(lambda answer, most: dice.randrange(most + 1) + 1, RANDOM_ORDERS),
        "half, then another challenge": giving_up(0.5),
        "a tenth, then another challenge": giving_up(0.1),
    }
    return {name: tries / documented for name, tries in found.items()}


def seconds(tries: float, speed: dict[str, Any]) -> dict[str, float]:
    """How long so many tries take: the client's solver, one that uses vectors, and a graphics card."""
    return {
        "client_core_seconds": tries / speed["client"],
        "vector_core_seconds": tries / speed["vector"],
        "graphics_card_seconds": tries / speed["graphics_card"],
    }
