"""The OpenAPI documents of verifier and receiver, without a running app: for the site and for tests."""

from collections.abc import Iterable

from flask import Blueprint, Flask

from binder_egress.web import internal, public, receiver
from binder_egress.web.app import IN_CLUSTER_PARTS, PUBLIC_PARTS
from binder_egress.web.openapi import Interface, document


def _document(interface: Interface, parts: Iterable[Blueprint], base_path: str) -> dict[str, object]:
    app = Flask(__name__, static_folder=None)
    for part in parts:
        app.register_blueprint(part, url_prefix=base_path.rstrip("/"))
    return document(interface, app, base_path)


DOCUMENTS = {
    "public": _document(public.INTERFACE, PUBLIC_PARTS, "/egress/"),
    "in-cluster": _document(internal.INTERFACE, IN_CLUSTER_PARTS, "/"),
    "receiver": _document(receiver.INTERFACE, [receiver.detections], "/"),
}
"""Interface → its document."""
