"""What the reconciler is told, and its heartbeat and counters."""

import json
import time
from collections.abc import Iterable
from typing import Any

from ..model.records import Woken
from .base import Operations, as_number, as_numbers, json_object, readable, unavailable
from .keys import EVERYTHING, NODE, RECONCILER_TYPES, max_bytes, redis_key
from .reconciler_counters import TIMES

HEARTBEAT_TTL_SECONDS = 30
"""Seconds without a heartbeat after which the reconciler counts as gone. One comes every second
(`reconciler.loop.HEARTBEAT_SECONDS`)."""

MAX_WOKEN = 1000
"""The most entries of `wake` that are read at once, every `WAKE_POLL_SECONDS`. A verifier writes a few dozen a second."""

WAKE_POLL_SECONDS = 0.1
"""Seconds between two looks at `wake`. An unlock waits for it; commands do not."""


class ReconcilerState(Operations):
    """Wakes the reconciler, and reads what it says of itself."""

    def wake_all(self) -> None:
        """Have the reconciler reconcile all servers."""
        with unavailable():
            self._redis.rpush(redis_key(self._wakes), EVERYTHING)

    def ask_to_measure(self, nodes: Iterable[str]) -> None:
        """Have the reconciler measure at once whether labels act on these nodes, of which there must be one."""
        with unavailable():
            self._redis.rpush(redis_key(self._wakes), *(f"{NODE}{node}" for node in nodes))

    def reconciler_state(self) -> tuple[float | None, dict[str, int], dict[str, int]]:
        """The time of the reconciler's last heartbeat (Unix seconds, or None), its counters, and its pods by tier."""
        with unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.get(redis_key("reconciler"))
            pipe.hgetall(redis_key("counters"))
            pipe.hgetall(redis_key("tiers"))
            seen, counters, tiers = pipe.execute()
        return as_number(seen, "reconciler"), as_numbers(counters, "counters"), as_numbers(tiers, "tiers")


class ReconcilerWork(ReconcilerState):
    """What the reconciler is told to do and to log, and its heartbeat.

    Operators' commands use this store, too. They wake the reconciler by a list that no other process may write, because whoever
    takes over a verifier can fill `wake` (D-516)."""

    _wakes = "commands"

    def log(self, action: dict[str, object]) -> None:
        """Have the reconciler log an operator's action. What a command logs itself only reaches the operator's terminal."""
        with unavailable():
            self._redis.rpush(redis_key("actions"), json.dumps(action))

    def woken(self, wait: float) -> Woken:
        """Wait for the lists `commands`, `actions` and `wake`.

        Args:
            wait: seconds, less than the connection's time-out.

        Returns:
            Their content; nothing if the time is up first. If there is more on `wake` than is read at once, the rest is dropped,
            and counts as `EVERYTHING`.
        """
        lists: dict[str, list[str]] = {redis_key("commands"): [], redis_key("actions"): []}
        ends = time.monotonic() + wait
        with unavailable():
            # Redis would hand out an entry of `wake` as it is, of any length, so nobody waits for that list.
            while True:
                first = self._redis.blpop(list(lists), timeout=min(wait, WAKE_POLL_SECONDS))
                woken, left = self._run("take", [redis_key("wake")], [MAX_WOKEN, max_bytes("wake")])
                if first or woken or time.monotonic() >= ends:
                    break
            if left:
                self._redis.delete(redis_key("wake"))
            if first:
                name, text = map(str, first)
                lists[name].append(text)
                for name, texts in lists.items():
                    texts += map(str, self._redis.lpop(name, 1000) or [])
        commands, actions = lists.values()
        nodes = {text for text in (*commands, *woken) if text.startswith(NODE)}
        return Woken(
            set(commands) - nodes - {EVERYTHING},
            EVERYTHING in commands,
            set(woken) - nodes - {EVERYTHING},
            bool(left) or EVERYTHING in woken,
            {text.removeprefix(NODE) for text in nodes},
            list(filter(None, (readable(text, _action, "actions") for text in actions))),
        )

    def heartbeat(self, now: float, tiers: dict[str, int], counts: dict[str, int] | None = None) -> bool:
        """Write the reconciler's heartbeat.

        Args:
            now: Unix time in seconds.
            tiers: the number of pods by tier, and of those that are `NOT_COVERED`.
            counts: what to add to the counters that the verifier's metrics show.

        Returns:
            Whether the last heartbeat was still there: False after a wipe, and after `HEARTBEAT_TTL_SECONDS` without one.
        """
        with unavailable():
            pipe = self._redis.pipeline()
            self._begin_with(RECONCILER_TYPES, pipe)
            pipe.set(redis_key("reconciler"), now, ex=HEARTBEAT_TTL_SECONDS, get=True)
            pipe.delete(redis_key("tiers"))
            if tiers:
                pipe.hset(redis_key("tiers"), mapping=dict(tiers.items()))
            if counts:
                self._run("count", [redis_key("counters")], [part for counter in counts.items() for part in counter], pipe)
            if grown := {TIMES[name]: int(now) for name in TIMES.keys() & (counts or {})}:
                pipe.hset(redis_key("counters"), mapping=dict(grown.items()))
            return pipe.execute()[1] is not None


def _action(text: str) -> dict[str, Any] | None:
    """An operator's action, which has an event; None if the text is none."""
    action = json_object(text)
    return action if action and isinstance(action.get("event"), str) else None
