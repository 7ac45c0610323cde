"""The answer that every captcha provider gives about a solution."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of a solution. The client's failures, ours, and the provider's are told apart."""

    OK = "ok"
    UNCHECKED = "unchecked"
    """Accepted without a check: the provider is down, and the operator chose `captcha.onOutage: allow`."""
    REJECTED = "rejected"
    """Wrong, expired, or for another purpose or network: the client gets a new challenge."""
    MISCONFIGURED = "misconfigured"
    """Our secret or site key is wrong: the operator must act."""
    UNAVAILABLE = "unavailable"
    """The provider does not answer."""


@dataclass(frozen=True)
class Verdict:
    """The result of checking a solution.

    Attributes:
        outcome: the outcome.
        detail: a sentence for the client; empty if the solution is accepted.
        solution_id: what every replay of this solution has in common, whatever its encoding.
        expires_at: Unix time in seconds until which the solution could be presented again.
        issued_at: Unix time in seconds at which its challenge was issued.
        price: the price of its challenge; None: the provider has no proof of work.
        tier: the tier that it earns.
        asked: whether a remote provider was asked, which uses one of the operator's requests.
    """

    outcome: Outcome
    detail: str = ""
    solution_id: str = ""
    expires_at: float = 0
    issued_at: float = 0
    price: float | None = None
    tier: str = ""
    asked: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the solution earns its tier."""
        return self.outcome in (Outcome.OK, Outcome.UNCHECKED)
