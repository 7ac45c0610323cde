"""Make an API key."""

import re
from datetime import UTC, datetime

from ...gate import api_keys
from .answers import KeyAnswer
from .context import ActionRefused, Operators
from .lists import keys


def create_key(
    operators: Operators,
    name: str,
    tier: str,
    servers_per_day: int,
    expires: str,
    origins: list[str],
    repositories: list[str],
    by: str,
    why: str,
) -> KeyAnswer:
    """Make an API key. The key takes effect when its entry is in the chart's values. The key itself is not stored.

    Args:
        name: its name.
        tier: the tier of its servers.
        servers_per_day: the number of servers in any 24 hours.
        expires: the last day, as in `2027-01-31`, or the days from now, as in `90d`.
        origins: origins of the pages that may send it; none: any client may.
        repositories: the repositories of its servers, `host/owner/name` or `…/*`; none: any.
        why: its purpose.
    """
    if not api_keys.NAME.fullmatch(name):
        raise ActionRefused("bad-request", f"name: {name!r} is not lower-case letters, digits and dashes, 40 at most.")
    operators.tier_exists(tier)
    if days := re.fullmatch(r"([1-9]\d{0,4})d", expires):
        expires = str(datetime.fromtimestamp(operators.clock() + int(days[1]) * 86400, UTC).date())
    try:
        key, entry = api_keys.create(tier, servers_per_day, expires, origins, repositories)
    except ValueError as error:
        raise ActionRefused("bad-request", f"{error}.") from None
    if operators.clock() >= api_keys.ends(entry.expires):
        raise ActionRefused("bad-request", f"expires: {entry.expires} is in the past.")
    if any(row["name"] == name for row in keys(operators)):
        raise ActionRefused(
            "refused", f"There is already a key called {name}. Choose another name, or take its entry out of the values."
        )
    operators.log("create-key", by, why, key=name, id=entry.id, tier=tier)
    values = entry.model_dump(exclude_defaults=True)
    return {"name": name, "id": entry.id, "key": key, "values": {"apiKeys": {"keys": {name: values}}}}
