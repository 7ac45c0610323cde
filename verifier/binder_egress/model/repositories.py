"""Names of repositories. For blocking, all spellings of a URL have one name. For trusting, only the plain spelling counts.

Decisions: D-066, D-209, D-405.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import groupby
from urllib.parse import unquote

import idna

MAX_URL_CHARACTERS = 2048
"""The longest URL that gets a name. URLs of BinderHub and of all git hosts are shorter."""

MAX_DECODINGS = 5
"""How many times a URL may be percent-encoded. Once is usual; BinderHub and a proxy may each add one."""

MAX_MARKS = 30
"""How many combining characters may follow each other: UAX #15, Stream-Safe Text Format. More take quadratic time to normalize."""

KEPT = 256
"""How many names are kept, so that a page or a launch computes its repository's once. The longest take 4 MiB together."""

CASELESS = {"github.com", "gist.github.com", "gitlab.com", "bitbucket.org"}
"""Hosts on which the case of owners and names does not matter."""

_SCHEME = re.compile(r"[a-z][a-z0-9+-]*:/+", re.IGNORECASE)  # no dots: those are in host names, as in github.com:/owner/name
_AUTHORITY = re.compile(rf"{_SCHEME.pattern}([^/]*)|([^/:]*):", re.IGNORECASE)
_TRANSPORT = re.compile(r"[a-z0-9+.-]+::")
_IGNORED = re.compile(r"[\s\x00-\x1f\x7f]")
_PLAIN = re.compile(r"https://([a-z0-9-]+(?:\.[a-z0-9-]+)+)((?:/[a-z0-9._-]+){2,})/?", re.ASCII | re.IGNORECASE)


def cut(url: str) -> str:
    """A URL, cut if it is too long to have a name. `name` returns None for a URL that was cut, and `exact` returns `""`.

    All URLs that are cut are therefore blocked and trusted alike, so it does not matter if two of them become equal.
    """
    # No URL with this character at its end has an exact name.
    return url if len(url) <= MAX_URL_CHARACTERS else f"{url[:MAX_URL_CHARACTERS]}…"


def name(url: str) -> str | None:
    """The name by which a repository is blocked: `host/owner/name`, or a bare DOI.

    All URLs that may lead to the same repository have one name. Scheme, user, port, query, `www.`, `.git`, case, percent
    encoding and superfluous slashes do not count. The host is mapped as browsers and libcurl map it (UTS 46).

    Args:
        url: the URL of the repository, as BinderHub reports it; a DOI for archives; or a pattern that ends in `/*`.

    Returns:
        The name. None: nobody can tell which repository this is, because the URL is too long, is encoded too many times, piles up
        combining characters, has a host that is not a host name, or has user and host in a form that programs read differently.
        Every block of a repository then applies.
    """
    return _name(url) if len(url) <= MAX_URL_CHARACTERS else None


@lru_cache(KEPT)
def _name(url: str) -> str | None:
    for _ in range(MAX_DECODINGS + 1):
        if len(url) > MAX_URL_CHARACTERS:
            return None
        shorter = _shorten(url)
        if shorter is None or shorter == url:
            return shorter
        url = shorter
    return None


def _shorten(url: str) -> str | None:
    url = _IGNORED.sub("", url)
    decoded = unquote(url)
    # Not only later: a single character may be normalized to eighteen, and each further step takes that much longer.
    if _piles_up_marks(decoded) or len(unicodedata.normalize("NFKC", decoded)) > MAX_URL_CHARACTERS:
        return None
    begins = _AUTHORITY.match(url)
    # For https, git finds the host before it decodes anything; for ssh, it decodes first, and neither `?` nor `#` ends the host.
    # What they read differently has no name.
    if begins and not _NOT_IN_AUTHORITY.isdisjoint(_decode(begins[1] or begins[2] or "")):
        return None
    end = begins.end() if begins else 0
    text = re.split(r"[?#]", (_decode(url[:end]) + _decode(url[end:])).replace("\\", "/"))[0]
    text = re.sub(r"^doi:(?=10\.)", "", text)  # repo2docker takes a DOI with it too
    if _TRANSPORT.match(text):
        return None  # https::https://host/owner/name, and others that git gives to a program of its own
    scheme = _SCHEME.match(text)
    authority, _, path = text[scheme.end() if scheme else 0 :].partition("/")
    if scheme:
        host, _, after = authority.rpartition("@")[2].partition(":")
    else:
        host, _, after = authority.partition(":")  # git@host:owner/name
        host = host.rpartition("@")[2]
    if after and not (scheme and after.isdigit()):
        path = f"{after}/{path}"
    mapped = _ascii_host(host)
    if mapped is None:
        return None
    host = re.sub(r"^(www\.)+", "", mapped.rstrip("."))
    if begins and (not host or "%" in host):
        return None
    parts: list[str] = [] if host in ("doi.org", "dx.doi.org") and path.lstrip("/").startswith("10.") else [host]
    for part in path.split("/"):
        if part == "..":
            if len(parts) > 1:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    shortened = "/".join(filter(None, parts))
    end = len(shortened)
    while shortened.endswith(".git", 0, end):
        end -= len(".git")
    return shortened[:end]


