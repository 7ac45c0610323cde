"""The vocabulary: what the processes and the operators tell each other, through Redis and through a pod's annotation.

`serialization` writes it as JSON, and reads it.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes no other one below Python 3.12, and brings this one

from .grants import NO_GRANT, UNVERIFIED, Block, Egress, Grant, NoEgress

MAX_TIME = 10**11
"""The latest Unix time in seconds that counts as one, in the year 5138. For most later ones Python has no date."""

MAX_FIELD_CHARACTERS = 2049
"""The longest text of a record that waits, apart from its grant: a repository's URL is cut to 2,048 characters and a mark."""

_Field = Annotated[str, Field(max_length=MAX_FIELD_CHARACTERS)]

CAME = ("page", "third-party page", "client", "key", "script", "crawler", "hub", "other")
"""How a launch may have come: from BinderHub's page or another site's, by our client, with an API key, by another program, by a
crawler; not from BinderHub; or in a way that BinderHub's hook did not see. All but `key` and `hub` are what the request claims."""

Port = Annotated[str, Field(pattern="^(tcp|udp)/[0-9]{1,5}$|^udp$")]
Count = Annotated[int, Field(ge=0, le=10**12)]


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
class Record:
    """A decision that waits in Redis for its pod.

    Attributes:
        grant: the decision.
        image: the image that the pod must have; None for an unlock.
        uid: the pod that it is for; None for a launch, whose pod does not exist yet.
        repository: the repository that was launched.
        client: the address of the client that launched it.
        promise: the promise that came with the launch; empty: none did.
        launched_at: Unix time in seconds at which the launch should have been announced; None: it was. Its pod was created about
            then (`reconciler.wanted.LATE_POD_SECONDS`).
        came: how it came, one of `CAME`; empty: an older version wrote it, or it is an unlock.
    """

    grant: Egress | NoEgress
    image: _Field | None = None
    uid: _Field | None = None
    repository: _Field = ""
    client: _Field = ""
    promise: _Field = ""
    launched_at: float | None = None
    came: _Field = ""


class Reason(StrEnum):
    """Why a pod carries what it should. The first that applies decides; `reconciler.wanted` says which grants count."""

    BLOCK = "block"  # blocks apply, from Redis or from the pod's own annotation: it carries the one that ends last, or its own
    UNLOCK = "unlock"  # one waits for this pod, and gives no less than what the pod keeps: with a lease from now
    KEPT = "kept"  # its own grant counts and is not over: the same, cut to one lease from now
    LAUNCH = "launch"  # one of this image waits, and if it was announced late, of this pod's time: its grant, with a lease from now
    MODE_ALLOW = "mode-allow"  # that is the mode, and nothing refuses the pod egress: a new grant of `allow.tier`
    ENDED = "ended"  # its own grant is an ended lease: the same
    ENDS = "ends"  # its own grant counts and is over: an ended lease in its place
    NOTHING = "nothing"  # in any other case: nothing


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
        opens_at: Unix time in seconds by which the network plugin acts on its label, where that takes long (D-477); 0 elsewhere.
        announced: whether BinderHub announced its launch; False also if Redis was wiped since.
        reason: why it carries what it carries, a `Reason`. Another version may have written another word, or none.
        refused_by: the rule that refuses it egress by the settings, whether that decided or not; empty: none does.
        node: the name of the pod's node; empty until it has one.
        came: how its launch came, one of `CAME`; empty if unknown.
    """

    uid: str
    grant: Grant = NO_GRANT
    repository: str = ""
    client: str = ""
    pod: str = ""
    label: str = ""
    promise: str = ""
    opens_at: int = 0
    announced: bool = False
    reason: str = ""
    refused_by: str = ""
    node: str = ""
    came: str = ""

    def opens_in(self, now: float) -> int:
        """Seconds until its tier is open, from a Unix time in seconds; 0: it is open, or there is none."""
        return max(0, math.ceil(self.opens_at - now)) if isinstance(self.grant, Egress) else 0

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


@dataclass(frozen=True, slots=True)
class TierChange:
    """What the reconciler tells the part on a pod's node: connections that the pod's tier does not open have to end.

    Attributes:
        uid: the pod.
        node: its node.
        addresses: its addresses, IPv4 and IPv6.
        tier: its tier now; `unverified` if it has none.
        at: Unix time in seconds of the change.
        seconds: how long the node's network plugin takes to act on a label; 0: that was not measured.
    """

    uid: str
    node: str
    addresses: tuple[str, ...]
    tier: str
    at: float
    seconds: float


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


class Detection(TypedDict):
    """A detector's report, what became of it, and the pod and server that it is about, which the report names if none runs."""

    at: float  # Unix time in seconds at which the match was seen
    source: str
    list: str
    label: str
    outcome: str  # one of `reconciler_counters.DetectionOutcome`
    user: str
    server: str
    pod: str
    uid: str
    report: str  # its id


UseVerdict = Literal["used", "not used", "not known"]
"""Whether a server has used the network beyond what the base policy opens."""


