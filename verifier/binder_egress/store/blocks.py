"""The operators' blocks, and how a script notices that they have changed."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from ..detections.share_limit import in_window
from ..model.grants import Block, Rule
from ..model.records import Server
from ..model.serialization import read_block, write_block
from .base import Operations, readable, unavailable
from .errors import BlocksChanged, LaunchDecided
from .keys import EVERYTHING, WITHDRAWN_TTL_SECONDS, redis_key

Judge = Callable[[Sequence[Block]], Rule | None]
"""A function from blocks to the rule by which they refuse a client, or None."""


@dataclass(frozen=True)
class SeenBlocks:
    """The blocks that a script last returned (D-368).

    Attributes:
        version: the version that the script has for exactly these; empty if there are none.
        blocks: the blocks, the oldest first.
    """

    version: str
    blocks: list[Block]

    @classmethod
    def told(cls, version: str, blocks: list[str]) -> "SeenBlocks":
        """The blocks that a script returned: each block's id, followed by the block."""
        return cls(version, load_blocks(dict(zip(blocks[::2], blocks[1::2], strict=True))))


class Blocks(Operations):
    """The operators' blocks.

    Attributes:
        seen_blocks: the blocks that this process last saw. If there are others by now, the script that writes a decision says so.
    """

    def __init__(self, client: redis.Redis):
        super().__init__(client)
        self.seen_blocks = SeenBlocks("", [])

    def blocks(self) -> list[Block]:
        """All blocks, the oldest first; some may have ended."""
        _, blocks = self._read([], with_blocks=True)
        return load_blocks(blocks)

    def add_block(self, block: Block, servers: Iterable[Server], replace: bool = False) -> None:
        """Add a block, and wake the reconciler: first for the servers that it is known to apply to, and then for all servers. The
        block of a server wakes it for that one alone: strangers' programs can cause many, through a detector's reports.

        Args:
            block: the block.
            servers: the servers that it is known to apply to.
            replace: whether it replaces one with the same id. The verifier may not do that.
        """
        with unavailable():
            pipe = self._redis.pipeline()
            self._run("add_block", [], ["HSET" if replace else "HSETNX", block.id, write_block(block)], pipe)
            # D-063
            others = [block.what] if block.kind == "server" else [EVERYTHING]
            pipe.rpush(redis_key(self._wakes), *(server.key for server in servers), *others)
            pipe.execute()

    def lifted(self, blocks: Iterable[str]) -> set[str]:
        """The given blocks that an operator removed. Pods may still carry them."""
        asked = sorted(blocks)
        with unavailable():
            marks = self._redis.mget([redis_key(f"lifted:{block}") for block in asked]) if asked else []
        return {block for block, mark in zip(asked, marks, strict=True) if mark}

    def _unless_changed(self, answer: list[Any]) -> list[Any]:
        """The answer of a script that compares the blocks first.

        Raises:
            BlocksChanged: the blocks have changed, and `seen_blocks` has the new ones.
            LaunchDecided: a launch comes too late.
        """
        outcome, *rest = answer
        if outcome == "launch-decided":
            raise LaunchDecided
        if outcome == "blocks-changed":
            self.seen_blocks = SeenBlocks.told(*rest)
            raise BlocksChanged
        return answer


class ReconcilerBlocks(Blocks):
    """Removes and replaces blocks, which the verifier may not (D-242)."""

    def remove_block(self, block: str) -> None:
        """Remove a block, including from the pods that carry it."""
        with unavailable():
            pipe = self._redis.pipeline()
            pipe.hdel(redis_key("blocks"), block)
            pipe.set(redis_key(f"lifted:{block}"), 1, ex=WITHDRAWN_TTL_SECONDS)
            pipe.rpush(redis_key(self._wakes), EVERYTHING)
            pipe.execute()

    def forget_ended_blocks(self, now: float, pods: Container[str] | None = None) -> None:
        """Forget the blocks that have ended. The reconciler calls this from time to time.

        Args:
            now: Unix time in seconds.
            pods: the uids of all user pods; None: they are not known yet.
        """
        if over := [block.id for block in self.blocks() if _is_over(block, now, pods)]:
            with unavailable():
                self._redis.hdel(redis_key("blocks"), *over)


def load_blocks(stored: Mapping[str, str]) -> list[Block]:
    """The blocks of the hash `blocks`, the oldest first. One that this version cannot read is left out."""
    blocks = [readable(text, read_block, "blocks") for text in stored.values()]
    return sorted(filter(None, blocks), key=lambda block: block.at)


def _is_over(block: Block, now: float, pods: Container[str] | None) -> bool:
    """Whether a block has ended. The block of a server may be forgotten after a while, because its pod carries it, and soon after
    its pod ends, because it applies to no other. Until then the share limit counts it (D-343)."""
    if block.is_over(now):
        return True
    is_gone = pods is not None and block.uid not in pods and not in_window(block.at, now)
    return block.kind == "server" and (is_gone or block.at + WITHDRAWN_TTL_SECONDS < now)
