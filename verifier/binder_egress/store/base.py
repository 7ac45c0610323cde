"""What all operations on Redis are built on: the connection, its scripts, its failures and its answers."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeVar

import redis
from redis.commands.core import Script

from ..model.serialization import reader
from .errors import StoreUnavailable
from .keys import (
    MAX_ANSWER_BYTES,
    MAX_BLOCKS_BYTES,
    MAX_SERVER_BYTES,
    MAX_TEXT_BYTES,
    PREFIX,
    WITHDRAWN_TTL_SECONDS,
    max_bytes,
    redis_key,
)

Read = TypeVar("Read")

log = logging.getLogger("binder-egress")

CONSTANTS = "".join(
    f"local {name} = {value}\n"
    for name, value in (
        ("PREFIX", f"'{PREFIX}'"), ("WITHDRAWN_TTL_SECONDS", WITHDRAWN_TTL_SECONDS), ("MAX_TEXT_BYTES", MAX_TEXT_BYTES),
        ("MAX_ANSWER_BYTES", MAX_ANSWER_BYTES), ("MAX_BLOCKS_BYTES", MAX_BLOCKS_BYTES),
    )
)  # fmt: skip
"""What stands in front of each script."""

TEXTS_AT_ONCE = 1000
"""The most texts that are read in one go. Redis must answer within `TIMEOUT_SECONDS`, and serves nobody else meanwhile."""

SAY_SECONDS = 60.0
"""Seconds between two lines about texts of one kind that cannot be read."""

_said: dict[str, float] = {}  # by kind: when such a line was last logged, monotonic seconds


class Operations:
    """Operations on Redis. Each subject derives classes from this; `store.py` says which a process has.

    `_wakes` is the list by which the process wakes the reconciler.

    Every method raises `StoreUnavailable` if Redis fails.

    Args:
        client: a connection with `decode_responses`.
    """

    _wakes = "wake"

    def __init__(self, client: redis.Redis):
        self._redis = client
        self._scripts: dict[str, Script] = {}

    def _run(self, name: str, keys: list[str], args: Sequence[Any], client: redis.Redis | None = None) -> Any:
        """Run the script `lua/<name>.lua`, or have a pipeline run it."""
        if name not in self._scripts:
            folder = resources.files(__package__) / "lua"
            parts = (CONSTANTS, *((folder / f"{part}.lua").read_text() for part in ("common", name)))
            self._scripts[name] = self._redis.register_script("".join(parts))
        return self._scripts[name](keys, args, client)

    def _read(self, names: Sequence[str], with_blocks: bool = False) -> tuple[list[Any], dict[str, str]]:
        """Read texts, and all blocks, in one round trip.

        Args:
            names: the keys of the texts.
            with_blocks: whether to read the blocks.

        Returns:
            The texts of the first keys, as many as fit into `MAX_ANSWER_BYTES` and one at least: None if there is none, empty if it
            is longer than its kind can be, and so was not read (D-517). The blocks, by id, in the same way.
        """
        limits = [part for name in names for part in (redis_key(name), max_bytes(name))]
        with unavailable():
            texts, blocks = self._run("read", [], [redis_key("blocks") if with_blocks else "", *limits])
        return texts, _by_name(blocks)

    def _read_all(self, names: Sequence[str]) -> Iterator[str | None]:
        """Read texts as `_read` does, in as many round trips as they take."""
        while names:
            texts, _ = self._read(names[:TEXTS_AT_ONCE])
            yield from texts
            names = names[len(texts) :]

    def _hash(self, name: str) -> dict[str, str]:
        """Read a hash, as far as it fits into `MAX_ANSWER_BYTES`. What is longer than it can be is empty."""
        with unavailable():
            return _by_name(self._run("read_hash", [], [redis_key(name), max_bytes(name)]))

    def _names(self, pattern: str) -> list[str]:
        """The keys of a pattern, which may have a key twice."""
        cursor, names = "0", list[str]()
        with unavailable():
            while True:
                cursor, some = self._run("scan", [], [cursor, redis_key(pattern), len(redis_key(pattern)) + MAX_SERVER_BYTES])
                names += (name.removeprefix(redis_key("")) for name in some)
                if cursor == "0":
                    return names

    def _begin_with(self, types: Mapping[str, str], client: redis.Redis) -> None:
        self._run(
            "begin",
            keys=[redis_key("epoch")],
            args=[part for name, kind in types.items() for part in (redis_key(name), kind)],
            client=client,
        )


@contextmanager
def unavailable() -> Iterator[None]:
    """Turn every failure of Redis into `StoreUnavailable`."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis: {type(error).__name__}: {error}") from error


def _by_name(fields: list[Any]) -> dict[str, str]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def as_text(answer: Any) -> str | None:
    """A text in an answer from Redis, whose types also allow bytes. The connection decodes them."""
    return answer if isinstance(answer, str) else None


def as_texts(answer: Mapping[Any, Any]) -> dict[str, str]:
    """A hash in an answer from Redis, whose types also allow bytes."""
    return {str(name): str(value) for name, value in answer.items()}


def as_number(answer: Any, kind: str) -> float | None:
    """A number in an answer from Redis; None if there is none, or something else (`readable`)."""

    def number(text: str) -> float | None:
        try:
            return value if math.isfinite(value := float(text)) else None
        except ValueError:
            return None

    return readable(answer, number, kind)


def as_numbers(answer: Mapping[Any, Any], kind: str) -> dict[str, int]:
    """A hash of whole numbers in an answer from Redis, without what is none (`readable`)."""
    numbers = {str(name): as_number(value, kind) for name, value in answer.items()}
    return {name: int(number) for name, number in numbers.items() if number is not None}


def readable(answer: Any, loads: Callable[[str], Read | None], kind: str) -> Read | None:
    """What a text in an answer from Redis says. Whoever can write to Redis may have written anything, so a text that cannot be read
    counts as none, and is logged from time to time (D-387).

    Args:
        answer: the text; None: there is none; empty: it was not read (`Operations._read`).
        loads: reads it, and returns None if it cannot.
        kind: the kind of key that it is from, for the log.
    """
    text = as_text(answer)
    if text is None:
        return None
    content = loads(text) if text else None
    if content is None and time.monotonic() - _said.get(kind, -math.inf) >= SAY_SECONDS:
        _said[kind] = time.monotonic()
        log.warning("something in Redis cannot be read, and counts as nothing", extra={"fields": {"key": kind}})
    return content


json_object = reader(dict[str, Any])
"""Reads an object of any form in JSON."""
