"""Fairness by price: the more passes a client network got lately, the more work each challenge asks. docs/fairness.md has figures.

Every accepted solution charges its network by one, whichever provider it is from. With `n` charges in the window a challenge asks
`1 + n / doubled_after` times the base work. A class behind one address hardly notices, and the cost of a script grows with the
square of the passes that it gets.

Decisions: D-024, D-025, D-026, D-029.
"""

import math
from dataclasses import dataclass

from .settings import VerifierSettings

TOLERANCE = 2.0
"""The factor by which the price may rise while a challenge is solved. With 1, only the first student of a class that starts in the
same second would be accepted. With 2, a class of 31 is accepted, and challenges fetched in advance save at most a third."""

REJECTIONS_WINDOW_SECONDS = 60
"""Seconds after the first of a client network's rejected solutions until they are forgotten."""


@dataclass(frozen=True)
class Charge:
    """What `Store.use_solution` checks, and adds to the charges of a client network.

    Attributes:
        network: the client's network.
        window: seconds for which a charge counts.
        most: the highest number of earlier charges at which the challenge was still dear enough; None: any number.
        budget: the number of charges in the window after which no pass is issued; 0: no budget.
    """

    network: str
    window: int
    most: int | None
    budget: int


@dataclass(frozen=True)
class Fairness:
    """The price curve, `fairness` in the chart.

    Attributes:
        window: seconds for which a charge counts.
        doubled_after: the number of charges after which the price is twice the base; 0: it never rises.
        budget: the number of charges in the window after which no pass is issued; 0: no budget.
    """

    window: int
    doubled_after: int
    budget: int

    @classmethod
    def from_settings(cls, settings: VerifierSettings) -> "Fairness":
        """The curve of the operator's settings."""
        return cls(settings.fairness_window, settings.fairness_doubled_after, settings.fairness_budget)

    def price(self, charges: int) -> float:
        """The multiple of the base work that a challenge asks of a network with this number of charges, 1 or more."""
        return 1 + charges / self.doubled_after if self.doubled_after else 1.0

    def charge(self, network: str, price: float | None) -> Charge | None:
        """The charge for a solution; None: nobody is charged.

        Args:
            network: the client's network; `""` if it is unknown, and then nobody is charged.
            price: the price of the challenge; None if it asked for no work.
        """
        if not network:
            return None
        most = None
        if price is not None and self.doubled_after:
            # price(most) == TOLERANCE * price, solved for the charges. The small addend is for rounding.
            most = math.floor(self.doubled_after * (TOLERANCE * price - 1) + 1e-6)
        return Charge(network, self.window, most, self.budget)
