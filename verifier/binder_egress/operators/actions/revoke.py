"""Take a server's tier away and block it."""

from ...decisions.server_blocks import own_block
from ...model.grants import Block, Origin, new_id
from ...model.records import Server
from .answers import ActionAnswer
from .confirmation import answer, await_grant, seen
from .context import ActionRefused, CommandOperators, Operators


def revoke(operators: Operators, server: Server, by: str, why: str, stop: bool = False) -> ActionAnswer:
    """Take a server's tier away and block it.

    Args:
        stop: whether to delete its pod too, which only a command may (D-242).

    Raises:
        ActionRefused: no such server runs, or the reconciler may not stop pods.
    """
    if stop and not operators.settings.may_stop_pods:
        raise ActionRefused("refused", "The reconciler may not stop pods: set reconciler.mayStopPods: true in the chart's values.")
    known = operators.known(server)
    own = own_block(operators.store, server, known, operators.clock())
    # A block with an end, or one that it shares with other servers, may end before an operator removes it (D-070).
    if own is None or own.until is not None:
        replace = own is not None and isinstance(operators, CommandOperators)
        identity = own.id if own and replace else new_id()
        own = Block(identity, "server", server.key, Origin("operator", text=by), why, int(operators.clock()), uid=known.uid)
        operators.store.add_block(own, [server], replace)
    if stop and isinstance(operators, CommandOperators):
        operators.store.ask_to_stop(server, known.uid)
    operators.log("revoke", by, why, user=server.user, server=server.name, stop=stop, block=own.id)
    state = await_grant(operators, [server], own.id, stop)
    # A pod that ends needs no network plugin.
    state, not_acted = seen(operators, state, [] if stop else [server])
    return answer(operators, state, server, not_acted)
