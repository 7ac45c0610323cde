"""Promises: what a launch carries whose solution is still to come.

BinderHub's page draws a promise and sends it with the build request at once, in the place of a pass. The solution comes later and
names it; the pass that it earns then **keeps** the promise, and the launch that was announced with it gets that pass (D-440).

A promise is random, unsigned and worth nothing by itself. It is known by its text and by the client's network together, so whoever
reads one in a log elsewhere gets nothing with it (D-441).
"""

import re

PATTERN = "^promise-[0-9a-f]{32}$"
"""A promise: a prefix, and 128 random bits."""

_PROMISE = re.compile(PATTERN, re.ASCII)


def is_promise(token: str) -> bool:
    """Whether the token of a launch is a promise, and no pass."""
    return _PROMISE.fullmatch(token) is not None
