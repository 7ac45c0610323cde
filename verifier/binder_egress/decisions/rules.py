"""Rules: which tier a launch gets. They are checked in this order, and the first that matches decides.

| rule | matches | gives |
|---|---|---|
| `blocked` | an operator's block of the repository, or of the client's network | nothing |
| `blocked-repository` | `rules.blockedRepositories` | nothing |
| `own-network` | a client in `rules.selfNetworks` | nothing |
| `mode-allow` | `mode: allow` | `allow.tier` |
| `api-client` | a pass that was issued for an API key that still counts, for a repository of that key | its tier |
| `valid-pass` | a pass that was issued for a solution, is signed, in time, and has a use left | its tier |
| `trusted-repository` | `rules.trustedRepositories` | the tier there |
| `authenticated` | `rules.authenticatedUsers` and `rules.authenticatedGroups` | the tier there |
| `default` | always | nothing |

The first three are the refusals (`refusals`). An unlock checks them again; its pass or solution decides the tier.

A launch that carries a promise is decided by the pass that has kept it. As long as none has, it is decided as a launch without a
pass; `kept_promises` decides it again when one does.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..model.grants import Egress, NoEgress, Rule
from ..model.passes import BadPass
from ..model.promise_token import is_promise
from ..model.records import PassOutcome, Record, Server
from ..model.repositories import exact
from ..settings import VerifierSettings
from ..store.announcements import Announced
from ..store.blocks import SeenBlocks
from ..store.errors import BlocksChanged, PromiseKept
from ..store.redeeming import BUILD_LIMIT_SECONDS, REDEEMED, Use
from ..store.store import VerifierStore
from .presented import Judge, Presented
from .refusals import Facts, refusal


@dataclass(frozen=True)
class Launch:
    """A launch, as BinderHub's hook announces it.

    Attributes:
        server: the server that is about to start.
        image: its image.
        repository: the URL of the repository.
        token: the pass or the promise that came with the launch request, or None.
        network: the client's network.
        requested_at: Unix time in seconds of the launch request, before any build.
        client: the client's address.
        authenticated: whether BinderHub knows who the user is (`auth_enabled`).
        groups: the user's groups.
        context: whether the hook knew the launch request.
        hub_url: JupyterHub's address, as browsers see it; empty: not reported, not a valid address, or set by the operator (D-370).
        launched_at: Unix time in seconds at which it should have been announced, if it is announced late (D-520); else None.
        came: how it came, one of `records.CAME`.
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
    context: bool = True
    hub_url: str = ""
    launched_at: float | None = None
    came: str = ""

    @property
    def promise(self) -> str:
        """The promise that came with it; empty: none did."""
        return self.token if self.token and is_promise(self.token) else ""

    def record(self, grant: Egress | NoEgress) -> Record:
        """A decision about this launch, as the record that waits for the pod."""
        return Record(
            grant,
            image=self.image,
            repository=self.repository,
            client=self.client,
            promise=self.promise,
            launched_at=self.launched_at,
            came=self.came,
        )

    def announced(self, seen: SeenBlocks, now: float) -> Announced:
        """This launch, as the store counts it at `now` (Unix seconds), once it was decided by the blocks in `seen`."""
        return Announced(now, self.context, seen.version, self.hub_url)


def believed_time(requested_at: float | None, now: float) -> float:
    """The time of a launch request, as far as it is believed.

    A time further back than `BUILD_LIMIT_SECONDS` is not believed: the uses of a pass are remembered only that long.

    Args:
        requested_at: Unix time in seconds that BinderHub's hook announced; None: it knows none, and it is now.
        now: Unix time in seconds.
    """
    return now if requested_at is None else min(now, max(now - BUILD_LIMIT_SECONDS, requested_at))


@dataclass(frozen=True)
class Decision:
    """What was decided about a launch, and why.

    Attributes:
        grant: the tier, and the rule that decided.
        pass_outcome: the outcome of the pass.
    """

    grant: Egress | NoEgress
    pass_outcome: PassOutcome = PassOutcome.NONE


@dataclass(frozen=True)
class _Match:
    """The answer of one rule.

    Attributes:
        grant: its decision; None: the rule does not match.
        pass_outcome: the outcome of the pass, if the rule looked at it.
        recorded: whether the decision is already in the store.
    """

    grant: Egress | NoEgress | None = None
    pass_outcome: PassOutcome = PassOutcome.NONE
    recorded: bool = False


def launch_grant(presented: Presented, now: float) -> Egress:
    """The grant that a pass gives a launch at `now` (Unix seconds)."""
    used = presented.issued
    return Egress.new(used.tier, Rule.API_CLIENT if used.key else Rule.VALID_PASS, now, presented.origin)


