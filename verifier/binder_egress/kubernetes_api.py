"""The Kubernetes API: the client of this pod's ServiceAccount, and calls that return JSON or raise one exception.

Answers are read as plain JSON, and requests name their paths: the client's models cost several times the memory, and its classes
for each API import all of them, which takes most of a second of processor time and 24 MiB.
"""

import json
from collections.abc import Mapping
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

REQUEST_TIMEOUT_SECONDS = 10
"""Seconds that a request may take."""

MERGE_PATCH = "application/merge-patch+json"
"""The media type of a patch whose fields replace the object's (RFC 7386)."""

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
    """A client with the rights of this pod's ServiceAccount.

    Raises:
        ConfigException: this is no pod, or it has no ServiceAccount's token.
    """
    config.load_incluster_config()  # type: ignore[no-untyped-call]
    return client_for(client.Configuration.get_default_copy())


def client_for(configuration: client.Configuration) -> client.ApiClient:
    """A client that tries each request once. By default urllib3 tries all but patches four times, each with the whole time-out."""
    configuration.retries = False
    return client.ApiClient(configuration)


def call(
    api: client.ApiClient,
    method: str,
    path: str,
    query: Mapping[str, str | int | bool] | None = None,
    body: Any = None,
    content_type: str = "application/json",
    silence_seconds: float | None = None,
) -> urllib3.HTTPResponse:
    """The raw answer to a request.

    Args:
        api: the client.
        method: the HTTP method.
        path: the path on the API server.
        query: the parameters of the query, as the API names them.
        body: what is sent, as JSON.
        content_type: the media type of the body.
        silence_seconds: how long an answer that goes on, such as that to a watch, may be silent.

    Raises:
        ApiServerUnavailable: the API server does not answer within `REQUEST_TIMEOUT_SECONDS`, or refuses the request.
    """
    headers = {"Accept": "application/json"} | ({} if body is None else {"Content-Type": content_type})
    timeout = (REQUEST_TIMEOUT_SECONDS, silence_seconds) if silence_seconds else REQUEST_TIMEOUT_SECONDS
    try:
        request = api.param_serialize(
            method, path, query_params=dict(query or {}), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer: urllib3.HTTPResponse = api.call_api(*request, _request_timeout=timeout).response
        if not 200 <= answer.status < 300:
            answer.drain_conn()  # The connection can be used again.
            raise ApiException(status=answer.status, reason=answer.reason)
    except FAILURES as error:
        raise unavailable(error) from None
    return answer


def read(api: client.ApiClient, method: str, path: str, **more: Any) -> Any:
    """The answer to a request, as JSON. Takes and raises what `call` does."""
    answer = call(api, method, path, **more)
    try:
        return json.loads(answer.data)
    except FAILURES as error:
        raise unavailable(error) from None


def unavailable(error: Exception) -> ApiServerUnavailable:
    """The exception for one of `FAILURES`."""
    if isinstance(error, ApiException):
        return ApiServerUnavailable(f"{error.status} {error.reason}", error.status)
    name = type(error).__name__  # D-512: the text of a ValueError may be the header with the token.
    return ApiServerUnavailable(name if isinstance(error, ValueError) else f"{name}: {error}")
