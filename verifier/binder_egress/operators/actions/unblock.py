"""Remove a block."""

from ...decisions.refusals import Facts, applies
from ...decisions.server_blocks import own_blocks
from .answers import UnblockAnswer
from .confirmation import await_end, carrying
from .context import ActionRefused, CommandOperators
from .lists import blocks


def unblock(operators: CommandOperators, block: str, by: str, why: str = "") -> UnblockAnswer:
    """Remove a block. Its servers then have no egress, but can be unlocked. The tier that they had before does not come back.

    Args:
        block: the block's id, or a server that has a block of its own; if it has several, all of them are removed.

    Returns:
        The id of the block, of several the one that would have ended last.

    Raises:
        ActionRefused: there is no such block, or the server has none of its own.
    """
    standing = {row["id"]: row for row in blocks(operators)}
    removed = [block]
    if block not in standing:
        try:
            server = operators.find(block)
        except ActionRefused:
            raise ActionRefused(
                "no-such-block", f"There is no block {block!r}, and no such server. `egress blocks` lists them."
            ) from None
        known = operators.known(server)
        own = own_blocks(operators.store, server, known, operators.clock())
        # A block may not be on the pod yet.
        applying = own or [other for other in operators.store.blocks() if applies(other, Facts.of(known), operators.clock())]
        block = next((one.id for one in applying), known.grant.id)
        removed = [one.id for one in own] or [block]
        if block not in standing:
            raise ActionRefused("no-such-block", f"{server.title} is not blocked.")
        if standing[block]["kind"] != "server":
            raise ActionRefused("refused", f"The server shares its block with others: remove {block}.")
    carry = carrying(operators, set(removed))
    for identity in removed:
        operators.store.remove_block(identity)
        operators.log("unblock", by, why, block=identity, kind=standing[block]["kind"], what=standing[block]["what"])
    return {"state": await_end(operators, set(removed), carry), "block": block}
