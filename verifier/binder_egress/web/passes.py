"""From a solution or an API key to a pass: check it, use it up, charge for it. BinderHub sends the pass to `launches`."""

import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from flask import Blueprint, Response, request
from prometheus_client import Counter

from ..captcha import Outcome, Verdict
from ..decisions.refusals import REFUSALS, Facts, refusal
from ..gate.api_keys import DAY_SECONDS, SERVERS_PER_PASS
from ..model.grants import UNVERIFIED, Block, Rule
from ..model.passes import Pass, Passes
from ..store.errors import BudgetSpent, ClientRefused, KeyRevoked, PriceRisen, Replayed, StoreUnavailable
from . import bodies, promises
from .context import log_decision, log_refusal, network, paying_network, place_given_back, services
from .openapi import Operation, json_of
from .problems import Problem

passes = Blueprint("passes", __name__)

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


@passes.post("/passes")
@Operation(
    "createPass",
    "Exchange a solution, or an API key, for a pass",
    description="With an API key, the body is empty or an empty object. With a solution, Authorization is ignored, and the pass "
    "keeps the promise that is named.",
    body=bodies.PassBody,
    body_required=False,
    security=[{}, {"key": []}],
    answers={201: json_of("A pass; send its token with a launch as the query parameter egress_token", bodies.PassAnswer)},
    problems=["forbidden-origin", *SOLUTION_PROBLEMS, *API_KEY_PROBLEMS],
)
def issue_pass() -> tuple[Response, int]:
    """A pass for a solution, or for an API key."""
    body = bodies.read(bodies.PassBody, optional=True)
    if body.model_fields_set:
        # With a solution, Authorization is ignored: it may be meant for a proxy.
        issued = from_solution(body.provider, body.solution, "launch")
        log_decision("pass", issued.tier, "solution", provider=body.provider, servers=issued.servers)
    else:
        issued = from_api_key()  # D-041
    using = services()
    using.metrics.passes.labels(issued.tier).inc()
    made = bodies.PassAnswer(
        token=using.passes.sign(issued),
        expires_in=using.settings.pass_lifetime,
        servers=issued.servers,
        tier=issued.tier,
        promise=promises.keep(body.promise, issued) if body.promise else None,
    )
    return bodies.answer(made), 201


@dataclass(frozen=True)
class _Attempt:
    """An attempt to earn a pass.

    Attributes:
        event: the message of its failure in the log of decisions.
        counter: counts attempts, by `labels` and by outcome.
        labels: what the attempt is made with: the labels of the counter, and fields of the log.
    """

    event: str
    counter: Counter
    labels: Mapping[str, str]

    def count(self, outcome: str) -> None:
        """Count the outcome."""
        self.counter.labels(**self.labels, outcome=outcome).inc()

    def failed(self, outcome: str, problem_type: str, detail: str, retry_after: int | None = None) -> Problem:
        """Count and log the outcome. Returns the problem to raise, with these arguments of `Problem`."""
        self.count(outcome)
        log_refusal(self.event, UNVERIFIED, outcome, **self.labels)
        return Problem(problem_type, detail, retry_after)

    def blocked(self, rule: Rule) -> Problem:
        """The problem of a client that a rule refuses."""
        return self.failed(rule, "blocked", REFUSALS[rule])


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
    captcha = services().captcha
    if name not in captcha.names:
        raise Problem("bad-request", f"provider: this site has {', '.join(captcha.names)}.")
    attempt = _Attempt("solution", services().metrics.solutions, {"provider": name, "purpose": purpose})
    if rule := services().store.refusal(client_refusal):
        raise attempt.blocked(rule)
    verdict = _checked(attempt, name, solution, purpose)
    issued_at = _used_up(attempt, name, verdict)
    attempt.count(verdict.outcome)
    settings = services().settings
    return Passes.new(verdict.tier, settings.pass_servers, issued_at, settings.pass_lifetime)


def _checked(attempt: _Attempt, name: str, solution: str, purpose: str) -> Verdict:
    """What a provider says of a solution that it accepts.

    Raises:
        Problem: it does not accept the solution, or is not asked.
    """
    captcha, client = services().captcha, network()
    _check_rejections(attempt, name, client)
    began = time.monotonic()
    # A remote provider may take seconds, or hang.
    with place_given_back() if captcha.is_remote(name) else nullcontext():
        verdict = captcha.verify(name, solution, purpose, client, request.remote_addr or "")
        took = time.monotonic() - began
    services().metrics.verify_seconds.labels(name, verdict.outcome).observe(took)
    # D-030
    if verdict.asked and client and verdict.outcome is Outcome.REJECTED:
        with suppress(StoreUnavailable):  # The solution is rejected whether it is counted or not.
            services().store.note_rejection(client)
    if not verdict.accepted:
        raise attempt.failed(verdict.outcome, PROBLEM_TYPES[verdict.outcome], verdict.detail)
    return verdict


