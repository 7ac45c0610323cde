"""The public HTTP interface: challenges, passes, and the scripts that pages load. `servers` has the page of each server."""

from flask import Blueprint, Response, jsonify, request
from markupsafe import escape

from . import bodies, issuing
from .context import chargeable_network, log_decision, network, own_url, services
from .headers import THIRD_PARTY
from .openapi import public_document
from .problems import Problem

PURPOSES = ("launch", "unlock")

public = Blueprint("public", __name__, static_folder="static", template_folder="templates")


@public.get("/openapi.json")
def openapi() -> Response:
    """This interface, as an OpenAPI document."""
    return jsonify(public_document(services().settings.base_path))


# -- the way of a launch: a challenge, a solution, a pass. BinderHub then sends the pass to `internal.decide_launch`.


@public.get("/challenge")
def challenge() -> Response:
    """A challenge of each captcha provider, in the operator's order."""
    purpose = request.args.get("purpose", "launch")
    if purpose not in PURPOSES:
        raise Problem("bad-request", f"purpose: send one of {', '.join(PURPOSES)}.")
    # The store is asked for clients without a network too: while no solution can be used up, no challenge shall be made.
    charges = services().store.charges(chargeable_network(), services().fairness.window)
    price = services().fairness.price(charges)
    services().metrics.prices.observe(price)
    settings = services().settings
    return jsonify(
        purpose=purpose,
        hold=settings.launch_hold,
        interactive_hold=settings.launch_interactive_hold,
        providers=services().captcha.offers(purpose, network(), price),
    )


@public.post("/passes")
def issue_pass() -> tuple[Response, int]:
    """A pass for a solution, or for an API key."""
    body = bodies.read(bodies.PassRequest, optional=True)
    if body.model_fields_set:
        # With a solution, Authorization is ignored: it may be a proxy's.
        issued = issuing.from_solution(body.provider, body.solution, "launch")
        log_decision("pass", issued.tier, "solution", provider=body.provider, servers=issued.servers)
    else:
        issued = issuing.from_api_key()
    services().metrics.passes.labels(issued.tier).inc()
    return (
        jsonify(
            token=services().passes.sign(issued),
            expires_in=services().settings.pass_lifetime,
            servers=issued.servers,
            tier=issued.tier,
        ),
        201,
    )


# -- scripts


@public.get("/launch.js")
def launch_script() -> Response:
    """The script for launch pages. Its address is fixed, so browsers ask each time whether it has changed."""
    return _script(services().assets.file("launch.js"))


@public.get("/v1/third-party.json")
def third_party() -> Response:
    """The script for third-party pages: an HTML tag, and addresses whose content never changes."""
    assets = services().assets
    address = f"{own_url()}v1/"
    scripts = {name: {"address": address + assets.file(name), "integrity": assets.integrity(name)} for name in THIRD_PARTY}
    plain = scripts["third-party.js"]
    tag = f'<script async src="{escape(plain["address"])}" integrity="{plain["integrity"]}" crossorigin="anonymous"></script>'
    return jsonify(tag=tag, scripts=scripts)


@public.get("/v1/<file>")
def third_party_script(file: str) -> Response:
    """The script for third-party pages, under its fixed name and under the one with a checksum of its content."""
    for name in THIRD_PARTY:
        current = services().assets.file(name)
        if file in (name, current):
            return _script(current)
    raise Problem("not-found", "third-party.json lists what there is.")


def _script(file: str) -> Response:
    answer = Response(services().assets.read(file), content_type="text/javascript; charset=utf-8")
    answer.set_etag(file)  # The name has a checksum of the content.
    answer.make_conditional(request)
    return answer
