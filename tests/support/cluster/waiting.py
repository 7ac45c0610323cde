"""Waits until something has happened, and repeats requests without an answer."""

import time
from collections.abc import Callable
from typing import TypeVar

import requests

from tests.support.cluster.patience import HUB_SECONDS

Result = TypeVar("Result")


def eventually(condition: Callable[[], object], seconds: float, what: object = "") -> None:
    """Wait until a condition holds.

    Args:
        condition: called again and again, also if a request in it gets no answer or its connection is refused: a Service without a
            ready pod refuses.
        seconds: the limit, one of patience.py.
        what: the fault if it does not hold; a function is called then.

    Raises:
        AssertionError: it does not hold in time. The cause is the last failed request.
    """
    deadline = time.monotonic() + seconds
    while True:
        missing = None
        try:
            if condition():
                return
        except (requests.ConnectionError, requests.Timeout) as error:
            missing = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}") from missing
        time.sleep(0.2)


def patiently(call: Callable[[], Result]) -> Result:
    """Try again when no answer comes or a connection breaks, as a browser or a person does. The last error is raised."""
    deadline = time.monotonic() + HUB_SECONDS
    while True:
        try:
            return call()
        except (requests.ConnectionError, requests.Timeout):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
