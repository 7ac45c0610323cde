"""Giving a running server network: by a pass, by proof of work, by a key, or by a person in a browser."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .check import ROUNDS, PersonNeeded, proof_of_work
from .solving import Unsolvable, solve
from .verifier import NoAnswer, Refused, Server, Verifier

UNVERIFIED = "unverified"

PENDING = 60.0
"""Seconds for which an unlock that was accepted may take to reach the pod."""

APPEARS = 20.0
"""Seconds within which the verifier knows a server that has just become ready."""

POLL = 2.0
"""Seconds between two looks at a server that a person is to unlock."""


@dataclass(frozen=True)
class Outcome:
    """Whether a server has egress.

    Attributes:
        egress: None where nobody here knows: there is no gate, or no answer.
        tier: what it has.
        why: a sentence for people; empty where it has egress.
        kind: the same as one word: the verifier's problem (`budget-spent`), or `no-gate`, `no-answer`, `closed`, `needs-person`,
            `pending`, `unsolvable`, `not-wanted`.
        link: where a person can unlock it.
        retry_after: seconds after which it makes sense to try again.
    """

    egress: bool | None
    tier: str | None = None
    why: str = ""
    kind: str = ""
    link: str | None = None
    retry_after: int | None = None


def unlock(
    server: Server,
    *,
    key: str | None = None,
    token: str | None = None,
    calculate: bool = True,
    wait: float = 0,
    on_link: Callable[[str, float], object] = lambda link, seconds: None,
) -> Outcome:
    """Give a running server network.

    Args:
        server: which.
        key: an API key, used instead of a calculation.
        token: a pass that is at hand; if it is refused, the rest is tried.
        calculate: whether proof of work may be done.
        wait: seconds to wait for a person, where one is needed.
        on_link: called with the link for that person and these seconds.

    Raises:
        NoGate: there is no verifier.
    """
    verifier = Verifier(server.verifier)
    try:
        shown = verifier.show(server)
        if shown["tier"] != UNVERIFIED:
            return Outcome(True, shown["tier"])
        if not shown.get("unlockable", True):
            return Outcome(False, UNVERIFIED, "the operators of this hub do not give this server egress", "closed")
        return _unlock(verifier, server, key, token, calculate, wait, on_link)
    except Refused as refusal:
        link = None if refusal.kind in ("no-such-server", "locked") else server.link
        return Outcome(False, None, str(refusal), refusal.kind, link, refusal.retry_after)
    except NoAnswer as error:
        return Outcome(None, None, str(error), "no-answer", server.link)
    except Unsolvable as error:
        return Outcome(False, UNVERIFIED, str(error), "unsolvable", server.link)


def _unlock(
    verifier: Verifier,
    server: Server,
    key: str | None,
    token: str | None,
    calculate: bool,
    wait: float,
    on_link: Callable[[str, float], object],
) -> Outcome:
    if token:
        try:
            return _confirmed(verifier, server, verifier.unlock(server, token=token))
        except Refused as refusal:
            # It may be used up, or too old.
            if refusal.kind != "pass-refused":
                raise
    if key:
        return _confirmed(verifier, server, verifier.unlock(server, token=verifier.pass_for_key(key)["token"]))
    if calculate:
        try:
            return _confirmed(verifier, server, _by_calculation(verifier, server))
        except PersonNeeded:
            pass
    if not wait:
        return Outcome(False, UNVERIFIED, "a person has to solve a check in a browser", "needs-person", server.link)
    on_link(server.link, wait)
    return await_egress(verifier, server, wait) or Outcome(
        False, UNVERIFIED, f"nobody unlocked it within {wait:.0f} s", "needs-person", server.link
    )


def _by_calculation(verifier: Verifier, server: Server) -> dict[str, Any]:
    for round in range(1, ROUNDS + 1):
        offer = proof_of_work(verifier.challenge("unlock"))
        # Ctrl-C is an exception in this thread, so there is nothing to cancel.
        solution = solve(offer.get("challenge"), threading.Event())
        try:
            return verifier.unlock(server, provider=offer["name"], solution=solution)
        except Refused as refusal:
            if refusal.kind != "price-risen" or round == ROUNDS:
                raise
    raise AssertionError("unreachable")


def _confirmed(verifier: Verifier, server: Server, answer: dict[str, Any]) -> Outcome:
    if answer["tier"] != UNVERIFIED:
        return Outcome(True, answer["tier"])
    # "pending": written down, and the reconciler is late.
    return await_egress(verifier, server, PENDING) or Outcome(
        False, UNVERIFIED, f"accepted, but not done after {PENDING:.0f} s; it may still come", "pending", server.link
    )


def await_egress(verifier: Verifier, server: Server, seconds: float, every: float = POLL) -> Outcome | None:
    """Look until a server has egress.

    Args:
        verifier: whom to ask.
        server: which.
        seconds: how long at most.
        every: seconds between two looks.

    Returns:
        None if it has none by then.

    Raises:
        Refused: the server has ended.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            shown = verifier.show(server)
            if shown["tier"] != UNVERIFIED:
                return Outcome(True, shown["tier"])
        except NoAnswer:
            # It may come back, and somebody may be solving.
            pass
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(every, left))
