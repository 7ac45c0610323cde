"""Who acts: the operators, through the verifier's in-cluster port or with the command `egress`."""

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from ... import logs
from ...decisions.refusals import Facts, refusal
from ...decisions.server_blocks import carried_block
from ...model.grants import Rule
from ...model.networks import IPNetwork
from ...model.records import KnownServer, Server
from ...model.repositories import block_pattern
from ...settings import CommonSettings
from ...store.store import ReconcilerStore, SharedStore


class ActionRefused(Exception):
    """An action that was refused. `kind` is a problem type: `no-such-server`, `no-such-block`, `no-such-key`, `refused` or
    `bad-request`."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True)
class Operators:
    """Operators at the verifier's port. They can take egress away, but cannot remove or replace a block or stop a pod: the chart's
    Redis does not let the verifier do more (D-241, D-242).

    Attributes:
        settings: mode, tiers and rules.
        store: Redis.
        clock: Unix time in seconds.
    """

    settings: CommonSettings
    store: SharedStore
    clock: Callable[[], float] = time.time

    def find(self, text: str) -> Server:
        """The server that an operator names: `user`, `user/server`, the name of its pod, or the address of its page."""
        if text.startswith(("https://", "http://")):
            try:
                path = urlsplit(text).path
            except ValueError:  # `https://[`, for instance
                path = ""
            named = Server.from_key(path.partition("/servers/")[2].rstrip("/"))
        else:
            user, _, server = text.partition("/")
            named = Server(user, server)
        if self.store.known(named):
            return named
        for candidate, known in self.store.all_known().items():
            if known.pod == text:
                return candidate
        raise ActionRefused("no-such-server", self._missing(text))

    def reconciler_is_silent(self) -> bool:
        """Whether the reconciler is silent, so that what is known about servers may be old, or lost in a wipe of Redis."""
        return self.store.reconciler_state()[0] is None

    def known(self, server: Server) -> KnownServer:
        """What is known of a server that runs."""
        known = self.store.known(server)
        if known is None:
            raise ActionRefused("no-such-server", self._missing(server.title))
        return known

    def _missing(self, text: str) -> str:
        if self.reconciler_is_silent():
            return f"No server {text!r} is known, but the reconciler is silent, so it may still be running."
        return f"No server {text!r} is running. Name a pod, user or user/server as JupyterHub calls them, or a server's page."

    def tier_exists(self, tier: str) -> None:
        """Check that the values have this tier."""
        if tier not in self.settings.tiers:
            raise ActionRefused(
                "bad-request", f"tier: there is none called {tier!r}, only {', '.join(sorted(self.settings.tiers))}."
            )

    def refusal(self, known: KnownServer) -> Rule | None:
        """The rule that keeps a running server from any egress, or None."""
        facts = Facts(known.repository, (known.client,), known.uid, carried_block(self.store, known, self.clock()))
        return refusal(facts, self.store.blocks(), self.settings, self.clock())

    def log(self, event: str, by: str, why: str, **fields: object) -> None:
        """Log an action."""
        logs.decision(event, by=by, by_kind="operator", why=why, **fields)


@dataclass(frozen=True)
class CommandOperators(Operators):
    """Operators with the command, which runs in the reconciler's pod."""

    store: ReconcilerStore

    def log(self, event: str, by: str, why: str, **fields: object) -> None:
        """Have the reconciler log an action, as its log is kept."""
        self.store.log({"event": event, "by": by, "by_kind": "operator", "why": why, **fields})


def network_of(text: str) -> IPNetwork:
    """The network that a text names. IPv4 within IPv6 counts as IPv4, as it does for clients (`networks.parse_address`)."""
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ActionRefused("bad-request", f"network: {text!r} is no address and no CIDR.") from None
    inner = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return ipaddress.ip_network((inner, network.prefixlen - 96)) if inner and network.prefixlen >= 96 else network


def pattern_of(text: str) -> str:
    """The repository, or the owner's repositories, that a text names."""
    pattern = block_pattern(text)
    if pattern is None:
        raise ActionRefused("bad-request", f"repository: {text!r} is not host/owner/name, or host/owner/*.")
    return pattern
