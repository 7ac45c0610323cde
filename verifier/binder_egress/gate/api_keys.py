"""API keys: courses and services send one to `POST passes` in place of a solution.

A key is `binder_egress_<id>_<secret>`. Only its hash is stored, with its tier and limits, in a file that the chart mounts from a
Secret. Revocations and the number of servers that each key got are in Redis (`store`).

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
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..logs import Counts
from ..model.grants import Origin
from ..model.origins import origin
from ..model.passes import BadPass
from ..model.records import PassOutcome, VerifierReport
from ..model.repositories import strict, within
from ..model.serialization import by_key
from ..model.validation import sentences

FORM = re.compile(r"binder_egress_([0-9a-f]{16})_[0-9a-f]{40}")
"""The form of a key. Secret scanners find keys by it. The first part is its id, which is not secret."""

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
"""The form of a key's name, which becomes a label of metrics."""

MAX_SERVERS_PER_DAY = 1_000_000
"""The highest `serversPerDay` of a key."""

SERVERS_PER_PASS = 1
"""The number of servers that a key's pass is good for. With more, `serversPerDay` would not count servers."""

DAY_SECONDS = 86400
"""The window of `serversPerDay`, in seconds. It is any 24 hours, not a calendar day, so there is no rush at midnight."""

MAX_WRONG_KEYS = 30
"""Wrong keys from one client network in `WRONG_KEYS_WINDOW_SECONDS` that are logged and answered with "wrong" rather than
"too many"."""

WRONG_KEYS_WINDOW_SECONDS = 600
"""Seconds after a client network's first wrong key until all its wrong keys are forgotten."""

MAX_WRONG_KEY_NETWORKS = 10_000
"""Client networks whose wrong keys are counted at a time, about 2 MB."""

log = logging.getLogger("binder-egress")


def _day(text: str) -> str:
    try:
        return str(date.fromisoformat(text))
    except ValueError:
        raise ValueError("is not a date such as 2027-01-31") from None


def _pattern(text: str) -> str:
    strict(text)
    return text


def _origin(text: str) -> str:
    if text == "*":
        raise ValueError("'*' would be every origin: leave origins out for that")
    return origin(text)


class Entry(BaseModel):
    """A key's entry in the chart's values, `apiKeys.keys.<name>`.

    Attributes:
        id: its id.
        hash: SHA-256 of the whole key, in hexadecimal. A slow hash is for passwords that people choose; a key is 160 random bits.
        tier: the tier of its servers.
        serversPerDay: the number of servers it may start in any 24 hours.
        expires: the last day on which it counts, in UTC.
        origins: origins of the pages that may send it, as browsers write them; empty: any client may.
        repositories: the repositories of its servers, `host/owner/name` or `…/*`; empty: any.
    """

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tier: Annotated[str, Field(min_length=1, max_length=63)]
    serversPerDay: Annotated[int, Field(ge=1, le=MAX_SERVERS_PER_DAY)]
    expires: Annotated[str, AfterValidator(_day)]
    origins: list[Annotated[str, AfterValidator(_origin)]] = []
    repositories: list[Annotated[str, AfterValidator(_pattern)]] = []


@dataclass(frozen=True)
class Key:
    """A key of this site.

    Attributes:
        name: its name in the values.
        entry: its entry there.
    """

    name: str
    entry: Entry

    @property
    def origin(self) -> Origin:
        """The origin of the grants that it gives."""
        return by_key(self.name, self.entry.id)

    def is_expired(self, at: float) -> bool:
        """Whether it has expired by a Unix time in seconds."""
        return at >= ends(self.entry.expires)

    def described(self) -> dict[str, object]:
        """The entry without the hash."""
        return {"name": self.name, **self.entry.model_dump(exclude={"hash"})}


def ends(expires: str) -> float:
    """Unix time in seconds at which a day ends, in UTC."""
    return datetime.fromisoformat(expires).replace(tzinfo=UTC).timestamp() + DAY_SECONDS  # 9999-12-31 has no next day


def reported(reports: Iterable[VerifierReport]) -> list[Key]:
    """The keys in the verifiers' reports, each once, by name. An unreadable entry of another version is left out."""
    keys = {}
    for report in reports:
        for described in report.get("api_keys", []):
            if not isinstance(described, dict):
                continue
            try:
                known = {name: described[name] for name in Entry.model_fields if name in described}
                key = Key(str(described["name"]), Entry.model_validate({**known, "hash": "0" * 64}))
            except (KeyError, ValueError):
                continue
            keys[key.name, key.entry.id] = key
    return [key for _, key in sorted(keys.items())]


