"""API keys: what courses and services send to `POST passes` in place of a solution.

A key is `binder_egress_<id>_<secret>`. Of it only a hash is kept, with what it is good for, in a file that the chart mounts from a
Secret. That a key was revoked, and how many servers it had, is in Redis (`store`).

Decisions: D-032, D-033, D-034, D-040.
"""

import hashlib
import hmac
import json
import logging
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .origins import origin
from .passes import BadPass
from .repositories import exact, within

FORM = re.compile(r"binder_egress_([0-9a-f]{16})_[0-9a-f]{40}")
"""What a key looks like. Secret scanners find it by this; the first part is its id, which is no secret."""

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
"""Names of keys: they become labels of metrics."""

MOST_PER_DAY = 1_000_000
"""More servers a day than any key may have."""

DAY = 86400
"""Seconds in which a key may have `serversPerDay` servers: any 24 hours, so that there is no rush at midnight."""

WRONG_KEYS = 30
"""Wrong keys of one client network in `WRONG_WINDOW` that are logged, and answered by "wrong"; after these, "too many"."""

WRONG_WINDOW = 600
"""Seconds."""

WRONG_NETWORKS = 10_000
"""Client networks whose wrong keys are counted at a time: about 2 MB."""

log = logging.getLogger("binder-egress")


def _day(text: str) -> str:
    try:
        return str(date.fromisoformat(text))
    except ValueError:
        raise ValueError("is not a date such as 2027-01-31") from None


def _pattern(text: str) -> str:
    if not exact(f"https://{text.removesuffix('*')}x/x" if text.endswith("/*") else f"https://{text}"):
        raise ValueError(f"{text!r} is not host/owner/name, or host/owner/*")
    return text


def _origin(text: str) -> str:
    if text == "*":
        raise ValueError("'*' would be every origin: leave origins away for that")
    return origin(text)


class Entry(BaseModel):
    """What the chart's values say of a key, `apiKeys.keys.<name>`.

    Attributes:
        id: its id.
        hash: SHA-256 of the whole key, in hexadecimal. A slow hash is for what people choose; a key is 160 random bits.
        tier: the tier of its servers.
        serversPerDay: how many servers it may have in 24 hours.
        expires: the last day on which it counts, by UTC.
        origins: origins of pages that may send it, as browsers write them; empty: anybody.
        repositories: what its servers may be of, `host/owner/name` or `…/*`; empty: anything.
    """

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tier: Annotated[str, Field(min_length=1, max_length=63)]
    serversPerDay: Annotated[int, Field(ge=1, le=MOST_PER_DAY)]
    expires: Annotated[str, AfterValidator(_day)]
    origins: list[Annotated[str, AfterValidator(_origin)]] = []
    repositories: list[Annotated[str, AfterValidator(_pattern)]] = []


@dataclass(frozen=True)
class Key:
    """A key that this site has.

    Attributes:
        name: what operators call it.
        entry: what it is good for.
    """

    name: str
    entry: Entry

    @property
    def label(self) -> str:
        """What its grants say they are by."""
        return f"key {self.name} ({self.entry.id})"

    def is_expired(self, at: float) -> bool:
        """Whether it has expired at a Unix time in seconds."""
        return at >= ends(self.entry.expires)

    def described(self) -> dict[str, Any]:
        """All but the hash."""
        return {"name": self.name, **self.entry.model_dump(exclude={"hash"})}


def gave(keys: Collection[str], by: str) -> bool:
    """Whether what a grant says it is by is one of these keys, by their ids."""
    found = re.fullmatch(r"key \S+ \(([0-9a-f]{16})\)", by)
    return bool(found and found[1] in keys)


def ends(expires: str) -> float:
    """Unix time in seconds at which a day is over, by UTC."""
    return datetime.fromisoformat(expires).replace(tzinfo=UTC).timestamp() + DAY  # the day after 9999-12-31 is no date


def reported(reports: Iterable[dict[str, Any]]) -> list[Key]:
    """The keys that verifiers say they have, each once, by name. What another version wrote and we cannot read is left out."""
    found = {}
    for report in reports:
        listed = report.get("api_keys")
        for described in listed if isinstance(listed, list) else []:
            try:
                known = {name: described[name] for name in Entry.model_fields if name in described}
                key = Key(str(described["name"]), Entry.model_validate({**known, "hash": "0" * 64}))
            except (KeyError, TypeError, ValueError):
                continue
            found[key.name, key.entry.id] = key
    return [key for _, key in sorted(found.items())]


def create(tier: str, servers_per_day: int, expires: str, origins: list[str], repositories: list[str]) -> tuple[str, Entry]:
    """A new key, and its entry.

    Raises:
        ValueError: with a sentence that names what is wrong.
    """
    key = f"binder_egress_{secrets.token_hex(8)}_{secrets.token_hex(20)}"
    found = FORM.fullmatch(key)
    assert found
    values = {"tier": tier, "serversPerDay": servers_per_day, "expires": expires, "origins": origins, "repositories": repositories}
    try:
        return key, Entry(id=found[1], hash=_hash(key), **values)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"


