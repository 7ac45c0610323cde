"""Challenges: what a client solves, and the price of it. `passes` takes the solution."""

from flask import Blueprint, Response, request

from ..gate.fairness import BASE_SECONDS, WORKERS
from . import bodies, pages
from .context import network, paying_network, services
from .openapi import Operation, Parameter, json_of
from .problems import Problem

PURPOSES = ("launch", "unlock")

challenges = Blueprint("challenges", __name__)


@challenges.get("/challenge")
@Operation(
    "getChallenge",
    "Get a challenge from each captcha provider",
    answers={200: json_of("The challenges", bodies.ChallengeAnswer)},
    problems=["unavailable"],
    parameters=[
        Parameter(
            "purpose",
            schema={"enum": list(PURPOSES), "default": "launch"},
            description="launch: the solution is for POST passes; unlock: for POST servers/…",
        )
    ],
)
def challenge() -> Response:
    """A challenge from each captcha provider, in the operator's order."""
    purpose = request.args.get("purpose", "launch")
    if purpose not in PURPOSES:
        raise Problem("bad-request", f"purpose: send one of {', '.join(PURPOSES)}.")
    # The store is asked even for clients without a network: while no solution can be used up, no challenge should be made.
    fairness = services().fairness
    levels = fairness.levels(paying_network())
    price = fairness.price(levels, services().store.charges([level.network for level in levels], fairness.window))
    services().metrics.prices.observe(price)
    settings = services().settings
    offered = services().captcha.offered
    # More often than not, a server would wait in vain (D-225).
    in_vain = offered and offered[0].kind == "proof-of-work" and price * BASE_SECONDS / WORKERS > settings.launch_hold
    access = None if settings.mode == "observe" else settings.unverified.access
    language = pages.choose_language(request.accept_languages)
    return bodies.answer(
        bodies.ChallengeAnswer.model_validate(
            {
                "purpose": purpose,
                "access": access,
                "reach": pages.reach(settings.unverified, language, more=True) if access else "",
                "hold": 0 if in_vain else settings.launch_hold,
                "interactive_hold": settings.launch_interactive_hold,
                "providers": [
                    {"name": by.name, "tier": by.tier, "kind": by.kind, "challenge": by.challenge(purpose, network(), price)}
                    for by in offered
                ],
            }
        )
    )
