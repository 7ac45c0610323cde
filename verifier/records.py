"""The vocabulary: what the processes and the operators tell each other, through Redis and through a pod's annotation.

A message is written as JSON by its `dumps` and read by its `loads`, if it has them: some are written by a script of the store, and
some are never written, or never read. A field that a newer version added is left out when it is read: during an upgrade both
versions use the same Redis.
"""

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from sys import intern
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import quote, unquote

UNVERIFIED = "unverified"
"""The tier of servers without egress. It has no policy of its own, and no pod has it as a label."""

MAX_TIME = 10**11
"""The latest Unix time in seconds that counts as one, in the year 5138. For most later ones Python has no date."""

MAX_TEXT_CHARACTERS = 4000
"""The longest text of a grant. As JSON a character takes 12 bytes at most, and an object in Kubernetes may have 256 KiB of
annotations: a block with a longer reason could not be written on any pod, and would keep out those that can. The longest reason of
an operator has 1,000 characters."""

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


_Message = TypeVar("_Message")


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

    def dumps(self) -> str:
        """The grant as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def loads(cls, text: str | None) -> "Grant | None":
        """The grant that JSON describes, or None if it describes none. An annotation may hold anything."""
        return cls.read(from_json(text))

    @classmethod
    def read(cls, content: Any) -> "Grant | None":
        """A grant from JSON that is decoded already, or None."""
        try:
            grant = cls(content["id"], content["tier"], content["rule"], content["at"])
            grant = replace(grant, by=content.get("by", ""), why=content.get("why", ""), until=content.get("until"))
            grant = replace(grant, may_stop=content.get("may_stop") is True)
        except (KeyError, TypeError):
            return None
        words = (grant.id, grant.tier, grant.rule)
        texts = all(isinstance(part, str) and len(part) <= MAX_TEXT_CHARACTERS for part in (*words, grant.by, grant.why))
        return grant if texts and all(map(str.isascii, words)) and _are_times(grant.at, grant.until) else None


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

    def dumps(self) -> str:
        """The record as JSON."""
        return json.dumps({**vars(self), "grant": vars(self.grant)}, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str | None) -> "Record | None":
        """The record that JSON describes, or None if it describes none (D-387)."""
        content = from_json(text)
        try:
            record = _read(cls, {**content, "grant": Grant.read(content["grant"])})
        except (KeyError, TypeError):
            return None
        texts = all(isinstance(part, str | None) for part in (record.image, record.uid))
        texts = texts and all(isinstance(part, str) for part in (record.repository, record.client, record.promise))
        return record if record.grant and texts else None


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

    def dumps(self) -> str:
        """This as JSON, with the fields of the grant beside the others; `grant` is its id."""
        of_grant = asdict(self.grant)
        tier, identity = of_grant.pop("tier"), of_grant.pop("id")
        return json.dumps({"uid": self.uid, "tier": tier, **vars(self), "grant": identity, **of_grant})

    @classmethod
    def loads(cls, text: str | None) -> "KnownServer | None":
        """The server that JSON describes, or None if it describes none (D-387)."""
        content = from_json(text)
        try:
            grant = Grant.read({**vars(NO_GRANT), **content, "id": content.get("grant", NO_GRANT.id)})
            known = _read(cls, {**content, "grant": grant})
        except TypeError:
            return None
        texts = all(
            isinstance(part, str) for part in (known.uid, known.repository, known.client, known.pod, known.label, known.promise)
        )
        return known if known.grant and texts else None


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

    @staticmethod
    def dumps(pods: "Iterable[PodAddresses]") -> str:
        """The pods of one server, as JSON."""
        return json.dumps([asdict(pod) for pod in pods], separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> "list[PodAddresses] | None":
        """The pods that JSON describes, or None if it describes none (D-387). Values that many pods have in common are in memory
        only once."""
        try:
            found = [_read(cls, {**pod, "addresses": tuple(pod["addresses"])}) for pod in from_json(text)]
        except (KeyError, TypeError):
            return None
        for pod in found:
            texts = (pod.uid, pod.user, pod.server, pod.tier, pod.repository, *pod.addresses)
            if not (all(isinstance(part, str) for part in texts) and isinstance(pod.blocked, bool)):
                return None
        return [replace(pod, tier=intern(pod.tier), repository=intern(pod.repository)) for pod in found]


@dataclass(frozen=True)
class AddressVersion:
    """A state of the addresses in Redis.

    Attributes:
        number: the number of changes so far.
        began: when Redis began to count; a different time means that it was wiped. Empty: nothing was published.
    """

    number: int = 0
    began: str = ""

    @classmethod
    def loads(cls, text: str | None) -> "AddressVersion":
        """The version that a text describes. Any other text is the version of no message, so a snapshot follows."""
        began, _, number = (text or "").rpartition("-")
        return cls(int(number), began) if re.fullmatch("[0-9]{1,15}", number) else cls()


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

    @classmethod
    def loads(cls, text: str) -> "AddressChange | None":
        """The message that JSON describes, or None if it describes none (D-387)."""
        content = from_json(text)
        try:
            version, server = AddressVersion(content["number"], content["began"]), content["server"]
            pods = PodAddresses.loads(content["pods"] or "[]")
        except (KeyError, TypeError):
            return None
        if not (isinstance(version.number, int) and isinstance(version.began, str) and isinstance(server, str)):
            return None
        # A server whose pods cannot be read has none.
        return cls(version, server, tuple(pods or ()))


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

    def dumps(self) -> str:
        """This as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Block | None":
        """The block that JSON describes, or None if it describes none (D-387)."""
        try:
            block = _read(cls, from_json(text))
        except TypeError:
            return None
        texts = isinstance(block.what, str) and isinstance(block.uid, str)
        # It becomes a grant on pods.
        return block if block.kind in BLOCK_KINDS and texts and Grant.read(vars(block.grant)) else None


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

    def dumps(self) -> str:
        """This as JSON."""
        return json.dumps(asdict(self))


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


def from_json(text: str | None) -> Any:
    """The value of a JSON text. None if it is not JSON, or if it is nested too deeply or has too long a number for Python: what
    others write must not stop who reads it (D-387)."""
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _are_times(at: Any, until: Any) -> bool:
    """Whether these can be the times of a decision and of its end."""
    return all(type(moment) is int and 0 <= moment <= MAX_TIME for moment in (at, 0 if until is None else until))


def _read(message: type[_Message], content: dict[str, Any]) -> _Message:
    """A message made from the fields that it knows. Others are left out."""
    return message(**{part.name: content[part.name] for part in fields(message) if part.name in content})  # type: ignore[arg-type]
