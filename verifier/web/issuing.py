"""From a solution or an API key to a pass: check it, use it up, charge for it."""

import time
from collections.abc import Iterable
from contextlib import suppress

from flask import request

from ..api_keys import DAY_SECONDS
from ..captcha import Outcome
from ..decisions.refusals import REFUSALS, Facts, refusal
from ..passes import Pass, Passes
from ..records import UNVERIFIED, Block, Rule
from ..store.errors import BudgetSpent, KeyRevoked, PriceRisen, Refused, Replayed, StoreUnavailable
from .context import log_decision, network, paying_network, services
from .problems import Problem

SOLUTION_PROBLEMS = (
    "solution-refused",
    "blocked",
    "price-risen",
    "budget-spent",
    "too-many-rejected",
    "provider-misconfigured",
    "provider-unavailable",
    "unavailable",
)
"""The types of problems that `from_solution` raises, besides `bad-request`."""

API_KEY_PROBLEMS = (
    "key-refused",
    "key-expired",
    "key-revoked",
    "key-elsewhere",
    "blocked",
    "key-spent",
    "too-many-wrong-keys",
    "unavailable",
)
"""The types of problems that `from_api_key` raises, besides `bad-request`."""

PROBLEM_TYPES = {
    Outcome.REJECTED: "solution-refused",
    Outcome.MISCONFIGURED: "provider-misconfigured",
    Outcome.UNAVAILABLE: "provider-unavailable",
}
"""Outcome of a solution that earns nothing → type of the problem that the client gets."""


def from_solution(name: str, solution: str, purpose: str) -> Pass:
    """Check a solution, use it up, charge the client's network, and issue the pass that it earns.

    Args:
        name: the captcha provider.
        solution: what the client sent.
        purpose: `launch` or `unlock`, as requested with the challenge.

    Raises:
        Problem: the solution earns nothing.
        StoreUnavailable: the solution could not be used up, so it earns nothing.
    """
    if name not in services().captcha.names:
        raise Problem("bad-request", f"provider: this site has {', '.join(services().captcha.names)}.")

    using = services()

    def count(outcome: str) -> None:
        using.metrics.solutions.labels(name, purpose, outcome).inc()
        if outcome not in (Outcome.OK, Outcome.UNCHECKED):
            log_decision("solution", UNVERIFIED, outcome, provider=name, purpose=purpose)

    def refused(rule: Rule) -> Problem:
        count(rule)
        return Problem("blocked", REFUSALS[rule])

    if rule := using.store.refusal(client_refusal):
        raise refused(rule)
    client, most = network(), using.settings.fairness_rejections
    if client and most and name in [remote.name for remote in using.captcha.remotes]:
        rejected, forgotten_in = using.store.rejections(client)
        if rejected >= most:
            count("too-many-rejected")
            raise Problem("too-many-rejected", "Try again when they are forgotten, or solve another challenge.", forgotten_in)
    began = time.monotonic()
    verdict = using.captcha.verify(name, solution, purpose, client, request.remote_addr or "")
    using.metrics.verify_seconds.labels(name, verdict.outcome).observe(time.monotonic() - began)
    if verdict.asked and client and verdict.outcome is Outcome.REJECTED:
        with suppress(StoreUnavailable):  # The solution is rejected whether it is counted or not.
            using.store.note_rejection(client)
    if not verdict.accepted:
        count(verdict.outcome)
        raise Problem(PROBLEM_TYPES[verdict.outcome], verdict.detail)
    charges = using.fairness.charges(paying_network(), verdict.price)
    lifetime = verdict.expires_at - time.time()
    try:
        issued_at = using.store.use_solution(name, verdict.solution_id, verdict.issued_at, lifetime, client_refusal, charges)
    except Refused as error:
        raise refused(error.rule) from None
    except Replayed as error:
        count(str(error))
        raise Problem("solution-refused", "This solution has been used, or may have been. Ask for a new challenge.") from None
    except PriceRisen:
        count("price-risen")
        raise Problem("price-risen", "Your network had many passes since the challenge was made. Ask for a new one.") from None
    except BudgetSpent as error:
        count("budget-spent")
        detail = "You can launch, without internet access, and unlock your server later."
        raise Problem("budget-spent", detail, error.retry_after) from None
    count(verdict.outcome)
    return Passes.new(verdict.tier, using.settings.pass_servers, issued_at, using.settings.pass_lifetime)


def from_api_key() -> Pass:
    """Check the API key in the request's `Authorization`, charge it for a server, and issue the pass that it earns.

    Raises:
        Problem: there is no key, or it earns nothing.
        StoreUnavailable: the key could not be charged, so it earns nothing.
    """
    scheme, _, presented = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Problem("bad-request", "Send provider and solution, or a key as Authorization: Bearer.")
    key = services().keys.find(presented.strip())
    if key is None:
        wait = services().wrong_keys.note(network())
        services().metrics.api_keys.labels("", "wrong" if wait is None else "too-many").inc()
        if wait is not None:
            raise Problem("too-many-wrong-keys", "Do not repeat a key that was refused. See what it should be.", wait)
        log_decision("pass", UNVERIFIED, "wrong-key")
        raise Problem("key-refused", "Copy the key as a whole. If it is whole, ask the operators of this site for another one.")

    def count(outcome: str, tier: str = UNVERIFIED) -> None:
        services().metrics.api_keys.labels(key.name, outcome).inc()
        log_decision("pass", tier, outcome, key=key.name)

    def refused(rule: Rule) -> Problem:
        count(rule)
        return Problem("blocked", REFUSALS[rule])

    # The client has now proved that it has the key, so it may learn what is wrong with it.
    if rule := services().store.refusal(client_refusal):
        raise refused(rule)
    if key.is_expired(time.time()):
        count("expired")
        raise Problem("key-expired", "Ask the operators of this site for another one.")
    if key.entry.origins and request.headers.get("Origin") not in key.entry.origins:
        count("other-origin")
        raise Problem("key-elsewhere", "The key is for pages of certain origins only.")
    try:
        issued_at = services().store.use_key(key.entry.id, key.entry.serversPerDay, DAY_SECONDS, client_refusal)
    except Refused as error:
        raise refused(error.rule) from None
    except KeyRevoked:
        count("revoked")
        raise Problem("key-revoked", "Ask the operators of this site for another one.") from None
    except BudgetSpent as error:
        count("spent")
        detail = "You can launch, without internet access, and unlock your server by a captcha."
        raise Problem("key-spent", detail, error.retry_after) from None
    count("issued", key.entry.tier)
    return Passes.new(key.entry.tier, 1, issued_at, services().settings.pass_lifetime, key.entry.id)


def client_refusal(blocks: Iterable[Block]) -> Rule | None:
    """The rule that keeps the current client from any egress, given these blocks, or None."""
    return refusal(Facts(clients=(request.remote_addr or "",)), blocks, services().settings, time.time())