class Keys:
    """The keys of this site, read again whenever the file has changed, so that no restart is needed.

    A file that cannot be read means that there are no keys, and a wrong entry that there is none of that name: nothing that was
    in an earlier file goes on counting.

    Args:
        file: JSON, a map of names to entries; `""`: there are no keys.
        tiers: the tiers that exist.
    """

    def __init__(self, file: str, tiers: Collection[str]):
        self._file = Path(file) if file else None
        self._tiers = tiers
        self._lock = threading.Lock()
        self._seen: object = None
        self._found: dict[str, Key] = {}
        self._wrong: list[str] = []

    def all(self) -> dict[str, Key]:
        """The keys by their ids."""
        return self._read()[0]

    def wrong(self) -> list[str]:
        """One sentence for each entry that cannot be used."""
        return self._read()[1]

    def find(self, presented: str) -> Key | None:
        """The key that somebody presents, or None. What is wrong with it does not show, in the answer or in the time it takes."""
        form = FORM.fullmatch(presented)
        key = self.all().get(form[1]) if form else None
        same = hmac.compare_digest(_hash(presented), key.entry.hash if key else "0" * 64)
        return key if same else None

    def accept(self, key: str, repository: str, at: float) -> Key:
        """The key that a pass was issued for, if the pass counts for a server of a repository.

        Args:
            key: its id.
            repository: URL of the repository.
            at: Unix time in seconds at which the pass was presented.

        Raises:
            BadPass: the key is not in the values any more, has expired, or is for other repositories.
        """
        found = self.all().get(key)
        if found is None:
            raise BadPass("key-unknown", "The pass was issued for a key that this site does not have.")
        if found.is_expired(at):
            raise BadPass("key-expired", "The key that the pass was issued for has expired.")
        patterns = found.entry.repositories
        if patterns and not any(within(pattern, repository) for pattern in patterns):
            raise BadPass("other-repository", "The pass was issued for a key that is for other repositories.")
        return found

    def _read(self) -> tuple[dict[str, Key], list[str]]:
        if not self._file:
            return {}, []
        with self._lock:
            try:
                # The kubelet changes a mounted Secret by pointing a link at new files.
                stat = self._file.stat()
                seen: object = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                if seen != self._seen:
                    self._found, self._wrong = _parse(self._file.read_text(), self._tiers)
                    self._note(seen)
            except (OSError, ValueError, RecursionError) as error:
                self._found, self._wrong = {}, [f"{self._file.name} cannot be read: {type(error).__name__}"]
                if str(error) != self._seen:
                    self._note(str(error))
            return self._found, self._wrong

    def _note(self, seen: object) -> None:
        self._seen = seen
        for sentence in self._wrong:
            log.error("API keys: %s", sentence)
        log.info("API keys: %d", len(self._found))


def _parse(text: str, tiers: Collection[str]) -> tuple[dict[str, Key], list[str]]:
    found: dict[str, Key] = {}
    wrong = []
    entries = json.loads(text)
    if not isinstance(entries, dict):
        raise ValueError("it is not a map")
    for name, values in entries.items():
        if values is False:
            continue
        try:
            entry = Entry.model_validate(values)
        except ValidationError as error:
            wrong.append(f"{name}: {_sentence(error)}")
            continue
        if not NAME.fullmatch(name):
            wrong.append(f"{name[:40]}: a name is lower-case letters, digits and dashes, 40 at most")
        elif entry.tier not in tiers:
            wrong.append(f"{name}: there is no tier {entry.tier!r}")
        elif entry.id in found:
            wrong.append(f"{name}: has the id of {found[entry.id].name}")
        else:
            found[entry.id] = Key(name, entry)
    return found, wrong


class WrongKeys:
    """Counts the wrong keys that each client network presents.

    In memory, for each replica by itself: what anybody can send for nothing must not fill Redis. A right key is never refused
    because of others from its network, so nobody can lock a class out; guessing 160 bits is hopeless without any limit.

    Args:
        clock: seconds, never set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # network → when its window ends, and how many

    def note(self, network: str) -> int | None:
        """Count one more: None, or after too many the seconds until they are forgotten."""
        with self._lock:
            now = self._clock()
            over, number = self._counts.pop(network, (0.0, 0))
            if over <= now:
                over, number = now + WRONG_WINDOW, 0
            self._counts[network] = over, number + 1
            if len(self._counts) > WRONG_NETWORKS:
                self._counts.popitem(last=False)
            return max(1, round(over - now)) if number >= WRONG_KEYS else None
