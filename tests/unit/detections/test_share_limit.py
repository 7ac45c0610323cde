"""The share limit: a wrong rule does not empty a hub, and a miner does not switch a rule off."""

from hypothesis import given
from hypothesis import strategies as st

from binder_egress.detections.share_limit import ALWAYS, MAX_SHARE, WINDOW_SECONDS, ShareLimit


def cut_off(limit, number, running, now=0.0, has_egress=True, names="a"):
    """How many of these servers may be cut off. Servers that were cut off no longer run."""
    acted = 0
    for one in range(number):
        acted += limit.allows(f"{names}{one}", has_egress, running - acted, now)
    return acted


def test_nine_servers_may_always_be_cut_off_and_a_tenth_of_many():
    limit = ShareLimit()
    assert cut_off(limit, 20, running=20) == ALWAYS == 9
    assert cut_off(limit, ALWAYS, running=11) == ALWAYS, "the same servers count once"
    assert cut_off(ShareLimit(), 500, running=500) == 50


def test_the_window_moves_on():
    limit = ShareLimit()
    assert cut_off(limit, 20, running=20) == ALWAYS
    assert cut_off(limit, 20, running=11, now=WINDOW_SECONDS - 1, names="b") == 0
    assert cut_off(limit, 20, running=11, now=WINDOW_SECONDS, names="b") == ALWAYS


def test_servers_without_egress_do_not_use_up_the_limit_of_others():
    limit = ShareLimit()
    assert cut_off(limit, 1000, running=1000, has_egress=False, names="free") == 100
    assert cut_off(limit, 20, running=40) == ALWAYS


def test_servers_of_an_earlier_process_count_on_both_sides():
    limit = ShareLimit()
    limit.remember({f"old{one}": 0.0 for one in range(ALWAYS)})
    assert cut_off(limit, 5, running=20) == cut_off(limit, 5, running=20, has_egress=False) == 0
    assert limit.allows("old1", True, 20, 1.0)


def test_time_in_the_future_does_not_count_for_ever():
    """From a clock that was set back, or in a forged record."""
    limit = ShareLimit()
    limit.remember({f"old{one}": 1e10 for one in range(ALWAYS)})
    assert limit.allows("a", True, 20, 1000.0)
    limit.remember({f"ahead{one}": 1000.0 + WINDOW_SECONDS - 1 for one in range(ALWAYS)})
    assert not limit.allows("b", True, 20, 1000.0)


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(0, 299), st.floats(0, WINDOW_SECONDS / 2)), max_size=400))
def test_no_more_than_the_share_is_ever_cut_off(running, reports):
    """In any order: a share of the servers that ran at the beginning, within one window."""
    limit, acted = ShareLimit(), set()
    for one, now in sorted(reports, key=lambda report: report[1]):
        if limit.allows(str(one), True, running - len(acted), now):
            acted.add(one)
    assert len(acted) <= max(ALWAYS, MAX_SHARE * running)
