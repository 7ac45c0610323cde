"""The verifiers' reports about themselves."""

import json
from typing import Any

from ..texts import from_json
from .base import Operations, unavailable
from .keys import redis_key

VERIFIER_TTL_SECONDS = 60
"""Seconds without a report after which a verifier counts as gone. One comes with each readiness probe."""


class Verifiers(Operations):
    """The verifiers' reports about themselves, by host."""

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


def _said(text: str) -> tuple[int, dict[str, Any]] | None:
    """The time and content of a verifier's report; None if another version wrote it in a form that cannot be read."""
    try:
        found = from_json(text)
        said = found["seen"], found["report"]
    except (KeyError, TypeError):
        return None
    return said if isinstance(said[0], int) and isinstance(said[1], dict) else None
