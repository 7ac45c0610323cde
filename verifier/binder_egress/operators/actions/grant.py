"""Give a running server a tier."""

from ...model.grants import Egress, Origin, Rule
from ...model.records import Record, Server
from .answers import ActionAnswer
from .confirmation import answer, await_grant
from .context import ActionRefused, Operators


def grant(operators: Operators, server: Server, tier: str, by: str, why: str) -> ActionAnswer:
    """Give a running server a tier. A block is stronger and must be removed first.

    Args:
        tier: a tier of the values.

    Raises:
        ActionRefused: no such server runs, there is no such tier, or a rule gives this server no egress.
    """
    known = operators.known(server)
    operators.tier_exists(tier)
    if rule := operators.refusal(known):
        raise ActionRefused("refused", f"The rule {rule} applies to the server, and is stronger than a grant: remove it first.")
    given = Egress.new(tier, Rule.OPERATOR, operators.clock(), Origin("operator", text=by), why)
    operators.store.grant(server, Record(given, uid=known.uid, repository=known.repository, client=known.client))
    operators.log("grant", by, why, user=server.user, server=server.name, tier=tier, grant=given.id)
    return answer(operators, await_grant(operators, [server], given.id), server)
