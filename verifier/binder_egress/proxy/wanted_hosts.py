"""The hosts that unverified servers asked for and did not get, by repository: a small table in memory, for `egress hosts
wanted`."""

import time
from collections import Counter
from collections.abc import Callable

from ..model.records import WantedHost

KEPT_SECONDS = 86_400
"""Seconds after its last request for which a row is kept."""

ROWS = 500
"""The most rows in the table. Strangers choose its content."""

OF_ONE = 20
"""The most rows of one repository."""

SHOWN = 5
"""The number of hosts that the metrics name (D-285)."""

MOST_CHARACTERS = 200
"""How many characters of a repository's name are kept. Its URL is a stranger's own spelling, of any length."""


class WantedHosts:
    """The table.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._rows: dict[tuple[str, str], WantedHost] = {}

    def note(self, repository: str, host: str) -> None:
        """Count a request of a server of this repository for this host, which was refused. If the table is full, it replaces the
        row with the fewest requests."""
        repository = repository[:MOST_CHARACTERS]
        key = repository, host
        if key not in self._rows:
            of_one = [row for row in self._rows.values() if row["repository"] == repository]
            full = of_one if len(of_one) >= OF_ONE else list(self._rows.values()) if len(self._rows) >= ROWS else []
            if full:
                least = min(full, key=lambda row: (row["times"], row["last"]))
                del self._rows[least["repository"], least["host"]]
            self._rows[key] = {"repository": repository, "host": host, "times": 0, "last": 0.0}
        self._rows[key]["times"] += 1
        self._rows[key]["last"] = self._clock()

    def rows(self) -> list[WantedHost]:
        """All rows, those with the most requests first."""
        oldest = self._clock() - KEPT_SECONDS
        self._rows = {key: row for key, row in self._rows.items() if row["last"] > oldest}
        return [row.copy() for row in sorted(self._rows.values(), key=lambda row: -row["times"])]

    def most(self) -> dict[str, int]:
        """The `SHOWN` most requested hosts, for all repositories together, and the number of requests for each."""
        hosts: Counter[str] = Counter()
        for row in self._rows.values():
            hosts[row["host"]] += row["times"]
        return dict(hosts.most_common(SHOWN))
