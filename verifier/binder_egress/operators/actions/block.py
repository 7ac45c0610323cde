"""Block a server, a repository or a client network."""

from ...decisions.refusals import Facts, applies
from ...decisions.server_blocks import own_block
from ...model.grants import Block, BlockKind, Origin, new_id
from ...model.networks import IPNetwork
from ...model.serialization import write_block
from ...store.saved import MAX_SAVED_BYTES
from .answers import BlockAnswer, block_row
from .confirmation import await_grant, seen
from .context import ActionRefused, Operators, network_of, pattern_of

WIDEST_BLOCK = {4: 8, 6: 16}
"""The shortest prefix of a network that an operator may block, by the version of IP."""


def block(operators: Operators, kind: BlockKind, what: str, by: str, why: str, until: float | None = None) -> BlockAnswer:
    """Block a server, a repository or a client network: no server that it applies to keeps its tier or gets one.

    Args:
        kind: what to block.
        what: a server as in `find`, a repository or `…/*`, or an address or CIDR.
        until: Unix time in seconds of its end; None: it has none.

    Raises:
        ActionRefused: no such server runs, `what` cannot be read, it is blocked already, or there are too many blocks.
    """
    uid, others = "", list[Block]()
    if kind == "server":
        server = operators.find(what)
        known = operators.known(server)
        what, uid, own = server.key, known.uid, own_block(operators.store, server, known, operators.clock())
        same = [own] if own else []
    else:
        what = str(_clients(what)) if kind == "network" else pattern_of(what)
        others = [old for old in operators.store.blocks() if old.kind != "server" and not old.is_over(operators.clock())]
        same = [old for old in others if (old.kind, old.what) == (kind, what)]
    # Two operators at the same moment make two blocks. Each holds until it is removed, so nothing opens too early.
    if same:
        old = same[0]
        raise ActionRefused("refused", f"It is already blocked, by {old.origin.text}: {old.id}. Remove that block to change it.")
    origin, ends = Origin("operator", text=by), None if until is None else int(until)
    new = Block(new_id(), kind, what, origin, why, int(operators.clock()), ends, uid)
    if sum(len(write_block(each)) for each in [*others, new]) > MAX_SAVED_BYTES["blocks"]:
        raise ActionRefused("refused", f"There are {len(others)} such blocks, which is all that can be kept: remove some.")
    servers = [server for server, known in operators.store.all_known().items() if applies(new, Facts.of(known), operators.clock())]
    operators.store.add_block(new, servers)
    operators.log("block", by, why, kind=kind, what=what, until=until, block=new.id, servers=len(servers))
    state, not_acted = seen(operators, await_grant(operators, servers, new.id), servers)
    return {"state": state, "block": new.id, "what": block_row(new)["what"], "servers": len(servers), "not_acted": not_acted}


def _clients(text: str) -> IPNetwork:
    """A network that may be blocked. What a wrong prefix (`/2` for `/24`) takes from everybody does not come back."""
    network = network_of(text)
    if network.prefixlen < (widest := WIDEST_BLOCK[network.version]):
        raise ActionRefused("bad-request", f"network: {network} is wider than a /{widest}. `mode: deny` closes the gate for all.")
    return network
