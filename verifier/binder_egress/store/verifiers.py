"""The verifiers' reports about themselves."""

import json

import redis
from typing_extensions import TypedDict  # as in `model.records`

from ..model.records import VerifierReport
from ..model.serialization import reader
from .base import Operations, unavailable
from .keys import VERIFIER_TYPES, redis_key

VERIFIER_TTL_SECONDS = 60
"""Seconds without a report after which a verifier counts as gone. One comes with each readiness probe."""


class _Reported(TypedDict):
    seen: int  # Unix time in seconds
    report: VerifierReport


_read = reader(_Reported)


class Verifiers(Operations):
    """The verifiers' reports about themselves, by host."""

    def verifier_reports(self) -> dict[str, VerifierReport]:
        """The latest reports of all verifiers that still report, by host."""
        now, texts = self._verifier_reports()
        return {host: said["report"] for host, text in texts.items() if (said := _recent(text, now))}

    def verifier_is_there(self) -> bool:
        """Whether any verifier has reported recently."""
        with unavailable():
            return bool(self._redis.exists(redis_key("verifiers")))

    def _verifier_reports(self) -> tuple[int, dict[str, str]]:
        """Redis' time in seconds, and the reports as they are stored."""
        with unavailable():
            now, _ = self._redis.time()
        return now, self._hash("verifiers")


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

    def report_verifier(self, host: str, report: VerifierReport) -> None:
        """Publish a verifier's report about itself, and remove the reports of verifiers that have gone silent.

        The time of the report is Redis' time, so that a verifier whose clock is off is noticed.
        """
        now, texts = self._verifier_reports()
        silent = [other for other, text in texts.items() if not _recent(text, now)]
        with unavailable():
            pipe = self._redis.pipeline()
            if silent:
                pipe.hdel(redis_key("verifiers"), *silent)
            pipe.hset(redis_key("verifiers"), host, json.dumps({"seen": now, "report": report}))
            pipe.expire(redis_key("verifiers"), VERIFIER_TTL_SECONDS)
            pipe.execute()


def _recent(text: str, now: int) -> _Reported | None:
    """A verifier's report; None if it is old, or another version wrote it in a form that cannot be read."""
    said = _read(text)
    return said if said and now - said["seen"] < VERIFIER_TTL_SECONDS else None
