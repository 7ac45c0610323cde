"""The reconciler in the test's own thread, and what it finds in the store."""

import time

from verifier.records import Grant, KnownServer, Record, Server

ALICE = Server("alice")


def make_grant(tier="verified", rule="valid-pass"):
    return Grant.new(tier, rule, time.time())


def granted(grant):
    """The fields of a pod that carries a grant."""
    return {"grant": grant, "annotated": True, "label": grant.tier}


def look(reconciler):
    """List the pods and work off all that follows, in this thread. What is to be tried later stays undone."""
    reconciler.list_pods()
    work(reconciler)


def work(reconciler):
    while reconciler.run_once():
        pass


def wait_for(store, grant, server=ALICE, image="image:1", repository="r", ttl=600):
    store.record_launch(server, Record(grant, image=image, repository=repository), ttl)


def unlock_for(store, grant, server=ALICE, uid="uid-1"):
    text = Record(grant, uid=uid, repository="r").dumps()
    store._redis.set(f"binder-egress:unlock:{server.key}", text, ex=60)


def withdraw(store, grant):
    store._redis.set(f"binder-egress:withdrawn:{grant.id}", 1)


def known(uid, grant=None, pod="jupyter-alice--", **fields):
    """What is published of a pod that carries a grant."""
    if grant:
        fields |= {"tier": grant.tier, "grant": grant.id, "label": grant.label, "rule": grant.rule, "at": grant.at}
    return KnownServer(uid, pod=pod, **fields)


class Steady:
    """Seconds that a test sets. They do not pass by themselves, so no retry becomes due."""

    now = 0.0

    def __call__(self):
        return self.now
