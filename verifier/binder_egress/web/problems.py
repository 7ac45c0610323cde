"""Errors as RFC 9457 problem details, with a stable `type`."""

import json
import logging

from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WSGIResponse

from ..logs import Counts
from ..store.errors import StoreUnavailable

TYPE = "https://binder-egress.readthedocs.io/problems#"
"""The prefix of every problem's `type`. It is an identifier and need not lead anywhere."""

TITLES = {
    "bad-request": (400, "The request is not understood"),
    "unauthorized": (401, "The bearer token is missing or wrong"),
    "forbidden-origin": (403, "Requests from this origin are not accepted"),
    "key-refused": (401, "This is not a key of this site"),
    "key-expired": (403, "The key has expired"),
    "key-revoked": (403, "The key was revoked"),
    "key-elsewhere": (403, "The key is not accepted from here"),
    "pass-refused": (403, "The pass is not accepted"),
    "solution-refused": (403, "The solution is not accepted"),
    "blocked": (403, "Egress is blocked here"),
    "price-risen": (403, "The challenge is too cheap now"),
    "not-found": (404, "There is nothing at this address"),
    "no-such-server": (404, "There is no such server"),
    "no-such-block": (404, "There is no such block"),
    "no-such-key": (404, "There is no such API key"),
    "method-not-allowed": (405, "This method is not offered here"),
    "refused": (409, "This cannot be done in the present state"),
    "too-large": (413, "The request is too large"),
    "not-json": (415, "The body must be JSON"),
    "budget-spent": (429, "Your network has used up its passes for now"),
    "too-many-rejected": (429, "Your network sent too many wrong solutions"),
    "too-many-reports": (429, "The source sent too many reports"),
    "key-spent": (429, "The key has used up its servers for now"),
    "too-many-wrong-keys": (429, "Your network sent too many wrong keys"),
    "provider-misconfigured": (503, "The captcha is set up wrong on this site"),
    "provider-unavailable": (503, "The captcha's provider does not answer"),
    "unavailable": (503, "The service cannot decide anything just now"),
    "internal": (500, "The service has a fault"),
}
"""Problem type, as in the last part of `type` → HTTP status and title."""

_BY_STATUS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "not-json"}


STORE_ERROR_SECONDS = 5.0
"""Seconds in which the same error of Redis is logged once: every request meets it, and strangers choose how many there are."""


class Problem(Exception):
    """An error for the client.

    Args:
        problem_type: a key of `TITLES`.
        detail: a sentence that says what to do.
        retry_after: seconds after which another try makes sense; None if not known.
    """

    def __init__(self, problem_type: str, detail: str, retry_after: int | None = None):
        super().__init__(detail)
        self.problem_type = problem_type
        self.detail = detail
        self.retry_after = retry_after


def response(problem_type: str, detail: str, status: int | None = None, retry_after: int | None = None) -> Response:
    """The response for a problem.

    Args:
        problem_type: a key of `TITLES`.
        detail: a sentence that says what to do.
        status: the HTTP status if it is not the usual one for this type.
        retry_after: seconds for `Retry-After`; None: 5 if the status is 503, else no such header.
    """
    usual_status, title = TITLES[problem_type]
    status = status or usual_status
    body = {"type": TYPE + problem_type, "title": title, "status": status, "detail": detail}
    answer = Response(json.dumps(body) + "\n", status, content_type="application/problem+json")
    if retry_after is not None or status == 503:
        answer.headers["Retry-After"] = str(retry_after or 5)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def register(app: Flask) -> None:
    """Answer every error of an app with a problem."""
    store_errors = Counts(STORE_ERROR_SECONDS)

    @app.errorhandler(Problem)
    def _problem(error: Problem) -> Response:
        return response(error.problem_type, error.detail, retry_after=error.retry_after)

    @app.errorhandler(StoreUnavailable)
    def _store(error: StoreUnavailable) -> Response:
        if store_errors.note(str(error))[0] == 1:
            logging.getLogger(__name__).error("%s", error)
        return response("unavailable", "The service cannot reach its database. Try again in a few seconds.")

    @app.errorhandler(HTTPException)
    def _http(error: HTTPException) -> Response | WSGIResponse:
        if error.code is None or error.code < 400:
            return error.get_response()
        answer = response(_BY_STATUS.get(error.code, "bad-request"), error.description or error.name, error.code)
        if allowed := getattr(error, "valid_methods", None):
            answer.headers["Allow"] = ", ".join(sorted(allowed))
        return answer

    @app.errorhandler(Exception)
    def _fault(error: Exception) -> Response:
        logging.getLogger(__name__).exception("fault")
        return response("internal", "It has been logged.")
