"""The figures of docs/scale.md: some that a small run can check, and some that follow from others."""

import re
import sys
from pathlib import Path

import pytest

from tests.support.charts import VALUES

sys.path.insert(0, str(Path(__file__).parents[2] / "studies"))
import bench_records

PAGE = (Path(__file__).parents[2] / "docs/scale.md").read_text()

MIB = 2**20


def figure(pattern: str) -> float:
    """A number of the page."""
    (text,) = re.findall(pattern, PAGE)
    return float(text.replace(",", ""))


PASS = figure(r"(\d+) bytes for 70 minutes \(the pass\)")
SOLUTION = figure(r"(\d+) for an hour \(the solution")
LAUNCH = figure(r"(\d+) until the pod is ready")
PROMISE = figure(r"(\d+) for a quarter of an hour \(the promise\)")
KEEPS = figure(r"(\d+) for seven minutes")
SERVER = figure(r"Redis has (\d+) bytes for each server") + figure(r"and (\d+) for its addresses")


def test_redis_has_for_a_launch_what_the_page_says(redis_server, monkeypatch):
    monkeypatch.setattr(bench_records, "PASSES", 1000)
    found = bench_records.measured_passes(redis_server.url)
    said = {
        "pass, B": PASS,
        "solution, and what it is charged, B": SOLUTION,
        "launch that waits, B": LAUNCH,
        "promise, B": PROMISE,
        "that a pass keeps it, B": KEEPS,
    }
    assert {name: found[name] for name in said} == {name: pytest.approx(size, rel=0.2) for name, size in said.items()}


def test_redis_has_for_servers_what_the_page_says(redis_server, in_redis):
    bench_records.measured_reconciler(redis_server.url, 10, proxy=True)  # things that exist once, such as scripts
    before = bench_records.redis_memory(in_redis)
    bench_records.measured_reconciler(redis_server.url, 1010, proxy=True)
    assert (bench_records.redis_memory(in_redis) - before) * MIB / 1000 == pytest.approx(SERVER, rel=0.2)


def kept(launches: int) -> float:
    """Bytes of Redis for a running server, with so many launches an hour."""
    waits = LAUNCH * VALUES["launch"]["timeout"] / 3600
    return SERVER + launches * (PASS * 70 / 60 + SOLUTION + waits + PROMISE / 4 + KEEPS * 7 / 60)


def test_redis_is_full_where_the_page_says():
    assert VALUES["redis"]["maxmemory"] == "64mb" and "| Redis, 64 MB |" in PAGE
    assert kept(2) / 1000 == pytest.approx(figure(r"that is ([\d.]+) kB a server"), abs=0.05)
    for launches, pattern in ((2, r"([\d,]+) servers where sessions last half an hour"), (1, r"([\d,]+) with an hour \|")):
        assert 64 * MIB / kept(launches) == pytest.approx(figure(pattern), rel=0.03)
    assert re.search(r"Redis is full at ([\d,]+) where .*\| Redis, 64 MB \| \1 servers where", PAGE, re.DOTALL)
