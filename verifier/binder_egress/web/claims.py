"""What a launch request claims to be in its `User-Agent`. It is only counted, and decides nothing: anybody can forge it (D-345)."""

import re

CLAIMS = ("browser", "client", "crawler", "other", "none")
"""All that a request can claim to be."""

CRAWLERS = ("bot", "gpt", "crawler", "spider", "slurp", "http://", "https://")
"""Words of crawlers. The first four are BinderHub's own (`block_build_user_agents`, binderhub#2107); most others name a page about
themselves."""

CLIENTS = (
    "aiohttp", "apache-httpclient", "axios", "binder-egress-client", "curl", "go-http-client", "guzzlehttp", "headlesschrome",
    "http.jl", "httpie", "java", "libcurl", "node", "okhttp", "playwright", "python-httpx", "python-requests", "python-urllib",
    "reqwest", "ruby", "tornado", "undici", "wget",
)  # fmt: skip
"""Names of programs and libraries that make requests, as they appear before a version, and of browsers that a program controls."""

_CRAWLER = re.compile("|".join(map(re.escape, CRAWLERS)))
_CLIENT = re.compile(rf"(?:^|[\s(;])(?:{'|'.join(map(re.escape, CLIENTS))})(?:[/\s;)]|$)")


def came_of(user_agent: str | None, elsewhere: bool) -> str:
    """How a launch request came, one of `records.CAME`, as far as its headers say.

    Args:
        user_agent: as in `claim_of`.
        elsewhere: whether its `Origin` is another site.
    """
    claim = claim_of(user_agent)
    if claim == "browser":
        return "third-party page" if elsewhere else "page"
    is_ours = "binder-egress-client" in (user_agent or "").lower()
    return "crawler" if claim == "crawler" else "client" if is_ours else "script"


def claim_of(user_agent: str | None) -> str:
    """What a `User-Agent` claims to be, one of `CLAIMS`.

    Args:
        user_agent: the header of the launch request; None or blank if it had none.
    """
    said = (user_agent or "").strip().lower()
    if not said:
        return "none"
    if _CRAWLER.search(said):
        return "crawler"
    if _CLIENT.search(said):
        return "client"
    return "browser" if re.match(r"mozilla/5\.0 \(", said) else "other"
