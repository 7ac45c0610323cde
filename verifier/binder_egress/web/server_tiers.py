"""What a server reaches, no matter who asks."""

from ..decisions.refusals import Facts, blocks_on
from ..model.grants import UNVERIFIED, Block
from ..model.records import KnownServer
from ..model.repositories import covers, exact
from ..settings import MORE_HOSTS, Access, Tier
from .context import services


def access_of(known: KnownServer, blocks: list[Block], now: float) -> Access | None:
    """What a server reaches in one word; None if nothing is closed, or if nothing is known about its tier.

    A block of the server closes the egress proxy too.
    """
    settings = services().settings
    if settings.mode == "observe":
        return None
    if blocks_on(Facts.of(known), blocks, now):
        return "none"
    tier = tier_now(known, now)
    return tier.access if tier else None


def tier_now(known: KnownServer, now: float) -> Tier | None:
    """What a server's tier gives it now; None if the site no longer has that tier. Until the network plugin acts on the label, that
    is only what goes through the egress proxy (D-477)."""
    tier = tiers_of(known).get(known.tier)
    if tier is None or not known.opens_in(now):
        return tier
    return tier.model_copy(update={"direct": False, "internet": False, "description": {}})


def tiers_of(known: KnownServer) -> dict[str, Tier]:
    """What a server would have with each tier and without one."""
    settings = services().settings
    tiers = {**settings.tiers, UNVERIFIED: settings.unverified}
    repository = exact(known.repository)
    if not repository or not any(covers(pattern, repository) for pattern in settings.repositories_with_hosts):
        return tiers
    return {name: tier.model_copy(update={"hosts": [*tier.hosts, MORE_HOSTS]}) for name, tier in tiers.items()}
