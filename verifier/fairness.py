"""Fairness by price: proof of work costs the more, the more passes a client network had lately. docs/fairness.md has the figures.

A network is charged one for each solution that was found good, whichever provider it is of. With `n` charges in the window
a challenge asks `1 + n / doubled_after` times the base work. So a class behind one address hardly notices, and what a script pays
grows with the square of what it takes.

Decisions: D-024, D-025, D-026, D-029.
"""

import math
from dataclasses import dataclass

from .settings import VerifierSettings

TOLERANCE = 2.0
"""By how much the price may have risen since a challenge was given out. With 1, a class that starts in the same second would be
refused but for the first. With 2, a class of 31 is accepted, and challenges fetched in advance save at most a third."""


REJECTIONS_WINDOW_SECONDS = 60
"""Seconds after the first of a client network's rejected solutions until they are forgotten."""


@dataclass(frozen=True)
class Charge:
    """What `Store.use_solution` checks and adds to the charges of a client network.

    Attributes:
        network: the client's network.
        window: seconds for which a charge counts.
        most: the number of earlier charges from which on the price has risen too far since the challenge; None: no matter.
        budget: the number of charges in the window from which on no pass is issued; 0: there is no budget.
    """

    network: str
    window: int
    most: int | None
    budget: int


@dataclass(frozen=True)
class Fairness:
    """The curve, `fairness` in the chart.

    Attributes:
        window: seconds for which a charge counts.
        doubled_after: charges after which the price is twice the base; 0: it never rises.
        budget: charges in the window from which on no pass is issued; 0: there is no budget.
    """

    window: int
    doubled_after: int
    budget: int

    @classmethod
    def from_settings(cls, settings: VerifierSettings) -> "Fairness":
        """The curve that the operator chose."""
        return cls(settings.fairness_window, settings.fairness_doubled_after, settings.fairness_budget)

    def price(self, charges: int) -> float:
        """How many times the base work a challenge asks of a network with so many charges: 1 or more."""
        return 1 + charges / self.doubled_after if self.doubled_after else 1.0

    def charge(self, network: str, price: float | None) -> Charge | None:
        """What to charge a client for a solution.

        Args:
            network: the client's network; `""` if it has none that we know, and then nobody is charged.
            price: what the challenge asked, None if it asked for no work.
        """
        if not network:
            return None
        most = None
        if price is not None and self.doubled_after:
            # price(most) == TOLERANCE * price, solved for the charges; the bit more is for rounding.
            most = math.floor(self.doubled_after * (TOLERANCE * price - 1) + 1e-6)
        return Charge(network, self.window, most, self.budget)