_NOT_IN_AUTHORITY = frozenset("/?#\\[")
"""Characters that no part of an authority may have once it is decoded. A bracket is for ssh no part of the host's name."""


def _piles_up_marks(text: str) -> bool:
    marks = groupby(text, lambda character: unicodedata.combining(character) != 0)
    return not text.isascii() and any(is_mark and sum(1 for _ in run) > MAX_MARKS for is_mark, run in marks)


def _decode(text: str) -> str:
    """A text with one layer of percent-encoding less, without case, compatibility characters, spaces and control characters."""
    return _IGNORED.sub("", unicodedata.normalize("NFKC", unquote(text)).casefold())


def _ascii_host(host: str) -> str | None:
    """The host as a resolver gets it, or None if it has characters that are not allowed in host names."""
    if host.isascii():
        return host
    try:
        # If the strict mapping fails, libcurl maps as in IDNA 2003, which drops the two joiners.
        mapped = idna.uts46_remap(host.translate(_JOINERS), std3_rules=False)
        return mapped if mapped.isascii() else idna.encode(mapped).decode("ascii")
    except idna.IDNAError:
        return None


_JOINERS = {0x200C: None, 0x200D: None}


BLOCK_PATTERN = re.compile(r"[^\s/*:?#]+(/[^\s/*?#]+)*(/[^\s/*?#]+|/\*)")
"""The form of a pattern of blocked repositories: `host/owner/name`, a DOI, or everything below a path, as in `host/owner/*`."""


def block_pattern(text: str) -> str | None:
    """The `name` of a pattern of blocked repositories; None: it is no such pattern, or would cover no repository, or nearly all.

    `owner/name`, an owner without `/*` and the address of a page (`…/tree/main`) would cover none; `github.com/*` nearly all.
    """
    pattern = name(text)
    if pattern is None or not BLOCK_PATTERN.fullmatch(pattern):
        return None
    host, *path = pattern.split("/")
    covers_some = len(path) == 2 if host == "github.com" else len(path) > 1 or "." in host
    return pattern if covers_some else None


def covers(pattern: str, repository: str | None) -> bool:
    """Whether a pattern covers a repository.

    Args:
        pattern: the `name` of a pattern.
        repository: the `name` of a repository; None, which every pattern covers.
    """
    if repository is None:
        return True
    return repository.startswith(pattern[:-1]) if pattern.endswith("/*") else repository == pattern


def strict(pattern: str) -> str:
    """A pattern in the form that `covers` compares with exact names: `host/owner/name`, or `host/owner/*`; never all of a host.

    Raises:
        ValueError: it is neither.
    """
    below = pattern.endswith("/*")
    plain = exact(f"https://{pattern[:-1]}x" if below else f"https://{pattern}")
    if not plain:
        raise ValueError(f"{pattern!r} is not host/owner/name, or host/owner/*")
    return f"{plain.removesuffix('x')}*" if below else plain


def within(pattern: str, url: str) -> bool:
    """Whether a repository has exactly the name in a pattern (`exact`), or is below a pattern that ends in `/*`.

    Raises:
        ValueError: the pattern is none (`strict`).
    """
    return covers(strict(pattern), exact(url))


def exact(url: str) -> str:
    """The name by which a repository may be trusted: `host/owner/name`, as written. Only a plain https URL has one.

    Returns:
        The name, or `""`. Case matters, except in the host, and except on the hosts in `CASELESS`.
    """
    parts = _PLAIN.fullmatch(url)
    if not parts or {".", ".."} & set(parts[2].split("/")):
        return ""
    host, path = parts[1].lower(), parts[2].removesuffix(".git")
    return host + (path.lower() if host in CASELESS else path)
