"""The texts in Redis and on pods: what is in `records`, as JSON and back. No other module looks into them.

During an upgrade two versions use the same Redis and the same pods, and scripts of the store read some of the texts. So a field
keeps its name, its place and its meaning, and what a newer version added is left out when it is read.

Whoever takes over a pod or a process may have written any text. What `read_…` cannot read counts as none (D-387).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from sys import intern
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError

from .records import (
    MAX_TIME,
    UNVERIFIED,
    AddressChange,
    AddressVersion,
    Block,
    BlockKind,
    Grant,
    KnownServer,
    PodAddresses,
    Record,
    RevokedKey,
)

MAX_TEXT_CHARACTERS = 4000
"""The longest text of a grant. As JSON a character takes 12 bytes at most, and an object in Kubernetes may have 256 KiB of
annotations: a block with a longer reason could not be written on any pod, and would keep out those that can. The longest reason of
an operator has 1,000 characters."""

_Found = TypeVar("_Found", bound="_Text")


def _ascii(text: str) -> str:
    if not text.isascii():
        raise ValueError("not ASCII")
    return text


# Not `str`, which refuses half of a surrogate pair: Python reads one in an operator's reason that is not UTF-8.
_Any = InstanceOf[str]
_Short = Annotated[InstanceOf[str], Field(max_length=MAX_TEXT_CHARACTERS)]
_Word = Annotated[_Short, AfterValidator(_ascii)]
_Time = Annotated[int, Field(ge=0, le=MAX_TIME)]


class _Text(BaseModel):
    model_config = ConfigDict(strict=True)


class _Grant(_Text):
    id: _Word
    tier: _Word
    rule: _Word
    at: _Time
    by: _Short = ""
    why: _Short = ""
    until: _Time | None = None
    may_stop: Annotated[bool, BeforeValidator(lambda value: value is True)] = False


class _Record(_Text):
    grant: _Grant
    image: _Any | None = None
    uid: _Any | None = None
    repository: _Any = ""
    client: _Any = ""
    promise: _Any = ""


class _Known(_Grant):
    """The fields of the grant are beside the others, and `grant` is its id."""

    id: _Word = Field("", alias="grant")
    tier: _Word = UNVERIFIED
    rule: _Word = ""
    at: _Time = 0
    uid: _Any
    repository: _Any = ""
    client: _Any = ""
    pod: _Any = ""
    label: _Any = ""
    promise: _Any = ""


class _Block(_Text):
    id: _Word
    kind: BlockKind
    what: _Any
    by: _Short
    why: _Short
    at: _Time
    until: _Time | None = None
    uid: _Any = ""


class _Pod(_Text):
    uid: _Any
    user: _Any
    server: _Any
    addresses: list[_Any]
    tier: _Any = UNVERIFIED
    blocked: bool = False
    repository: _Any = ""


class _Change(_Text):
    number: int
    began: _Any
    server: _Any
    pods: _Any


def from_json(text: str | None) -> Any:
    """The value of a JSON text. None if it is not JSON, or if it is nested too deeply or has too long a number for Python: what
    others write must not stop who reads it (D-387)."""
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _read(form: type[_Found], content: Any) -> _Found | None:
    try:
        return form.model_validate(content)
    except ValidationError:
        return None


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


# -- grants


def write_grant(grant: Grant) -> str:
    """The text of a pod's annotation."""
    return _compact(asdict(grant))


def read_grant(text: str | None) -> Grant | None:
    """The grant of a pod's annotation."""
    found = _read(_Grant, from_json(text))
    return _grant(found) if found else None


def _grant(found: _Grant) -> Grant:
    return Grant(found.id, found.tier, found.rule, found.at, found.by, found.why, found.until, found.may_stop)


def write_record(record: Record) -> str:
    """The text of a decision that waits."""
    return _compact({**vars(record), "grant": asdict(record.grant)})


def read_record(text: str | None) -> Record | None:
    """A decision that waits."""
    found = _read(_Record, from_json(text))
    if found is None:
        return None
    return Record(_grant(found.grant), found.image, found.uid, found.repository, found.client, found.promise)


def write_known(known: KnownServer) -> str:
    """The text of a published server."""
    of_grant = asdict(known.grant)
    tier, identity = of_grant.pop("tier"), of_grant.pop("id")
    return json.dumps({"uid": known.uid, "tier": tier, **vars(known), "grant": identity, **of_grant})


def read_known(text: str | None) -> KnownServer | None:
    """A published server."""
    found = _read(_Known, from_json(text))
    if found is None:
        return None
    return KnownServer(found.uid, _grant(found), found.repository, found.client, found.pod, found.label, found.promise)


# -- blocks and revoked keys


def write_block(block: Block) -> str:
    """The text of a block."""
    return json.dumps(asdict(block))


def read_block(text: str | None) -> Block | None:
    """A block."""
    found = _read(_Block, from_json(text))
    return Block(**dict(found)) if found else None


def write_revoked_key(revoked: RevokedKey) -> str:
    """The text of a revoked API key. Nobody reads it."""
    return json.dumps(asdict(revoked))


# -- addresses of pods


def write_pods(pods: Iterable[PodAddresses]) -> str:
    """The text of the pods of one server."""
    return _compact([asdict(pod) for pod in pods])


def read_pods(text: str | None) -> list[PodAddresses] | None:
    """The pods of one server. Values that many pods have in common are in memory only once."""
    content = from_json(text)
    found = [_read(_Pod, pod) for pod in content] if isinstance(content, list) else [None]
    pods = [_pod(pod) for pod in found if pod]
    return pods if len(pods) == len(found) else None


def _pod(found: _Pod) -> PodAddresses:
    tier, repository = intern(found.tier), intern(found.repository)
    return PodAddresses(found.uid, found.user, found.server, tuple(found.addresses), tier, found.blocked, repository)


def read_version(text: str | None) -> AddressVersion:
    """The version of the addresses. Any other text is the version of no message, so a snapshot follows."""
    began, _, number = (text or "").rpartition("-")
    return AddressVersion(int(number), began) if re.fullmatch("[0-9]{1,15}", number) else AddressVersion()


def read_change(text: str | None) -> AddressChange | None:
    """A message to the egress proxy. A server whose pods cannot be read has none."""
    found = _read(_Change, from_json(text))
    if found is None:
        return None
    return AddressChange(AddressVersion(found.number, found.began), found.server, tuple(read_pods(found.pods) or ()))
