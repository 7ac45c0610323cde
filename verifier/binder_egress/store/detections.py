"""Detectors' reports and what became of them, the lines that detectors sent, and the agents."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..detections.reports import Report
from ..model.records import Detection, UnreadableLine
from ..model.serialization import reader
from .base import Operations, as_numbers, readable, unavailable
from .keys import max_bytes, redis_key

MAX_REPORTS = 1000
"""The most reports that wait for the reconciler, about 1 MB. It reads them three times a second. One more evicts the oldest."""

REPORT_TTL_SECONDS = 3600
"""Seconds after the last report for which reports wait for a reconciler that is not running."""

KEPT_DETECTIONS = 200
"""The number of detections that `egress detections` and `egress explain` can show."""

DETECTED_TTL_SECONDS = 86400
"""Seconds after the last detection for which they are kept."""

AGENTS_TTL_SECONDS = 300
"""Seconds for which the addresses of agents count. The reconciler publishes them three times a minute."""

_read_detection, _read_unreadable = reader(Detection), reader(list[UnreadableLine])


class Detections(Operations):
    """What became of detectors' reports and lines, for operators and the metrics."""

    def detected(self) -> list[Detection]:
        """The outcomes of the last reports, the latest first."""
        with unavailable():
            rows: Any = self._redis.xrevrange(redis_key("detected"), count=KEPT_DETECTIONS)
        outcomes = [readable(fields.get("row"), _read_detection, "detected") for _, fields in rows]
        return list(filter(None, outcomes))

    def lines(self) -> dict[tuple[str, str], int]:
        """The number of lines that detectors sent, by source and outcome."""
        counts = as_numbers(self._hash("lines"), "lines")
        return {(source, outcome): number for name, number in counts.items() for source, _, outcome in [name.partition(":")]}


class Reports(Operations):
    """Enters detectors' reports for the reconciler."""

    def add_report(self, report: Report) -> str:
        """Queue a detector's report for the reconciler. Returns its id."""
        with unavailable():
            pipe = self._redis.pipeline()
            pipe.xadd(redis_key("detections"), {"report": report.dumps()}, maxlen=MAX_REPORTS, approximate=False)
            pipe.expire(redis_key("detections"), REPORT_TTL_SECONDS)
            return str(pipe.execute()[0])


class ProxyReports(Operations):
    """What the egress proxy reports. It only names pods: it faces strangers, and may enter no report (D-354, D-490)."""

    def report_scans(self, pods: Iterable[str]) -> None:
        """Queue the uids of pods that try more hosts than the proxy allows."""
        with unavailable():
            pipe = self._redis.pipeline()
            pipe.rpush(redis_key("scans"), *pods)
            pipe.expire(redis_key("scans"), REPORT_TTL_SECONDS)
            pipe.execute()


class ReceiverReports(Reports):
    """What the receiver asks, and counts and keeps besides."""

    def is_agent(self, address: str) -> bool:
        """Whether an address is an agent's."""
        with unavailable():
            return bool(address and self._redis.hexists(redis_key("agents"), address))

    def count_lines(self, source: str, counts: Mapping[str, int]) -> None:
        """Count lines that a source sent, by outcome. The source `""` means an unknown one."""
        with unavailable():
            pipe = self._redis.pipeline()
            for outcome, number in counts.items():
                if number:
                    pipe.hincrby(redis_key("lines"), f"{source}:{outcome}", number)
            pipe.execute()

    def keep_unreadable(self, rows: list[UnreadableLine]) -> None:
        """Keep the last lines that could not be read (`UnreadableLines.all`), in place of the earlier ones."""
        with unavailable():
            self._redis.set(redis_key("unreadable"), json.dumps(rows), ex=DETECTED_TTL_SECONDS)


class ReconcilerReports(Reports):
    """Reads detectors' reports, keeps their outcomes, and publishes the agents."""

    def waiting_reports(self, most: int) -> list[tuple[str, Report | None]]:
        """The oldest reports that wait, at most so many, by id; None for an entry that this version cannot read as a report."""
        with unavailable():
            rows = self._run("read_rows", [], [redis_key("detections"), "report", most, max_bytes("detections")])
        return [(identity, readable(text, Report.loads, "detections")) for identity, text in rows]

    def scans(self, most: int) -> list[str]:
        """Take the pods that the egress proxy reported, at most so many."""
        with unavailable():
            pods, _ = self._run("take", [redis_key("scans")], [most, max_bytes("scans")])
        return list(pods)

    def answer_reports(self, reports: list[str], detected: list[Detection]) -> None:
        """Forget reports, by id, and keep their outcomes."""
        with unavailable():
            pipe = self._redis.pipeline()
            for row in detected:
                pipe.xadd(redis_key("detected"), {"row": json.dumps(row)}, maxlen=KEPT_DETECTIONS, approximate=False)
            if detected:
                pipe.expire(redis_key("detected"), DETECTED_TTL_SECONDS)
            pipe.xdel(redis_key("detections"), *reports)
            pipe.execute()

    def unreadable(self) -> list[UnreadableLine]:
        """The last lines that could not be read."""
        (text,) = self._read_all(["unreadable"])
        return readable(text, _read_unreadable, "unreadable") or []

    def publish_agents(self, nodes: dict[str, str]) -> None:
        """Publish the agents: address → node. This replaces those published before."""
        with unavailable():
            pipe = self._redis.pipeline()
            pipe.delete(redis_key("agents"))
            for address, node in nodes.items():
                pipe.hset(redis_key("agents"), address, node)
            if nodes:
                pipe.expire(redis_key("agents"), AGENTS_TTL_SECONDS)
            pipe.execute()
