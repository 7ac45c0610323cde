"""What captcha providers give: challenges, and an answer about each solution."""

from dataclasses import dataclass
from enum import StrEnum
from typing import (
    Annotated,
    NotRequired,  # as in `model.records`
)

from pydantic import Field
from typing_extensions import TypedDict


class ProofOfWork(TypedDict):
    """A challenge of ALTCHA, version 2."""

    parameters: dict[str, object]
    signature: str


class Widget(TypedDict):
    """What a remote captcha provider's widget needs."""

    site_key: str
    script: Annotated[
        str,
        Field(description="the widget's script; for mcaptcha, the page to show in a frame", json_schema_extra={"format": "uri"}),
    ]
    action: Annotated[str, Field(description="the purpose of the solution, to be given to the widget")]
    endpoint: NotRequired[
        Annotated[str, Field(description="the address that the widget calls", json_schema_extra={"format": "uri"})]
    ]


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
