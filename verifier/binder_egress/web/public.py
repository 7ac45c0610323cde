"""The scripts that pages load, and the public interface's OpenAPI document. A launch begins in `challenges`."""

from flask import Blueprint, Response
from markupsafe import escape

from . import bodies
from .context import own_url, services
from .headers import THIRD_PARTY
from .openapi import DocumentedAnswer, Interface, Operation, Parameter, document_of_app, json_of
from .problems import Problem

INTERFACE = Interface(
    "binder-egress", {"key": {"type": "http", "scheme": "bearer", "description": "an API key that the operators gave you"}}
)

public = Blueprint("public", __name__, static_folder="static", template_folder="templates")


@public.get("/openapi.json")
def openapi() -> Response:
    """This interface, as an OpenAPI document."""
    return document_of_app(INTERFACE, services().settings.base_path)


_SCRIPT = {
    200: DocumentedAnswer("The script", {"text/javascript": None}),
    304: DocumentedAnswer("The script that the client has, by its ETag, is the present one"),
}


@public.get("/launch.js")
@Operation("getLaunchScript", "Get the script for launch pages", answers=_SCRIPT)
def launch_script() -> Response:
    """The script for launch pages. Its address is fixed, so browsers check each time whether it has changed."""
    return _script(services().assets.file("launch.js"))


@public.get("/v1/third-party.json")
@Operation(
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
@Operation(
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
    # The name contains a checksum of the content.
    return bodies.unchanging(services().assets.read(file), "text/javascript; charset=utf-8", file)
