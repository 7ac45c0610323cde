"""Servers that operators act on."""

from binder_egress.model.records import Server
from tests.support.reconciling import converge_due, granted, list_and_converge, make_grant

BOB = Server("bob")

REPOSITORY = "https://github.com/owner/name"


def pod(cluster, name="jupyter-alice--"):
    """A pod as it is in the cluster."""
    return cluster.pods[name]


def serve(reconciler, store):
    """Read the notifications, as the listener does, and converge."""
    reconciler.take(store.woken(0.01))
    converge_due(reconciler)


def start(cluster, reconciler, user="alice", uid="uid-1", **fields):
    """Start a server that has a tier."""
    fields = {"repository": REPOSITORY, "client": "198.51.100.7"} | fields
    cluster.add(user, uid, **granted(make_grant()), **fields)
    list_and_converge(reconciler)
