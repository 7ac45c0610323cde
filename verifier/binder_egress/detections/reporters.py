"""Reporters: programs that send reports to the receiver, each with a token of its own that names its source.

A token is `binder_egress_reporter_<secret>`. Only its hash is stored, in a file that the chart mounts from a Secret. An API key is
something else (`gate.api_keys`): it gives egress, while a token only takes egress away.

Decisions: D-322, D-323.
"""

import base64
import hashlib
import hmac
import json
import logging
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path

from ..model.records import UnreadableLine
from .reports import escaped

REPORTS_PER_MINUTE = 600
"""Reports of one source that the receiver accepts in a minute, including lines that report nothing. A detector that finds ten a
second finds something other than miners."""

KEPT_UNREADABLE = 3
"""The number of unreadable lines that are kept for each source, to be shown."""

KEPT_CHARACTERS = 300
"""The number of characters of such a line that are kept."""

_HASH = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger("binder-egress")


def create() -> tuple[str, str]:
    """A new token, and its SHA-256 in hexadecimal. A slow hash is for passwords that people choose; a token is 160 random bits."""
    token = f"binder_egress_reporter_{secrets.token_hex(20)}"
    return token, _hash(token)


def presented(authorization: str) -> str:
    """The token in an `Authorization` header: after `Bearer`, or as the password of `Basic`.

    Falco's `http_output` cannot send a header of the operator's choice, but accepts a password in its URL.
    """
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return value.strip() if scheme.lower() == "bearer" else ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


class Reporters:
    """The tokens of this site. The file is read for each request: it is small, and changes without a restart.

    Args:
        file: the path of a JSON map of sources to hashes; `""`: nobody may report.
        sources: the sources in the values. Others in the file do not count.
    """

    def __init__(self, file: str, sources: Collection[str]):
        self._file = Path(file) if file else None
        self._sources = sources

    def find(self, token: str) -> str | None:
        """The source whose token this is, or None. A file that cannot be read has none."""
        given, found = _hash(token), None
        for source, wanted in self._hashes().items():
            if hmac.compare_digest(given, wanted):
                found = source
        return found

    def _hashes(self) -> dict[str, str]:
        if not self._file:
            return {}
        try:
            content = json.loads(self._file.read_text())
            return {
                name: value
                for name, value in content.items()
                if name in self._sources and isinstance(value, str) and _HASH.fullmatch(value)
            }
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            log.error("tokens of detections cannot be read: %s", type(error).__name__)
            return {}


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class Allowance:
    """How many reports each source may still send. In memory, per replica, like wrong API keys.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}  # source → the number left, and when

    def take(self, source: str, number: int) -> int | None:
        """Take this many reports. Returns None, or the seconds until they may be sent; none is taken then."""
        with self._lock:
            now = self._clock()
            left, at = self._left.get(source, (float(REPORTS_PER_MINUTE), now))
            left = min(REPORTS_PER_MINUTE, left + (now - at) * REPORTS_PER_MINUTE / 60)
            enough = number <= left
            self._left[source] = left - number if enough else left, now
            return None if enough else max(1, round((number - left) * 60 / REPORTS_PER_MINUTE))


class UnreadableLines:
    """The last lines of each source that could not be read, in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, deque[UnreadableLine]] = {}

    def keep(self, source: str, line: str, why: str, at: float) -> None:
        """Keep the beginning of a line, with its control characters written out.

        Args:
            source: the source that sent it.
            line: the line.
            why: what is wrong with it.
            at: Unix time in seconds.
        """
        text = escaped(line[:KEPT_CHARACTERS])[:KEPT_CHARACTERS]
        with self._lock:
            kept = self._kept.setdefault(source, deque(maxlen=KEPT_UNREADABLE))
            kept.append({"at": int(at), "source": source, "why": why, "line": text})

    def all(self) -> list[UnreadableLine]:
        """All lines that are kept."""
        with self._lock:
            return [row for kept in self._kept.values() for row in kept]
