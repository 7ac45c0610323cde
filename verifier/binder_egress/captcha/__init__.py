"""Captcha providers: they give challenges and check solutions.

`altcha` is proof of work. The remote providers are rows in a table (`providers.ROWS`), and `siteverify` calls them.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from .altcha import Altcha
from .base import Outcome, Verdict
from .limits import WaitingLimit
from .providers import ROWS
from .siteverify import Remote, State

CHECK_TROUBLED_SECONDS, CHECK_UP_SECONDS = 60.0, 900.0
"""The time between two self-checks of a provider that is down or misconfigured, and of one that is up."""

CHECK_GAP_SECONDS = 10.0
"""The shortest time between two self-checks, whatever triggers them."""

__all__ = ["Captcha", "Outcome", "Provider", "Remote", "State", "Verdict"]


Provider = Altcha | Remote
"""A captcha provider. Both kinds have the same methods, and none raises because of what a client sent."""


class Captcha:
    """The configured providers, in the operator's order.

    Args:
        configured: the enabled ones of `captcha.providers`: name → options.
        keys: the signing keys, oldest first.
        tiers: the tiers that exist.
        secrets: the secrets of remote providers, by their names in upper case.
        hostnames: hosts on whose pages solutions may be made; empty: any.
        on_outage: `captcha.onOutage`.
        proof_of_work: the options of ALTCHA when it replaces another provider without being enabled itself.
        allow_test_keys: `captcha.allowTestKeys`.

    Raises:
        ValueError: an unknown name or option, a missing secret, or a tier that does not exist; the text names the chart value.
    """

    def __init__(
        self,
        configured: Mapping[str, Mapping[str, object]],
        keys: list[str],
        tiers: set[str],
        *,
        secrets: Mapping[str, str] = {},
        hostnames: frozenset[str] = frozenset(),
        on_outage: Literal["deny", "proofOfWork", "allow"] = "proofOfWork",
        proof_of_work: Mapping[str, object] = {},
        allow_test_keys: bool = False,
    ):
        listed: list[Provider] = []
        for name, options in configured.items():
            if name == Altcha.name:
                listed.append(Altcha.from_options(options, keys))
            elif name in ROWS:
                secret = secrets.get(name.upper(), "")
                listed.append(Remote.from_options(name, ROWS[name], options, secret, hostnames, allow_test_keys))
            else:
                known = ", ".join(sorted([Altcha.name, *ROWS]))
                raise ValueError(f"captcha.providers.{name}: unknown provider; there are {known}.")
        listed.sort(key=lambda provider: (provider.order, provider.name))
        self.providers = {provider.name: provider for provider in listed}
        """The enabled providers, in order."""
        self.remotes: list[Remote] = [provider for provider in self.providers.values() if isinstance(provider, Remote)]
        self._waiting = WaitingLimit()
        self._unchecked = on_outage == "allow"
        self._stand_in: Altcha | None = None
        if self.remotes and on_outage != "deny" and Altcha.name not in self.providers:
            # Its secrets differ from an enabled ALTCHA's. A challenge from an enabled ALTCHA, issued here earlier or by
            # another member of a federation with the same keys, must not replace another provider's (D-050).
            self._stand_in = Altcha.from_options(proof_of_work, keys, "challenge in place of another provider")
        for provider in [*self.providers.values(), *([self._stand_in] if self._stand_in else [])]:
            if provider.tier not in tiers:
                raise ValueError(f"captcha.providers.{provider.name}.tier: there is no tier {provider.tier!r}.")

    @property
    def stands_in(self) -> bool:
        """Whether proof of work replaces a provider at present."""
        return self._stand_in is not None and not all(provider.usable for provider in self.remotes)

    @property
    def offered(self) -> list[Provider]:
        """The usable providers, in order."""
        offered: list[Provider] = []
        for provider in self.providers.values():
            if provider.usable:
                offered.append(provider)
            elif self._stand_in and self._stand_in not in offered:
                offered.append(self._stand_in)
        return offered

    @property
    def names(self) -> list[str]:
        """The providers whose solutions are accepted."""
        # Solutions of the replacement count even after the provider is back: a challenge may be older, or from another replica.
        return [*self.providers, *([self._stand_in.name] if self._stand_in else [])]

    def tier_of(self, name: str) -> str | None:
        """The tier that a provider's solution earns; None if the name is not one of `names`."""
        provider = self._accepted(name)
        return provider.tier if provider else None

    def is_remote(self, name: str) -> bool:
        """Whether a remote provider checks the solutions of one of `names`."""
        return isinstance(self._accepted(name), Remote)

    def _accepted(self, name: str) -> Provider | None:
        """The provider that checks the solutions of one of `names`, or None."""
        if self._stand_in and self._stand_in.name == name:
            return self._stand_in
        return self.providers.get(name)

    def verify(self, name: str, solution: str, purpose: str, network: str, address: str) -> Verdict:
        """Check a solution. Never raises because of what a client sent.

        Args:
            name: one of `names`.
            solution: what the client sent.
            purpose: `launch` or `unlock`.
            network: the client's network.
            address: the client's address, for a provider that may receive it (`sendAddress`).
        """
        provider = self._accepted(name)
        assert provider, name
        if not isinstance(provider, Remote):
            return provider.verify(solution, purpose, network, address)
        with self._waiting.place(network) as taken:
            if not taken:
                # Not accepted with `onOutage: allow` either: it has no id, by which a replay could be seen.
                return Verdict(Outcome.UNAVAILABLE, "Too many solutions are being checked. Try again in a minute.")
            verdict = provider.verify(solution, purpose, network, address)
        # D-051
        if self._unchecked and provider.state is State.DOWN and verdict.outcome is Outcome.UNAVAILABLE:
            return replace(verdict, outcome=Outcome.UNCHECKED, detail="")
        return verdict

    def page_csp(self) -> dict[str, list[str]]:
        """What the offered providers' widgets need in a page's Content-Security-Policy: directive → sources."""
        return _merged(provider.csp() for provider in self.offered)

    def worker_csp(self) -> dict[str, list[str]]:
        """What workers need in their Content-Security-Policy: a worker's script has its own."""
        return _merged(provider.csp() for provider in self.offered if isinstance(provider, Altcha))

    def start(self) -> None:
        """Start the self-checks, each in its own thread: a provider that hangs delays neither the start nor other providers."""
        for provider in self.remotes:
            if provider.test_keys:
                logging.getLogger(__name__).warning("captcha.providers.%s: public test keys; anybody gets through", provider.name)
            threading.Thread(target=keep_checking, args=[provider], name=f"{provider.name} self-check", daemon=True).start()


def keep_checking(provider: Remote) -> None:
    """Check a provider for ever: at regular times, and whenever its `check_due` is set."""
    while True:
        provider.check_due.clear()
        try:
            provider.check()
        except Exception:
            logging.getLogger(__name__).exception("self-check of %s", provider.name)
        time.sleep(CHECK_GAP_SECONDS)
        provider.check_due.wait((CHECK_UP_SECONDS if provider.usable else CHECK_TROUBLED_SECONDS) - CHECK_GAP_SECONDS)


def _merged(parts: Iterable[dict[str, list[str]]]) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = {}
    for part in parts:
        for directive, sources in part.items():
            known = merged.setdefault(directive, [])
            known += [source for source in sources if source not in known]
    return merged
