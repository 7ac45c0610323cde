"""Reconcilers with tiers that have leases, and clocks that a test sets."""

from dataclasses import replace

from binder_egress.model.grants import Egress
from binder_egress.model.records import Record, Server
from binder_egress.reconciler.loop import Reconciler
from binder_egress.settings import ReconcilerSettings, load
from binder_egress.store.connection import connect
from binder_egress.store.errors import StoreUnavailable
from tests.support.apps import make_settings
from tests.support.fake_cluster import FakeCluster
from tests.support.reconciling import record_decision
from tests.support.store import Store

LEASE = 600
"""Seconds of each lease."""

TIERS = {"verified": {}, "blocked": {"lease": LEASE, "on_expiry": "end"}, "stopped": {"lease": LEASE, "on_expiry": "stop"}}


def reconciler_settings(**settings):
    """Settings with `TIERS`, of a reconciler that may stop pods."""
    return load(ReconcilerSettings, **{"tiers": TIERS, "may_stop_pods": True, **settings})


class UnreliableStore(Store):
    """A store whose Redis does not answer while `gone` is set."""

    gone = False

    def pending_all(self, asked):
        if self.gone:
            raise StoreUnavailable("gone")
        return super().pending_all(asked)


class Place:
    """Reconcilers that share one cluster and one Redis, with clocks that a test sets."""

    def __init__(self, redis_server):
        self.cluster = FakeCluster()
        self.store = UnreliableStore(connect(make_settings(redis_server)))
        self.redis_server = redis_server
        self.time = 1_000_000.0  # the wall clock
        self.steady = 0.0  # the monotonic clock, which cannot be set
        self.store.report_verifier("verifier", {})

    def reconciler(self, ahead=0.0, **settings):
        """Start a reconciler whose wall clock is that many seconds ahead."""
        made = Reconciler(reconciler_settings(**settings), self.cluster, self.store, lambda: self.time + ahead, lambda: self.steady)
        made.heartbeat()
        return made

    def advance(self, seconds):
        """Advance both clocks, in seconds."""
        self.time += seconds
        self.steady += seconds

    def turn(self, reconciler, fresh=True, after=0.0):
        """Let seconds pass, list the pods (if `fresh`; otherwise use the cache), then do all work that is due."""
        self.advance(after)
        if fresh:
            reconciler.list_pods()
        reconciler.enqueue_due()
        while reconciler.run_once():
            pass

    def pod(self, name="jupyter-alice--"):
        return self.cluster.pods[name]

    def grant(self, tier, user="alice", uid="uid-1", rule="unlock"):
        """Record a grant or a renewal as the verifier does."""
        given = Egress.new(tier, rule, self.time)
        self.store.grant(Server(user), Record(given, uid=uid, repository="r"))
        return given


def add_leased_pod(place, reconciler, tier, user="alice", uid="uid-1"):
    """Add a pod that was launched with a tier: its lease has just begun, and its launch is settled."""
    given = Egress.new(tier, "valid-pass", place.time)
    record_decision(place.store, Server(user), Record(given, image="image:1", repository="r"), 3600)
    place.cluster.add(user, uid, ready=True, repository="r")
    place.turn(reconciler)
    return replace(given, may_stop=place.pod(f"jupyter-{user}--").grant.may_stop)
