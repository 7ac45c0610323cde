"""The simulated rows of docs/scale.md."""

import pytest

from studies.cilium_identities import IDENTITIES, minutes_until_used_up
from tests.support import TOP


@pytest.mark.parametrize("launches", [54, 362, 600])
def test_page_says_when_identities_are_used_up(launches):
    end, most = minutes_until_used_up(launches)
    row = f"| {launches} | {min(most, IDENTITIES):,} | {f'after {end} minutes' if end else 'never'} |"
    assert row in (TOP / "docs/scale.md").read_text()


def test_page_says_how_many_launches_are_too_many():
    assert [minutes_until_used_up(launches)[0] is None for launches in (362, 363)] == [True, False]
    assert [minutes_until_used_up(launches, deleted=5 * 60)[0] is None for launches in (163, 164)] == [True, False]
