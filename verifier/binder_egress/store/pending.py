"""The decisions that wait for a pod: launches, unlocks and stops, and which grants are withdrawn."""

from collections.abc import Iterable, Mapping

from ..model.grants import Block, Egress, NoEgress
from ..model.records import Pending, Record, Server
from ..model.serialization import read_known, read_record, write_block, write_record
from .base import Operations, readable, unavailable
from .blocks import load_blocks
from .keys import WITHDRAWN_TTL_SECONDS, redis_key

UNLOCK_TTL_SECONDS = 120
"""Seconds in which the reconciler must act on an unlock. It needs less than one; if a notification is lost, it sees the server at
its next resync, which is up to 90 s later. Long before they are over, the client has been told `pending`."""

STOP_TTL_SECONDS = 3600
"""Seconds in which the reconciler must stop a pod, even if the API server is down for a while. No later pod has the same uid."""


class PendingDecisions(Operations):
    """The decisions that wait for a pod. The reconciler reads them as `Pending`."""

    def grant(self, server: Server, record: Record) -> None:
        """Give a running server a grant that needs no pass. The record names the server's pod by its uid."""
        with unavailable():
            pipe = self._redis.pipeline()
            pipe.set(redis_key(f"unlock:{server.key}"), write_record(record), ex=UNLOCK_TTL_SECONDS)
            pipe.rpush(redis_key(self._wakes), server.key)
            pipe.execute()

    def pending(self, server: Server, grants: set[str]) -> Pending:
        """The decisions about a server, and which of them and of `grants`, which are ids, are withdrawn."""
        return self.pending_all({server: grants})[server]

    def pending_all(self, asked: Mapping[Server, set[str]]) -> dict[Server, Pending]:
        """The decisions about the first of many servers, as many as are read at once and one at least, in two round trips."""
        kinds = ("launch", "unlock", "server", "stop")
        decisions: dict[Server, Pending] = {}
        grants: dict[Server, list[str]] = {}
        texts, blocks = self._read([f"{kind}:{server.key}" for server in asked for kind in kinds], with_blocks=True)
        for at, (server, has) in enumerate(list(asked.items())[: len(texts) // len(kinds)]):
            launch, unlock, known, stop = texts[at * len(kinds) : (at + 1) * len(kinds)]
            pending = Pending(
                readable(launch, read_record, "launch"),
                readable(unlock, read_record, "unlock"),
                readable(known, read_known, "server"),
                stop=stop or "",
            )
            decisions[server] = pending
            grants[server] = sorted(has | {record.grant.id for record in (pending.launch, pending.unlock) if record})
        names = [f"{mark}:{grant}" for has in grants.values() for mark in ("withdrawn", "lifted") for grant in has]
        marks = self._read_all(names)
        sorted_blocks = load_blocks(blocks)
        for server, asked_for in grants.items():
            decisions[server].blocks = sorted_blocks
            # Whatever is there withdraws a grant, and only what was written for it lifts a block.
            decisions[server].withdrawn = {grant for grant in asked_for if next(marks) is not None}
            decisions[server].lifted = {grant for grant in asked_for if next(marks)}
        return decisions

    def waiting(self) -> list[Egress | NoEgress]:
        """The grants that wait for their pod. Unlocks that the pod already carries are left out."""
        launches, unlocks = self._names("launch:*"), self._names("unlock:*")
        servers = ["server:" + name.removeprefix("unlock:") for name in unlocks]
        texts = list(self._read_all(launches + unlocks + servers))
        records = [readable(text, read_record, "launch, unlock") for text in texts[: len(texts) - len(servers)]]
        known = [readable(text, read_known, "server") for text in texts[len(records) :]]
        carried = [None] * len(launches) + [server and server.grant.id for server in known]
        return [record.grant for record, grant in zip(records, carried, strict=True) if record and record.grant.id != grant]

    def withdraw(self, grants: Iterable[str]) -> None:
        """Withdraw grants: they no longer count."""
        with unavailable():
            pipe = self._redis.pipeline()
            for grant in grants:
                pipe.set(redis_key(f"withdrawn:{grant}"), 1, ex=WITHDRAWN_TTL_SECONDS)
            pipe.execute()


class ReconcilerPendingDecisions(PendingDecisions):
    """Stops pods, and settles launches."""

    def settle(self, server: Server, launch: Record) -> None:
        """Forget the launch of a server whose pod is ready. A later pod of that name needs a new launch.

        Args:
            server: the server.
            launch: the launch that was read; one written since then stays.
        """
        with unavailable():
            self._run("settle", keys=[redis_key(f"launch:{server.key}")], args=[launch.grant.id])

    def ask_to_stop(self, server: Server, uid: str) -> None:
        """Ask the reconciler to stop a pod."""
        with unavailable():
            pipe = self._redis.pipeline()
            pipe.set(redis_key(f"stop:{server.key}"), uid, ex=STOP_TTL_SECONDS)
            pipe.rpush(redis_key(self._wakes), server.key)
            pipe.execute()

    def cut_off(self, server: Server, uid: str, block: Block | None, stop: bool) -> None:
        """Write down what follows from a detector's report, without waking the reconciler, which does this itself.

        Args:
            server: the server.
            uid: its pod.
            block: the block that it gets; None: it has one that stays.
            stop: whether the pod must be stopped.
        """
        with unavailable():
            pipe = self._redis.pipeline()
            if block:
                self._run("add_block", [], ["HSET", block.id, write_block(block)], pipe)
            if stop:
                pipe.set(redis_key(f"stop:{server.key}"), uid, ex=STOP_TTL_SECONDS)
            pipe.execute()

    def forget_stop(self, server: Server, uid: str) -> None:
        """Forget that a pod must be stopped: it is being deleted, or has ended. The stop of a later pod stays (D-390)."""
        with unavailable():
            self._run("forget_stop", keys=[redis_key(f"stop:{server.key}")], args=[uid])
