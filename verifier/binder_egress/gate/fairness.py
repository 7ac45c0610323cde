"""Fairness by price: the more passes a client network got lately, the more work each challenge takes. Figures: docs/fairness.md.

Every accepted solution, from any provider, charges its network by one. With `n` charges in the window, a challenge takes
`1 + n / doubled_after` times the base work. A class behind one address hardly notices, while the cost of a script grows with the
square of the passes that it gets. For IPv6, where one customer has many networks, wider networks are charged as well.

Decisions: D-025, D-211, D-212.
"""

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..settings import VerifierSettings
from .clients import SHARED

TOLERANCE = 2.0
"""The factor by which the price may rise while a challenge is solved. With 1, of a class that starts in the same second only the
first student would be accepted. With 2, a class of 31 is accepted, and fetching challenges in advance saves at most half the
work."""

BASE_SECONDS = 1.1
"""Seconds that the default proof of work takes on one core of a client at the base price (docs/fairness.md)."""

WORKERS = 2
"""The number of workers in a browser (frontend/src/solve.js). A phone, or a busy machine, takes several times as long."""

WIDER = {56: 2, 48: 8}
"""Prefix lengths of the wider IPv6 networks that are charged for a client too → how much more slowly their price rises. A home has
a /56, a site a /48 (RFC 6177)."""

REJECTIONS_WINDOW_SECONDS = 60
"""Seconds after a client network's first rejected solution until all its rejections are forgotten."""


@dataclass(frozen=True)
class Level:
    """A network that is charged for a client.

    Attributes:
        network: the client's network, or a wider one around it.
        flatter: the factor by which its price rises more slowly, and its budget is larger.
        cap: the highest price.
    """

    network: str
    flatter: int
    cap: float = math.inf


@dataclass(frozen=True)
class Charge:
    """What `Issuing.use_solution` checks, and adds to the charges of a network.

    Attributes:
        network: the network.
        window: seconds for which a charge counts.
        most: the highest number of earlier charges at which the challenge still took enough work; None: any number.
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
        shared_cap: the highest price of `SHARED`.
    """

    window: int
    doubled_after: int
    budget: int
    shared_cap: float = math.inf

    @classmethod
    def from_settings(cls, settings: VerifierSettings) -> "Fairness":
        """The curve of the operator's settings."""
        shared_cap = max(1.0, settings.launch_hold / BASE_SECONDS)
        return cls(settings.fairness_window, settings.fairness_doubled_after, settings.fairness_budget, shared_cap)

    def levels(self, network: str) -> list[Level]:
        """The networks that are charged for a client.

        Args:
            network: the network that pays for the client's passes (`networks.charged_network`).

        Returns:
            That network, and for an IPv6 network the wider ones around it. The price of `SHARED` has a cap. It has no budget,
            because any one of those who share it could spend the budget of all (D-212).
        """
        if network == SHARED:
            return [Level(network, 1, self.shared_cap)]
        wider: list[Level] = []
        if ":" in network:
            own = ipaddress.IPv6Network(network)
            wider = [Level(str(own.supernet(new_prefix=prefix)), by) for prefix, by in WIDER.items() if prefix < own.prefixlen]
        return [Level(network, 1), *wider]

    def price(self, levels: Sequence[Level], charges: Sequence[int]) -> float:
        """The multiple of the base work that a challenge takes: the highest price of the levels, 1 or more.

        Args:
            levels: the networks that are charged for the client.
            charges: the number of charges of each of them in the window.
        """
        if not self.doubled_after:
            return 1.0
        return max(
            min(level.cap, 1 + had / (self.doubled_after * level.flatter)) for level, had in zip(levels, charges, strict=True)
        )

    def charges(self, network: str, price: float | None) -> list[Charge]:
        """The charges for a solution, one for each level.

        Args:
            network: the network that pays for the client's passes.
            price: the price of the challenge; None if it took no work.
        """
        return [self._charge(level, price) for level in self.levels(network)]

    def _charge(self, level: Level, price: float | None) -> Charge:
        most = None
        if price is not None and self.doubled_after and TOLERANCE * price < level.cap:
            # The number of charges at which the price is TOLERANCE * price. The small addend absorbs rounding errors.
            most = math.floor(self.doubled_after * level.flatter * (TOLERANCE * price - 1) + 1e-6)
        return Charge(level.network, self.window, most, 0 if level.network == SHARED else self.budget * level.flatter)
