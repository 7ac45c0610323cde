"""Which tier a server gets: a list of rules, of which the first that matches decides.

| rule | matches | gives |
|---|---|---|
| `blocked` | an operator blocked the server, its repository, or the client's network | nothing |
| `blocked-repository` | `rules.blockedRepositories` | nothing |
| `own-network` | the client is in `rules.selfNetworks` | nothing |
| `mode-allow` | `mode: allow` | `allow.tier` |
| `api-client` | a pass that was issued for an API key, which still counts, for a repository that the key is for | its tier |
| `valid-pass` | a pass for a solution that is signed, in time, and has a use left | its tier |
| `trusted-repository` | `rules.trustedRepositories` | the tier there |
| `authenticated` | `rules.authenticatedUsers` and `rules.authenticatedGroups` | the tier there |
| `default` | always | nothing |

All of them are asked at a launch, and at an unlock the first three again (`refusal`), from what is on the pod: whoever unlocks
comes with a pass, so the rest is its tier.
"""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..api_keys import Keys
from ..networks import client_network, in_networks
from ..passes import BadPass, Pass, Passes
from ..records import BLOCKED, UNVERIFIED, Block, Grant, Record, Server
from ..repositories import exact, matches
from ..settings import RedisSettings, VerifierSettings
from ..store.store import BUILD_LIMIT, Store

BLOCKED_REPOSITORY, OWN_NETWORK, MODE_ALLOW = "blocked-repository", "own-network", "mode-allow"

OPERATOR = "operator"
"""The rule of a grant that an operator gave."""

REFUSALS = {
    BLOCKED: "The operators of this site blocked it.",
    BLOCKED_REPOSITORY: "The operators of this site blocked it.",
    OWN_NETWORK: "Egress is not offered from this network.",
}
"""The rules of `refusal`, with all that a client is told."""


@dataclass(frozen=True)
class Facts:
    """What `refusal` goes by.

    Attributes:
        repository: the URL of the repository; empty if unknown.
        clients: addresses of clients: of the launch, and of whoever asks.
        uid: the pod; empty before there is one.
    """

    repository: str = ""
    clients: tuple[str, ...] = ()
    uid: str = ""


def refusal(facts: Facts, blocks: Iterable[Block], settings: RedisSettings, now: float) -> str | None:
    """The rule that keeps a server from any egress, or None."""
    if any(fits(block, facts, now) for block in blocks):
        return BLOCKED
    if any(matches(pattern, facts.repository) for pattern in settings.blocked_repositories):
        return BLOCKED_REPOSITORY
    if any(in_networks(client, settings.self_networks) for client in facts.clients):
        return OWN_NETWORK
    return None


def fits(block: Block, facts: Facts, now: float) -> bool:
    """Whether a block is in force and meant for these."""
    if not block.grant.is_block(now):
        return False
    if block.kind == "server":
        return block.uid == facts.uid
    if block.kind == "repository":
        return matches(block.what, facts.repository)
    return any(in_networks(client, [ipaddress.ip_network(block.what)]) for client in facts.clients)


@dataclass(frozen=True)
class Launch:
    """A launch, as BinderHub's hook tells it.

    Attributes:
        server: the server that is about to start.
        image: its image.
        repository: URL of the repository.
        token: the pass that came with the launch request, or None.
        network: the client's network as BinderHub saw it.
        requested_at: Unix time in seconds when the launch request came in, before any build.
        client: the client's address.
        authenticated: whether BinderHub knows who the user is (`auth_enabled`).
        groups: the user's groups.
    """

    server: Server
    image: str
    repository: str
    token: str | None
    network: str
    requested_at: float
    client: str = ""
    authenticated: bool = False
    groups: tuple[str, ...] = ()

    @classmethod
    def from_request(cls, body: dict, now: float, settings: VerifierSettings) -> "Launch":
        """Make it from the body of `POST /api/launches`.

        The time of the request is believed for `BUILD_LIMIT` at most: uses of a pass are remembered that long.
        """
        requested_at = body["requested_at"] if body["requested_at"] is not None else now
        return cls(
            server=Server(body["user"], body["server"]),
            image=body["image"],
            repository=body["repository"],
            token=body["token"] or None,
            network=client_network(body["client_address"], settings.client_ipv4_prefix, settings.client_ipv6_prefix),
            requested_at=min(now, max(now - BUILD_LIMIT, requested_at)),
            client=body["client_address"] or "",
            authenticated=body["authenticated"],
            groups=tuple(body["groups"]),
        )


@dataclass(frozen=True)
class Decision:
    """What was decided, and why.

    Attributes:
        grant: tier, and the rule that decided; None: the rule does not match.
        used: what became of the pass: `none`, or an outcome of `BadPass` or `Store.redeem`.
        recorded: whether the store has it already.
    """

    grant: Grant | None
    used: str = "none"
    recorded: bool = False


NO_MATCH = Decision(None)


