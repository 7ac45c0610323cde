"""The verifiers' reports about themselves."""

import json
from typing import Any

import redis

from ..texts import from_json
from .base import Operations, unavailable
from .keys import VERIFIER_TYPES, redis_key

VERIFIER_TTL_SECONDS = 60
"""Seconds without a report after which a verifier counts as gone. One comes with each readiness probe."""


class Verifiers(Operations):
    """The verifiers' reports about themselves, by host."""

    def verifier_reports(self) -> dict[str, dict[str, Any]]:
        """The latest reports of all verifiers that still report, by host."""
        now, texts = self._verifier_reports()
        return {host: said[1] for host, text in texts.items() if (said := _said(text)) and now - said[0] < VERIFIER_TTL_SECONDS}

    def verifier_is_there(self) -> bool:
        """Whether any verifier has reported recently."""
        with unavailable():
            return bool(self._redis.exists(redis_key("verifiers")))

    def _verifier_reports(self) -> tuple[int, dict[str, str]]:
        """Redis' time in seconds, and the reports as they are stored."""
        with unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.time()
            pipe.hgetall(redis_key("verifiers"))
            (now, _), texts = pipe.execute()
        return now, texts


class VerifierReadiness(Verifiers):
    """What a verifier does for each readiness probe."""

    def ping(self) -> None:
        """Return if Redis answers. A new or wiped Redis gets its epoch, before the first challenge is issued, and keys of a wrong
        type are removed (D-415)."""
        with unavailable():
            self._begin_with(VERIFIER_TYPES, self._redis)

    def open_connections(self, number: int) -> None:
        """Open connections until the pool has the given number. Later requests then need not ask DNS for Redis' address (D-377)."""
        pool = self._redis.connection_pool
        if sum(count for count, _ in pool.get_connection_count()) >= number:
            return
        opened: list[redis.Connection] = []
        try:
            with unavailable():
                while len(opened) < number:
                    opened.append(pool.get_connection())
        finally:
            for connection in opened:
                pool.release(connection)

    def report_verifier(self, host: str, report: dict[str, Any]) -> None:
        """Publish a verifier's report about itself, without secrets, and remove the reports of verifiers that have gone silent.

        The time of the report is Redis' time, so that a verifier whose clock is off is noticed.
        """
        now, texts = self._verifier_reports()
        silent = [other for other, text in texts.items() if not ((said := _said(text)) and now - said[0] < VERIFIER_TTL_SECONDS)]
        with unavailable():
            pipe = self._redis.pipeline()
            if silent:
                pipe.hdel(redis_key("verifiers"), *silent)
            pipe.hset(redis_key("verifiers"), host, json.dumps({"seen": now, "report": report}))
            pipe.expire(redis_key("verifiers"), VERIFIER_TTL_SECONDS)
            pipe.execute()


def _said(text: str) -> tuple[int, dict[str, Any]] | None:
    """The time and content of a verifier's report; None if another version wrote it in a form that cannot be read."""
    try:
        stored = from_json(text)
        said = stored["seen"], stored["report"]
    except (KeyError, TypeError):
        return None
    return said if isinstance(said[0], int) and isinstance(said[1], dict) else None
