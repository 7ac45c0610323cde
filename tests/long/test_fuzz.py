"""100,000 malformed requests: the verifier answers each without a fault, and its memory does not grow."""

import pytest

from tests.support.apps import RedisServer, VerifierProcess
from tests.support.fuzz import by_bytes, by_document, faults, keys_file
from tests.support.processes import resident_mib

REQUESTS = 100_000

GROWTH = 12
"""MiB by which the verifier may grow after the first fifth of the requests. docs/faults.md has the measured value."""


@pytest.mark.timeout(7200)
def test_verifier_answers_100_000_requests_without_fault_or_leak(tmp_path):
    server = RedisServer()
    server.start()
    verifier = VerifierProcess(server, log_level="warning", api_keys_file=keys_file(tmp_path))
    try:
        seen = by_bytes(verifier, REQUESTS // 10, seed=10) + by_document(verifier, REQUESTS // 10)
        warm = resident_mib(*verifier.processes())
        seen += by_bytes(verifier, REQUESTS * 7 // 10, seed=20) + by_document(verifier, REQUESTS // 10)
        while sum(seen.values()) < REQUESTS:  # schemathesis makes somewhat fewer than asked
            seen += by_bytes(verifier, 4000, seed=sum(seen.values()))
        end = resident_mib(*verifier.processes())
    finally:
        log = verifier.stop()
        server.stop()
    figures = {"requests": sum(seen.values()), "statuses": dict(sorted(seen.items())), "warm": f"{warm:.1f}", "end": f"{end:.1f}"}
    print(figures)
    assert faults(seen, log) == []
    assert end - warm < GROWTH, figures