class NetworkUse(BaseModel):
    """What an agent knows of a user pod's use of the network, since the pod's network exists.

    Attributes:
        uid: the pod.
        used: whether it used the network beyond what the base policy opens.
        first: when first, in seconds after the user's container started; None: never, or it is not known in which minute.
        ports: to which ports, `tcp/443`, or `udp` if that is not known; the first 16.
        seen: the number of such connections that were seen.
        missed: connections that nothing explains.
        datagrams: how often there were UDP packets that nothing explains.
        ended: whether the pod has ended, and its counters were read to the end.
        sender: the agent's address.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    uid: Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,64}$")]
    used: bool
    first: Annotated[float, Field(ge=0, le=MAX_TIME, allow_inf_nan=False)] | None
    ports: Annotated[list[Port], Field(max_length=16)]
    seen: Count
    missed: Count
    datagrams: Count
    ended: bool
    sender: Annotated[str, Field(max_length=64)] = ""


class ReportedLaunch(BaseModel):
    """A launch whose server has ended, for the report. No address is in it, and no name of a user.

    Attributes:
        at: when its pod was created, Unix time in seconds.
        came: how it came, one of `CAME`.
        had_tier: whether it ever had a tier.
        repository: the repository's name; empty if unknown.
        use: whether it used the network.
        why: why that is not known; else empty.
        first, ports, seen: as in `NetworkUse`.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    at: Annotated[float, Field(ge=0, le=MAX_TIME, allow_inf_nan=False)]
    came: Annotated[str, Field(max_length=20)]
    had_tier: bool
    repository: Annotated[str, Field(max_length=200)]
    use: UseVerdict
    why: Annotated[str, Field(max_length=20)]
    first: Annotated[float, Field(ge=0, le=MAX_TIME, allow_inf_nan=False)] | None
    ports: Annotated[list[Port], Field(max_length=16)]
    seen: Count


class UnreadableLine(TypedDict):
    """The beginning of a line of a detector that could not be read, at a Unix time in seconds, and what is wrong with it."""

    at: int
    source: str
    why: str
    line: str


class VerifierReport(TypedDict, total=False):
    """What a verifier reports about itself for `doctor`, without secrets. One of another version may lack fields."""

    version: str
    at: float  # Unix time in seconds, by the verifier's clock
    proxies: str  # `number` or `networks`: the form of `trustedProxies`
    signing_keys: int  # how many there are
    api_keys: list[object]  # `api_keys.Key.described` of each
    api_keys_wrong: list[str]  # a sentence for each wrong entry
    providers: dict[str, str]  # name → `captcha.State`
    refused_at: float  # when it last refused an announcement, whose token was wrong: Unix time in seconds; 0: it refused none
    signed_in: bool  # whether a rule gives users who sign in a tier; they may start servers without BinderHub


class Measured(TypedDict, total=False):
    """How a node's network plugin acts on labels, as the reconciler publishes it. What was not measured yet is missing.

    Attributes:
        on: seconds from a label to the first packet, the longest of the latest measurements. 60 stands for more.
        off: seconds from taking it off to the first refusal.
        since: when the first change was made that has not acted yet, Unix time in seconds; missing: there is none.
        at: when a change was last seen to act, Unix time in seconds.
        reason: why the last attempt measured nothing; missing: it did.
    """

    on: float
    off: float
    since: float
    at: float
    reason: str


MOST_NODES = 5000
"""The most nodes of which a part on each is listed, and its counts are passed on, since whoever takes one over could write others.
No cluster of Kubernetes is to have more (https://kubernetes.io/docs/setup/best-practices/cluster-large/)."""


class Node(TypedDict):
    """A node, as the gate check publishes it.

    Attributes:
        state: `shut`, `open` or `not known`.
        since: since when it is in that state, Unix time in seconds.
        why: what was seen, as a sentence without a full stop; empty if it is shut.
        user_pods: the user pods that run there.
        guards: start guards of these pods by outcome.
        said: when the canary last tried its targets, Unix time in seconds; None: never, or there is none.
        targets: each target that it could try → whether it was shut.
        proxy: what the egress proxy sees of the canary; empty if that is not known.
        agent: whether an agent runs there; None: agents are off.
        labels: how long labels take to act there.
    """

    state: str
    since: float
    why: str
    user_pods: int
    guards: dict[str, int]
    said: float | None
    targets: dict[str, bool]
    proxy: str
    agent: bool | None
    labels: Measured


class Opened(TypedDict):
    """A rule of another NetworkPolicy that opens something, as `gatecheck.netpol.Bypass` says it."""

    policy: str
    direction: str


class Judged(TypedDict):
    """What the gate check found in the NetworkPolicies, as `gatecheck.netpol.Judgement` says it."""

    bypasses: list[Opened]
    missing: list[str]
    altered: list[str]
    base_missing: bool


class Tried(TypedDict):
    """What the canary reached, as `gatecheck.check.Canary` says it."""

    targets: dict[str, bool]  # whether each was shut
    proxy: str


class GateFindings(TypedDict, total=False):
    """What the gate check published, as other processes read it: `gatecheck.check.Findings`. What it could not see is None."""

    at: float  # Unix time in seconds
    judgement: Judged | None
    canary: Tried | None
    label_delay: dict[str, float]
    nodes: dict[str, Node]
    ended: dict[str, dict[str, int]]  # connections, by node and tier
    connections: list[str] | None  # the nodes with the part that ends them


class WantedHost(TypedDict):
    """A host that unverified servers of one repository asked the egress proxy for and did not get: how often, and the Unix time in
    seconds of the last request."""

    repository: str
    host: str
    times: int
    last: float


@dataclass
class Woken:
    """The content of the lists `commands`, `wake` and `actions`. Servers are keys: all may be made up, and parsing costs time.

    Attributes:
        commanded: the servers to reconcile first, because a command acted on them.
        everything_first: whether a command acted on any server.
        servers: the servers to reconcile.
        everything: whether to reconcile all servers.
        nodes: the nodes on which to measure at once whether labels act.
        actions: what operators did, for the log.
    """

    commanded: set[str] = field(default_factory=set)
    everything_first: bool = False
    servers: set[str] = field(default_factory=set)
    everything: bool = False
    nodes: set[str] = field(default_factory=set)
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
