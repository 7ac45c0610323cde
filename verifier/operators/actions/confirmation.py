"""Waiting for the reconciler's confirmation of an action."""

import time
from collections.abc import Callable
from typing import Any

from ...grants import block_in
from ...records import Server
from .context import Operators
from .rows import server_row

CONFIRMATION_WAIT_SECONDS = 2.0
"""Seconds for which an action waits for the reconciler's confirmation before it answers `pending`."""

CONFIRMATION_POLL_SECONDS = 0.05
"""Seconds between two questions to Redis for that confirmation. An unlock has its own (`web.servers.UNLOCK_POLL_SECONDS`)."""


def answer(operators: Operators, done: bool, server: Server) -> dict[str, Any]:
    """What an action on a server answers: `state`, and the server's row."""
    known = operators.store.known(server)
    return {"state": "done" if done else "pending"} | (
        server_row(server, known, operators.clock()) if known else {"user": server.user}
    )


def await_grant(operators: Operators, servers: list[Server], grant: str, stop: bool = False) -> bool:
    """Whether, within `CONFIRMATION_WAIT_SECONDS`, each pod carries this grant or a block of its own, or is gone. With `stop`,
    the API server has to have accepted the deletion of each, too (D-390)."""

    def done() -> bool:
        published = operators.store.known_of(servers)
        blocked = {known.grant.id for known in published.values() if block_in(known.grant, operators.clock())} - {grant}
        wanted = {grant} | blocked - operators.store.lifted(blocked)
        if not all(known.grant.id in wanted for known in published.values()):
            return False
        return not stop or all(operators.store.pending(server, set()).stop != known.uid for server, known in published.items())

    return _confirmed(done)


def await_end(operators: Operators, grants: set[str]) -> bool:
    """Whether no pod carries one of these grants any more, within `CONFIRMATION_WAIT_SECONDS`."""
    # Listed once: there may be thousands of servers, and this checks twenty times a second.
    carry = [server for server, known in operators.store.all_known().items() if known.grant.id in grants]
    return _confirmed(lambda: not any(known.grant.id in grants for known in operators.store.known_of(carry).values()))


def _confirmed(done: Callable[[], bool]) -> bool:
    """As `until`. Ctrl-C ends the wait, and cannot end what is recorded already."""
    try:
        return until(done)
    except KeyboardInterrupt:
        return False


def until(done: Callable[[], bool]) -> bool:
    """Whether something is done within `CONFIRMATION_WAIT_SECONDS`."""
    ends = time.monotonic() + CONFIRMATION_WAIT_SECONDS
    while not done():
        if time.monotonic() > ends:
            return False
        time.sleep(CONFIRMATION_POLL_SECONDS)
    return True
