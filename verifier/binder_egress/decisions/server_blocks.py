"""The blocks that one server alone has."""

import math

from ..model.grants import Block, Blocked, block_in
from ..model.records import KnownServer, Server
from ..store.blocks import Blocks


def own_block(store: Blocks, server: Server, known: KnownServer, now: float) -> Block | None:
    """The first of `own_blocks`, or None."""
    return next(iter(own_blocks(store, server, known, now)), None)


def own_blocks(store: Blocks, server: Server, known: KnownServer, now: float) -> list[Block]:
    """The blocks that only this server has, the one that ends last first. One that only its pod remembers counts as its own, unless
    it was removed. Only the server's present pod is meant, not a later one (D-062).

    Args:
        store: Redis.
        server: the server.
        known: what is known of it.
        now: Unix time in seconds.
    """
    blocks = store.blocks()
    own = [block for block in blocks if block.kind == "server" and block.uid == known.uid and not block.is_over(now)]
    if own:
        return sorted(own, key=lambda block: -math.inf if block.until is None else -block.until)
    carried = carried_block(store, known, now)
    return [carried_by(server, known, carried)] if carried and carried.id not in {block.id for block in blocks} else []


def carried_block(store: Blocks, known: KnownServer, now: float) -> Blocked | None:
    """The block that a pod carries, if it was not removed. The reconciler takes a removed one from each pod a little later."""
    carried = block_in(known.grant, now)
    return carried if carried and not store.lifted([carried.id]) else None


def carried_by(server: Server, known: KnownServer, carried: Blocked) -> Block:
    """The block that a pod carries, as a block of its server."""
    return Block(carried.id, "server", server.key, carried.origin, carried.why, carried.at, carried.until, known.uid)
