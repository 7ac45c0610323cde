"""What operators list: running servers, blocks, API keys, and what servers asked the egress proxy for."""

from fnmatch import fnmatchcase

from ...decisions.server_blocks import carried_by
from ...gate import api_keys
from ...model.grants import BLOCK_KINDS, Block, block_in
from ...model.networks import in_networks
from ...model.records import KnownServer, Server, UnreadableLine, WantedHost
from ...model.repositories import covers, name
from .answers import BlockRow, GrantRow, KeyRow, block_row, server_row
from .context import CommandOperators, Operators, network_of, pattern_of


def wanted_hosts(operators: CommandOperators) -> list[WantedHost]:
    """What unverified servers asked the egress proxy for and did not get, the most wanted first.

    The record goes back to the start of the proxy's pods, or a day at most.
    """
    wanted: dict[tuple[str, str], WantedHost] = {}
    for row in operators.store.wanted_hosts():
        known = wanted.setdefault((row["repository"], row["host"]), {**row, "times": 0})
        known["times"] += row["times"]
        known["last"] = max(known["last"], row["last"])
    return sorted(wanted.values(), key=lambda row: -row["times"])


def grants(operators: Operators, user: str = "", tier: str = "", repository: str = "", network: str = "") -> list[GrantRow]:
    """The running servers, each with its grant.

    Args:
        user: only users with this name; `*` stands for any text.
        tier: only servers with this tier; `unverified`: those without one.
        repository: only servers of this repository or pattern.
        network: only servers launched from this CIDR.
    """
    networks = [network_of(network)] if network else []
    pattern = pattern_of(repository) if repository else ""
    return [
        server_row(server, known, operators.clock())
        for server, known in operators.store.all_known().items()
        if (not user or fnmatchcase(server.user, user))
        and (not tier or known.tier == tier)
        and (not pattern or covers(pattern, name(known.repository)))
        and (not networks or in_networks(known.client, networks))
    ]


def blocks(operators: Operators) -> list[BlockRow]:
    """All blocks of repositories, networks and running servers. Includes those that Redis has forgotten but pods still
    carry, and not those that an operator removed."""
    now, known = operators.clock(), operators.store.all_known()
    rows = {block.id: block_row(block) for block in operators.store.blocks() if _stands(block, now, known)}
    carried = [carried_by(server, has, block) for server, has in known.items() if (block := block_in(has.grant, now))]
    forgotten: dict[str, BlockRow] = {
        block.id: {**block_row(block), "only_on_pods": True} for block in carried if block.id not in rows
    }
    removed = operators.store.lifted(forgotten)
    rows |= {identity: row for identity, row in forgotten.items() if identity not in removed}
    return list(rows.values())


def counts(operators: Operators) -> dict[str, int]:
    """The number of blocks in Redis, by kind."""
    blocks = operators.store.blocks()
    known = operators.store.known_of([Server.from_key(block.what) for block in blocks if block.kind == "server"])
    standing = [block.kind for block in blocks if _stands(block, operators.clock(), known)]
    return {kind: standing.count(kind) for kind in BLOCK_KINDS}


def keys(operators: Operators) -> list[KeyRow]:
    """The API keys that the verifiers have read from the values, by name, with their use. Without hashes."""
    now, revoked = operators.clock(), operators.store.revoked_keys()
    reported = api_keys.reported(operators.store.verifier_reports().values())
    used = operators.store.charges([f"key:{key.entry.id}" for key in reported], api_keys.DAY_SECONDS)
    return [
        {
            "name": key.name,
            "id": key.entry.id,
            "state": "revoked" if key.entry.id in revoked else "expired" if key.is_expired(now) else "valid",
            "tier": key.entry.tier,
            "used": number,
            "servers_per_day": key.entry.serversPerDay,
            "expires": key.entry.expires,
            "until": api_keys.ends(key.entry.expires),
            "origins": key.entry.origins,
            "repositories": key.entry.repositories,
        }
        for key, number in zip(reported, used, strict=True)
    ]


def unreadable(operators: CommandOperators) -> list[UnreadableLine]:
    """The last lines of each source that the receiver could not read, the latest first."""
    return sorted(operators.store.unreadable(), key=lambda row: -row["at"])


def _stands(block: Block, now: float, known: dict[Server, KnownServer]) -> bool:
    """Whether a block is in force. A server's block ends with its pod."""
    runs = block.kind != "server" or getattr(known.get(Server.from_key(block.what)), "uid", "") == block.uid
    return runs and not block.is_over(now)
