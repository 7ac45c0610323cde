"""Some thousand malformed requests, against the verifier as a process. `ci/test --long` sends a hundred thousand."""

import pytest

from tests.support.apps import VerifierProcess
from tests.support.fuzz import by_bytes, by_document, faults, keys_file


@pytest.mark.timeout(300)
def test_no_request_makes_a_fault(redis_server, tmp_path):
    verifier = VerifierProcess(redis_server, log_level="warning", api_keys_file=keys_file(tmp_path))
    try:
        seen = by_bytes(verifier, 2000, seed=1) + by_document(verifier, 400)
    finally:
        log = verifier.stop()
    assert faults(seen, log) == []
    # Most got past the HTTP parser, and some to the end.
    assert sum(seen.values()) > 2200 and seen[200] > 100 and seen[400] > 100, seen
