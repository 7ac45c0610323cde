"""No field that a stranger chooses costs more than in proportion to its length, or more than five ordinary requests."""

import pytest

from tests.support.hostile import MOST_ORDINARY, PROMISE, SHAPES, Cost, costs, site


def is_fine(cost: Cost) -> bool:
    return cost.is_linear and cost.ratio <= MOST_ORDINARY


@pytest.mark.timeout(1800)
def test_cost_of_every_field_grows_with_its_length_and_no_faster():
    with site() as made:
        found = list(costs(made, is_fine))
    names = {cost.field.name for cost in found}
    for name in (
        "GET /egress/servers/alice/lab: repository",
        "GET /egress/servers/alice/lab: accept",
        f"GET /egress/promises/{PROMISE}: path, {PROMISE}",
        f"GET /egress/promises/{PROMISE}: repository",
        f"POST /egress/promises/{PROMISE}: body, token",
        "POST /egress/passes: body, promise",
        "GET /egress/nowhere: path, nowhere",
        "GET /egress/challenge: query, purpose",
        "POST /egress/passes: authorization",
        "POST /egress/passes: body, solution, challenge.parameters.salt",
        "POST /api/launches: body, forwarded_for",
        "GET /egress/launch.js: if_match",
        "POST /egress/passes: content_type",
        "GET /egress/nowhere: x_forwarded_for",
        "POST /api/grants: content_type",
        "POST /api/detections: accept",
    ):
        assert name in names
    assert {cost.shape for cost in found} >= set(SHAPES)
    assert [str(cost) for cost in found if not is_fine(cost)] == []
