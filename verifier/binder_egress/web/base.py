"""What the three Flask apps have in common: the public one, the in-cluster one and the receiver's."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask

from . import problems

MAX_HEADER_CHARACTERS = 512
"""How much of a header is read. Browsers send 200 characters at most in those that are parsed, which takes microseconds for each
entry; ten proxies, the most that `trustedProxies` can name, write at most 49 each into `X-Forwarded-For`."""


class App(Flask):
    """A Flask app that reads `MAX_HEADER_CHARACTERS` of each header, and answers every error with a problem.

    Args:
        services: what its views use, as `extensions["binder-egress"]`.
        max_body_bytes: the longest body that it reads.
    """

    def __init__(self, services: object, max_body_bytes: int):
        super().__init__(__name__, static_folder=None)
        self.config["MAX_CONTENT_LENGTH"] = max_body_bytes
        self.json.sort_keys = False  # type: ignore[attr-defined]
        self.extensions["binder-egress"] = services
        problems.register(self)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Cut the headers before anything reads them. Proxies append what they report, so of that the end counts."""
        for name, value in environ.items():
            # A part of a token would be another token. It is compared and never parsed, so it may have any length.
            if (name.startswith("HTTP_") or name == "CONTENT_TYPE") and name != "HTTP_AUTHORIZATION":
                cut = slice(-MAX_HEADER_CHARACTERS, None) if name.startswith("HTTP_X_FORWARDED_") else slice(MAX_HEADER_CHARACTERS)
                environ[name] = value[cut]
        return super().__call__(environ, start_response)
