"""Earns a pass in the background: asks for a challenge, solves it, and exchanges the solution."""

import threading
import time
from collections.abc import Callable
from typing import Any

from .solving import Cancelled, Unsolvable, solve
from .verifier import NoAnswer, NoGate, Refused, Verifier

GRACE = 1.0
"""Seconds that a launch waits for the challenge."""

HOLD = 4.0
"""Seconds that a launch waits for a pass if the verifier does not say how long."""

MOST_HOLD = 60.0
"""The longest wait for a pass in seconds, whatever the verifier says."""

MARGIN = 5.0
"""A pass is no longer sent when it has fewer than this many seconds left."""

ROUNDS = 2
"""The most challenges to solve for one pass: a second one if the price has risen in the meantime."""


class PersonNeeded(Exception):
    """Every offer of the verifier needs a person."""


def proof_of_work(challenge: dict[str, Any], tier: str | None = None) -> dict[str, Any]:
    """The first offer that a program can solve.

    Args:
        challenge: the verifier's offers.
        tier: the tier that the offer must give, for the renewal of a lease.

    Raises:
        PersonNeeded: all offers need a person.
        Refused: there is no offer, or none for that tier.
    """
    offers = [offer for offer in challenge["providers"] if isinstance(offer, dict)]
    if offers and tier:
        offers = [offer for offer in offers if offer.get("tier") == tier]
        if not offers:
            raise Refused("other-tier", f"nothing that can be solved here earns the tier {tier}, which the server has")
    for offer in offers:
        if offer.get("kind") == "proof-of-work" and isinstance(offer.get("name"), str):
            return offer
    if not offers:
        raise Refused("nothing-to-solve", "there is nothing to solve just now")
    raise PersonNeeded(" or ".join(str(offer.get("name")) for offer in offers))


def earn(
    verifier: Verifier,
    key: str | None = None,
    cancelled: threading.Event | None = None,
    answered: Callable[[dict[str, Any]], object] = lambda challenge: None,
) -> dict[str, Any]:
    """Get a pass, with the key if there is one, else with proof of work.

    Args:
        verifier: the verifier to ask.
        key: an API key.
        cancelled: stops the work when set.
        answered: called with each challenge.

    Returns:
        The verifier's answer: `token`, `expires_in`, `servers`, `tier`.

    Raises:
        NoGate, NoAnswer, Refused, PersonNeeded, Unsolvable, Cancelled: there is no pass, for that reason.
    """
    if key:
        return verifier.pass_for_key(key)
    return calculated(verifier, "launch", verifier.pass_for_solution, None, cancelled, answered)


def calculated(
    verifier: Verifier,
    purpose: str,
    present: Callable[[str, str], dict[str, Any]],
    tier: str | None = None,
    cancelled: threading.Event | None = None,
    answered: Callable[[dict[str, Any]], object] = lambda challenge: None,
) -> dict[str, Any]:
    """Do proof of work, once more if the price has risen meanwhile, and return what `present` gives for provider and solution.

    Args:
        verifier: the verifier to ask.
        purpose: `launch` or `unlock`.
        present: presents the solution.
        tier: the tier that it must earn; None: any.
        cancelled: stops the work when set; None: nobody does.
        answered: called with each challenge.
    """
    for round in range(1, ROUNDS + 1):
        challenge = verifier.challenge(purpose)
        answered(challenge)
        offer = proof_of_work(challenge, tier)
        solution = solve(offer.get("challenge"), cancelled or threading.Event())
        try:
            return present(offer["name"], solution)
        except Refused as refusal:
            if refusal.kind != "price-risen" or round == ROUNDS:
                raise
    raise AssertionError("unreachable")


class Check:
    """Earns a pass in a separate thread, which `stop` ends.

    Attributes:
        error: the reason why there is no pass; None while there may be one.
    """

    def __init__(self, verifier: Verifier, key: str | None = None):
        self.error: Exception | None = None
        self._key = key
        self._hold = HOLD
        self._until = 0.0
        self._token: str | None = None
        self._cancelled = threading.Event()
        # A key needs no challenge.
        self._answered = threading.Event()
        self._done = threading.Event()
        if key:
            self._answered.set()
        self._thread = threading.Thread(target=self._run, args=(verifier,), daemon=True)
        self._thread.start()

    @property
    def token(self) -> str | None:
        """The pass, as long as it is valid."""
        return self._token if time.monotonic() < self._until else None

    def wait(self) -> None:
        """Wait for the pass as long as a launch may: a second for the challenge, then as long as the challenge says."""
        began = time.monotonic()
        if self._answered.wait(GRACE):
            self._done.wait(max(0.0, began + self._hold - time.monotonic()))

    def finish(self) -> None:
        """Wait until the work has ended, with or without a pass."""
        self._done.wait()

    def stop(self) -> None:
        """Stop the work between two tries. A running request ends with the process at the latest."""
        self._cancelled.set()
        self._thread.join(1)

    def _run(self, verifier: Verifier) -> None:
        try:
            answer = earn(verifier, self._key, self._cancelled, self._note)
            self._until = time.monotonic() + float(answer["expires_in"]) - MARGIN
            self._token = answer["token"]
        except (NoGate, NoAnswer, Refused, PersonNeeded, Unsolvable, Cancelled) as error:
            self.error = error
        finally:
            self._answered.set()
            self._done.set()

    def _note(self, challenge: dict[str, Any]) -> None:
        said = challenge.get("hold")
        if isinstance(said, int | float) and not isinstance(said, bool) and said >= 0:
            self._hold = min(float(said), MOST_HOLD)
        self._answered.set()
