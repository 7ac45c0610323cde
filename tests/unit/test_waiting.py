"""The loop of tests that wait, tests/support/waiting.py: a wait that ends too early, or never, would show in none of them."""

import pytest
import requests

from tests.support.waiting import eventually, patiently


def answers(*given):
    """A question with these answers, one after the other; errors are raised, and the last one comes again and again."""
    left = list(given)

    def ask():
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


def test_wait_ends_with_what_the_condition_returned_or_says_what_is_missing_and_why():
    assert eventually(answers(0, None, requests.ConnectionError("away"), "yes")) == "yes"
    with pytest.raises(AssertionError, match="no answer") as failed:
        eventually(answers(0, requests.Timeout("late")), 1, lambda: "no answer")
    assert (str(failed.value), str(failed.value.__cause__)) == ("not within 1 s: no answer", "late")


def test_answer_is_taken_as_it_is_and_the_last_error_raised():
    assert patiently(answers(requests.ConnectionError("away"), 0), 60) == 0
    with pytest.raises(requests.Timeout, match="late"):
        patiently(answers(requests.ConnectionError("away"), requests.Timeout("late")), 1)
