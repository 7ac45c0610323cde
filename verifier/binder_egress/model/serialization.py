"""The texts in Redis and on pods: what is in `grants` and `records`, as JSON and back. No other module looks into them.

During an upgrade two versions use the same Redis and the same pods, and scripts of the store read some of the texts. So a field
keeps its name, its place and its meaning, and what a newer version added is left out when it is read.

Whoever takes over a pod or a process may have written any text. What `read_…` cannot read counts as none (D-387).
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from sys import intern
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError

from .grants import (
    BY_RULE,
    NO_GRANT,
    UNVERIFIED,
    Block,
    Blocked,
    BlockKind,
    Carried,
    Egress,
    EndedLease,
    Grant,
    NoEgress,
    Origin,
    OriginKind,
    Rule,
)
from .records import MAX_TIME, AddressChange, AddressVersion, KnownServer, PodAddresses, Record, TierChange

MAX_TEXT_CHARACTERS = 4000
"""The longest text of a grant. As JSON a character takes 12 bytes at most, and an object in Kubernetes may have 256 KiB of
annotations: a block with a longer reason could not be written on any pod, and would keep out those that can. The longest reason of
an operator has 1,000 characters."""

MAX_WORD_CHARACTERS = 255
"""The longest id, tier, rule or kind. Those that the project writes have 63 at most, as a label in Kubernetes."""

_Found = TypeVar("_Found")
_Word = Annotated[str, Field(max_length=MAX_WORD_CHARACTERS, pattern="^[[:ascii:]]*$")]
# Not `str`, which refuses half of a surrogate pair: Python makes one of each byte of a command that is not UTF-8.
_Reason = Annotated[InstanceOf[str], Field(max_length=MAX_TEXT_CHARACTERS)]
_Time = Annotated[int, Field(ge=0, le=MAX_TIME)]


class _Grant(BaseModel):
    model_config = ConfigDict(strict=True)

    id: _Word
    tier: _Word
    rule: _Word
    at: _Time
    by: _Reason = ""
    by_kind: _Word = ""
    by_id: _Word = ""
    why: _Reason = ""
    until: _Time | None = None
    may_stop: Annotated[bool, BeforeValidator(lambda value: value is True)] = False


class _Block(_Grant):
    tier: _Word = UNVERIFIED
    rule: _Word = Rule.BLOCKED.value
    kind: BlockKind
    what: str
    uid: str = ""


class _Change(BaseModel):
    model_config = ConfigDict(strict=True)

    number: int
    began: str
    server: str
    pods: str


_GRANT, _BLOCK, _CHANGE = TypeAdapter(_Grant), TypeAdapter(_Block), TypeAdapter(_Change)
_RECORD, _SERVER = TypeAdapter(Record), TypeAdapter(KnownServer)


def from_json(text: str | None) -> Any:
    """The value of a JSON text. None if it is not JSON, or if it is nested too deeply or has too long a number for Python: what
    others write must not stop who reads it (D-387)."""
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _object(text: str | None) -> dict[str, Any]:
    content = from_json(text)
    return content if isinstance(content, dict) else {}


def _checked(type_: TypeAdapter[_Found], content: Any) -> _Found | None:
    try:
        return type_.validate_python(content)
    except ValidationError:
        return None


def reader(type_: type[_Found]) -> Callable[[str | None], _Found | None]:
    """A function that reads a type, such as a list of a TypedDict, from JSON, and returns None if the text is something else."""
    adapter = TypeAdapter(type_)

    def read(text: str | None) -> _Found | None:
        try:
            return adapter.validate_json(text or "", strict=True)
        except ValidationError:
            return None

    return read


_pods = reader(list[PodAddresses])


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


# -- who is behind a decision


def by_key(name: str, identity: str) -> Origin:
    """The origin of what an API key gives."""
    return Origin("key", identity, f"key {name} ({identity})")


def by_detector(source: str) -> Origin:
    """The origin of what follows from a detector's report."""
    return Origin("detector", source, f"detector {source}")


def fields_of_origin(origin: Origin) -> dict[str, str]:
    """The fields that a text has of who is behind a decision."""
    kind = {"by_kind": origin.kind, "by_id": origin.id} if origin.kind != "rule" else {}
    return {"by": origin.text, **kind}


def read_origin(by: str, kind: str = "", identity: str = "") -> Origin:
    """Who is behind a decision, by these fields of a text or of a line in the log. A version that wrote no kind had it only in the
    words of `by`, which an operator may choose, too (D-515)."""
    for known in get_args(OriginKind):
        if kind == known:
            return Origin(known, identity, by)
    if by.startswith("detector "):
        return by_detector(by.removeprefix("detector "))
    if key := re.fullmatch(r"key \S+ \(([0-9a-f]{16})\)", by):
        return Origin("key", key[1], by)
    return Origin("operator", text=by) if by else BY_RULE


# -- grants


