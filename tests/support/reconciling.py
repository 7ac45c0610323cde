"""Runs the reconciler in the test's own thread, and records the decisions that it reads from Redis."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from binder_egress.model.grants import UNVERIFIED, Egress, NoEgress, label_of
from binder_egress.model.records import KnownServer, Reason, Record, Server
from binder_egress.reconciler.loop import Reconciler
from binder_egress.store.announcements import Announced
from binder_egress.store.errors import BlocksChanged

ALICE = Server("alice")


SAYS_NOTHING = {"used": False, "first": None, "ports": [], "seen": 0, "missed": 0, "datagrams": 0, "ended": True}
"""What an agent says last of a pod that used nothing, without the pod's uid."""


class Agents:
    """The agents of two nodes."""

    is_listed = True

    def node_of(self, address):
        return {"": "node-1", "10.42.0.7": "node-1", "10.42.1.7": "node-2"}.get(address)


def make_grant(tier="verified", rule="valid-pass"):
    return Egress.new(tier, rule, time.time()) if tier != UNVERIFIED else NoEgress.new(rule, time.time())


def granted(grant):
    """The fields of a pod that carries a grant."""
    return {"grant": grant, "annotated": True, "label": grant.tier}


def list_and_converge(reconciler):
    """List the pods, and converge every server that is due."""
    reconciler.list_pods()
    converge_due(reconciler)


def converge_due(reconciler):
    """Converge every server that is due, in this thread. Retries stay in the queue until the test moves the clock."""
    while reconciler.run_once():
        pass


def record_launch(store, grant, server=ALICE, image="image:1", repository="r", ttl=600):
    """Record a launch, as the verifier does: the next pod of the server gets the grant."""
    record_decision(store, server, Record(grant, image=image, repository=repository), ttl)


def record_decision(store, server, record, ttl=600):
    """Record a decision about a launch, by the blocks of this moment."""
    while True:
        try:
            return store.record_launch(server, record, ttl, Announced(time.time(), True, store.seen_blocks.version))
        except BlocksChanged:
            continue  # The store has the new blocks now.


def announce(store, context=True, hub_url=""):
    """Record a launch that was decided by the blocks that the store saw last, and count it, as the verifier does."""
    record = Record(make_grant("unverified", "default"), image="image:1", repository="r")
    store.record_launch(ALICE, record, 600, Announced(time.time(), context, store.seen_blocks.version, hub_url))


def record_unlock(store, grant, uid="uid-1"):
    """Record an unlock, as the verifier does: the pod with this uid gets the grant."""
    store.grant(ALICE, Record(grant, uid=uid, repository="r"))


def withdraw(store, grant):
    store.withdraw([grant.id])


def known(uid, grant=None, pod="jupyter-alice--", **fields):
    """The published state of a pod that carries a grant."""
    if grant:
        fields |= {"grant": grant, "label": label_of(grant) or ""}
    reason = Reason.KEPT if isinstance(grant, Egress) else Reason.BLOCK if grant else Reason.NOTHING
    return KnownServer(uid, pod=pod, **{"reason": str(reason)} | fields)


@contextmanager
def running(reconciler: Reconciler) -> Iterator[None]:
    """Let a reconciler run with all of its threads, and wait for their end: a thread that lives on takes the next test's
    messages."""
    before = set(threading.enumerate())
    thread = threading.Thread(target=reconciler.run)
    thread.start()
    try:
        yield
    finally:
        reconciler.stop()
        thread.join()
        for other in set(threading.enumerate()) - before:
            if other.name in ("list-and-watch", "listener"):
                other.join()
