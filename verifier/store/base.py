"""What all operations on Redis are built on: the connection, its scripts, its failures and its answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from typing import Any

import redis
from redis.commands.core import Script

from .errors import StoreUnavailable
from .keys import redis_key


class Operations:
    """Operations on Redis. Each subject derives a class from this; `Store` is all of them together.

    Every method raises `StoreUnavailable` if Redis fails.

    Args:
        client: a connection with `decode_responses`.
    """

    def __init__(self, client: redis.Redis):
        self._redis = client
        self._begin = self._script("begin")

    def _script(self, name: str) -> Script:
        """The script `lua/<name>.lua`, registered with the connection."""
        folder = resources.files(__package__) / "lua"
        return self._redis.register_script((folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text())

    def ping(self) -> None:
        """Return if Redis answers. This gives a new or wiped Redis its epoch, before the first challenge is issued."""
        with unavailable():
            self._begin(keys=[redis_key("epoch")])

    def open_connections(self, number: int) -> None:
        """Open connections until the pool has the given number. Later requests then need not ask DNS for Redis' address (D-377)."""
        pool = self._redis.connection_pool
        if sum(count for count, _ in pool.get_connection_count()) >= number:
            return
        opened: list[redis.Connection] = []
        try:
            with unavailable():
                while len(opened) < number:
                    opened.append(pool.get_connection())
        finally:
            for connection in opened:
                pool.release(connection)


@contextmanager
def unavailable() -> Iterator[None]:
    """Turn every failure of Redis into `StoreUnavailable`."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis: {type(error).__name__}: {error}") from error


def as_text(answer: Any) -> str | None:
    """A text in an answer from Redis, whose types also allow bytes. The connection decodes them."""
    return answer if isinstance(answer, str) else None


def as_texts(answer: Mapping[Any, Any]) -> dict[str, str]:
    """A hash in an answer from Redis, whose types also allow bytes."""
    return {str(name): str(value) for name, value in answer.items()}


def as_numbers(answer: Mapping[Any, Any]) -> dict[str, int]:
    """A hash of numbers in an answer from Redis."""
    return {str(name): int(value) for name, value in answer.items()}