class Rules:
    """Decides launches.

    Args:
        settings: mode, tiers, and the operator's lists.
        passes: reads tokens.
        store: where blocks, uses and decisions are kept.
        keys: the API keys of this site.
    """

    def __init__(self, settings: VerifierSettings, passes: Passes, store: Store, keys: Keys):
        self._settings = settings
        self._passes = passes
        self._store = store
        self._keys = keys
        self._rules: list[Callable[[Launch, float], Decision]] = [
            self.refused,
            self.mode_allow,
            self.api_client,
            self.valid_pass,
            self.trusted_repository,
            self.authenticated,
            self.default,
        ]

    def decide(self, launch: Launch, now: float) -> Decision:
        """Decide a launch and write the decision down.

        Args:
            launch: the launch.
            now: Unix time in seconds.

        Returns:
            The decision of the first rule that matches; `used` says what became of the pass.

        Raises:
            StoreUnavailable: nothing was granted.
        """
        used = "none"
        for rule in self._rules:
            decision = rule(launch, now)
            used = decision.used if decision.used != "none" else used
            if decision.grant:
                break
        decision = replace(decision, used=used)
        if not decision.recorded:
            self._store.record_launch(launch.server, self._record(decision.grant, launch), self._settings.launch_timeout)
        return decision

    def refused(self, launch: Launch, now: float) -> Decision:
        """Blocked, a blocked repository, or from our own networks: nothing. A pass is not even looked at."""
        rule = refusal(Facts(launch.repository, (launch.client,)), self._store.blocks(), self._settings, now)
        return Decision(Grant.new(UNVERIFIED, rule, now)) if rule else NO_MATCH

    def mode_allow(self, launch: Launch, now: float) -> Decision:
        """`mode: allow`: everybody gets `allow.tier`. In another mode such grants count no more."""
        return Decision(Grant.new(self._settings.allow_tier, MODE_ALLOW, now)) if self._settings.mode == "allow" else NO_MATCH

    def api_client(self, launch: Launch, now: float) -> Decision:
        """A pass that was issued for an API key, which still counts, for a repository that the key is for: its tier."""
        try:
            found = self._read(launch)
            if not found or not found.key:
                return NO_MATCH
            by = self._keys.accept(found.key, launch.repository, launch.requested_at).label
        except BadPass as error:
            return Decision(None, used=error.outcome)
        return self._redeem(found, replace(Grant.new(found.tier, "api-client", now), by=by), launch, now)

    def valid_pass(self, launch: Launch, now: float) -> Decision:
        """A pass for a solution that is signed, in time, and has a use left: its tier."""
        try:
            found = self._read(launch)
        except BadPass as error:
            return Decision(None, used=error.outcome)
        if not found or found.key:
            return NO_MATCH
        return self._redeem(found, Grant.new(found.tier, "valid-pass", now), launch, now)

    def _read(self, launch: Launch) -> Pass | None:
        return self._passes.read(launch.token, launch.requested_at) if launch.token is not None else None

    def _redeem(self, found: Pass, grant: Grant, launch: Launch, now: float) -> Decision:
        if found.tier not in self._settings.tiers:
            return Decision(None, used="unknown-tier")
        record = self._record(grant, launch)
        used = self._store.redeem(found, launch.server, record, launch.network, now, self._settings.launch_timeout)
        if used in REFUSED:
            return Decision(None, used=used)
        return Decision(record.grant, used=used, recorded=True)

    def trusted_repository(self, launch: Launch, now: float) -> Decision:
        """A repository that the operator trusts, by its exact name."""
        tier = self._settings.trusted_repositories.get(exact(launch.repository))
        return Decision(Grant.new(tier, "trusted-repository", now)) if tier else NO_MATCH

    def authenticated(self, launch: Launch, now: float) -> Decision:
        """A user who logged in, by name; else by the first group that is listed; else `*`, everybody who logged in."""
        if not launch.authenticated:
            return NO_MATCH
        users, groups = self._settings.authenticated_users, self._settings.authenticated_groups
        named = [users.get(launch.server.user), *(groups[group] for group in groups if group in launch.groups), users.get("*")]
        tier = next(filter(None, named), None)
        return Decision(Grant.new(tier, "authenticated", now)) if tier else NO_MATCH

    def default(self, launch: Launch, now: float) -> Decision:
        """No egress."""
        return Decision(Grant.new(UNVERIFIED, "default", now))

    @staticmethod
    def _record(grant: Grant, launch: Launch) -> Record:
        return Record(grant, image=launch.image, repository=launch.repository, client=launch.client)


REFUSED = {
    "used-up": "The pass has been used for as many servers as it is good for. Solve a challenge to get a new one.",
    "key-revoked": "The operators of this site revoked the key that the pass was issued for.",
    "before-epoch": "The pass was issued before this service lost its memory. Solve a challenge to get a new one.",
}
"""The outcomes of `Store.redeem` that grant nothing, with a sentence for the client."""
