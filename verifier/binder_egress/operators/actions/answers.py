"""What operators see of servers, blocks and API keys, and what an action answers them.

The command prints these as JSON. The in-cluster interface sends them, and its OpenAPI document is made from the same types.
"""

from collections.abc import Mapping
from typing import (
    Annotated,
    Literal,
    NotRequired,  # pydantic accepts no other TypedDict below Python 3.12, and brings this one
)

from pydantic import Field
from typing_extensions import TypedDict

from ...model.grants import Block, BlockKind, block_in
from ...model.records import Detection, KnownServer, Server
from ...model.serialization import fields_of

UnixTime = Annotated[float | None, Field(description="Unix time in seconds")]
State = Annotated[Literal["done", "pending"], Field(description="pending: written, but not seen to act yet")]


class GrantRow(TypedDict):
    """A running server, as operators see it."""

    user: str
    server: str
    pod: str
    tier: str
    rule: Annotated[str, Field(description="the rule that decided")]
    blocked: bool
    at: UnixTime
    until: UnixTime
    by: str
    why: str
    grant: str
    repository: str
    client: Annotated[str, Field(description="the address of the client that launched it")]


class BlockRow(TypedDict):
    """An operator's block."""

    id: str
    kind: BlockKind
    what: str
    by: str
    why: str
    at: UnixTime
    until: UnixTime
    only_on_pods: NotRequired[
        Annotated[bool, Field(description="true: Redis has forgotten it; it still applies to the pods that carry it")]
    ]


class KeyRow(TypedDict):
    """An API key, and its use."""

    name: str
    id: str
    state: Literal["valid", "expired", "revoked"]
    tier: str
    used: Annotated[int, Field(description="passes, each for one server, in the last 24 hours")]
    servers_per_day: int
    expires: Annotated[str, Field(description="the last day, in UTC", json_schema_extra={"format": "date"})]
    until: Annotated[float, Field(description="Unix time in seconds")]
    origins: list[str]
    repositories: list[str]


class WaitingRow(TypedDict):
    """A decision that waits for its pod."""

    kind: Literal["launch", "unlock"]
    tier: str
    rule: str
    image: str | None


class Explanation(GrantRow):
    """`GET /api/servers/…`."""

    because: Annotated[str, Field(description="one sentence")]
    reason: Annotated[str, Field(description="the same in a word: the row of the reconciler's table that decided")]
    mode: str
    uid: str
    label: str | None
    waiting: list[WaitingRow]
    blocks: list[BlockRow]
    detections: Annotated[list[Detection], Field(description="recent reports about it, the latest first")]
    open_connections: Annotated[str | None, Field(description="what becomes of those that an earlier tier opened")]
    reconciler_seen: UnixTime


class NotActed(TypedDict):
    """A node on which a label that was taken off was not seen to act, so that servers there may still open connections."""

    node: str
    servers: list[str]
    why: Annotated[str, Field(description="one sentence")]


NotActedRows = Annotated[list[NotActed], Field(description="empty: it was seen to act on each node")]


class ActionAnswer(TypedDict):
    """`POST /api/grants`, `POST /api/revocations`. The other fields of the server's row follow, if it still runs."""

    state: State
    user: str
    not_acted: NotRequired[NotActedRows]


class RowAnswer(ActionAnswer, GrantRow):
    """An `ActionAnswer` about a server that still runs."""


class UnblockAnswer(TypedDict):
    """What removing a block answers."""

    state: State
    block: str


class BlockAnswer(UnblockAnswer):
    """`POST /api/blocks`."""

    what: str
    servers: Annotated[int, Field(description="running servers that it applies to")]
    not_acted: NotActedRows


class KeyAnswer(TypedDict):
    """`POST /api/keys`."""

    name: str
    id: str
    key: Annotated[str, Field(description="shown only this once")]
    values: Annotated[dict[str, dict[str, dict[str, Mapping[str, object]]]], Field(description="its entry in the chart's values")]


class KeyRevocationAnswer(TypedDict):
    """`POST /api/keys/revocations`."""

    state: State
    not_acted: NotActedRows
    keys: list[str]
    withdrawn: int
    remove: Annotated[list[str], Field(description="what to remove from the chart's values")]


def server_row(server: Server, known: KnownServer, now: float) -> GrantRow:
    """A running server and its grant at a Unix time in seconds."""
    grant = fields_of(known.grant)
    return {
        "user": server.user, "server": server.name, "pod": known.pod, "tier": grant["tier"], "rule": grant["rule"],
        "blocked": block_in(known.grant, now) is not None, "at": grant["at"] or None, "until": grant["until"],
        "by": grant["by"], "why": grant["why"], "grant": grant["id"], "repository": known.repository, "client": known.client,
    }  # fmt: skip


def block_row(block: Block) -> BlockRow:
    """A block."""
    what = Server.from_key(block.what).title if block.kind == "server" else block.what
    return {
        "id": block.id, "kind": block.kind, "what": what,
        "by": block.origin.text, "why": block.why, "at": block.at, "until": block.until,
    }  # fmt: skip
