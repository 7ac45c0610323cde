"""Waiting for the reconciler's confirmation of an action."""

import time
from collections.abc import Callable

from ...decisions.acted import WAIT_SECONDS, is_slow, why_not
from ...model.grants import block_in
from ...model.records import Server
from .answers import ActionAnswer, NotActed, RowAnswer, State, server_row
from .context import Operators

CONFIRMATION_WAIT_SECONDS = 2.0
"""Seconds for which an action waits for the reconciler's confirmation before it answers `pending`."""

CONFIRMATION_POLL_SECONDS = 0.05
"""Seconds between two questions to Redis for that confirmation. An unlock has its own (`web.servers.UNLOCK_POLL_SECONDS`)."""


def answer(operators: Operators, state: State, server: Server, not_acted: list[NotActed] | None = None) -> ActionAnswer:
    """What an action on a server answers."""
    known = operators.store.known(server)
    found: ActionAnswer = {"state": state, "user": server.user}
    if not_acted is not None:
        found["not_acted"] = not_acted
    if known is None:
        return found
    with_row: RowAnswer = {**server_row(server, known, operators.clock()), **found}
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


def carrying(operators: Operators, grants: set[str]) -> list[Server]:
    """The servers that carry one of these grants."""
    return [server for server, known in operators.store.all_known().items() if known.grant.id in grants]


def await_end(operators: Operators, grants: set[str], carry: list[Server]) -> State:
    """`done` if none of these servers carries one of these grants any more within `CONFIRMATION_WAIT_SECONDS`. They are listed
    once: there may be thousands of servers, and this checks twenty times a second."""
    return _confirmed(lambda: not any(known.grant.id in grants for known in operators.store.known_of(carry).values()))


def await_acted(operators: Operators, servers: list[Server]) -> list[NotActed]:
    """The nodes of these servers on which a label that was just taken off is not seen to act, `WAIT_SECONDS` at most (D-568).

    What counts is a measurement that ended after this began. Where labels are known to act late, nobody waits for one.
    """
    by_node: dict[str, list[str]] = {}
    for server, known in operators.store.known_of(servers).items():
        if known.node and operators.settings.mode != "observe":
            by_node.setdefault(known.node, []).append(server.title)
    before = operators.store.measured() if by_node else {}
    # Nobody measures at all if no node has a canary of its own.
    waited = [node for node in by_node if before and not is_slow(before.get(node, {}))]

    def have_acted() -> bool:
        measured = operators.store.measured()
        return all(measured.get(node, {}).get("at") != before.get(node, {}).get("at") for node in waited)

    if waited:
        operators.store.ask_to_measure(waited)
        _confirmed(have_acted, WAIT_SECONDS)
    after = operators.store.measured() if by_node else {}
    found = {node: why_not(node, after.get(node), before.get(node, {}), operators.clock()) for node in by_node}
    return [{"node": node, "servers": by_node[node], "why": why} for node, why in found.items() if why]


def seen(operators: Operators, state: State, servers: list[Server]) -> tuple[State, list[NotActed]]:
    """The state of an action that takes the label off these servers, once the reconciler has done so, and where it does not act."""
    not_acted = await_acted(operators, servers) if state == "done" else []
    return "pending" if not_acted else state, not_acted


def _confirmed(done: Callable[[], bool], seconds: float | None = None) -> State:
    """The state by `until`. Ctrl-C ends the wait, and cannot end what is recorded already."""
    try:
        return "done" if until(done, seconds) else "pending"
    except KeyboardInterrupt:
        return "pending"


def until(done: Callable[[], bool], seconds: float | None = None) -> bool:
    """Whether something is done within some seconds, by default `CONFIRMATION_WAIT_SECONDS`."""
    ends = time.monotonic() + (CONFIRMATION_WAIT_SECONDS if seconds is None else seconds)
    while not done():
        if time.monotonic() > ends:
            return False
        time.sleep(CONFIRMATION_POLL_SECONDS)
    return True
