"""Refusals: who gets no egress, no matter what they present.

| rule | applies to |
|---|---|
| `blocked` | an operator's block of the server, its repository, or the client's network |
| `blocked-repository` | `rules.blockedRepositories` |
| `own-network` | a client in `rules.selfNetworks` |

They are checked at a launch (`rules`), at an unlock and when a pass is issued (`web`), before an operator's grant (`operators`),
and by the reconciler in mode `allow`. Blocks also act on running servers.

Decisions: D-057, D-058, D-059.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..model.grants import Block, Blocked, Grant, Rule, block_in
from ..model.networks import IPNetwork, in_networks
from ..model.records import KnownServer
from ..model.repositories import covers, name
from ..settings import CommonSettings

REFUSALS = {
    Rule.BLOCKED: "The operators of this site have blocked this.",
    Rule.BLOCKED_REPOSITORY: "The operators of this site have blocked this.",
    Rule.OWN_NETWORK: "Egress is not offered from this network.",
}
"""The rules that refuse, each with the one sentence that the client gets."""


@dataclass(frozen=True)
class Facts:
    """The facts on which a refusal is decided.

    Attributes:
        repository: the URL of the repository; empty if unknown.
        clients: the addresses of the client that launched and of the client that asks.
        uid: the pod; empty if there is none yet.
        carried: the grant that the pod carries; None if it carries none, or a block that an operator removed.
    """

    repository: str = ""
    clients: tuple[str, ...] = ()
    uid: str = ""
    carried: Grant | None = None

    @cached_property
    def repository_name(self) -> str | None:
        """The name by which the repository is blocked (`repositories.name`), computed only once for all blocks and patterns."""
        return name(self.repository)

    @classmethod
    def of(cls, known: KnownServer, *clients: str) -> "Facts":
        """The facts of a running server, and of the clients that ask on its behalf."""
        return cls(known.repository, (known.client, *clients), known.uid, known.grant)


def refusal(facts: Facts, blocks: Iterable[Block], settings: CommonSettings, now: float) -> Rule | None:
    """The rule that keeps a server from any egress, or None.

    Args:
        facts: what is known about the server and about the client that asks.
        blocks: the operators' blocks.
        settings: the operators' lists.
        now: Unix time in seconds.
    """
    if blocks_on(facts, blocks, now):
        return Rule.BLOCKED
    if any(covers(pattern, facts.repository_name) for pattern in settings.blocked_repositories):
        return Rule.BLOCKED_REPOSITORY
    if any(in_networks(client, settings.self_networks) for client in facts.clients):
        return Rule.OWN_NETWORK
    return None


def blocks_on(facts: Facts, blocks: Iterable[Block], now: float) -> list[Blocked]:
    """The blocks that keep a server from egress at a Unix time in seconds. The one that its pod carries comes first: it counts even
    if Redis has forgotten it."""
    carried = block_in(facts.carried, now)
    applying = [block.grant for block in blocks if applies(block, facts, now)]
    return [carried, *applying] if carried else applying


def applies(block: Block, facts: Facts, now: float) -> bool:
    """Whether a block is in force at a Unix time in seconds, and applies to these facts."""
    # Most blocks are about something else, which is the cheaper check: a resync compares each of thousands of servers with each
    # block.
    return _is_about(block, facts) and not block.is_over(now)


def _is_about(block: Block, facts: Facts) -> bool:
    if block.kind == "server":
        return block.uid == facts.uid
    if block.kind == "repository":
        return covers(block.what, facts.repository_name)
    return any(in_networks(client, _networks(block.what)) for client in facts.clients)


@lru_cache(10_000)
def _networks(text: str) -> tuple[IPNetwork, ...]:
    """A blocked network, or none (D-387). Each is kept, because a resync compares it with thousands of servers."""
    try:
        return (ipaddress.ip_network(text),)
    except ValueError:
        return ()
