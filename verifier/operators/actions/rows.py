"""The rows in which operators see servers and blocks."""

from typing import Any

from ...grants import Block, block_in
from ...records import KnownServer, Server
from ...texts import fields_of


def server_row(server: Server, known: KnownServer, now: float) -> dict[str, Any]:
    """A running server and its grant at a Unix time in seconds."""
    grant = fields_of(known.grant)
    return {
        "user": server.user, "server": server.name, "pod": known.pod, "tier": grant["tier"], "rule": grant["rule"],
        "blocked": block_in(known.grant, now) is not None, "at": grant["at"] or None, "until": grant["until"],
        "by": grant["by"], "why": grant["why"], "grant": grant["id"], "repository": known.repository, "client": known.client,
    }  # fmt: skip


def block_row(block: Block) -> dict[str, Any]:
    """A block."""
    what = Server.from_key(block.what).title if block.kind == "server" else block.what
    return {
        "id": block.id, "kind": block.kind, "what": what,
        "by": block.origin.text, "why": block.why, "at": block.at, "until": block.until,
    }  # fmt: skip
