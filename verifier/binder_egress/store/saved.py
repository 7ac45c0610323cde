"""What outlives Redis: the blocks of repositories and networks, and the revoked API keys. The reconciler saves them in a ConfigMap,
and enters them into a Redis that is new or was lost (D-555)."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

from typing_extensions import TypedDict  # as in `model.records`

from ..model.grants import Block
from ..model.serialization import read_block, reader, write_block
from .base import Operations, readable, unavailable
from .blocks import load_blocks
from .keys import redis_key

MAX_SAVED_BYTES = {"blocks": 512 * 1024, "revoked": 64 * 1024}
"""The most of each that is saved: some 3,000 blocks, and 3,800 keys. A ConfigMap may have 1 MiB."""

Lines = dict[str, list[str]]
"""What is to be saved: `blocks` and `revoked`, each as lines."""


class Restoration(TypedDict):
    """What was entered into this Redis.

    Attributes:
        at: Unix time in seconds.
        lost: whether anything was saved before; False: it is the first Redis.
        blocks, keys: how many were entered.
        unreadable: the number of lines that are no block of a repository or a network, and no key.
    """

    at: int
    lost: bool
    blocks: int
    keys: int
    unreadable: int


_read_restoration = reader(Restoration)


class ReconcilerSaved(Operations):
    """Reads what must outlive Redis, and enters it again."""

    def restoration(self) -> Restoration | None:
        """What was entered into this Redis; None: nothing was yet, and nothing is granted."""
        (text,) = self._read_all(["restored"])
        return readable(text, _read_restoration, "restored")

    def to_save(self) -> Lines:
        """What must outlive Redis, without reasons, which people write as they like. What detectors block are servers, whose pods
        remember it."""
        revoked = self._hash("revoked")
        # Blocks come last: if Redis was lost in between, they are an error.
        _, blocks = self._read([], with_blocks=True)
        return _lines(tuple(revoked), tuple(blocks.items()))

    def restore(self, saved: Mapping[str, str], now: float) -> bool:
        """Enter what was saved, unless another reconciler has.

        Args:
            saved: what `data_of` returned, empty if it never did. Anybody may have changed it since.
            now: Unix time in seconds.

        Returns:
            Whether it was entered.
        """
        lines = lines_of(saved)
        blocks = {block.id: write_block(block) for block in map(read_block, lines["blocks"]) if block and _lasts(block)}
        keys = dict.fromkeys(filter(_is_key, lines["revoked"]), "")
        said = Restoration(
            at=int(now),
            lost=bool(saved),
            blocks=len(blocks),
            keys=len(keys),
            unreadable=sum(map(len, lines.values())) - len(blocks) - len(keys),
        )
        names = [redis_key("restored"), redis_key("blocks"), redis_key("revoked")]
        with unavailable():
            return bool(self._run("restore", names, [json.dumps(content) for content in (said, blocks, keys)]))


@lru_cache(maxsize=1)
def _lines(revoked: tuple[str, ...], blocks: tuple[tuple[str, str], ...]) -> Lines:
    """The lines of these keys and blocks. The last are kept, because they are asked for every second."""
    lasting = filter(_lasts, load_blocks(dict(blocks)))
    return {
        "blocks": [write_block(replace(block, why="")) for block in lasting],
        "revoked": sorted(filter(_is_key, revoked)),
    }


def data_of(lines: Lines) -> dict[str, str]:
    """The data of the ConfigMap: the first lines, as far as they fit into `MAX_SAVED_BYTES`."""
    data = {}
    for name, each in lines.items():
        lengths = accumulate(len(line) + 1 for line in each)
        data[name] = "\n".join(line for line, length in zip(each, lengths, strict=True) if length <= MAX_SAVED_BYTES[name])
    return data


def lines_of(data: Mapping[str, str]) -> Lines:
    """The lines in the data of a ConfigMap."""
    return {name: [line for line in data.get(name, "").split("\n") if line] for name in MAX_SAVED_BYTES}


def _lasts(block: Block) -> bool:
    return block.kind != "server"


def _is_key(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{16}", text) is not None
