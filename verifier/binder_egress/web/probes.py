"""What Kubernetes and Prometheus ask on the in-cluster port: whether the process answers and can decide, and its metrics."""

import socket
import time
from contextlib import suppress

from flask import Blueprint, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .. import __version__
from ..model.records import VerifierReport
from ..store.errors import StoreUnavailable
from . import bodies
from .context import services
from .openapi import DocumentedAnswer, Operation, json_of

probes = Blueprint("probes", __name__)


@probes.get("/healthz")
@Operation("alive", "Whether the process answers", answers={200: json_of("Yes", bodies.StatusAnswer)})
def alive() -> Response:
    """Whether the process answers."""
    return jsonify(status="ok")


def _report() -> VerifierReport:
    """This replica's report."""
    return {
        "version": __version__,
        "at": time.time(),
        "proxies": "number" if isinstance(services().settings.trusted_proxies, int) else "networks",
        "signing_keys": len(services().settings.signing_keys),
        "api_keys": [key.described() for key in services().api_keys.all().values()],
        "api_keys_wrong": services().api_keys.wrong(),
        "refused_at": services().metrics.refused_at,
        "signed_in": bool(services().settings.authenticated_users or services().settings.authenticated_groups),
        "providers": {name: getattr(provider, "state", "up") for name, provider in services().captcha.providers.items()},
    }


@probes.get("/readyz")
@Operation("ready", "Whether it can decide", answers={200: json_of("Yes", bodies.StatusAnswer)}, problems=["unavailable"])
def ready() -> Response:
    """Whether it can decide: Redis answers, or has answered since the process started (D-085)."""
    store, was_ready = services().store, services().was_ready
    try:
        store.ping()
    except StoreUnavailable:
        if not was_ready.is_set():
            raise
        return jsonify(status="ok")
    was_ready.set()
    with suppress(StoreUnavailable):  # One connection is enough to be ready: a Redis elsewhere may have a limit of its own.
        store.open_connections(2 * services().settings.threads)  # Each port serves so many requests at a time.
    with suppress(StoreUnavailable):  # A full Redis can still be read, and that is enough to be ready.
        store.report_verifier(socket.gethostname(), _report())
    return jsonify(status="ok")


@probes.get("/metrics")
@Operation("metrics", "Metrics for Prometheus", answers={200: DocumentedAnswer("Prometheus' text format", {"text/plain": None})})
def metrics() -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(services().metrics.registry), content_type=CONTENT_TYPE_LATEST)
