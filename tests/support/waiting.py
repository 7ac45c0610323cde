"""Waits until something has happened, and repeats requests without an answer: the one loop of all tests that wait."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import requests

from binder_egress.store.errors import StoreUnavailable

Result = TypeVar("Result")
Errors = tuple[type[Exception], ...]

USUAL_SECONDS = 60
"""The limit for what happens at once, on a busy machine. The limits of the cluster tests are in cluster/timeouts.py."""

NO_ANSWER: Errors = (requests.ConnectionError, requests.Timeout, StoreUnavailable)
"""The errors of a request without an answer: a Service without a ready pod refuses connections, and Redis may be away."""


def eventually(
    condition: Callable[[], Result], seconds: float = USUAL_SECONDS, what: object = "", no_answer: Errors = NO_ANSWER
) -> Result:
    """Wait until a condition holds. Returns what the condition returned.

    `what` is what the failure says, or a function that says it. Errors of `no_answer` do not end the wait.
    """
    missing = None
    for _ in _turns(seconds):
        try:
            if found := condition():
                return found
            missing = None
        except no_answer as error:
            missing = error
    raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}") from missing


def patiently(call: Callable[[], Result], seconds: float, no_answer: Errors = NO_ANSWER) -> Result:
    """Try again when no answer comes or a connection breaks, as a browser or a person does. The last error is raised."""
    for is_last in _turns(seconds):
        try:
            return call()
        except no_answer:
            if is_last:
                raise
    raise AssertionError("the last turn returns or raises")


def _turns(seconds: float) -> Iterator[bool]:
    """The turns of a loop, with a pause after each: whether it is the last one. Pauses grow from 0.01 s to 0.2 s."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) <= seconds:
        yield False
        time.sleep(min(0.2, 0.01 + waited / 10))
    yield True
