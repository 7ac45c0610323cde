"""The hosts that servers asked the egress proxy for and did not get."""

import json

from ..model.records import WantedHost
from ..model.serialization import reader
from .base import Operations, readable, unavailable
from .keys import redis_key

WANTED_TTL_SECONDS = 300
"""Seconds for which the table of one proxy counts. A new one comes every minute."""

_read_rows = reader(list[WantedHost])


class ProxyWantedHosts(Operations):
    """Publishes the table of one pod of the proxy."""

    def publish_wanted_hosts(self, proxy: str, rows: list[WantedHost]) -> None:
        """Publish which hosts servers asked one proxy for and did not get."""
        with unavailable():
            self._redis.set(redis_key(f"wanted:{proxy}"), json.dumps(rows), ex=WANTED_TTL_SECONDS)


class ReconcilerWantedHosts(Operations):
    """Reads the tables of all pods of the proxy."""

    def wanted_hosts(self) -> list[WantedHost]:
        """The rows of all proxies."""
        return [row for text in self._read_all(self._names("wanted:*")) for row in readable(text, _read_rows, "wanted") or []]
