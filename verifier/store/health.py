"""How an installation is doing: what the gate check found, and what `doctor` checks of Redis."""

from typing import Any

import redis

from .base import Operations, as_number, as_numbers, json_object, readable, unavailable
from .keys import redis_key
from .revoked_keys import RevokedKeys
from .verifiers import Verifiers

GATECHECK_TTL_SECONDS = 600
"""Seconds for which findings count. New ones come every minute."""

SLOW_LABELS_SECONDS = 5.0
"""Above this delay of labels, people are told to wait, and an alert fires. Most plugins need less than a second."""

NEARLY_FULL = 0.9
"""The share of Redis' memory above which it is nearly full. A full Redis accepts no grants."""


class Health(Operations):
    """How an installation is doing, for `doctor` and the metrics."""

    def gatecheck(self) -> dict[str, Any] | None:
        """The latest findings of the gate check (`gatecheck.check.Findings`), or None."""
        with unavailable():
            return readable(self._redis.get(redis_key("gatecheck")), json_object, "gatecheck")

    def memory_used(self) -> float | None:
        """The share of its memory that Redis uses, 0 to 1; None if it has no limit, or does not reveal it."""
        memory = self._memory()
        return memory["used_memory"] / memory["maxmemory"] if memory["used_memory"] and memory["maxmemory"] else None

    def _memory(self) -> dict[str, Any]:
        with unavailable():
            try:
                memory = self._redis.info("memory")
            except redis.ResponseError:  # Not every operator's own Redis allows this command.
                memory = {}
        return {name: memory.get(name) for name in ("maxmemory_policy", "maxmemory", "used_memory")}


class ReconcilerHealth(Health, RevokedKeys, Verifiers):
    """Publishes the findings of the gate check, and tells `doctor` about Redis."""

    def publish_gatecheck(self, findings: str) -> None:
        """Publish the findings of the gate check, as JSON."""
        with unavailable():
            self._redis.set(redis_key("gatecheck"), findings, ex=GATECHECK_TTL_SECONDS)

    def health(self) -> dict[str, Any]:
        """What `doctor` checks of Redis.

        Returns:
            `wiring` (its numbers), `verifiers` (host → report), `revoked_keys` (ids), `epoch` (Unix seconds, or None), `now`
            (Redis' clock, Unix seconds), and from Redis' own information `maxmemory_policy`, `maxmemory` and `used_memory` (bytes),
            each None if Redis does not reveal it.
        """
        with unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(redis_key("wiring"))
            pipe.get(redis_key("epoch"))
            pipe.time()
            wiring, epoch, (seconds, micro) = pipe.execute()
        return {
            "wiring": as_numbers(wiring, "wiring"),
            "verifiers": self.verifier_reports(),
            "revoked_keys": self.revoked_keys(),
            "epoch": as_number(epoch, "epoch"),
            "now": seconds + micro / 1e6,
            **self._memory(),
        }
