"""Grants: what was decided about a server. Each kind has its own type, and `serialization` writes them into Redis and on pods.

| what it is | type | waits in Redis | on a pod |
|---|---|---|---|
| egress: a launch, an unlock or an operator gave a tier | `Egress` | yes | yes |
| a launch without egress | `NoEgress` | yes, so that an older decision about the same server no longer counts | no |
| a block of this server, of its repository or of the client's network | `Blocked` | as a `Block` | yes |
| an ended lease | `EndedLease` | no | yes |
"""

import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

UNVERIFIED = "unverified"
"""The tier of servers without egress. It has no policy of its own, and no pod has it as a label."""


class Rule(StrEnum):
    """What decided about a server. It is on every grant, and in logs and metrics.

    The rules of the first group give no egress, the rules of the second give it at a launch (`mode-allow` also to pods that
    run already), and the rules of the third act on a running server.
    """

    BLOCKED = "blocked"  # by an operator: this server, its repository, or the client's network
    BLOCKED_REPOSITORY = "blocked-repository"  # rules.blockedRepositories
    OWN_NETWORK = "own-network"  # rules.selfNetworks
    DEFAULT = "default"  # nothing else matched

    MODE_ALLOW = "mode-allow"
    API_CLIENT = "api-client"
    VALID_PASS = "valid-pass"
    TRUSTED_REPOSITORY = "trusted-repository"
    AUTHENTICATED = "authenticated"

    UNLOCK = "unlock"
    RENEWAL = "renewal"
    OPERATOR = "operator"
    EXPIRED = "expired"  # the lease is over


OriginKind = Literal["rule", "key", "operator", "detector"]
"""Who can be behind a decision; `rule`: nobody, as a rule alone decided."""


@dataclass(frozen=True)
class Origin:
    """Who is behind a decision.

    Attributes:
        kind: who it is.
        id: the id of the API key, or the name of the detector's source; empty for others.
        text: who it is, as people read it; empty for a rule.
    """

    kind: OriginKind
    id: str = ""
    text: str = ""


BY_RULE = Origin("rule")
"""The origin of a decision that nobody is behind."""


class _Ending:
    """What has an end: `until`, in Unix seconds, or None."""

    until: int | None

    def is_over(self, now: float) -> bool:
        """Whether its end has come by a Unix time in seconds."""
        return self.until is not None and self.until <= now


@dataclass(frozen=True)
class Egress(_Ending):
    """A tier, for a server.

    Attributes:
        id: random.
        tier: the tier.
        rule: the rule that decided, usually a `Rule`. Another version may have written another word.
        at: Unix time in seconds of the decision.
        origin: who is behind it.
        why: the operator's reason.
        until: Unix time in seconds of the end of its lease; None: the tier lasts as long as the pod runs.
        may_stop: whether the end of its lease may stop the pod (D-220). Only the reconciler sets it.
    """

    id: str
    tier: str
    rule: str
    at: int
    origin: Origin = BY_RULE
    why: str = ""
    until: int | None = None
    may_stop: bool = False

    @classmethod
    def new(cls, tier: str, rule: str, at: float, origin: Origin = BY_RULE, why: str = "") -> "Egress":
        """A new decision with a random id. Its lease, if its tier has one, begins when it is written on the pod."""
        return cls(new_id(), tier, str(rule), int(at), origin, why)


@dataclass(frozen=True)
class NoEgress:
    """A launch without egress.

    Attributes:
        id: random.
        rule: the rule that decided, usually a `Rule`. Another version may have written another word.
        at: Unix time in seconds of the decision.
    """

    id: str
    rule: str
    at: int
    tier = UNVERIFIED
    origin = BY_RULE

    @classmethod
    def new(cls, rule: str, at: float) -> "NoEgress":
        """A new decision with a random id."""
        return cls(new_id(), str(rule), int(at))


@dataclass(frozen=True)
class Blocked(_Ending):
    """A block, as a pod carries it (D-060).

    Attributes:
        id: the block's.
        at: Unix time in seconds of the block.
        origin: the operator, or the detector.
        why: the reason.
        until: Unix time in seconds of its end; None: it lasts until an operator removes it.
    """

    id: str
    at: int
    origin: Origin
    why: str
    until: int | None = None
    tier = UNVERIFIED
    rule = Rule.BLOCKED


@dataclass(frozen=True)
class EndedLease:
    """What a pod carries in place of egress whose lease is over.

    Attributes:
        id: the id of that egress. So the pass or key that gave the tier cannot give it again.
        at: Unix time in seconds at which the lease was found to be over.
        origin: who was behind that egress.
        why: the reason for that egress.
        stop_at: Unix time in seconds after which the pod is deleted (`onExpiry: stop`); None: never.
        may_stop: whether the end of the lease could stop the pod.
    """

    id: str
    at: int
    origin: Origin = BY_RULE
    why: str = ""
    stop_at: int | None = None
    may_stop: bool = False
    tier = UNVERIFIED
    rule = Rule.EXPIRED


Carried = Egress | Blocked | EndedLease
"""What a pod can carry."""

Grant = Carried | NoEgress
"""A decision about a server."""

NO_GRANT = NoEgress("", "", 0)
"""What is published of a pod that carries no grant."""


def new_id() -> str:
    """A random id for a grant or a block."""
    return secrets.token_hex(8)


def label_of(grant: Grant | None) -> str | None:
    """The value of the tier label of a pod with this grant; None: no label."""
    return grant.tier if isinstance(grant, Egress) else None


def block_in(grant: Grant | None, now: float) -> Blocked | None:
    """The block that a grant is, if it is in force at a Unix time in seconds."""
    return grant if isinstance(grant, Blocked) and not grant.is_over(now) else None


BlockKind = Literal["server", "repository", "network"]
"""What a block applies to."""

BLOCK_KINDS = get_args(BlockKind)
"""Everything that a block can apply to."""


@dataclass(frozen=True)
class Block(_Ending):
    """A block by an operator, or after a detector's report: no server that it applies to gets egress, or keeps it.

    Attributes:
        id: random; also the id of the grant that it puts on pods.
        kind: what it applies to.
        what: the key of a server, a pattern for repositories, or a CIDR of clients.
        origin: the operator, or the detector.
        why: the reason.
        at: Unix time in seconds.
        until: Unix time in seconds of its end; None: it has none.
        uid: the server's pod, for a block of a server: a later pod of the same name is somebody else's.
    """

    id: str
    kind: BlockKind
    what: str
    origin: Origin
    why: str
    at: int
    until: int | None = None
    uid: str = ""

    @property
    def grant(self) -> Blocked:
        """The grant that it puts on pods."""
        return Blocked(self.id, self.at, self.origin, self.why, self.until)
