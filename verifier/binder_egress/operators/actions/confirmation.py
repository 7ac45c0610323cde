"""Waiting for the reconciler's confirmation of an action."""

import time
from collections.abc import Callable

from ...model.grants import block_in
from ...model.records import Server
from .answers import ActionAnswer, RowAnswer, State, server_row
from .context import Operators

CONFIRMATION_WAIT_SECONDS = 2.0
"""Seconds for which an action waits for the reconciler's confirmation before it answers `pending`."""

CONFIRMATION_POLL_SECONDS = 0.05
"""Seconds between two questions to Redis for that confirmation. An unlock has its own (`web.servers.UNLOCK_POLL_SECONDS`)."""


def answer(operators: Operators, state: State, server: Server) -> ActionAnswer:
    """What an action on a server answers."""
    known = operators.store.known(server)
    if known is None:
        return {"state": state, "user": server.user}
    with_row: RowAnswer = {"state": state, **server_row(server, known, operators.clock())}
    return with_row


def await_grant(operators: Operators, servers: list[Server], grant: str, stop: bool = False) -> State:
    """`done` if, within `CONFIRMATION_WAIT_SECONDS`, each pod carries this grant or a block of its own, or is gone. With `stop`,
    the API server has to have accepted the deletion of each, too (D-390)."""

    def done() -> bool:
        published = operators.store.known_of(servers)
        blocked = {known.grant.id for known in published.values() if block_in(known.grant, operators.clock())} - {grant}
        wanted = {grant} | blocked - operators.store.lifted(blocked)
        if not all(known.grant.id in wanted for known in published.values()):
            return False
        return not stop or all(operators.store.pending(server, set()).stop != known.uid for server, known in published.items())

    return _confirmed(done)


def await_end(operators: Operators, grants: set[str]) -> State:
    """`done` if no pod carries one of these grants any more within `CONFIRMATION_WAIT_SECONDS`."""
    # Listed once: there may be thousands of servers, and this checks twenty times a second.
    carry = [server for server, known in operators.store.all_known().items() if known.grant.id in grants]
    return _confirmed(lambda: not any(known.grant.id in grants for known in operators.store.known_of(carry).values()))


def _confirmed(done: Callable[[], bool]) -> State:
    """The state by `until`. Ctrl-C ends the wait, and cannot end what is recorded already."""
    try:
        return "done" if until(done) else "pending"
    except KeyboardInterrupt:
        return "pending"


def until(done: Callable[[], bool]) -> bool:
    """Whether something is done within `CONFIRMATION_WAIT_SECONDS`."""
    ends = time.monotonic() + CONFIRMATION_WAIT_SECONDS
    while not done():
        if time.monotonic() > ends:
            return False
        time.sleep(CONFIRMATION_POLL_SECONDS)
    return True
