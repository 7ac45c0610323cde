"""Logs: one JSON object a line, on standard error. Never a token."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


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
    logging.getLogger("binder-egress").info(event, extra={"fields": fields})
