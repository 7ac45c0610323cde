"""Host lists: the names that a server may reach through the proxy, and the named groups of hosts.

An entry in a list is the name of a group (`python`), a host (`api.example.org`), everything below a host (`*.example.org`), or `*`,
any public host. Names of groups have no dot and hosts always have one, so the two cannot be confused.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import idna

from ..model.host_groups import HOST_GROUPS

ANY = "*"
"""The entry that stands for any public host."""

BY_HAND = "other"
"""The group, in metrics, of hosts that an operator named one by one."""

REGISTRIES = Path(__file__).with_name("registries.json")
"""The file with the hosts of groups that have none in `HOST_GROUPS`. The image's build writes it with `build_registries`, from
constants in the tools themselves, so that it names the hosts that they use. A group is empty if the build found none (D-265)."""

_NAME = re.compile(r"(?=.{4,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A host name as resolvers accept it (RFC 1123; underscores, because some hosts have them). The last part begins with a letter, so
that an address is never a name, however it is written: `10.0.0.1`, `0x0a.1`, `167772161`."""


class UnknownEntry(ValueError):
    """An entry in a list is neither a group nor a host."""


def groups() -> dict[str, dict[str, str]]:
    """All groups: name → host → the tool that needs it. Outside of an image, those that its build finds have no hosts."""
    made = json.loads(REGISTRIES.read_text()) if REGISTRIES.is_file() else {}
    return dict(sorted({**{name: group.hosts for name, group in HOST_GROUPS.items()}, **made}.items()))


def normal(host: str) -> str | None:
    """A host name in the form used in lists: lower case, ASCII, without a dot at the end.

    Returns:
        The name; None if the text is not a name, such as an address in any spelling.
    """
    host = host.removesuffix(".").lower()
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            return None
    return host if _NAME.fullmatch(host) else None


class HostList:
    """The hosts that a tier may reach.

    Args:
        entries: groups, hosts, `*.` suffixes, or `*`.

    Raises:
        UnknownEntry: an entry is none of these.

    Attributes:
        any: whether any public host is on it.
    """

    def __init__(self, entries: Iterable[str]):
        known = groups()
        self.any = False
        self._names: dict[str, str] = {}  # host → group
        self._suffixes: dict[str, str] = {}
        # Groups last, so that a host that is also named by hand counts for its group.
        for entry in sorted(entries, key=known.__contains__):
            if entry == ANY:
                self.any = True
            else:
                for host in known.get(entry, (entry,)):
                    self._add(host, entry if entry in known else BY_HAND)

    def _add(self, entry: str, group: str) -> None:
        host = normal(entry.removeprefix("*."))
        if host is None:
            raise UnknownEntry(f"{entry!r} is no host, no *. before one, and none of the groups {', '.join(groups())}")
        (self._suffixes if entry.startswith("*.") else self._names)[host] = group

    def __bool__(self) -> bool:
        """Whether there is any host on the list."""
        return self.any or bool(self._names or self._suffixes)

    def __contains__(self, host: str) -> bool:
        """Whether a name, in its form from `normal`, is on the list. `*.example.org` does not include `example.org`."""
        return self.any or bool(self.group(host))

    def group(self, host: str) -> str:
        """The group by which a name is on the list; `BY_HAND`, `ANY`, or empty if it is not on the list."""
        if found := self._names.get(host):
            return found
        parts = host.split(".")
        suffixes = (".".join(parts[start:]) for start in range(1, len(parts)))
        return next((self._suffixes[one] for one in suffixes if one in self._suffixes), ANY if self.any else "")
