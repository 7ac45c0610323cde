"""Host lists: the names that a server may reach through the proxy, and the named groups of hosts.

An entry in a list is the name of a group (`python`), a host (`api.example.org`), everything below a host (`*.example.org`), or `*`,
any public host. Names of groups have no dot and hosts always have one, so the two cannot be confused.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import idna

ANY = "*"
"""The entry that stands for any public host."""

BY_HAND = "other"
"""The group, in metrics, of hosts that an operator named one by one."""

REGISTRIES = Path(__file__).with_name("registries.json")
"""The file with the hosts of the groups in `BUILT`. The image's build writes it with `build_registries`, from constants in the
tools themselves, so that it names the hosts that they use."""

BUILT = ("debian", "node", "python")
"""Groups whose hosts are in `REGISTRIES`. A group has no hosts if the image's build found none (D-265)."""

_NAME = re.compile(r"(?=.{4,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A host name as resolvers accept it (RFC 1123; underscores, because some hosts have them). The last part begins with a letter, so
that an address is never a name, however it is written: `10.0.0.1`, `0x0a.1`, `167772161`."""

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
    # Anybody can publish files under these host names.
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
"""The groups whose hosts are listed here: group → host → the tool that needs it."""

SLOW_WAYS_OUT = ("data", "git", "node")
"""Groups of hosts to which anybody can upload files, so they are also a way for data to leave."""


class UnknownEntry(ValueError):
    """An entry in a list is neither a group nor a host."""


def groups() -> dict[str, dict[str, str]]:
    """All groups: name → host → the tool that needs it. Outside of an image, the groups in `BUILT` have no hosts."""
    made = json.loads(REGISTRIES.read_text()) if REGISTRIES.is_file() else {}
    return dict(sorted({**GROUPS, **{name: {} for name in BUILT}, **made}.items()))


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
