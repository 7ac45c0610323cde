"""Which tier a launch gets: a list of rules, of which the first that matches decides."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .networks import client_network
from .passes import BadPass, Passes
from .settings import UNVERIFIED, VerifierSettings
from .store import BUILD_LIMIT, Grant, Record, Server, Store


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
    """

    server: Server
    image: str
    repository: str
    token: str | None
    network: str
    requested_at: float

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
        )


@dataclass(frozen=True)
class Decision:
    """What was decided, and why.

    Attributes:
        grant: tier, and the rule that decided.
        used: what became of the pass: `none`, or an outcome of `BadPass` or `Store.redeem`.
        recorded: whether the store has it already.
    """

    grant: Grant
    used: str = "none"
    recorded: bool = False


MODE_ALLOW = "mode-allow"
"""The rule of grants that everybody gets in mode `allow`. In another mode they count no more."""


class Rules:
    """Decides launches.

    Args:
        settings: mode and tiers.
        passes: reads tokens.
        store: where uses and decisions are kept.
    """

    def __init__(self, settings: VerifierSettings, passes: Passes, store: Store):
        self._settings = settings
        self._passes = passes
        self._store = store
        self._rules: list[Callable[[Launch, float], Decision]] = [self.mode_allow, self.valid_pass, self.default]

    def decide(self, launch: Launch, now: float) -> Decision:
        """Decide a launch and write the decision down.

        Args:
            launch: the launch.
            now: Unix time in seconds.

        Returns:
            The decision of the first rule that grants a tier, or that of `default`; `used` says what became of the pass.

        Raises:
            StoreUnavailable: nothing was granted.
        """
        used = "none"
        for rule in self._rules:
            decision = rule(launch, now)
            used = decision.used if decision.used != "none" else used
            if decision.grant.tier != UNVERIFIED:
                break
        decision = replace(decision, used=used)
        if not decision.recorded:
            record = Record(decision.grant, image=launch.image, repository=launch.repository)
            self._store.record_launch(launch.server, record, self._settings.launch_timeout)
        return decision

    def mode_allow(self, launch: Launch, now: float) -> Decision:
        """`mode: allow`: everybody gets `allow.tier`."""
        tier = self._settings.allow_tier if self._settings.mode == "allow" else UNVERIFIED
        return Decision(Grant.new(tier, MODE_ALLOW, now))

    def valid_pass(self, launch: Launch, now: float) -> Decision:
        """A pass that is signed, in time, and has a use left: its tier."""
        refused = Grant.new(UNVERIFIED, "valid-pass", now)
        if launch.token is None:
            return Decision(refused)
        try:
            found = self._passes.read(launch.token, launch.requested_at)
        except BadPass as error:
            return Decision(refused, used=error.outcome)
        if found.tier not in self._settings.tiers:
            return Decision(refused, used="unknown-tier")
        record = Record(Grant.new(found.tier, "valid-pass", now), image=launch.image, repository=launch.repository)
        used = self._store.redeem(found, launch.server, record, launch.network, now, self._settings.launch_timeout)
        if used in REFUSED:
            return Decision(refused, used=used)
        return Decision(record.grant, used=used, recorded=True)

    def default(self, launch: Launch, now: float) -> Decision:
        """No egress."""
        return Decision(Grant.new(UNVERIFIED, "default", now))


REFUSED = {
    "used-up": "The pass has been used for as many servers as it is good for. Solve a challenge to get a new one.",
    "before-epoch": "The pass was issued before this service lost its memory. Solve a challenge to get a new one.",
}
"""The outcomes of `Store.redeem` that grant nothing, with a sentence for the client."""
