"""The uses of a pass: which server holds each, and when one moves to another server."""

import json
from collections.abc import Sequence

from ..model.passes import LEEWAY_SECONDS, Pass
from ..model.records import PassOutcome, Record, Server
from ..model.serialization import write_record
from .announcements import Announced
from .base import unavailable
from .blocks import Blocks
from .errors import LaunchChanged
from .keys import WITHDRAWN_TTL_SECONDS, redis_key
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


class Redeeming(Blocks):
    """The uses of passes."""

    def redeem(
        self,
        used: Pass,
        server: Server,
        record: Record,
        network: str,
        record_ttl: int,
        *,
        has_tier: bool = False,
        carried: str = "",
        announced: Announced | None = None,
        replaces: str = "",
        outranking: Sequence[str] = (),
    ) -> PassOutcome:
        """Give a server one use of a pass, with the grant in `record`.

        Args:
            used: the pass.
            server: the server that asks.
            record: a launch (no uid) or an unlock (with uid).
            network: the client's network.
            record_ttl: seconds that the record lives.
            has_tier: the server has this tier already, or a smaller one. The use is then not taken from another server, and does
                not move on, even when this server is gone: it has given this server time (D-077).
            carried: the id of the grant that the server's pod carries. A use gives its server a lease only once: not again after
                the pod's grant has changed (D-355).
            announced: the launch, which is counted if it gets the use; None: it is an unlock, or was counted before.
            replaces: the id of the grant of the waiting launch that the record replaces, because its promise is kept; empty: the
                record may replace any.
            outranking: the tiers of unlocks that stay if they wait for the same pod (`leases.outranking`, D-384).

        Returns:
            `held` (this server had the use already), `free` or `moved` (another server had it, which is not up): the record is
            written. `used-up`, `lease-given` (this pass gave this server a lease before), `outranked` (such an unlock waits),
            `before-epoch` or `key-revoked`: nothing is written.

        Raises:
            BlocksChanged: the blocks have changed since the launch was decided. Nothing is written.
            LaunchDecided: it is announced late, and its server has a decision by now. Nothing is written.
            LaunchChanged: the launch to be replaced no longer waits for its pod. Nothing is written.
        """
        request: dict[str, object] = {
            "iat": used.iat,
            "key": used.key,
            # The leeway counts twice: once for a pass that is presented late, once for the clock of another replica.
            "exp": used.exp,
            "ttl": 2 * LEEWAY_SECONDS + BUILD_LIMIT_SECONDS,
            "servers": used.servers,
            "move_window": MOVE_WINDOW_SECONDS,
            "moves": MOVES,
            "has_tier": has_tier,
            "carried": carried,
            "server": server.key,
            "repository": record.repository,
            "network": network,
            "grant": record.grant.id,
            "record": write_record(record),
            "record_ttl": record_ttl,
            "uid": record.uid or "",
            "outranking": list(outranking),
            "launch": redis_key("launch:"),
            "known": redis_key("server:"),
            "withdrawn": redis_key("withdrawn:"),
            "withdrawn_ttl": WITHDRAWN_TTL_SECONDS,
            "wake": redis_key("wake"),
            "revoked": redis_key("revoked"),
        }
        if announced:
            request["announced"] = announced.for_script(server, record)
        if replaces:
            request["replaces"] = replaces
        if record.promise:
            request["promise"] = promise_for_script(record.promise, network)
        kind = "unlock" if record.uid else "launch"
        with unavailable():
            answer = self._run(
                "redeem",
                keys=[redis_key("epoch"), redis_key(f"pass:{used.id}"), redis_key(f"{kind}:{server.key}")],
                args=[json.dumps(request)],
            )
        outcome = self._unless_changed(answer)[0]
        if outcome == "launch-changed":
            raise LaunchChanged
        return PassOutcome(outcome)
