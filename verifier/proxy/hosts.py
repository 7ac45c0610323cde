"""Host lists: the names that a server may reach through the proxy, and the groups of them that have a name.

An entry of a list is the name of a group (`python`), a host (`api.example.org`), everything below a host (`*.example.org`), or `*`,
any public host. Groups have no dot in their name and hosts always have one, so the two cannot be confused.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import idna

ANY = "*"
"""The entry that stands for any public host."""

BY_HAND = "other"
"""In metrics, the group of hosts that an operator named one by one."""

REGISTRIES = Path(__file__).with_name("registries.json")
"""The file with the hosts of the groups `BUILT`. The image's build writes it with `build_registries`, from constants of the
tools themselves, so that it names what they ask."""

BUILT = ("debian", "node", "python")
"""Groups whose hosts are in `REGISTRIES`. One has none where the image's build found none (D-265)."""

_NAME = re.compile(r"(?=.{4,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A host name as resolvers take it (RFC 1123; underscores, because some hosts have them). The last part begins with a letter, so
that no address in any spelling is a name: `10.0.0.1`, `0x0a.1`, `167772161`."""

GROUPS: dict[str, dict[str, str]] = {
    "conda": {
        "conda.anaconda.org": "conda, mamba: channels, conda-forge among them",
        "repo.anaconda.com": "conda: the channel `defaults`",
        "repo.prefix.dev": "pixi: channels",
    },
    "r": {
        "cloud.r-project.org": "R, install.packages: the mirror that R names first",
        "cran.r-project.org": "R, install.packages: CRAN",
        "packagemanager.posit.co": "R: the package manager that repo2docker sets",
        "bioconductor.org": "R, BiocManager",
    },
    "julia": {
        "pkg.julialang.org": "Julia, Pkg: the package server",
        "*.pkg.julialang.org": "Julia, Pkg: its mirrors by region, to which it redirects",
        "julialang-s3.julialang.org": "juliaup: Julia itself",
    },
    # Anybody can put files there under the same host name.
    "data": {
        "zenodo.org": "Zenodo: records and files",
        "osf.io": "OSF: projects",
        "files.osf.io": "OSF: files",
        "figshare.com": "figshare: records",
        "api.figshare.com": "figshare: its API",
        "ndownloader.figshare.com": "figshare: files",
        "dataverse.harvard.edu": "Dataverse: the installation of Harvard",
    },
    "git": {
        "github.com": "git: clones by https",
        "codeload.github.com": "pip, curl: archives of repositories",
        "gitlab.com": "git: clones by https",
    },
}
"""The groups whose hosts are written here: group → host → which tool needs it."""

SLOW_WAYS_OUT = ("data", "git", "node")
"""Groups of hosts on which anybody can have files, so that they are also a way for data to leave."""


class UnknownEntry(ValueError):
    """An entry of a list is no group and no host."""


def groups() -> dict[str, dict[str, str]]:
    """All groups: name → host → which tool needs it. Outside of an image those of `BUILT` have no hosts."""
    made = json.loads(REGISTRIES.read_text()) if REGISTRIES.is_file() else {}
    return dict(sorted({**GROUPS, **{name: {} for name in BUILT}, **made}.items()))


def normal(host: str) -> str | None:
    """A host name as lists have it: lower case, ASCII, without a dot at the end.

    Returns:
        The name; None for what is none, such as an address in any spelling.
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
        # Groups last: a host that is named by hand, too, counts for its group.
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
        """Whether there is any host on it."""
        return self.any or bool(self._names or self._suffixes)

    def __contains__(self, host: str) -> bool:
        """Whether a name, as `normal` gives it, is on the list. `*.example.org` does not include `example.org`."""
        return self.any or bool(self.group(host))

    def group(self, host: str) -> str:
        """The group for which a name is on the list; `BY_HAND`, `ANY`, or empty if it is not on it."""
        if found := self._names.get(host):
            return found
        parts = host.split(".")
        suffixes = (".".join(parts[start:]) for start in range(1, len(parts)))
        return next((self._suffixes[one] for one in suffixes if one in self._suffixes), ANY if self.any else "")
