"""Promises: which server was announced with one, and the pass that keeps it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..model.passes import LEEWAY_SECONDS, Pass
from ..model.records import Server
from ..model.serialization import reader
from .base import Operations, as_text, unavailable
from .errors import PassKeepsAnother
from .keys import MAX_SERVER_BYTES, redis_key

PROMISE_TTL_SECONDS = 3600
"""Seconds that a promise which was kept waits for its launch: as long as a build may take (`BUILD_LIMIT_SECONDS`)."""

ANNOUNCED_TTL_SECONDS = 900
"""Seconds that a promise is remembered after its launch. Pages ask until the server is ready, and a server that takes longer to
start has failed: JupyterHub waits 300 s by default. It bounds what a hundred thousand launches in an hour take of Redis (D-466)."""


@dataclass(frozen=True)
class Promised:
    """What is known of a promise.

    Attributes:
        server: the server that was announced with it; None: none was.
        is_kept: whether a pass has kept it.
        kept_by: that pass; None also if this version cannot read it.
    """

    server: Server | None = None
    is_kept: bool = False
    kept_by: Pass | None = None


_pass = reader(Pass)


def promise_key(promise: str, network: str) -> str:
    """The key of a promise.

    Args:
        promise: the promise.
        network: the network of the client that launches, and of the client that keeps the promise (D-441).
    """
    return redis_key(f"promise:{promise}:{network}")


def promise_for_script(promise: str, network: str) -> dict[str, object]:
    """What `announce` in `common.lua` expects of the promise that came with a launch. See `promise_key` for the arguments."""
    return {"id": promise, "key": promise_key(promise, network), "ttl": ANNOUNCED_TTL_SECONDS}


class Promises(Operations):
    """The promises. `record_launch` and `redeem` write down which server was announced with one."""

    def promised(self, promise: str, network: str) -> Promised:
        """What is known of a promise of a client network."""
        fields = self._hash(promise_key(promise, network).removeprefix(redis_key("")))
        return Promised(_server(fields.get("server")), "pass" in fields, _pass(fields.get("pass")))

    def keep(self, promise: str, network: str, kept_by: Pass, outranking: Sequence[str] = ()) -> Server | None:
        """Remember the pass that keeps a promise. A later pass replaces an earlier one, unless that is for a larger tier.

        Args:
            promise: the promise.
            network: the network of the client that keeps it.
            kept_by: the pass.
            outranking: the tiers of passes that stay (`leases.outranking`).

        Returns:
            The server that was announced with the promise; None: none was. One that is announced later finds the pass.

        Raises:
            PassKeepsAnother: the pass keeps another promise already. Nothing is written.
        """
        keys = [promise_key(promise, network), redis_key(f"keeps:{kept_by.id}")]
        # As long as the pass can be presented, with clocks that differ.
        presentable = math.ceil(kept_by.exp - kept_by.iat) + 2 * LEEWAY_SECONDS
        args = [json.dumps(vars(kept_by)), PROMISE_TTL_SECONDS, presentable, json.dumps(list(outranking))]
        with unavailable():
            outcome, *server = self._run("keep", keys=keys, args=args)
        if outcome == "used-up":
            raise PassKeepsAnother
        return _server(as_text(server[0]) if server else None)


def _server(key: str | None) -> Server | None:
    return Server.from_key(key) if key and len(key) <= MAX_SERVER_BYTES else None