class Rules:
    """Decides launches.

    Args:
        settings: mode, tiers, and the operator's lists.
        judge: judges presented passes.
        store: where blocks, uses and decisions are kept.
    """

    def __init__(self, settings: VerifierSettings, judge: Judge, store: VerifierStore):
        self._settings = settings
        self._judge = judge
        self._store = store
        self._in_order: tuple[Callable[[Launch, SeenBlocks, float], _Match], ...] = (
            self._refusal,
            self._mode_allow,
            self._presented_pass,
            self._trusted_repository,
            self._authenticated,
            self._default,
        )

    def decide(self, launch: Launch, now: float) -> Decision:
        """Count a launch, decide it, and write the decision down.

        Args:
            launch: the launch.
            now: Unix time in seconds.

        Returns:
            The decision of the first rule that matches. `pass_outcome` reports a rejected pass, whichever rule decided in the end.

        Raises:
            LaunchDecided: it is announced late, and its server has a decision by now.
            StoreUnavailable: no decision is known to be written down. One that Redis writes down later counts all the same.
        """
        while True:
            try:
                return self._decide(launch, self._store.seen_blocks, now)
            except (BlocksChanged, PromiseKept):
                continue  # The store has the new blocks, or the pass, now (D-367).

    def _decide(self, launch: Launch, seen: SeenBlocks, now: float) -> Decision:
        """Decide a launch by the blocks in `seen`, and write the decision down.

        Raises:
            BlocksChanged: the blocks have changed since.
            LaunchDecided: it is announced late, and its server has a decision by now.
            PromiseKept: a pass has kept the launch's promise since.
        """
        pass_outcome = PassOutcome.NONE
        for rule in self._in_order:
            match = rule(launch, seen, now)
            if match.pass_outcome != PassOutcome.NONE:
                pass_outcome = match.pass_outcome
            if match.grant is None:
                continue
            if not match.recorded:
                record, timeout = launch.record(match.grant), self._settings.launch_timeout
                self._store.record_launch(
                    launch.server,
                    record,
                    timeout,
                    launch.announced(seen, now),
                    network=launch.network,
                    unkept=pass_outcome == PassOutcome.PROMISED,
                )
            return Decision(match.grant, pass_outcome)
        raise AssertionError("the last rule always matches")

    def _refusal(self, launch: Launch, seen: SeenBlocks, now: float) -> _Match:
        """Blocked, a blocked repository, or one of our own networks: no egress. The pass is not looked at and keeps its uses."""
        rule = refusal(Facts(launch.repository, (launch.client,)), seen.blocks, self._settings, now)
        return _Match(NoEgress.new(rule, now)) if rule else _Match()

    def _mode_allow(self, launch: Launch, seen: SeenBlocks, now: float) -> _Match:
        """Mode `allow`: everybody gets `allow.tier`. In other modes such grants no longer count."""
        if self._settings.mode != "allow":
            return _Match()
        return _Match(Egress.new(self._settings.allow_tier, Rule.MODE_ALLOW, now))

    def _presented_pass(self, launch: Launch, seen: SeenBlocks, now: float) -> _Match:
        """The launch's pass, or the pass that has kept its promise, gives its tier if it has a use left and if the API key that it
        was issued for, if any, still counts."""
        if launch.token is None:
            return _Match()
        try:
            if launch.promise:
                promised = self._store.promised(launch.promise, launch.network)
                if not promised.is_kept:
                    return _Match(pass_outcome=PassOutcome.PROMISED)
                if promised.kept_by is None:
                    return _Match(pass_outcome=PassOutcome.INVALID)
                presented = self._judge.accept(promised.kept_by, launch.repository, launch.requested_at)
            else:
                presented = self._judge.judge(launch.token, launch.repository, launch.requested_at, now)
        except BadPass as error:
            return _Match(pass_outcome=error.outcome)
        grant, timeout, announced = launch_grant(presented, now), self._settings.launch_timeout, launch.announced(seen, now)
        use = Use(presented.issued, launch.server, launch.record(grant), launch.network, timeout, announced=announced)
        outcome = self._store.redeem(use)
        if outcome not in REDEEMED:
            return _Match(pass_outcome=outcome)
        return _Match(grant, outcome, recorded=True)

    def _trusted_repository(self, launch: Launch, seen: SeenBlocks, now: float) -> _Match:
        """A repository that the operator trusts, by its exact name."""
        tier = self._settings.trusted_repositories.get(exact(launch.repository))
        return _Match(Egress.new(tier, Rule.TRUSTED_REPOSITORY, now)) if tier else _Match()

    def _authenticated(self, launch: Launch, seen: SeenBlocks, now: float) -> _Match:
        """A logged-in user: by name; else by the first listed group; else by `*`, everybody who is logged in."""
        if not launch.authenticated:
            return _Match()
        users, groups = self._settings.authenticated_users, self._settings.authenticated_groups
        candidates = [users.get(launch.server.user), *(groups[group] for group in groups if group in launch.groups), users.get("*")]
        tier = next(filter(None, candidates), None)
        return _Match(Egress.new(tier, Rule.AUTHENTICATED, now)) if tier else _Match()

    def _default(self, launch: Launch, seen: SeenBlocks, now: float) -> _Match:
        """No egress."""
        return _Match(NoEgress.new(Rule.DEFAULT, now))
