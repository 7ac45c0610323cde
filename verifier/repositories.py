"""Names of repositories. To block, all spellings of a URL are one name. To trust, only the plain spelling counts.

Decisions: D-066.
"""

import re
import unicodedata
from urllib.parse import unquote

CASELESS = {"github.com", "gist.github.com", "gitlab.com", "bitbucket.org"}
"""Hosts on which the case of owners and names does not matter."""

_SCHEME = re.compile(r"[a-z][a-z0-9+-]*:/+")  # without a dot, which is a host's: github.com:/owner/name
_PLAIN = re.compile(r"https://([a-z0-9-]+(?:\.[a-z0-9-]+)+)((?:/[a-z0-9._-]+){2,})/?", re.ASCII | re.IGNORECASE)


def name(url: str) -> str:
    """The name by which a repository is blocked: `host/owner/name`, or a bare DOI.

    All URLs that may lead to the same repository have the same name. Scheme, user, port, query, `www.`, `.git`, case, percent
    encoding and superfluous slashes do not count.

    Args:
        url: the URL of the repository, as BinderHub reports it; for archives a DOI. Or a pattern, which ends in `/*`.
    """
    while (shorter := _shorten(url)) != url:
        url = shorter
    return url


def _shorten(url: str) -> str:
    text = unicodedata.normalize("NFKC", unquote(url)).casefold().replace("\\", "/")
    text = re.split(r"[?#]", re.sub(r"[\s\x00-\x1f\x7f]", "", text))[0]
    scheme = _SCHEME.match(text)
    authority, _, path = text[scheme.end() if scheme else 0 :].partition("/")
    host, _, after = authority.rpartition("@")[2].partition(":")
    if after and not (scheme and after.isdigit()):
        path = f"{after}/{path}"  # git@host:owner/name
    host = re.sub(r"^(www\.)+", "", host.rstrip("."))
    parts: list[str] = [] if host in ("doi.org", "dx.doi.org") else [host]
    for part in path.split("/"):
        if part == "..":
            parts = parts[:1] + parts[1:-1]
        elif part not in ("", "."):
            parts.append(part)
    return re.sub(r"(\.git)+$", "", "/".join(filter(None, parts)))


def matches(pattern: str, url: str) -> bool:
    """Whether a repository is the one of a pattern, or below a pattern that ends in `/*`."""
    pattern, found = name(pattern), name(url)
    return found.startswith(pattern[:-1]) if pattern.endswith("/*") else found == pattern


def within(pattern: str, url: str) -> bool:
    """Whether a repository is the one of a pattern by its exact name (`exact`), or below a pattern that ends in `/*`."""
    host, _, path = pattern.partition("/")
    host = host.lower()
    wanted = f"{host}/{path.lower() if host in CASELESS else path}"
    found = exact(url)
    return found.startswith(wanted[:-1]) if wanted.endswith("/*") else found == wanted.removesuffix(".git")


def exact(url: str) -> str:
    """The name by which a repository may be trusted: `host/owner/name`, as it is written. Only a plain https URL has one.

    Returns:
        The name, or `""`. Case counts, except in the host, and on the hosts of `CASELESS`.
    """
    found = _PLAIN.fullmatch(url)
    if not found or {".", ".."} & set(found[2].split("/")):
        return ""
    host, path = found[1].lower(), found[2].removesuffix(".git")
    return host + (path.lower() if host in CASELESS else path)
