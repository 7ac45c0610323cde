"""Reports to the receiver, the agent's one destination."""

import http.client
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from .lists import Match
from .uses import Uses

TIMEOUT_SECONDS = 5.0
"""How long a request waits, in seconds. The next round is another attempt."""

REPEAT_SECONDS = 600.0
"""Seconds after which a match is reported again if its program still runs: Redis may have forgotten it. The reconciler treats it as
the same."""

LINES = 100
"""The most reports in one request: the limit of `POST /api/detections`."""

POD_REPORTS = 5
"""The most new matches of one pod that are reported in a round; the others wait for the next round."""

PAUSE_SECONDS = 20.0
"""Seconds without another attempt to send what pods used, after one that failed."""

log = logging.getLogger("binder-egress")


class Reporter:
    """Reports each match of a pod once, and again after `REPEAT_SECONDS`.

    Args:
        host: the receiver's Service.
        port: its port.
        clock: monotonic time in seconds.
    """

    def __init__(self, host: str, port: int, clock: Callable[[], float] = time.monotonic):
        self._host, self._port, self._clock = host, port, clock
        self._sent: dict[tuple[str, Match], float] = {}
        self._silent_until = -math.inf

    def report(self, found: Iterable[tuple[str, Match]], pods: set[str]) -> Counter[str]:
        """Send new matches. Those that could not be sent count as new again in the next round.

        Args:
            found: the pods' uids, each with a match in that pod.
            pods: the pods that still exist; others are forgotten.

        Returns:
            How many reports were `sent` and `failed`.
        """
        now = self._clock()
        self._sent = {row: at for row, at in self._sent.items() if row[0] in pods and now - at < REPEAT_SECONDS}
        seen: Counter[tuple[str, str]] = Counter()
        ranked = []
        for pod, what in found:
            ranked.append((seen[pod, what.list_name], (pod, what)))
            seen[pod, what.list_name] += 1
        # The first match of each list comes first: a stranger who shows a hundred from one list does not hide those from another.
        ranked.sort(key=lambda row: row[0])
        each: Counter[str] = Counter()
        new = []
        for _, row in ranked:
            if row not in self._sent and each[row[0]] < POD_REPORTS:
                each[row[0]] += 1
                new.append(row)
        done: Counter[str] = Counter()
        for start in range(0, len(new), LINES):
            rows = new[start : start + LINES]
            problem = self._post([{"uid": pod, "list": what.list_name, "label": what.label} for pod, what in rows])
            done["failed" if problem else "sent"] += len(rows)
            if problem:
                log.error("reports not sent: %s", problem)
                break  # The others have to wait, too.
            for pod, what in rows:
                self._sent[pod, what] = now
                log.info("match", extra={"fields": {"pod_uid": pod, "list": what.list_name, "label": what.label}})
        return done

    def tell(self, uses: Uses) -> Counter[str]:
        """Send what is known of the uses of pods. After a failure it waits, because the counters are to be read meanwhile.

        Returns:
            How many rows were `sent` and `failed`.
        """
        done: Counter[str] = Counter()
        rows = uses.rows() if self._clock() >= self._silent_until else []
        for start in range(0, len(rows), LINES):
            part = rows[start : start + LINES]
            problem = self._post([row for _, row in part], "/api/uses")
            done["failed" if problem else "sent"] += len(part)
            if problem:
                log.error("uses not sent: %s", problem)
                self._silent_until = self._clock() + PAUSE_SECONDS
                break
            uses.sent(part)
        return done

    def _post(self, reports: Sequence[Mapping[str, object]], path: str = "/api/detections") -> str:
        """Send reports. Returns what went wrong, or an empty text."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        try:
            body = "\n".join(map(json.dumps, reports)).encode()
            connection.request("POST", path, body, {"Content-Type": "application/x-ndjson"})
            answer = connection.getresponse()
            return "" if answer.status == 202 else f"the receiver answers {answer.status}"
        except (OSError, http.client.HTTPException) as error:
            return f"the receiver does not answer: {type(error).__name__}"
        finally:
            connection.close()
