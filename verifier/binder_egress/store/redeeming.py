"""The uses of a pass: which server holds each, and when one moves to another server."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..model.passes import LEEWAY_SECONDS, Pass
from ..model.records import PassOutcome, Record, Server
from ..model.serialization import write_record
from .announcements import Announced
from .base import unavailable
from .blocks import Blocks
from .errors import LaunchChanged
from .keys import redis_key
from .promised_launches import promise_for_script

MOVE_WINDOW_SECONDS = 600
"""Seconds after it was first given during which a use of a pass may move to another server of the same repository and client
network."""

MOVES = 8
"""How many times one use of a pass may move: BinderHub tries a launch 4 times, and a browser may send the same URL twice."""

BUILD_LIMIT_SECONDS = 3600
"""The longest time between a launch request and its hook, with a build in between. A pass is judged as of the request."""

REDEEMED = frozenset({PassOutcome.HELD, PassOutcome.FREE, PassOutcome.MOVED})
"""The outcomes of `Redeeming.redeem` that write the grant. All others but `OUTRANKED` reject the pass."""


@dataclass(frozen=True)
class Use:
    """A server that asks for one use of a pass.

    Attributes:
        issued: the pass.
        server: the server.
        record: a launch (no uid) or an unlock (with uid), with the grant that the server gets.
        network: the client's network.
        record_ttl: seconds that the record lives.
        has_tier: the server has this tier already, or a smaller one. The use is then not taken from another server, and does not
            move on, even when this server is gone: it has given this server time (D-077).
        carried: the id of the grant that the server's pod carries, even if its lease is over. A use gives its server a lease only
            once: not again after the pod's grant has changed (D-355).
        announced: the launch, which is counted if it gets the use; None: it is an unlock, or was counted before.
        replaces: the id of the grant of the waiting launch that the record replaces, because its promise is kept; empty: the
            record may replace any.
        outranking: the tiers of unlocks that stay if they wait for the same pod (`leases.outranking`, D-384).
    """

    issued: Pass
    server: Server
    record: Record
    network: str
    record_ttl: int
    has_tier: bool = False
    carried: str = ""
    announced: Announced | None = None
    replaces: str = ""
    outranking: Sequence[str] = ()

    def for_script(self) -> str:
        """What `redeem.lua` expects, as JSON."""
        request = {name: value for name, value in vars(self).items() if name not in ("issued", "announced")}
        request |= {"pass": vars(self.issued), "server": self.server.key, "record": write_record(self.record)}
        # The leeway counts twice: once for a pass that is presented late, once for the clock of another replica.
        request |= {"ttl": 2 * LEEWAY_SECONDS + BUILD_LIMIT_SECONDS, "move_window": MOVE_WINDOW_SECONDS, "moves": MOVES}
        if self.announced:
            request["announced"] = self.announced.for_script(self.server, self.record)
        if self.record.promise:
            request["promise"] = promise_for_script(self.record.promise, self.network)
        return json.dumps(request)


class Redeeming(Blocks):
    """The uses of passes."""

    def redeem(self, use: Use) -> PassOutcome:
        """Give a server one use of a pass, with the grant in its record.

        Returns:
            `held` (this server had the use already), `free` or `moved` (another server had it, which is not up): the record is
            written. `used-up`, `lease-given` (this pass gave this server a lease before), `outranked` (such an unlock waits),
            `before-epoch` or `key-revoked`: nothing is written.

        Raises:
            BlocksChanged: the blocks have changed since the launch was decided. Nothing is written.
            LaunchDecided: it is announced late, and its server has a decision by now. Nothing is written.
            LaunchChanged: the launch to be replaced no longer waits for its pod. Nothing is written.
        """
        kind = "unlock" if use.record.uid else "launch"
        with unavailable():
            answer = self._run(
                "redeem",
                keys=[redis_key("epoch"), redis_key(f"pass:{use.issued.id}"), redis_key(f"{kind}:{use.server.key}")],
                args=[use.for_script()],
            )
        outcome = self._unless_changed(answer)[0]
        if outcome == "launch-changed":
            raise LaunchChanged
        return PassOutcome(outcome)
