"""The vocabulary: what verifier, reconciler and operators tell each other, through Redis and through a pod's annotation."""

import json
import secrets
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar
from urllib.parse import quote, unquote

UNVERIFIED = "unverified"
"""The tier that pods are born with. It has no policy of its own and is never written to a pod."""

BLOCKED = "blocked"
"""The rule of what an operator blocked. On a pod it is a grant of nothing, and stays until an operator takes it off."""

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """One user server, as JupyterHub names it.

    Attributes:
        user: JupyterHub's user name.
        name: the server's name; `""` is the user's default server.
    """

    user: str
    name: str = ""

    @property
    def key(self) -> str:
        """The server as one word, for keys."""
        return f"{quote(self.user, safe='')}/{quote(self.name, safe='')}"

    @classmethod
    def from_key(cls, key: str) -> "Server":
        """The server that a key names."""
        user, _, name = key.partition("/")
        return cls(unquote(user), unquote(name))


@dataclass(frozen=True)
class Grant:
    """This server has this tier. On a pod it is the annotation, as JSON.

    Attributes:
        id: random.
        tier: the tier; `unverified` means that there is none.
        rule: the rule that decided.
        at: Unix time in seconds of the decision.
        by: the operator who decided; empty for rules.
        why: the operator's reason.
        until: Unix time in seconds at which it ends, a block or a lease; None if it does not.
    """

    id: str
    tier: str
    rule: str
    at: int
    by: str = ""
    why: str = ""
    until: int | None = None

    @property
    def label(self) -> str | None:
        """The value of the tier label that follows from it."""
        return None if self.tier == UNVERIFIED else self.tier

    def is_block(self, now: float) -> bool:
        """Whether it is a block, and in force at a Unix time in seconds."""
        return self.tier == UNVERIFIED and self.rule == BLOCKED and not self.is_expired(now)

    def is_expired(self, now: float) -> bool:
        """Whether it has ended at a Unix time in seconds."""
        return self.until is not None and self.until <= now

    @classmethod
    def new(cls, tier: str, rule: str, at: float) -> "Grant":
        """A new grant with a random id."""
        return cls(secrets.token_hex(8), tier, rule, int(at))

    def dumps(self) -> str:
        """The grant as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def loads(cls, text: str | None) -> "Grant | None":
        """The grant that JSON says, or None if it says none."""
        try:
            found = json.loads(text or "")
            grant = cls(found["id"], found["tier"], found["rule"], found["at"])
            grant = replace(grant, by=found.get("by", ""), why=found.get("why", ""), until=found.get("until"))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        texts = all(isinstance(part, str) and part.isascii() for part in (grant.id, grant.tier, grant.rule))
        texts = texts and isinstance(grant.by, str) and isinstance(grant.why, str)
        return grant if texts and type(grant.at) is int and type(grant.until) in (int, type(None)) else None


@dataclass(frozen=True)
class Record:
    """A decision that waits in Redis for its pod.

    Attributes:
        grant: what was decided.
        image: the image that the pod must have; None for an unlock.
        uid: the pod that it is for; None for a launch, whose pod does not exist yet.
        repository: the repository that was launched.
        client: the address of the client that launched it.
    """

    grant: Grant
    image: str | None = None
    uid: str | None = None
    repository: str = ""
    client: str = ""

    def dumps(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def loads(cls, text: str | None) -> "Record | None":
        """The record that JSON says, or None."""
        if text is None:
            return None
        found = json.loads(text)
        return _make(cls, {**found, "grant": _make(Grant, found["grant"])})


@dataclass(frozen=True)
class KnownServer:
    """What the reconciler knows of a server, published for the verifier.

    Attributes:
        uid: the pod.
        tier: what it has now; `unverified` if nothing.
        grant: the id of the grant that the pod carries; empty if none.
        repository: the repository that was launched; empty if unknown. Never shown publicly, like all that follows.
        client: the address of the client that launched it; empty if unknown.
        pod: the pod's name.
        label: the value of its tier label; empty if it has none.
        rule, at, by, why, until: of its grant.
    """

    uid: str
    tier: str = UNVERIFIED
    grant: str = ""
    repository: str = ""
    client: str = ""
    pod: str = ""
    label: str = ""
    rule: str = ""
    at: int = 0
    by: str = ""
    why: str = ""
    until: int | None = None

    def is_blocked(self, now: float) -> bool:
        """Whether the pod carries a block that is in force at a Unix time in seconds."""
        return Grant(self.grant, self.tier, self.rule, self.at, until=self.until).is_block(now)

    def dumps(self) -> str:
        """This as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str | None) -> "KnownServer | None":
        """What JSON says, or None."""
        return _make(cls, json.loads(text)) if text else None


@dataclass(frozen=True)
class Block:
    """What an operator blocked: no server that it fits gets egress, or keeps it.

    Attributes:
        id: random; also the id of the grant of nothing that it puts on pods.
        kind: `server`, `repository` or `network`.
        what: the key of a server, a pattern of repositories, or a CIDR of clients.
        by: the operator.
        why: the operator's reason.
        at: Unix time in seconds.
        until: Unix time in seconds at which it ends; None if it does not.
        uid: the pod of a server: a later one of the same name is somebody else's.
    """

    id: str
    kind: str
    what: str
    by: str
    why: str
    at: int
    until: int | None = None
    uid: str = ""

    @property
    def grant(self) -> Grant:
        """What it puts on pods."""
        return Grant(self.id, UNVERIFIED, BLOCKED, self.at, self.by, self.why, self.until)

    def dumps(self) -> str:
        """This as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Block":
        """What JSON says."""
        return _make(cls, json.loads(text))


@dataclass(frozen=True)
class RevokedKey:
    """An API key that an operator revoked.

    Attributes:
        id: the key's id.
        name: what the values called it; empty if that was not known.
        by: the operator.
        why: the operator's reason.
        at: Unix time in seconds.
    """

    id: str
    name: str
    by: str
    why: str
    at: int

    def dumps(self) -> str:
        """This as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "RevokedKey":
        """What JSON says."""
        return _make(cls, json.loads(text))


@dataclass
class Woken:
    """What the wake list had.

    Attributes:
        servers: those to look at.
        everything: whether to look at all.
        actions: what operators did, for the log.
    """

    servers: set[Server] = field(default_factory=set)
    everything: bool = False
    actions: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Pending:
    """What Redis says about one server.

    Attributes:
        launch: the latest decision about a launch, or None.
        unlock: a grant for the running pod, or None.
        known: what was published last, or None.
        withdrawn: of the grants asked about, those that count no more.
        blocks: all blocks, the oldest first.
        stop: the uid of a pod that shall be stopped; empty if none.
    """

    launch: Record | None = None
    unlock: Record | None = None
    known: KnownServer | None = None
    withdrawn: set[str] = field(default_factory=set)
    blocks: list[Block] = field(default_factory=list)
    stop: str = ""


def _make(kind: type[T], found: dict[str, Any]) -> T:
    """An object from JSON. What a newer version added is left out: during an upgrade both read the same Redis."""
    return kind(**{part.name: found[part.name] for part in fields(kind) if part.name in found})