def fields_of(grant: Grant) -> dict[str, Any]:
    """The fields that a text has of a grant. Every kind has all of them."""
    common = {"id": grant.id, "tier": grant.tier, "rule": grant.rule, "at": grant.at, **fields_of_origin(grant.origin)}
    match grant:
        case Egress():
            return {**common, "why": grant.why, "until": grant.until, "may_stop": grant.may_stop}
        case Blocked():
            return {**common, "why": grant.why, "until": grant.until, "may_stop": False}
        case EndedLease():
            return {**common, "why": grant.why, "until": grant.stop_at, "may_stop": grant.may_stop}
        case NoEgress():
            return {**common, "why": "", "until": None, "may_stop": False}


def _grant(content: Any) -> Grant | None:
    grant = _checked(_GRANT, content)
    if grant is None:
        return None
    origin = read_origin(grant.by, grant.by_kind, grant.by_id)
    if grant.tier != UNVERIFIED:
        return Egress(grant.id, grant.tier, grant.rule, grant.at, origin, grant.why, grant.until, grant.may_stop)
    if grant.rule == Rule.BLOCKED:
        return Blocked(grant.id, grant.at, origin, grant.why, grant.until)
    if grant.rule == Rule.EXPIRED:
        return EndedLease(grant.id, grant.at, origin, grant.why, grant.until, grant.may_stop)
    return NoEgress(grant.id, grant.rule, grant.at)


def write_grant(grant: Carried) -> str:
    """The text of a pod's annotation."""
    return _compact(fields_of(grant))


def read_grant(text: str | None) -> Carried | None:
    """The grant in a pod's annotation."""
    grant = _grant(from_json(text))
    return None if isinstance(grant, NoEgress) else grant


def write_record(record: Record) -> str:
    """The text of a decision that waits."""
    return _compact({**vars(record), "grant": fields_of(record.grant)})


def read_record(text: str | None) -> Record | None:
    """A decision that waits."""
    content = _object(text)
    grant = _grant(content.get("grant"))
    if grant and not isinstance(grant, Egress):
        # A launch that a block refused has the rule of a block, and is none.
        grant = NoEgress(grant.id, grant.rule, grant.at)
    return _checked(_RECORD, {**content, "grant": grant})


def write_known(known: KnownServer) -> str:
    """The text of a published server. The fields of its grant are beside the others, and `grant` is the id."""
    of_grant = fields_of(known.grant)
    tier, identity = of_grant.pop("tier"), of_grant.pop("id")
    return json.dumps({"uid": known.uid, "tier": tier, **vars(known), "grant": identity, **of_grant})


def read_known(text: str | None) -> KnownServer | None:
    """A published server."""
    content = _object(text)
    grant = _grant({**fields_of(NO_GRANT), **content, "id": content.get("grant", NO_GRANT.id)})
    return _checked(_SERVER, {**content, "grant": grant})


# -- blocks


def write_block(block: Block) -> str:
    """The text of a block."""
    named = {"id": block.id, "kind": block.kind, "what": block.what, **fields_of_origin(block.origin)}
    return json.dumps({**named, "why": block.why, "at": block.at, "until": block.until, "uid": block.uid})


def read_block(text: str | None) -> Block | None:
    """A block."""
    block = _checked(_BLOCK, from_json(text))
    if block is None:
        return None
    origin = read_origin(block.by, block.by_kind, block.by_id)
    return Block(block.id, block.kind, block.what, origin, block.why, block.at, block.until, block.uid)


# -- addresses of pods


def write_pods(pods: Iterable[PodAddresses]) -> str:
    """The text of the pods of one server."""
    return _compact([asdict(pod) for pod in pods])


def read_pods(text: str) -> list[PodAddresses] | None:
    """The pods of one server. Values that many pods have in common are in memory only once."""
    pods = _pods(text)
    return pods and [replace(pod, tier=intern(pod.tier), repository=intern(pod.repository)) for pod in pods]


def read_version(text: str | None) -> AddressVersion:
    """The version of the addresses. Any other text is the version of no message, so a snapshot follows."""
    began, _, number = (text or "").rpartition("-")
    return AddressVersion(int(number), began) if re.fullmatch("[0-9]{1,15}", number) else AddressVersion()


def read_change(text: str) -> AddressChange | None:
    """A message to the egress proxy. A server whose pods cannot be read has none."""
    change = _checked(_CHANGE, from_json(text))
    if change is None:
        return None
    return AddressChange(AddressVersion(change.number, change.began), change.server, tuple(read_pods(change.pods) or ()))


def write_tier_changes(changes: Iterable[TierChange]) -> str:
    """The text of the changes of tiers for the parts on the nodes."""
    return _compact([asdict(change) for change in changes])


read_tier_changes = reader(list[TierChange])
"""The changes of tiers, or the tiers of all pods."""

read_counts = reader(dict[str, int])
"""How many connections a node has ended, by tier."""
