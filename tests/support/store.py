"""The store of a test, which plays every process."""

from binder_egress.store.store import ProxyStore, ReceiverStore, ReconcilerStore, VerifierStore


class Store(VerifierStore, ReconcilerStore, ReceiverStore, ProxyStore):
    """The operations of all processes."""
