"""Waiting until something has happened, and asking again where an answer did not come."""

import time
from collections.abc import Callable
from typing import TypeVar

import requests

from tests.support.cluster.patience import HUB_SECONDS

Result = TypeVar("Result")


def eventually(condition: Callable[[], object], seconds: float, what: object = "") -> None:
    """Wait until a condition holds.

    Args:
        condition: asked again and again. A request of it that has no answer, or whose connection is refused, is asked again too: a
            Service without a ready pod refuses.
        seconds: the limit, one of patience.py.
        what: what is wrong when it does not; a function is called then.

    Raises:
        AssertionError: it does not hold in time. The last answer that did not come is its cause.
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
    """What a browser or a person does when no answer comes or a connection breaks: try again. The last error is raised."""
    deadline = time.monotonic() + HUB_SECONDS
    while True:
        try:
            return call()
        except (requests.ConnectionError, requests.Timeout):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
