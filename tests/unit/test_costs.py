"""What one request costs, in processor time and beside ordinary requests of the same run: machines differ, and are busy."""

import pytest

from tests.support.hostile import DOCUMENTS, MOST_ORDINARY, REPEATS, SHAPES, Request, Site, site


@pytest.fixture(scope="module")
def made():
    with site() as made:
        yield made


def least(made: Site, app: str, request: Request) -> float:
    return min(made.send(app, request) for _ in range(REPEATS))


@pytest.mark.parametrize("app", DOCUMENTS)
def test_no_request_to_any_address_costs_more_than_five_ordinary_ones(made, app):
    """Whatever is in its headers and its query. tests/long/test_hostile.py has every field, one at a time and at every length."""
    challenge, expensive = least(made, "public", Request("GET", "/egress/challenge")), []
    for request, _ in made.requests(app):
        ordinary = least(made, app, request)
        # Metrics, of which Prometheus alone asks, cost as much as a few challenges.
        if app == "public" and ordinary > MOST_ORDINARY * challenge:
            expensive.append(f"{request.method} {request.path}: {ordinary / challenge:.1f} challenges")
        most = MOST_ORDINARY * max(challenge, ordinary)
        for name, shape in SHAPES.items():
            stuffed = made.stuffed(app, request, shape)
            if made.send(app, stuffed) > most and (took := least(made, app, stuffed)) > most:
                expensive.append(f"{request.method} {request.path}, {name}: {MOST_ORDINARY * took / most:.1f} ordinary ones")
    assert expensive == []
