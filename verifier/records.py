"""The vocabulary: what the processes and the operators tell each other, through Redis and through a pod's annotation.

`texts` writes it as JSON, and reads it.
"""

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args
from urllib.parse import quote, unquote

UNVERIFIED = "unverified"
"""The tier of servers without egress. It has no policy of its own, and no pod has it as a label."""

MAX_TIME = 10**11
"""The latest Unix time in seconds that counts as one, in the year 5138. For most later ones Python has no date."""

BY_DETECTOR = "detector "
"""The beginning of `by` if a detector's report led to a block, and no operator. The name of the source follows."""


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


class PassOutcome(StrEnum):
    """What became of a pass. It is in logs, in metrics, and in the answer to BinderHub's hook.

    A pass with an outcome of the first group gives its tier. One of the second group is not valid here. One of the third has no
    use left for this server.
    """

    HELD = "held"  # this server had the use already
    FREE = "free"
    MOVED = "moved"  # another server had it, which is not up

    INVALID = "invalid"
    EXPIRED = "expired"
    UNKNOWN_TIER = "unknown-tier"
    KEY_UNKNOWN = "key-unknown"
    KEY_EXPIRED = "key-expired"
    OTHER_REPOSITORY = "other-repository"  # the key that it was issued for is for others

    USED_UP = "used-up"
    LEASE_GIVEN = "lease-given"  # it gave this server a lease before
    KEY_REVOKED = "key-revoked"
    BEFORE_EPOCH = "before-epoch"

    OUTRANKED = "outranked"  # an unlock that gives more waits for this server; the pass keeps its use
    PROMISED = "promised"  # a promise that no pass has kept yet
    NONE = "none"  # none was presented, or an earlier rule decided


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
        """The server as one word, for keys in Redis."""
        return f"{quote(self.user, safe='')}/{quote(self.name, safe='')}"

    @property
    def title(self) -> str:
        """The server as operators write it: `user`, or `user/server`."""
        return f"{self.user}/{self.name}" if self.name else self.user

    @classmethod
    def from_key(cls, key: str) -> "Server":
        """The server that a key names."""
        user, _, name = key.partition("/")
        return cls(unquote(user), unquote(name))


@dataclass(frozen=True)
class Grant:
    """A decision about a server. On a pod it is the annotation, as JSON.

    | what it is | tier | rule | until |
    |---|---|---|---|
    | egress | a tier | every rule that gives one | the end of its lease; None: as long as the pod runs |
    | a block (D-060) | `unverified` | `blocked` | the end of the block; None: until an operator removes it |
    | an ended lease | `unverified` | `expired` | when the pod may be deleted (`onExpiry: stop`); None: never |
    | a launch without egress | `unverified` | every other rule | None |

    The last kind waits in Redis, so that an older decision about the same server no longer counts. It is never written on a pod.

    Attributes:
        id: random.
        tier: the tier; `unverified` means none.
        rule: the rule that decided, usually a `Rule`. Another version may have written another word.
        at: Unix time in seconds of the decision.
        by: the operator, the API key or the detector (`BY_DETECTOR`) behind the decision; empty for other rules.
        why: the operator's or the detector's reason.
        until: Unix time in seconds, as the table says.
        may_stop: whether the end of its lease may stop the pod (D-220). Only the reconciler sets it.
    """

    id: str
    tier: str
    rule: str
    at: int
    by: str = ""
    why: str = ""
    until: int | None = None
    may_stop: bool = False

    @property
    def label(self) -> str | None:
        """The value of the pod's tier label; None: no label."""
        return self.tier if self.gives_egress else None

    @property
    def gives_egress(self) -> bool:
        """Whether it gives a tier."""
        return self.tier != UNVERIFIED

    @property
    def is_ended_lease(self) -> bool:
        """Whether it marks an ended lease."""
        return self.tier == UNVERIFIED and self.rule == Rule.EXPIRED

    def is_block(self, now: float) -> bool:
        """Whether it is a block that is in force at a Unix time in seconds."""
        return self.tier == UNVERIFIED and self.rule == Rule.BLOCKED and not self.is_expired(now)

    def is_expired(self, now: float) -> bool:
        """Whether its time is over by a Unix time in seconds."""
        return self.until is not None and self.until <= now

    @classmethod
    def new(cls, tier: str, rule: str, at: float, by: str = "") -> "Grant":
        """A new grant with a random id.

        Args:
            tier: the tier, or `unverified`.
            rule: the rule that decided.
            at: Unix time in seconds.
            by: the API key behind it.
        """
        return cls(secrets.token_hex(8), tier, str(rule), int(at), by)


NO_GRANT = Grant("", UNVERIFIED, "", 0)
"""What is published of a pod that carries no grant."""


