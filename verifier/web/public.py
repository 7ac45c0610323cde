"""The public HTTP interface: challenges, passes, and the scripts that pages load. `servers` has the page of each server."""

from flask import Blueprint, Response, current_app, jsonify, request
from markupsafe import escape

from ..fairness import BASE_SECONDS, WORKERS
from . import bodies, issuing, pages, promises
from .context import log_decision, network, own_url, paying_network, services
from .headers import THIRD_PARTY
from .openapi import Answer, Interface, Parameter, document, json_of, operation
from .problems import Problem

PURPOSES = ("launch", "unlock")

INTERFACE = Interface(
    "binder-egress", {"key": {"type": "http", "scheme": "bearer", "description": "an API key that the operators gave you"}}
)

public = Blueprint("public", __name__, static_folder="static", template_folder="templates")


@public.get("/openapi.json")
def openapi() -> Response:
    """This interface, as an OpenAPI document."""
    return jsonify(document(INTERFACE, current_app, services().settings.base_path))


# -- the steps of a launch: a challenge, a solution, a pass. BinderHub then sends the pass to `launches.decide_launch`.


@public.get("/challenge")
@operation(
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
    offers = services().captcha.offers(purpose, network(), price)
    # More often than not, a server would wait in vain (D-225).
    in_vain = offers and offers[0]["kind"] == "proof-of-work" and price * BASE_SECONDS / WORKERS > settings.launch_hold
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
                "providers": offers,
            }
        )
    )


@public.post("/passes")
@operation(
    "createPass",
    "Exchange a solution, or an API key, for a pass",
    description="With an API key, the body is empty or an empty object. With a solution, Authorization is ignored, and the pass "
    "keeps the promise that is named.",
    body=bodies.PassBody,
    body_required=False,
    security=[{}, {"key": []}],
    answers={201: json_of("A pass; send its token with a launch as the query parameter egress_token", bodies.PassAnswer)},
    problems=[
        "forbidden-origin",
        *issuing.SOLUTION_PROBLEMS,
        *issuing.API_KEY_PROBLEMS,
    ],
)
def issue_pass() -> tuple[Response, int]:
    """A pass for a solution, or for an API key."""
    body = bodies.read(bodies.PassBody, optional=True)
    if body.model_fields_set:
        # With a solution, Authorization is ignored: it may be meant for a proxy.
        issued = issuing.from_solution(body.provider, body.solution, "launch")
        log_decision("pass", issued.tier, "solution", provider=body.provider, servers=issued.servers)
    else:
        issued = issuing.from_api_key()  # D-041
    services().metrics.passes.labels(issued.tier).inc()
    made = bodies.PassAnswer(
        token=services().passes.sign(issued),
        expires_in=services().settings.pass_lifetime,
        servers=issued.servers,
        tier=issued.tier,
        promise=promises.keep(body.promise, issued) if body.promise else None,
    )
    return bodies.answer(made), 201


# -- scripts

_SCRIPT = {
    200: Answer("The script", {"text/javascript": None}),
    304: Answer("The script that the client has, by its ETag, is the present one"),
}


@public.get("/launch.js")
@operation("getLaunchScript", "Get the script for launch pages", answers=_SCRIPT)
def launch_script() -> Response:
    """The script for launch pages. Its address is fixed, so browsers check each time whether it has changed."""
    return _script(services().assets.file("launch.js"))


@public.get("/v1/third-party.json")
@operation(
    "getThirdParty",
    "Get the script tag for third-party pages",
    answers={200: json_of("The tag, and the scripts' addresses", bodies.ThirdPartyAnswer)},
)
def third_party() -> Response:
    """The script for third-party pages: an HTML tag, and addresses whose content never changes."""
    assets = services().assets
    address = f"{own_url()}v1/"
    scripts = {name: bodies.Script(address=address + assets.file(name), integrity=assets.integrity(name)) for name in THIRD_PARTY}
    plain = scripts["third-party.js"]
    tag = f'<script async src="{escape(plain.address)}" integrity="{plain.integrity}" crossorigin="anonymous"></script>'
    return bodies.answer(bodies.ThirdPartyAnswer(tag=tag, scripts=scripts))


@public.get("/v1/<file>")
@operation(
    "getThirdPartyScript",
    "Get the script for third-party pages",
    answers=_SCRIPT,
    problems=["not-found"],
    parameters=[
        Parameter(
            "file",
            "path",
            {"type": "string", "minLength": 1, "examples": ["third-party.js"]},
            "third-party.js, third-party.mjs, or a name from third-party.json, whose content never changes",
            required=True,
        )
    ],
)
def third_party_script(file: str) -> Response:
    """The script for third-party pages, under its fixed name, and under the name with a checksum of its content."""
    for name in THIRD_PARTY:
        current = services().assets.file(name)
        if file in (name, current):
            return _script(current)
    raise Problem("not-found", "third-party.json lists what there is.")


def _script(file: str) -> Response:
    answer = Response(services().assets.read(file), content_type="text/javascript; charset=utf-8")
    answer.set_etag(file)  # The name contains a checksum of the content (D-092).
    answer.make_conditional(request)
    return answer