def create(tier: str, servers_per_day: int, expires: str, origins: list[str], repositories: list[str]) -> tuple[str, Entry]:
    """A new key, and its entry.

    Args:
        tier: the tier of its servers.
        servers_per_day: the number of servers in any 24 hours.
        expires: the last day on which it is valid, in UTC, as in `2027-01-31`.
        origins: the origins of the pages that may send it; none: any client may.
        repositories: the repositories of its servers; none: any.

    Raises:
        ValueError: an argument is wrong. The message names it.
    """
    key = f"binder_egress_{secrets.token_hex(8)}_{secrets.token_hex(20)}"
    parts = FORM.fullmatch(key)
    assert parts
    values = {"tier": tier, "serversPerDay": servers_per_day, "expires": expires, "origins": origins, "repositories": repositories}
    try:
        return key, Entry(id=parts[1], hash=_hash(key), **values)
    except ValidationError as error:
        raise ValueError(sentences(error)[0]) from None


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


class Keys:
    """The keys of this site. The file is read again when it changes, so no restart is needed.

    If the file cannot be read, there are no keys; if an entry is wrong, there is no key of that name. Earlier contents do not
    count.

    Args:
        file: the path of a JSON map of names to entries; `""`: no keys.
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
        """One sentence for each wrong entry."""
        return self._read()[1]

    def find(self, presented: str) -> Key | None:
        """The key that a client presents, or None. Neither the answer nor its timing reveals what is wrong with a key."""
        form = FORM.fullmatch(presented)
        key = self.all().get(form[1]) if form else None
        same = hmac.compare_digest(_hash(presented), key.entry.hash if key else "0" * 64)
        return key if same else None

    def accept(self, key: str, repository: str, at: float) -> Key:
        """The key that a pass was issued for, if the key counts for a server of this repository.

        Args:
            key: its id.
            repository: URL of the repository.
            at: Unix time in seconds at which the pass was presented.

        Raises:
            BadPass: the key is no longer in the values, has expired, or is for other repositories.
        """
        known = self.all().get(key)
        if known is None:
            raise BadPass(PassOutcome.KEY_UNKNOWN, "The pass was issued for a key that this site does not have.")
        if known.is_expired(at):
            raise BadPass(PassOutcome.KEY_EXPIRED, "The key that the pass was issued for has expired.")
        patterns = known.entry.repositories
        # D-066
        if patterns and not any(within(pattern, repository) for pattern in patterns):
            raise BadPass(PassOutcome.OTHER_REPOSITORY, "The pass was issued for a key that is for other repositories.")
        return known

    def _read(self) -> tuple[dict[str, Key], list[str]]:
        if not self._file:
            return {}, []
        with self._lock:
            try:
                # The kubelet updates a mounted Secret by pointing a symbolic link at new files.
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
    keys: dict[str, Key] = {}
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
            wrong.append(f"{name}: {sentences(error)[0]}")
            continue
        if not NAME.fullmatch(name):
            wrong.append(f"{name[:40]}: a name is lower-case letters, digits and dashes, 40 at most")
        elif entry.tier not in tiers:
            wrong.append(f"{name}: there is no tier {entry.tier!r}")
        elif entry.id in keys:
            wrong.append(f"{name}: has the id of {keys[entry.id].name}")
        else:
            keys[entry.id] = Key(name, entry)
    return keys, wrong


class WrongKeys:
    """Counts the wrong keys that each client network presents.

    The counts are in memory, per replica: requests that cost a client nothing must not fill Redis. A right key is never rejected
    because of wrong ones from its network, so nobody can shut out a class. Guessing 160 bits is hopeless even without a limit.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._counts = Counts(WRONG_KEYS_WINDOW_SECONDS, MAX_WRONG_KEY_NETWORKS, clock)

    def note(self, network: str) -> int | None:
        """Count one more wrong key. Returns None, or after too many, the seconds until they are forgotten."""
        number, seconds = self._counts.note(network)
        return max(1, round(seconds)) if number > MAX_WRONG_KEYS else None
