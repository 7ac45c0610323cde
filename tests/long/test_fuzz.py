"""A hundred thousand requests out of order: the verifier answers each, without a fault, and its memory does not grow."""

import pytest

from tests.support.apps import RedisServer, VerifierProcess
from tests.support.fuzz import by_bytes, by_document, faults, keys_file, memory

REQUESTS = 100_000

GROWTH = 12
"""MiB that the verifier may hold more at the end than after the first fifth (docs/guarantees.md has what it was)."""


@pytest.mark.timeout(7200)
def test_verifier_answers_100_000_requests_without_fault_or_leak(record_property, tmp_path):
    server = RedisServer()
    server.start()
    verifier = VerifierProcess(server, log_level="warning", api_keys_file=keys_file(tmp_path))
    try:
        seen = by_bytes(verifier, REQUESTS // 10, seed=10) + by_document(verifier, REQUESTS // 10)
        warm = memory(verifier)
        seen += by_bytes(verifier, REQUESTS * 7 // 10, seed=20) + by_document(verifier, REQUESTS // 10)
        while sum(seen.values()) < REQUESTS:  # schemathesis makes some fewer than it is asked for
            seen += by_bytes(verifier, 4000, seed=sum(seen.values()))
        end = memory(verifier)
    finally:
        log = verifier.stop()
        server.stop()
    figures = {"requests": sum(seen.values()), "statuses": dict(sorted(seen.items())), "warm": f"{warm:.1f}", "end": f"{end:.1f}"}
    print(figures)
    for name, value in figures.items():
        record_property(name, value)
    assert faults(seen, log) == []
    assert end - warm < GROWTH, figures
