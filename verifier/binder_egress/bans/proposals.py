"""The bans that follow from scores, in the syntax of BinderHub and of `egress block`. Nothing here bans anybody.

Text that strangers chose is written percent-encoded. That leaves letters, digits and `._~/-`, none of which has a meaning within a
line of YAML, Markdown, a shell or a terminal.

Decisions: D-283, D-284.
"""

import ipaddress
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from urllib.parse import quote

from .reading import Traffic, by_owner, hydroshare_id, is_doi, may_be_data_set, owner
from .score import Score

NETWORK_LAUNCHES = 10
"""The fewest launches from a network that is proposed."""

NETWORK_SHARE = 0.9
"""The least share of its launches that are of proposed repositories. A network is a /24 or a /48, so other people are in it."""

NETWORK_PREFIXES = {4: 24, 6: 48}
"""The fewest bits of a network that is proposed, by the version of IP: the defaults of `logClientNetwork`. A wider network has too
many other people in it to be banned, and `0.0.0.0/0` would ban everybody."""

NETWORK_LABEL = "a network that misused this hub"
"""The label in `ban_networks`. BinderHub shows it: "Requests from … are not allowed"."""

MAX_SHOWN = 100
"""The most characters of a name that are shown to people."""

DOIS = ("ZenodoProvider", "FigshareProvider", "DataverseProvider")
"""The providers whose repositories are DOIs. A DOI does not show which of them, and matches in no other provider."""


def shown(name: str) -> str:
    """A name as people read it: percent-encoded, and of limited length."""
    safe = quote(name, safe="/")
    return safe if len(safe) <= MAX_SHOWN else f"{safe[: MAX_SHOWN - 3]}..."


@dataclass(frozen=True)
class Ban:
    """A proposed ban of a repository, or of all repositories of an owner.

    Attributes:
        name: the name of the repository or the owner.
        whole: whether it bans the owner.
        scores: the scores of the repositories that it concerns.
    """

    name: str
    whole: bool
    scores: tuple[Score, ...]

    @property
    def specs(self) -> dict[str, str]:
        """BinderHub's provider → a regular expression for `banned_specs`.

        BinderHub applies `re.match(…, re.IGNORECASE)` to the specification as the client sent it, still percent-encoded. Every
        provider that reaches the repository gets one: a repository on GitHub can also be reached by the provider for any Git
        address, and what looks like a data set of a CKAN may be a Git repository.
        """
        host, _, path = self.name.partition("/")
        if is_doi(self.name):
            return dict.fromkeys(DOIS, f"^{_escaped(self.name, '(?:/|%2F)')}$")
        if resource := hydroshare_id(self.name):
            return {"HydroshareProvider": f"^.*{resource}"}  # BinderHub looks for an id anywhere in the text.
        # A URL in one piece: a scheme or a user before the host, perhaps a port after it.
        url = f"^[^/]*(?:%2F|%40|@)(?:www\\.)?{_escaped(host)}(?:(?:%3A|:)\\d+)?(?:%2F|%3A|:)+{_escaped(path, '(?:%2F)+')}"
        git = f"{url}%2F.*" if self.whole else f"{url}(?:\\.git)?(?:%2F)*(?:/.*)?$"
        specs = {"GitRepoProvider": git}
        if host in ("github.com", "gist.github.com"):
            provider = "GitHubRepoProvider" if host == "github.com" else "GistRepoProvider"
            specs[provider] = f"^{_escaped(path)}/.*" if self.whole else f"^{_escaped(path)}(?:\\.git)?(?:/.*)?$"
        elif host == "gitlab.com":
            spec = f"^{_escaped(path, '(?:%2F)+')}"
            specs["GitLabRepoProvider"] = f"{spec}%2F.*" if self.whole else f"{spec}(?:\\.git)?/.*"
        elif may_be_data_set(self.name):
            specs["CKANProvider"] = f"^.*{_escaped(host)}.*(?:%2F|/){_escaped(path.rpartition('/')[2])}(?:%2F|/|$)"
        return specs

    @property
    def block(self) -> str:
        """The command that blocks egress for its servers; `""` for a name with a `*`, which would have a meaning there."""
        if "*" in self.name:
            return ""
        what = quote(self.name, safe="/") + ("/*" if self.whole else "")
        points = max(score.points for score in self.scores)
        return shlex.join(["egress", "block", "--why", f"propose-bans: score {points:g}", "--", "repository", what])


def _escaped(text: str, slash: str = "/") -> str:
    """A regular expression for a text in a specification: browsers leave `!'()*` as they are, other clients encode them."""

    def spelled(letter: str) -> str:
        encoded = quote(letter, safe="")
        return f"(?:{re.escape(letter)}|{encoded})" if letter in "!'()*" else re.escape(encoded)

    return slash.join("".join(map(spelled, part)) for part in text.split("/"))


def bans(scores: list[Score]) -> list[Ban]:
    """The proposed bans, the largest score first. If all launched repositories of an owner are proposed, the owner is banned as a
    whole."""
    groups = by_owner(score.repository for score in scores)
    proposed = {score.repository.name: score for score in scores if score.proposed}
    done: dict[str, Ban] = {}
    for name, score in proposed.items():
        whose = owner(name)
        theirs = [one.name for one in groups[whose]]
        if whose != name and all(one in proposed for one in theirs):
            done.setdefault(whose, Ban(whose, True, tuple(proposed[one] for one in theirs)))
        else:
            done[name] = Ban(name, False, (score,))
    return list(done.values())


def ban_networks(traffic: Traffic, scores: list[Score]) -> dict[str, str]:
    """BinderHub's `ban_networks`, for networks from which almost nothing else came: CIDR → label."""
    everything: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    for score in scores:
        everything += score.repository.networks
        bad += score.repository.networks if score.proposed else Counter()
    networks = {}
    for network, number in sorted(bad.items()):
        if number >= NETWORK_LAUNCHES and number >= NETWORK_SHARE * everything[network]:
            try:
                cidr = ipaddress.ip_network(network)
            except ValueError:
                traffic.lines["broken"] += 1
                continue
            if cidr.prefixlen >= NETWORK_PREFIXES[cidr.version]:
                networks[str(cidr)] = NETWORK_LABEL
    return networks


def banned_specs(proposed: list[Ban]) -> dict[str, list[str]]:
    """All regular expressions, by provider."""
    specs: dict[str, list[str]] = {}
    for ban in proposed:
        for provider, pattern in ban.specs.items():
            specs.setdefault(provider, []).append(pattern)
    return {provider: specs[provider] for provider in sorted(specs)}
