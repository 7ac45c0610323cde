"""No field that a stranger chooses costs more than in proportion to its length, whatever is in it."""

import pytest

from tests.support.hostile import PROMISE, SHAPES, costs, site


@pytest.mark.timeout(1800)
def test_cost_of_every_field_grows_with_its_length_and_no_faster():
    with site() as made:
        found = list(costs(made, lambda cost: cost.is_linear))
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
    ):
        assert name in names
    assert {cost.shape for cost in found} >= set(SHAPES)
    assert [str(cost) for cost in found if not cost.is_linear] == []
