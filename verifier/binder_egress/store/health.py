"""How an installation is doing: what the gate check found, and what `doctor` checks of Redis."""

import json
from typing import TypedDict

import redis

from ..model.records import GateFindings, Measured, VerifierReport
from ..model.serialization import reader
from .base import Operations, as_number, as_numbers, readable, unavailable
from .keys import redis_key
from .revoked_keys import RevokedKeys
from .verifiers import Verifiers

GATECHECK_TTL_SECONDS = 600
"""Seconds for which findings count. New ones come every ten seconds."""

SLOW_LABELS_SECONDS = 5.0
"""Above this delay of labels, people are told to wait, and an alert fires. Most plugins need less than a second."""

NEARLY_FULL = 0.9
"""The share of Redis' memory above which it is nearly full. A full Redis accepts no grants."""


_read_findings = reader(GateFindings)
_read_measured = reader(Measured)


class RedisHealth(TypedDict):
    """What `doctor` checks of Redis. Times are Unix times in seconds."""

    wiring: dict[str, int]
    verifiers: dict[str, VerifierReport]  # by host
    revoked_keys: set[str]  # their ids
    epoch: float | None
    now: float  # by Redis' clock
    maxmemory_policy: str | None  # None, here and below: Redis does not reveal it
    maxmemory: int | None  # bytes
    used_memory: int | None  # bytes


class Health(Operations):
    """How an installation is doing, for `doctor` and the metrics."""

    def gatecheck(self) -> GateFindings:
        """The latest findings of the gate check; empty if there are none."""
        with unavailable():
            return readable(self._redis.get(redis_key("gatecheck")), _read_findings, "gatecheck") or {}

    def measured(self) -> dict[str, Measured]:
        """How each node's network plugin acts on labels; a node on which nothing was tried is missing."""
        found = {node: readable(text, _read_measured, "labels") for node, text in self._hash("labels").items()}
        return {node: measured for node, measured in found.items() if measured is not None}

    def memory_used(self) -> float | None:
        """The share of its memory that Redis uses, 0 to 1; None if it has no limit, or does not reveal it."""
        _, most, used = self._memory()
        return used / most if used and most else None

    def _memory(self) -> tuple[str | None, int | None, int | None]:
        """What Redis says of `maxmemory_policy`, `maxmemory` and `used_memory`; None for what it does not reveal."""
        with unavailable():
            try:
                memory = self._redis.info("memory")
            except redis.ResponseError:  # Not every operator's own Redis allows this command.
                memory = {}
        return memory.get("maxmemory_policy"), memory.get("maxmemory"), memory.get("used_memory")


class ReconcilerHealth(Health, RevokedKeys, Verifiers):
    """Publishes the findings of the gate check, and tells `doctor` about Redis."""

    def publish_gatecheck(self, findings: str) -> None:
        """Publish the findings of the gate check, as JSON."""
        with unavailable():
            self._redis.set(redis_key("gatecheck"), findings, ex=GATECHECK_TTL_SECONDS)

    def publish_measured(self, node: str, measured: Measured | None) -> None:
        """Publish how a node's network plugin acts on labels; None: the node is gone."""
        with unavailable():
            if measured is None:
                self._redis.hdel(redis_key("labels"), node)
            else:
                self._redis.hset(redis_key("labels"), node, json.dumps(measured))

    def forget_measured(self) -> None:
        """Forget what was measured on all nodes: another reconciler begins."""
        with unavailable():
            self._redis.delete(redis_key("labels"))

    def health(self) -> RedisHealth:
        """What `doctor` checks of Redis."""
        (epoch,) = self._read_all(["epoch"])
        with unavailable():
            seconds, micro = self._redis.time()
        policy, most, used = self._memory()
        return {
            "wiring": as_numbers(self._hash("wiring"), "wiring"),
            "verifiers": self.verifier_reports(),
            "revoked_keys": self.revoked_keys(),
            "epoch": as_number(epoch, "epoch"),
            "now": seconds + micro / 1e6,
            "maxmemory_policy": policy,
            "maxmemory": most,
            "used_memory": used,
        }
