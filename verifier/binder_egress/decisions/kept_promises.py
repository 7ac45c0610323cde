"""Keeping a promise: the launch that was announced with it gets the pass, wherever that launch is by now.

| the launch | what the pass does |
|---|---|
| is not announced yet | it waits; `rules` decides the launch by it |
| is announced, and has no pod yet | it counts as a pass that came with the launch, in the same order of rules |
| has a pod | it unlocks the server: it never shortens or replaces something better |
| is over, or another launch has taken its server | it waits for the next launch with this promise, as BinderHub tries again |
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from ..model.grants import NO_GRANT, Block, Egress, Rule
from ..model.passes import BadPass, Pass
from ..model.records import KnownServer, PassOutcome, Pending, Record, Server
from ..settings import VerifierSettings
from ..store.errors import LaunchChanged, PassKeepsAnother
from ..store.redeeming import REDEEMED, Use
from ..store.store import VerifierStore
from . import leases
from .presented import Judge
from .refusals import Facts, refusal
from .rules import launch_grant
from .unlocks import Unlocks

ATTEMPTS = 3
"""How often a launch is read that changes meanwhile. Its pod comes once, and another launch of its server is rare."""


class PromiseState(StrEnum):
    """The state of a promise."""

    OPEN = "open"  # no pass keeps it, and no launch was announced with it
    KEPT = "kept"  # a pass keeps it, and no launch was announced with it
    ANNOUNCED = "announced"  # a launch was announced with it, and has no tier
    GRANTED = "granted"  # that launch has a tier, through the promise or otherwise
    REFUSED = "refused"  # a rule refuses that launch


class NotUsed(StrEnum):
    """Why a good pass is not used."""

    EARLY = "early"  # there is no launch yet
    HAD_IT = "had-it"  # the server has something better, or as good


@dataclass(frozen=True)
class Kept:
    """What became of a pass that keeps a promise.

    Attributes:
        outcome: why it is not used, the rule that refuses the launch, or what became of it; `used-up` also if it keeps another
            promise.
        server: the server of the launch; None: there is none yet.
        grant: what the launch got; None: nothing.
    """

    outcome: NotUsed | Rule | PassOutcome
    server: Server | None = None
    grant: Egress | None = None


class Promises:
    """Keeps promises, and says in which state each is.

    Args:
        settings: tiers, lists, and the time that a launch may take.
        judge: judges passes.
        unlocks: decides about servers that run already.
        store: Redis.
    """

    def __init__(self, settings: VerifierSettings, judge: Judge, unlocks: Unlocks, store: VerifierStore):
        self._settings = settings
        self._judge = judge
        self._unlocks = unlocks
        self._store = store

    def keep(self, promise: str, issued: Pass, client: str, network: str, now: float) -> Kept:
        """Keep a promise with a pass.

        Args:
            promise: the promise.
            issued: the pass, which was read or issued just now.
            client: the address of the client that keeps it.
            network: the network of that client.
            now: Unix time in seconds.
        """
        try:
            server = self._store.keep(promise, network, issued, leases.outranking(issued.tier, self._settings, now))
        except PassKeepsAnother:
            return Kept(PassOutcome.USED_UP)
        if server is None:
            return Kept(NotUsed.EARLY)
        for _ in range(ATTEMPTS):
            pending = self._store.pending(server, set())
            try:
                if pending.known and pending.known.promise == promise:
                    return self._unlock(server, pending.known, pending.blocks, issued, client, network, now)
                if pending.launch and pending.launch.promise == promise:
                    return self._decide_launch(server, pending.launch, pending, issued, network, now)
                break
            except BadPass as error:
                return Kept(error.outcome, server)
            except LaunchChanged:
                continue  # Its pod is there by now, or another launch.
        return Kept(NotUsed.EARLY)

    def _decide_launch(self, server: Server, launch: Record, pending: Pending, issued: Pass, network: str, now: float) -> Kept:
        """Decide a launch again that waits for its pod.

        Raises:
            BadPass: the pass does not count for this launch.
            LaunchChanged: the launch no longer waits.
        """
        if rule := refusal(Facts(launch.repository, (launch.client,)), pending.blocks, self._settings, now):
            return Kept(rule, server)
        # The rules that come before the pass, or are the pass.
        decided = launch.grant.rule in (Rule.MODE_ALLOW, Rule.API_CLIENT, Rule.VALID_PASS)
        if decided and launch.grant.id not in pending.withdrawn:
            return Kept(NotUsed.HAD_IT, server)
        presented = self._judge.accept(issued, launch.repository, now)
        grant = launch_grant(presented, now)
        record, timeout = replace(launch, grant=grant), self._settings.launch_timeout
        outcome = self._store.redeem(Use(presented.issued, server, record, network, timeout, replaces=launch.grant.id))
        return Kept(outcome, server, grant if outcome in REDEEMED else None)

    def _unlock(
        self, server: Server, known: KnownServer, blocks: list[Block], issued: Pass, client: str, network: str, now: float
    ) -> Kept:
        """Unlock the server of a launch whose pod is there.

        Raises:
            BadPass: the pass does not count for this server.
        """
        if rule := refusal(Facts.of(known, client), blocks, self._settings, now):
            return Kept(rule, server)
        useful = self._unlocks.useful_tiers(known, now)
        if useful is not None and issued.tier not in useful:
            return Kept(NotUsed.HAD_IT, server)
        presented = self._judge.accept(issued, known.repository, now)
        outcome, grant = self._unlocks.redeem(server, known, presented, network, now)
        return Kept(outcome, server, grant if outcome in REDEEMED else None)

    def state(self, promise: str, network: str, now: float) -> tuple[PromiseState, KnownServer | None, list[Block]]:
        """The state of a promise.

        Args:
            promise: the promise.
            network: the network of the client that asks.
            now: Unix time in seconds.

        Returns:
            The state; the server that was announced with the promise, as it is or will be (None: there is none); and the
            operators' blocks.
        """
        promised = self._store.promised(promise, network)
        pending = self._store.pending(promised.server, set()) if promised.server else None
        announced = _announced(promise, pending) if pending else None
        if pending is None or announced is None:
            return (PromiseState.KEPT if promised.kept_by else PromiseState.OPEN), None, []
        if refusal(Facts.of(announced), pending.blocks, self._settings, now):
            return PromiseState.REFUSED, announced, pending.blocks
        return PromiseState.GRANTED if isinstance(announced.grant, Egress) else PromiseState.ANNOUNCED, announced, pending.blocks


def _announced(promise: str, pending: Pending) -> KnownServer | None:
    """The server of the launch that carries a promise, as it runs, or else as it will start."""
    running = pending.known if pending.known and pending.known.promise == promise else None
    launch = pending.launch if pending.launch and pending.launch.promise == promise else None
    if launch is None or (running and isinstance(running.grant, Egress)):
        return running
    grant = NO_GRANT if launch.grant.id in pending.withdrawn else launch.grant
    return KnownServer(running.uid if running else "", grant, launch.repository, client=launch.client, promise=promise)
