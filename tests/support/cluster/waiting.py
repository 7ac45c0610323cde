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
        condition: asked again and again.
        seconds: the limit, one of patience.py.
        what: what is wrong when it does not; a function is called then.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
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
