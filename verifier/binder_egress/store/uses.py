"""What agents say of pods' use of the network, and the launches that are over."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..model.records import NetworkUse, ReportedLaunch
from ..model.serialization import reader
from .base import TEXTS_AT_ONCE, Operations, readable, unavailable
from .keys import max_bytes, redis_key

MAX_USES = 5000
"""The most rows that wait for the reconciler, 2 MB at most. It reads them each second. One more evicts the oldest."""

USES_TTL_SECONDS = 3600
"""Seconds after the last row for which rows wait for a reconciler that is not running."""

MAX_LAUNCHES = 20_000
"""The most launches that are kept, some 6 MB: a week of 2,800 a day. One more evicts the oldest."""

DAY_SECONDS = 86_400

_read_use, _read_launch = reader(NetworkUse), reader(ReportedLaunch)


class ReceiverUses(Operations):
    """Enters what agents say."""

    def add_uses(self, uses: Iterable[NetworkUse]) -> None:
        """Queue rows for the reconciler."""
        with unavailable():
            pipe = self._redis.pipeline()
            for use in uses:
                pipe.xadd(redis_key("uses"), {"row": use.model_dump_json()}, maxlen=MAX_USES, approximate=False)
            pipe.expire(redis_key("uses"), USES_TTL_SECONDS)
            pipe.execute()


class ReconcilerUses(Operations):
    """Reads what agents say, and keeps the launches that are over."""

    def take_uses(self, most: int) -> list[NetworkUse]:
        """Take the oldest rows, at most so many. Rows that this version cannot read are left out."""
        with unavailable():
            rows = self._run("read_rows", [], [redis_key("uses"), "row", most, max_bytes("uses")])
            if rows:
                self._redis.xdel(redis_key("uses"), *(identity for identity, _ in rows))
        return list(filter(None, (readable(text, _read_use, "uses") for _, text in rows)))

    def keep_launches(self, launches: Iterable[ReportedLaunch], now: float, days: int) -> None:
        """Keep launches that are over, and forget those that were kept so many days before a Unix time in seconds."""
        with unavailable():
            pipe = self._redis.pipeline()
            for launch in launches:
                pipe.xadd(redis_key("report"), {"row": launch.model_dump_json()}, maxlen=MAX_LAUNCHES, approximate=False)
            pipe.xtrim(redis_key("report"), minid=f"{int(now - days * DAY_SECONDS) * 1000}", approximate=False)
            pipe.expire(redis_key("report"), days * DAY_SECONDS)
            pipe.execute()

    def launches(self, since: float) -> Iterator[ReportedLaunch]:
        """The launches that were kept since a Unix time in seconds, the oldest first."""
        first = f"{int(since) * 1000}"
        while True:
            with unavailable():
                rows: Any = self._redis.xrange(redis_key("report"), min=first, count=TEXTS_AT_ONCE)
            for _, fields in rows:
                if launch := readable(fields.get("row"), _read_launch, "report"):
                    yield launch
            if len(rows) < TEXTS_AT_ONCE:
                return
            first = f"({rows[-1][0]}"