@dataclass(frozen=True)
class Record:
    """A decision that waits in Redis for its pod.

    Attributes:
        grant: the decision.
        image: the image that the pod must have; None for an unlock.
        uid: the pod that it is for; None for a launch, whose pod does not exist yet.
        repository: the repository that was launched.
        client: the address of the client that launched it.
        promise: the promise that came with the launch; empty: none did.
    """

    grant: Grant
    image: str | None = None
    uid: str | None = None
    repository: str = ""
    client: str = ""
    promise: str = ""


@dataclass(frozen=True)
class KnownServer:
    """What the reconciler publishes about a server, for the verifier and for operators. A server's page never
    shows its repository, its client's address, or a reason.

    Attributes:
        uid: the pod.
        grant: the grant that the pod carries; `NO_GRANT` if it carries none.
        repository: the repository that was launched, as BinderHub announced it, or else as the pod says; empty if unknown.
        client: the address of the client that launched it; empty if unknown.
        pod: the pod's name.
        label: the value of its tier label; empty if it has none.
        promise: the promise that came with its launch; empty: none did, or Redis was wiped since.
    """

    uid: str
    grant: Grant = NO_GRANT
    repository: str = ""
    client: str = ""
    pod: str = ""
    label: str = ""
    promise: str = ""

    @property
    def tier(self) -> str:
        """Its tier; `unverified` if it has none."""
        return self.grant.tier


@dataclass(frozen=True, slots=True)
class PodAddresses:
    """What the reconciler publishes about a running pod for the egress proxy: whose connections come from its addresses.

    Attributes:
        uid: the pod.
        user, server: the server that runs in it, as JupyterHub names it.
        addresses: its addresses, IPv4 and IPv6.
        tier: its tier; `unverified` if it has none.
        blocked: whether it carries a block.
        repository: the repository that was launched, as the pod says (`BINDER_REPO_URL`); empty if unknown.
    """

    uid: str
    user: str
    server: str
    addresses: tuple[str, ...]
    tier: str = UNVERIFIED
    blocked: bool = False
    repository: str = ""


@dataclass(frozen=True)
class AddressVersion:
    """A state of the addresses in Redis.

    Attributes:
        number: the number of changes so far.
        began: when Redis began to count; a different time means that it was wiped. Empty: nothing was published.
    """

    number: int = 0
    began: str = ""


@dataclass(frozen=True)
class AddressChange:
    """A message to the egress proxy.

    Attributes:
        version: the state after this change.
        server: the key of the server that changed; empty: none, the reconciler only reports that it is running.
        pods: the server's pods after this change.
    """

    version: AddressVersion
    server: str = ""
    pods: tuple[PodAddresses, ...] = ()


BlockKind = Literal["server", "repository", "network"]
"""What a block applies to."""

BLOCK_KINDS = get_args(BlockKind)
"""Everything that a block can apply to."""


@dataclass(frozen=True)
class Block:
    """A block by an operator, or after a detector's report: no server that it applies to gets egress, or keeps it.

    Attributes:
        id: random; also the id of the grant that it puts on pods.
        kind: one of `BLOCK_KINDS`.
        what: the key of a server, a pattern for repositories, or a CIDR of clients.
        by: the operator, or the detector (`BY_DETECTOR`).
        why: the reason.
        at: Unix time in seconds.
        until: Unix time in seconds of its end; None: it has none.
        uid: the server's pod, for a block of a server: a later pod of the same name is somebody else's.
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
        """The grant that it puts on pods."""
        return Grant(self.id, UNVERIFIED, Rule.BLOCKED.value, self.at, self.by, self.why, self.until)


@dataclass(frozen=True)
class RevokedKey:
    """An API key that an operator revoked. Only its id is read again; the rest is for people who look into Redis.

    Attributes:
        id: the key's id.
        name: the key's name in the values; empty if it was unknown.
        by: the operator.
        why: the operator's reason.
        at: Unix time in seconds.
    """

    id: str
    name: str
    by: str
    why: str
    at: int


@dataclass
class Woken:
    """The content of the lists `wake` and `actions`.

    Attributes:
        servers: the servers to reconcile.
        everything: whether to reconcile all servers.
        actions: what operators did, for the log.
    """

    servers: set[Server] = field(default_factory=set)
    everything: bool = False
    actions: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Pending:
    """What Redis holds about one server.

    Attributes:
        launch: the latest decision about a launch, or None.
        unlock: a grant for the running pod, or None.
        known: what was published last, or None.
        withdrawn: the requested grants that no longer count.
        lifted: the requested grants that are blocks an operator removed.
        blocks: all blocks, the oldest first.
        stop: the uid of a pod that has to be stopped; empty if none.
    """

    launch: Record | None = None
    unlock: Record | None = None
    known: KnownServer | None = None
    withdrawn: set[str] = field(default_factory=set)
    lifted: set[str] = field(default_factory=set)
    blocks: list[Block] = field(default_factory=list)
    stop: str = ""
