"""Logs: one JSON object a line, on standard error. Never a token."""

import json
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Any

MAX_LINES = 30
"""Lines about one kind of refusal of one client network, or of one server, in `LINES_WINDOW_SECONDS`: enough to see what it tries.
A line has about 340 bytes."""

LINES_WINDOW_SECONDS = 600
"""Seconds after the first of these lines until they are forgotten."""

MAX_COUNTED = 10_000
"""Client networks, or servers, that are counted at a time, about 2 MB."""


log = logging.getLogger("binder-egress")


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _NoMalformedRequests(logging.Filter):
    """Drops gunicorn's warning about each malformed request: anybody can send them, and an operator can do nothing about them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Invalid request from ip=")


def configuration(level: str) -> dict[str, Any]:
    """The configuration for `logging.config.dictConfig`, which sends all lines to standard error as JSON. Gunicorn uses it too.

    Args:
        level: `debug`, `info`, `warning` or `error`.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": _JSONFormatter}},
        "filters": {"no malformed requests": {"()": _NoMalformedRequests}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": sys.stderr}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"handlers": [], "propagate": True, "filters": ["no malformed requests"]},
        },
    }


def decision(event: str, **fields: object) -> None:
    """Log one decision.

    Args:
        event: one of the events in docs/logs.md, such as `launch`.
        fields: user, server, repository, client network, tier, rule, and whatever else explains it. Never a token or a solution.
    """
    log.info(event, extra={"fields": fields})


class Counts:
    """Counts what each stranger does in a window of time. The memory is bounded: the stranger who was quiet longest is forgotten
    first.

    Args:
        seconds: the window, which begins with the first that is counted.
        most: how many strangers are counted at a time.
        clock: monotonic time in seconds.
    """

    def __init__(self, seconds: float, most: int = MAX_COUNTED, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._most, self._clock = seconds, most, clock
        self._lock = threading.Lock()
        self._counts: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()  # who → end of the window, number

    def note(self, who: Hashable) -> tuple[int, float]:
        """Count one more. Returns the number in the window, and the seconds until they are forgotten."""
        with self._lock:
            now = self._clock()
            over, number = self._counts.pop(who, (0.0, 0))
            if over <= now:
                over, number = now + self._seconds, 0
            self._counts[who] = over, number + 1
            if len(self._counts) > self._most:
                self._counts.popitem(last=False)
            return number + 1, over - now


class Refusals:
    """Logs refusals that anybody can cause without end, up to a limit for each stranger who causes them (D-392).

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._counts = Counts(LINES_WINDOW_SECONDS, clock=clock)

    def decision(self, event: str, who: Hashable, **fields: object) -> None:
        """Log one decision, as `decision` does, or that further ones are not logged, or nothing.

        Args:
            event: the event.
            who: whose lines of this event are limited.
            fields: as for `decision`.
        """
        number, seconds = self._counts.note((event, who))
        if number <= MAX_LINES:
            decision(event, **fields)
        elif number == MAX_LINES + 1:
            log.info("%s: further lines of this kind are not logged for %d s", event, round(seconds), extra={"fields": fields})
