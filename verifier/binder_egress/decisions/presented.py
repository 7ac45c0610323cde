"""Presented passes: whether a pass counts here, for a launch or for a running server."""

from dataclasses import dataclass, replace

from ..gate.api_keys import SERVERS_PER_PASS, Keys
from ..model.grants import BY_RULE, Origin
from ..model.passes import BadPass, Pass, Passes
from ..model.records import PassOutcome
from ..settings import VerifierSettings

REJECTED_PASSES = {
    PassOutcome.USED_UP: "The pass has been used for as many servers as it is good for. Solve a challenge to get a new one.",
    PassOutcome.LEASE_GIVEN: "The pass has given this server its time already. Solve a challenge to get a new one.",
    PassOutcome.KEY_REVOKED: "The operators of this site revoked the key that the pass was issued for.",
    PassOutcome.BEFORE_EPOCH: "The pass was issued before this service was reset. Solve a challenge to get a new one.",
}
"""The outcomes of `Redeeming.redeem` that reject a pass, each with a sentence for the client."""


@dataclass(frozen=True)
class Presented:
    """A pass that counts here, if it has a use left.

    Attributes:
        issued: the pass.
        origin: the origin of its grants.
    """

    issued: Pass
    origin: Origin = BY_RULE


@dataclass(frozen=True)
class Judge:
    """Judges presented passes.

    Attributes:
        settings: the tiers, and the most that a pass of a member of the federation is worth here.
        passes: reads tokens.
        keys: the API keys of this site.
    """

    settings: VerifierSettings
    passes: Passes
    keys: Keys

    def judge(self, token: str, repository: str, presented_at: float, now: float) -> Presented:
        """The pass that a client presents, with no more servers and no later end than one that this site issues (D-393).

        Args:
            token: the text that the client sent.
            repository: URL of the repository of the server that it is for.
            presented_at: Unix time in seconds at which the client sent it, perhaps before a build.
            now: Unix time in seconds.

        Raises:
            BadPass: the token is not a pass, or the pass does not count for this server.
        """
        return self.accept(self.read(token, presented_at, now), repository, presented_at)

    def read(self, token: str, presented_at: float, now: float) -> Pass:
        """The pass that a client presents, whatever it is for. See `judge` for the arguments.

        Raises:
            BadPass: the token is not a pass that is valid here.
        """
        return self.passes.read(token, presented_at, self.settings.pass_lifetime, now)

    def accept(self, issued: Pass, repository: str, presented_at: float) -> Presented:
        """A pass that was presented in time, as it counts for a server. See `judge` for the arguments.

        Raises:
            BadPass: the pass does not count for this server.
        """
        origin, most_servers = BY_RULE, self.settings.pass_servers
        if issued.key:  # D-037
            origin, most_servers = self.keys.accept(issued.key, repository, presented_at).origin, SERVERS_PER_PASS
        if issued.tier not in self.settings.tiers:
            raise BadPass(PassOutcome.UNKNOWN_TIER, "The pass is for a tier that this site does not have.")
        return Presented(replace(issued, servers=min(issued.servers, most_servers)), origin)
