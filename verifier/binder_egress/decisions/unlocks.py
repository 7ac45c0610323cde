"""Unlocks: what a pass may give to a server that runs already."""

from dataclasses import dataclass

from ..model.grants import UNVERIFIED, Egress, Rule
from ..model.records import KnownServer, PassOutcome, Record, Server
from ..settings import VerifierSettings
from ..store.pending import UNLOCK_TTL_SECONDS
from ..store.redeeming import Use
from ..store.store import VerifierStore
from . import leases
from .presented import Presented


@dataclass(frozen=True)
class Unlocks:
    """Decides unlocks.

    Attributes:
        settings: the tiers, and the operator's lists.
        store: where uses and decisions are kept.
    """

    settings: VerifierSettings
    store: VerifierStore

    def useful_tiers(self, known: KnownServer, now: float) -> list[str] | None:
        """The tiers from which a server would gain: larger ones, and its own once it is renewable. None: any, as it has no tier.

        A pass for a smaller tier would take egress away, and anybody who knows the server could send such a pass. A pass for the
        same tier would waste a use. Decision: D-130.
        """
        if known.tier == UNVERIFIED:
            return None
        left = leases.left(known.grant, self.settings, now)
        own = [known.tier] if left and left.renewable_in == 0 else []
        return leases.larger_than(known.grant, self.settings, now) + own

    def redeem(
        self, server: Server, known: KnownServer, presented: Presented, network: str, now: float
    ) -> tuple[PassOutcome, Egress]:
        """Give a server the tier of a pass, which must be one of `useful_tiers`.

        Args:
            server: the server.
            known: what the reconciler published about it.
            presented: the pass.
            network: the network of the client that asks.
            now: Unix time in seconds.

        Returns:
            What became of the pass, and the grant, which is written down if the outcome is one of `REDEEMED`.
        """
        used = presented.issued
        grant = Egress.new(used.tier, Rule.RENEWAL if used.tier == known.tier else Rule.UNLOCK, now, presented.origin)
        record = Record(grant, uid=known.uid, repository=known.repository, client=known.client)
        had, stays = isinstance(known.grant, Egress), leases.outranking(used.tier, self.settings, now)
        use = Use(used, server, record, network, UNLOCK_TTL_SECONDS, had, carried=known.grant.id, outranking=stays)
        return self.store.redeem(use), grant