def _used_up(attempt: _Attempt, name: str, verdict: Verdict) -> float:
    """Use up an accepted solution, and charge the client's network for it. Returns Unix time in seconds by Redis' clock.

    Raises:
        Problem: the solution was used before, or the client may have no pass for it.
        StoreUnavailable: nobody knows.
    """
    charges = services().fairness.charges(paying_network(), verdict.price)
    lifetime = verdict.expires_at - time.time()
    # A remote provider does not say when its challenge expires. Ours do, perhaps by the clock of another replica.
    expires_at = None if verdict.asked else verdict.expires_at
    try:
        return services().store.use_solution(
            name, verdict.solution_id, verdict.issued_at, lifetime, client_refusal, charges, expires_at=expires_at
        )
    except ClientRefused as error:
        raise attempt.blocked(error.rule) from None
    except Replayed as error:
        detail = "This solution has been used, or may have been. Ask for a new challenge."
        raise attempt.failed(str(error), "solution-refused", detail) from None
    except PriceRisen:
        detail = "Your network had many passes since the challenge was made. Ask for a new one."
        raise attempt.failed("price-risen", "price-risen", detail) from None
    except BudgetSpent as error:
        detail = "You can launch, without internet access, and unlock your server later."
        raise attempt.failed("budget-spent", "budget-spent", detail, error.retry_after) from None


def _check_rejections(attempt: _Attempt, name: str, client: str) -> None:
    """Return unless a client network sent a remote provider so many wrong solutions that no more are passed on.

    Raises:
        Problem: no more are passed on for a while.
    """
    most = services().settings.fairness_rejections
    if not (client and most and services().captcha.is_remote(name)):
        return
    rejected, forgotten_in = services().store.rejections(client)
    if rejected >= most:
        detail = "Try again when the wrong solutions are forgotten, or solve another challenge."
        raise attempt.failed("too-many-rejected", "too-many-rejected", detail, forgotten_in)


def from_api_key() -> Pass:
    """Check the API key in the request's `Authorization`, charge it for a server, and issue the pass that it earns.

    Raises:
        Problem: there is no key, or it earns nothing.
        StoreUnavailable: the key could not be charged, so it earns nothing.
    """
    scheme, _, presented = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Problem("bad-request", "Send provider and solution, or a key as Authorization: Bearer.")
    key = services().api_keys.find(presented.strip())
    if key is None:
        wait = services().wrong_keys.note(network())
        services().metrics.api_keys.labels("", "wrong" if wait is None else "too-many").inc()
        if wait is not None:
            raise Problem("too-many-wrong-keys", "Do not repeat a key that was refused. See what it should be.", wait)
        log_refusal("pass", UNVERIFIED, "wrong-key")
        raise Problem("key-refused", "Copy the key as a whole. If it is whole, ask the operators of this site for another one.")

    attempt = _Attempt("pass", services().metrics.api_keys, {"key": key.name})
    # The client has now proved that it has the key, so it may learn what is wrong with it.
    if rule := services().store.refusal(client_refusal):
        raise attempt.blocked(rule)
    if key.is_expired(time.time()):
        raise attempt.failed("expired", "key-expired", "Ask the operators of this site for another one.")
    if key.entry.origins and request.headers.get("Origin") not in key.entry.origins:
        raise attempt.failed("other-origin", "key-elsewhere", "The key is for pages of certain origins only.")
    try:
        issued_at = services().store.use_key(key.entry.id, key.entry.serversPerDay, DAY_SECONDS, client_refusal)
    except ClientRefused as error:
        raise attempt.blocked(error.rule) from None
    except KeyRevoked:
        raise attempt.failed("revoked", "key-revoked", "Ask the operators of this site for another one.") from None
    except BudgetSpent as error:
        detail = "You can launch, without internet access, and unlock your server by a captcha."
        raise attempt.failed("spent", "key-spent", detail, error.retry_after) from None
    attempt.count("issued")
    log_decision("pass", key.entry.tier, "issued", key=key.name)
    return Passes.new(key.entry.tier, SERVERS_PER_PASS, issued_at, services().settings.pass_lifetime, key.entry.id)


def client_refusal(blocks: Iterable[Block]) -> Rule | None:
    """The rule that keeps the current client from any egress, given these blocks, or None."""
    return refusal(Facts(clients=(request.remote_addr or "",)), blocks, services().settings, time.time())
