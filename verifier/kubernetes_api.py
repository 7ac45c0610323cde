"""The Kubernetes API: the client of this pod's ServiceAccount, and calls that return JSON or raise one exception.

Answers are read as plain JSON: the client's models cost several times the memory.
"""

import json
from collections.abc import Callable
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

REQUEST_TIMEOUT_SECONDS = 10
"""Seconds that a request may take."""

FAILURES = (ApiException, urllib3.exceptions.HTTPError, OSError, ValueError)
"""The exceptions that mean that a request failed, or that its answer cannot be read."""


class ApiServerUnavailable(Exception):
    """The API server does not answer, refuses the request, or sends an answer that cannot be read.

    Args:
        reason: the reason, for logs and operators.
        status: the HTTP status of the answer; None if there was none.
    """

    def __init__(self, reason: str, status: int | None = None):
        super().__init__(reason)
        self.status = status


def in_cluster_client() -> client.ApiClient:
    """A client with the rights of this pod's ServiceAccount."""
    config.load_incluster_config()  # type: ignore[no-untyped-call]
    return client.ApiClient()


def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> urllib3.HTTPResponse:
    """The raw answer to a request.

    Args:
        method: a method of one of the client's APIs.
        args: its arguments.
        kwargs: its keyword arguments.

    Raises:
        ApiServerUnavailable: the API server does not answer within `REQUEST_TIMEOUT_SECONDS`, or refuses the request.
    """
    try:
        answer: urllib3.HTTPResponse = method(*args, _preload_content=False, _request_timeout=REQUEST_TIMEOUT_SECONDS, **kwargs)
    except FAILURES as error:
        raise unavailable(error) from None
    return answer


def read(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The answer to a request, as JSON. Arguments and exceptions are those of `call`."""
    answer = call(method, *args, **kwargs)
    try:
        return json.loads(answer.data)
    except FAILURES as error:
        raise unavailable(error) from None


def unavailable(error: Exception) -> ApiServerUnavailable:
    """The exception for one of `FAILURES`."""
    if isinstance(error, ApiException):
        return ApiServerUnavailable(f"{error.status} {error.reason}", error.status)
    return ApiServerUnavailable(f"{type(error).__name__}: {error}")
