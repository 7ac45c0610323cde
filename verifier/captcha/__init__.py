"""Captcha providers: what a challenge asks and how a solution is checked.

To add a provider, write a module with a class like `altcha.Altcha` and name it in `KINDS`.
"""

from typing import Any, Protocol

from .altcha import Altcha
from .base import Outcome, Verdict

KINDS = {"altcha": Altcha}
"""The providers that exist: the name in `captcha.providers` → the class."""

__all__ = ["KINDS", "Captcha", "Outcome", "Provider", "Verdict"]


class Provider(Protocol):
    """What the verifier asks of a provider."""

    name: str
    tier: str

    def challenge(self, purpose: str, network: str, price: float) -> dict[str, Any]:
        """What the client needs to solve: a JSON object that goes out under the provider's name.

        Args:
            purpose: `launch` or `unlock`; the solution is good for that only.
            network: the client's network (`networks.client_network`); the solution is good from there only.
            price: how many times the usual work to ask for, 1 or more. A provider that asks for no work ignores it.
        """

    def verify(self, solution: str, purpose: str, network: str) -> Verdict:
        """Check a solution. Never raises for what a client sent."""


class Captcha:
    """The configured providers, in the operator's order.

    Args:
        configured: `captcha.providers`: name → its options.
        keys: the signing keys, oldest first.
        tiers: the tiers that exist.

    Raises:
        ValueError: an unknown name or option, or a tier that does not exist; the text names the chart value.
    """

    def __init__(self, configured: dict[str, dict[str, Any]], keys: list[str], tiers: set[str]):
        self.providers: dict[str, Provider] = {}
        for name, options in configured.items():
            if name not in KINDS:
                raise ValueError(f"captcha.providers.{name}: unknown provider; there are {', '.join(sorted(KINDS))}.")
            provider = KINDS[name].from_options(options, keys)
            if provider.tier not in tiers:
                raise ValueError(f"captcha.providers.{name}.tier: there is no tier {provider.tier!r}.")
            self.providers[name] = provider

    def offers(self, purpose: str, network: str, price: float) -> list[dict[str, Any]]:
        """What the client may solve, one entry for each provider (`Provider.challenge` has the arguments)."""
        return [
            {"name": provider.name, "tier": provider.tier, "challenge": provider.challenge(purpose, network, price)}
            for provider in self.providers.values()
        ]
