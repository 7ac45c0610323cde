"""Revoke an API key."""

import re

from ...gate import api_keys
from ...model.grants import Egress, Grant
from .answers import KeyRevocationAnswer
from .confirmation import await_end, carrying, seen
from .context import ActionRefused, Operators
from .lists import keys


def revoke_key(operators: Operators, key: str, by: str, why: str, servers: bool = False) -> KeyRevocationAnswer:
    """Revoke an API key, along with the passes that were issued for it and the grants that wait for their pod.

    Args:
        key: its name, its id, or the key itself.
        servers: whether its running servers also lose their tier. They can then be unlocked.
    """
    form = api_keys.FORM.fullmatch(key)
    wanted = form[1] if form else key
    named = [row for row in keys(operators) if wanted in (row["name"], row["id"])]
    if not named and not re.fullmatch(r"[0-9a-f]{16}", wanted):
        raise ActionRefused("no-such-key", "No verifier has a key of this name. `egress keys list` lists them; an id always works.")
    meant = {row["id"]: row["name"] for row in named} or {wanted: ""}
    for identity, called in meant.items():
        operators.store.revoke_key(identity)
        operators.log("revoke-key", by, why, key=called, id=identity, servers=servers)
    # From now on Redis grants nothing for it, so this list is complete.
    given: list[Grant] = list(operators.store.waiting())
    if servers:
        given += [known.grant for known in operators.store.all_known().values() if isinstance(known.grant, Egress)]
    grants = {grant.id for grant in given if grant.origin.kind == "key" and grant.origin.id in meant}
    carry = carrying(operators, grants)
    if grants:
        operators.store.withdraw(grants)
        operators.store.wake_all()
    state, not_acted = seen(operators, await_end(operators, grants, carry), carry)
    return {
        "state": state,
        "not_acted": not_acted,
        "keys": list(meant),
        "withdrawn": len(grants),
        "remove": [f"apiKeys.keys.{called}" for called in meant.values() if called],
    }
