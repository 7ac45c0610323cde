"""The loop of tests that wait, tests/support/waiting.py: a wait that ends although nothing came would show in none of them."""

import pytest
import requests

from tests.support.waiting import eventually, patiently


def late():
    raise requests.Timeout("late")


def test_wait_in_vain_fails_and_says_why():
    with pytest.raises(AssertionError, match="no answer") as failed:
        eventually(late, 0.1, lambda: "no answer")
    assert str(failed.value.__cause__) == "late"
    with pytest.raises(AssertionError):
        eventually(lambda: 0, 0.1)
    with pytest.raises(requests.Timeout, match="late"):
        patiently(late, 0.1)
