"""Leases: how long egress lasts, what happens at the end, and what renews it."""

import itertools
import json
import logging
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest

import verifier.web.servers
from tests.support.apps import get_pass, internal_client, is_withdrawn, launch, make_settings, public_client, solve
from tests.support.fake_cluster import FakeCluster
from verifier.decisions import leases
from verifier.decisions.leases import STOP_GRACE_SECONDS, Left
from verifier.decisions.rules import REJECTED_PASSES
from verifier.kubernetes_api import ApiServerUnavailable
from verifier.operators.actions import Operators
from verifier.passes import LEEWAY_SECONDS
from verifier.reconciler.loop import Reconciler
from verifier.records import UNVERIFIED, Block, Grant, KnownServer, Record, Rule, Server
from verifier.settings import InvalidSettings, ReconcilerSettings, Tier, load
from verifier.store.connection import connect
from verifier.store.errors import StoreUnavailable
from verifier.store.store import Store
from verifier.web.app import create_services
from verifier.web.problems import TYPE

ALICE = Server("alice")
LEASE = 600
TIERS = {
    "verified": {},
    "blocked": {"lease": LEASE, "on_expiry": "end"},
    "stopped": {"lease": LEASE, "on_expiry": "stop"},
}


def reconciler_settings(**settings):
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
        made = Reconciler(reconciler_settings(**settings), self.cluster, self.store, lambda: self.time + ahead, lambda: self.steady)
        made.heartbeat()
        return made

    def passes(self, seconds):
        """Advance both clocks, in seconds."""
        self.time += seconds
        self.steady += seconds

    def turn(self, reconciler, fresh=True):
        """List the pods (if `fresh`; otherwise use the cache), then do all work that is due."""
        if fresh:
            reconciler.list_pods()
        reconciler.enqueue_due()
        while reconciler.run_once():
            pass

    def pod(self, name="jupyter-alice--"):
        return self.cluster.pods[name]

    def grant(self, tier, user="alice", uid="uid-1", rule="unlock"):
        """Record a grant or a renewal as the verifier does."""
        given = Grant.new(tier, rule, self.time)
        self.store.grant(Server(user), Record(given, uid=uid, repository="r"))
        return given


@pytest.fixture
def place(store, redis_server):
    return Place(redis_server)


@pytest.fixture
def reconciler(place):
    return place.reconciler()


def add_leased_pod(place, reconciler, tier, user="alice", uid="uid-1"):
    """Add a pod that was launched with a tier: its lease has just begun, and its launch is settled."""
    given = Grant.new(tier, "valid-pass", place.time)
    place.store.record_launch(Server(user), Record(given, image="image:1", repository="r"), 3600)
    place.cluster.add(user, uid, ready=True, repository="r")
    place.turn(reconciler)
    return replace(given, may_stop=place.pod(f"jupyter-{user}--").grant.may_stop)


# -- start of a lease


@pytest.mark.parametrize("tier", ["blocked", "stopped"])
def test_pod_annotation_has_the_end_of_the_lease(place, reconciler, tier):
    given = add_leased_pod(place, reconciler, tier)
    assert place.pod().grant == replace(given, until=1_000_000 + LEASE)
    assert place.store.known(ALICE).until == 1_000_000 + LEASE
    assert place.pod().label == tier


def test_grant_of_a_tier_without_a_lease_never_ends(place, reconciler):
    given = add_leased_pod(place, reconciler, "verified")
    place.passes(10**8)
    place.turn(reconciler)
    assert (place.pod().grant, place.pod().label) == (given, "verified")


def test_lease_of_a_launch_begins_with_its_pod(place, reconciler):
    """A pod may come minutes after the decision, and that time does not count. The time in which it starts does."""
    given = Grant.new("blocked", "valid-pass", place.time)
    place.store.record_launch(ALICE, Record(given, image="image:1", repository="r"), 3600)
    place.passes(300)
    place.cluster.add()
    place.turn(reconciler)
    assert place.pod().grant.until == place.time + LEASE


def test_grant_on_the_pod_keeps_its_end(place, reconciler):
    """The record of an unlock stays for a while, and that of a launch until the pod is ready."""
    given = Grant.new("blocked", "valid-pass", place.time)
    place.store.record_launch(ALICE, Record(given, image="image:1", repository="r"), 3600)
    place.cluster.add()
    place.turn(reconciler)
    for _ in range(3):
        place.passes(100)
        place.turn(reconciler)
    assert place.pod().grant.until == 1_000_000 + LEASE
    assert len(place.cluster.patches) == 1
    place.passes(LEASE)
    place.turn(reconciler)
    place.turn(place.reconciler())
    assert place.cluster.labelled() == set(), "the same launch must not give it a second time"


def test_grant_by_an_operator_has_the_lease_of_its_tier(place, reconciler, monkeypatch):
    monkeypatch.setattr("verifier.operators.actions.CONFIRMATION_WAIT_SECONDS", 0)
    place.cluster.add()
    place.turn(reconciler)
    operators = Operators(reconciler_settings(), place.store, lambda: place.time)
    operators.grant(ALICE, "blocked", "eve", "a course")
    place.turn(reconciler)
    assert place.pod().grant.until == 1_000_000 + LEASE
    because = operators.explain(ALICE)["because"]
    assert "Its lease ends at 1970-01-12T13:56:40Z." in because and "eve: a course" in because
    assert operators.grants()[0]["until"] == 1_000_000 + LEASE
    place.passes(LEASE)
    place.turn(reconciler)
    assert "its lease ended at 1970-01-12T13:56:40Z" in operators.explain(ALICE)["because"]


def test_new_lease_in_values_does_not_change_earlier_grants(place):
    add_leased_pod(place, place.reconciler(tiers={"verified": {}, "blocked": {}}), "blocked")
    place.passes(10 * LEASE)
    place.turn(place.reconciler())
    assert (place.pod().label, place.pod().grant.until) == ("blocked", None)


# -- end of a lease


def test_expired_server_is_unverified_and_can_be_unlocked_again(place, reconciler, caplog):
    given = add_leased_pod(place, reconciler, "blocked")
    place.passes(LEASE - 1)
    place.turn(reconciler, fresh=False)
    assert place.pod().label == "blocked"
    place.passes(1)
    caplog.clear()
    with caplog.at_level(logging.INFO, "binder-egress"):
        place.turn(reconciler, fresh=False)
    assert place.pod().label is None
    assert place.pod().grant == replace(given, tier="unverified", rule=Rule.EXPIRED, at=1_000_000 + LEASE, until=None)
    known = place.store.known(ALICE)
    assert (known.tier, known.label, known.until) == ("unverified", "", None)
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "pod"]
    assert (line["user"], line["tier"], line["rule"], line["grant"]) == ("alice", "unverified", Rule.EXPIRED, given.id)
    place.passes(10 * STOP_GRACE_SECONDS)
    place.turn(reconciler)
    assert not place.pod().ended and len(place.cluster.patches) == 2
    again = place.grant("blocked")
    place.turn(reconciler)
    assert place.pod().grant == replace(again, until=int(place.time) + LEASE)
    assert place.pod().label == "blocked"


def test_stopped_server_loses_network_first_and_then_its_pod(place, reconciler, caplog):
    add_leased_pod(place, reconciler, "stopped")
    place.passes(LEASE)
    place.turn(reconciler, fresh=False)
    assert (place.pod().label, place.pod().ended) == (None, False)
    assert place.store.known(ALICE).until == place.time + STOP_GRACE_SECONDS
    place.passes(STOP_GRACE_SECONDS - 1)
    place.turn(reconciler)
    assert not place.pod().ended
    place.passes(1)
    with caplog.at_level(logging.INFO, "binder-egress"):
        place.turn(reconciler, fresh=False)
    assert place.pod().ended
    assert [record.fields["rule"] for record in caplog.records if record.getMessage() == "stop"] == [Rule.EXPIRED]


def test_unlocked_server_is_not_stopped(place, reconciler):
    """Anybody may unlock a server. Without that it would have run on."""
    place.cluster.add(ready=True)
    place.turn(reconciler)
    place.grant("stopped")
    place.turn(reconciler)
    place.passes(LEASE)
    place.turn(reconciler)
    assert (place.pod().label, place.pod().grant.rule) == (None, Rule.EXPIRED)
    for _ in range(3):
        place.passes(STOP_GRACE_SECONDS)
        place.turn(reconciler)
    assert not place.pod().ended


@pytest.mark.parametrize("waits", [[LEASE - 10], [LEASE], [LEASE, STOP_GRACE_SECONDS - 1]])
def test_renewed_launch_is_stopped_later(place, reconciler, waits):
    add_leased_pod(place, reconciler, "stopped")
    for seconds in waits:
        place.passes(seconds)
        place.turn(reconciler)
    place.grant("stopped", rule="renewal")
    place.turn(reconciler)
    for seconds, ended in ((LEASE, False), (STOP_GRACE_SECONDS - 1, False), (1, True)):
        place.passes(seconds)
        place.turn(reconciler)
        assert place.pod().ended is ended


def test_expiries_are_counted(place, reconciler, settings):
    for number, tier in enumerate(["blocked", "stopped", "stopped"]):
        add_leased_pod(place, reconciler, tier, f"user{number}", f"uid-{number}")
    place.passes(LEASE)
    place.store.gone = True
    place.turn(reconciler)
    place.store.gone = False
    reconciler.heartbeat()
    place.turn(reconciler)
    reconciler.heartbeat()
    text = generate_latest(create_services(settings, place.store).metrics.registry).decode()
    assert 'binder_egress_lease_expiries_total{on_expiry="end"} 1.0' in text
    assert 'binder_egress_lease_expiries_total{on_expiry="stop"} 2.0' in text


def test_forged_label_after_expiry_is_removed_and_not_counted(place, reconciler):
    add_leased_pod(place, reconciler, "blocked")
    place.passes(LEASE)
    place.turn(reconciler)
    place.cluster.change(place.pod(), label="blocked")
    place.turn(reconciler)
    assert place.pod().label is None
    reconciler.heartbeat()
    assert place.store.reconciler_state()[1]["expiries:end"] == 1


def test_mode_observe_stops_no_pod(place):
    observer = place.reconciler(mode="observe")
    add_leased_pod(place, observer, "stopped")
    place.passes(LEASE)
    place.turn(observer)
    place.passes(10 * STOP_GRACE_SECONDS)
    place.turn(observer)
    assert (place.pod().label, place.pod().ended, place.pod().grant.rule) == (None, False, Rule.EXPIRED)


def test_mode_allow_expires_nothing(place, reconciler):
    """Mode `allow` is for a time when users cannot solve challenges."""
    add_leased_pod(place, reconciler, "stopped")
    open_to_all = place.reconciler(mode="allow", allow_tier="stopped")
    place.passes(LEASE)
    place.turn(open_to_all)
    assert (place.pod().label, place.pod().grant.rule, place.pod().grant.until) == ("stopped", "mode-allow", None)
    place.passes(10 * LEASE)
    place.turn(open_to_all)
    assert (place.pod().label, place.pod().ended) == ("stopped", False)


# -- cases in which a pod must not be stopped, or must not keep egress


def add_expired_pod(place, reconciler):
    add_leased_pod(place, reconciler, "stopped")
    place.passes(LEASE)
    place.turn(reconciler)
    assert place.pod().grant.rule == Rule.EXPIRED


@pytest.mark.parametrize(
    ("mode", "ended"),
    [({"mode": "captcha"}, True), ({"mode": "observe"}, False), ({"mode": "allow", "allow_tier": "stopped"}, False)],
)
def test_pod_with_an_earlier_expiry_is_stopped_only_in_mode_captcha(place, reconciler, mode, ended):
    """Mode `observe` is the way to go back, so it does not stop pods whose lease ended in mode `captcha`."""
    add_expired_pod(place, reconciler)
    later = place.reconciler(**mode)
    for _ in range(3):
        place.turn(later)
        place.passes(STOP_GRACE_SECONDS)
    assert place.pod().ended is ended
    # Back in mode captcha, the pod has the whole grace period again.
    again = place.reconciler()
    place.turn(again)
    place.passes(STOP_GRACE_SECONDS - 1)
    place.turn(again)
    assert place.pod().ended is ended


def test_mode_observe_announces_no_stop_of_a_pod(leasing):
    known = KnownServer("u", rule=Rule.EXPIRED, until=1_000_000)
    for mode, told in (("captcha", True), ("observe", False)):
        settings = leasing.settings.model_copy(update={"mode": mode})
        assert (leases.left(known, settings, 10) is not None) is told
        because = Operators(settings, leasing.store)._because(ALICE, known)
        assert ("Its pod is stopped after" in because) is told


def test_renewal_at_the_last_moment_prevents_the_stop(place, reconciler):
    add_expired_pod(place, reconciler)
    place.passes(STOP_GRACE_SECONDS)
    again = place.grant("stopped")
    place.turn(reconciler)
    assert (place.pod().grant.id, place.pod().label, place.pod().ended) == (again.id, "stopped", False)


def test_renewal_between_read_and_deletion_prevents_the_stop(place, reconciler):
    """The renewal changes the pod after the last read; the deletion names the version, so it fails."""
    add_expired_pod(place, reconciler)
    place.passes(STOP_GRACE_SECONDS)

    def renew():
        place.grant("stopped")
        place.turn(place.reconciler())

    place.cluster.before_delete = renew
    place.turn(reconciler)
    assert (place.pod().label, place.pod().ended) == ("stopped", False)


def test_renewal_that_only_redis_knows_prevents_the_stop(place, reconciler, monkeypatch):
    add_expired_pod(place, reconciler)
    place.passes(STOP_GRACE_SECONDS)
    read = place.cluster.read

    def read_late(name):
        place.grant("stopped")
        return read(name)

    monkeypatch.setattr(place.cluster, "read", read_late)
    place.turn(reconciler)
    assert not place.pod().ended


def test_lagging_watch_does_not_stop_a_renewed_pod(place, reconciler, in_redis):
    add_expired_pod(place, reconciler)
    place.grant("stopped")
    place.turn(place.reconciler())
    # This reconciler has not seen the renewal, and the record in Redis has expired.
    in_redis.delete(f"binder-egress:unlock:{ALICE.key}")
    place.passes(STOP_GRACE_SECONDS)
    place.turn(reconciler, fresh=False)
    assert (place.pod().label, place.pod().ended) == ("stopped", False)


def test_lagging_watch_does_not_expire_a_renewed_lease(place, reconciler, in_redis):
    add_leased_pod(place, reconciler, "blocked")
    place.passes(LEASE - 1)
    again = place.grant("blocked")
    place.turn(place.reconciler())
    in_redis.delete(f"binder-egress:unlock:{ALICE.key}")
    place.passes(1)
    place.turn(reconciler, fresh=False)
    assert (place.pod().grant.id, place.pod().label) == (again.id, "blocked")


def test_renewal_after_the_read_of_redis_keeps_the_label(place, reconciler):
    """Redis is asked about many servers at once, so an answer can be older than a renewal."""
    add_leased_pod(place, reconciler, "blocked")
    place.passes(LEASE)
    before = place.store.pending(ALICE, set())
    place.grant("blocked")
    reconciler.reconcile(ALICE, before)
    assert [grant.tier for _, grant in place.cluster.patches] == ["blocked", "blocked"]


def test_later_pod_of_the_same_name_is_not_stopped(place, reconciler):
    add_expired_pod(place, reconciler)
    place.passes(STOP_GRACE_SECONDS)
    place.cluster.add(uid="uid-2")
    place.turn(reconciler, fresh=False)
    assert (place.pod().uid, place.pod().ended) == ("uid-2", False)


def test_lease_without_redis_ends_egress_but_stops_no_pod(place, reconciler):
    """Without Redis a renewal cannot be recorded. Once Redis is back, there is time for one."""
    add_leased_pod(place, reconciler, "stopped")
    place.store.gone = True
    place.passes(LEASE)
    place.turn(reconciler)
    assert (place.pod().label, place.pod().grant.rule) == (None, Rule.EXPIRED)
    place.passes(100 * STOP_GRACE_SECONDS)
    place.turn(reconciler)
    assert not place.pod().ended
    place.store.gone = False
    reconciler.heartbeat()
    place.turn(reconciler)
    place.passes(STOP_GRACE_SECONDS - 1)
    place.turn(reconciler)
    assert not place.pod().ended
    place.passes(1)
    place.turn(reconciler)
    assert place.pod().ended


@pytest.mark.parametrize("away", ["down", "wiped"])
def test_redis_outage_restarts_the_grace_period(place, reconciler, away):
    add_expired_pod(place, reconciler)
    place.passes(STOP_GRACE_SECONDS - 1)
    if away == "down":
        place.store.gone = True
        place.turn(reconciler)
        place.store.gone = False
    else:
        place.redis_server.wipe()
        place.store.report_verifier("verifier", {})
    reconciler.heartbeat()
    place.passes(1)
    place.turn(reconciler)
    assert not place.pod().ended
    place.passes(STOP_GRACE_SECONDS)
    place.turn(reconciler)
    assert place.pod().ended


def test_pod_is_not_stopped_while_no_verifier_runs(place, reconciler, in_redis):
    add_expired_pod(place, reconciler)
    in_redis.delete("binder-egress:verifiers")
    place.passes(STOP_GRACE_SECONDS)
    place.turn(reconciler)
    place.store.report_verifier("verifier", {})
    place.passes(STOP_GRACE_SECONDS - 1)
    place.turn(reconciler)
    assert not place.pod().ended
    place.passes(1)
    place.turn(reconciler)
    assert place.pod().ended


def test_missing_permission_to_stop_pods_is_not_retried_constantly(place, reconciler, monkeypatch):
    add_expired_pod(place, reconciler)
    tried = []

    def forbidden(pod, unchanged):
        tried.append(unchanged)
        raise ApiServerUnavailable("403 Forbidden")

    monkeypatch.setattr(place.cluster, "delete", forbidden)
    for _ in range(STOP_GRACE_SECONDS):
        place.passes(2)
        place.turn(reconciler)
    assert tried == [True, True]


def test_clock_set_forward_ends_egress_but_leaves_time_to_renew(place, reconciler):
    add_leased_pod(place, reconciler, "stopped")
    place.time += 10 * LEASE
    for _ in range(3):
        place.turn(reconciler)
        place.time += 10 * LEASE
    assert (place.pod().label, place.pod().ended) == (None, False)
    again = place.grant("stopped")
    place.turn(reconciler)
    assert (place.pod().grant.id, place.pod().grant.until) == (again.id, int(place.time) + LEASE)
    # The clock goes back: no egress lasts longer than a lease.
    place.time -= 40 * LEASE
    place.turn(reconciler)
    assert place.pod().grant.until == int(place.time) + LEASE


def test_clock_set_back_extends_egress_by_at_most_a_lease(place, reconciler):
    add_leased_pod(place, reconciler, "blocked")
    place.passes(LEASE / 2)
    place.time -= 100 * LEASE
    place.turn(reconciler)
    assert place.pod().grant.until == int(place.time) + LEASE
    place.passes(LEASE)
    place.turn(reconciler)
    assert place.pod().label is None


def test_clock_set_back_restores_no_expired_egress(place, reconciler):
    add_leased_pod(place, reconciler, "blocked")
    place.passes(LEASE)
    place.turn(reconciler)
    place.time -= LEASE
    place.turn(reconciler)
    place.turn(place.reconciler())
    assert place.pod().label is None


def test_slightly_different_clocks_cause_no_repeated_patches(place, reconciler):
    add_leased_pod(place, reconciler, "blocked")
    behind = place.reconciler(ahead=-LEEWAY_SECONDS)
    for _ in range(3):
        place.turn(behind)
        place.turn(reconciler)
    assert len(place.cluster.patches) == 1


def test_shorter_lease_in_values_applies_to_running_servers(place, reconciler):
    add_leased_pod(place, reconciler, "blocked")
    place.turn(place.reconciler(tiers={"verified": {}, "blocked": {"lease": 60}}))
    assert place.pod().grant.until == place.time + 60


# -- restarts, and two reconcilers at once


def test_new_process_needs_only_the_pod(place):
    add_leased_pod(place, place.reconciler(), "stopped")
    place.redis_server.wipe()
    place.store.report_verifier("verifier", {})
    place.passes(LEASE)
    place.turn(place.reconciler())
    assert (place.pod().label, place.pod().grant.rule) == (None, Rule.EXPIRED)
    place.redis_server.wipe()
    place.store.report_verifier("verifier", {})
    last = place.reconciler()
    place.turn(last)
    place.passes(STOP_GRACE_SECONDS)
    place.turn(last)
    assert place.pod().ended


def test_restart_leaves_time_to_renew(place):
    add_expired_pod(place, place.reconciler())
    place.passes(100 * STOP_GRACE_SECONDS)
    last = place.reconciler()
    place.turn(last)
    assert not place.pod().ended
    place.passes(STOP_GRACE_SECONDS)
    place.turn(last)
    assert place.pod().ended


def test_two_reconcilers_agree_on_a_lease(place):
    one, other = place.reconciler(), place.reconciler(ahead=2)
    add_leased_pod(place, one, "stopped")
    place.turn(other)
    assert len(place.cluster.patches) == 1
    place.passes(LEASE)
    one.list_pods()
    place.cluster.before_patch = lambda: place.turn(other)
    place.turn(one)
    assert [grant.rule for _, grant in place.cluster.patches] == ["valid-pass", Rule.EXPIRED]
    place.turn(other)
    place.passes(STOP_GRACE_SECONDS)
    place.cluster.before_delete = lambda: place.turn(other)
    place.turn(one)
    assert place.pod().ended


@pytest.mark.parametrize("block", ["server", "repository"])
def test_block_takes_precedence_over_a_lease_and_its_end(place, reconciler, block):
    add_expired_pod(place, reconciler)
    what, uid = (ALICE.key, "uid-1") if block == "server" else ("r", "")
    place.store.add_block(Block("block", block, what, "eve", "w", 0, uid=uid), [ALICE])
    place.passes(STOP_GRACE_SECONDS)
    place.turn(reconciler)
    assert (place.pod().grant.rule, place.pod().ended) == (Rule.BLOCKED, False)


def test_withdrawn_grant_ends_before_its_lease(place, reconciler):
    given = add_leased_pod(place, reconciler, "stopped")
    place.store.withdraw([given.id])
    place.turn(reconciler)
    assert (place.pod().label, place.pod().grant) == (None, None)


# -- renewal


def test_renewal_changes_only_the_annotation(place, reconciler):
    """Each change of a label makes kube-router go through all pods."""
    add_leased_pod(place, reconciler, "blocked")
    place.passes(LEASE - 10)
    before = place.pod()
    again = place.grant("blocked", rule="renewal")
    place.turn(reconciler)
    now = place.pod()
    assert now == replace(before, version=now.version, grant=replace(again, until=int(place.time) + LEASE))
    assert len(place.cluster.patches) == 2


def test_renewals_do_not_add_up(place, reconciler):
    add_leased_pod(place, reconciler, "blocked")
    for _ in range(5):
        place.grant("blocked")
        place.turn(reconciler)
    assert place.pod().grant.until == place.time + LEASE


@pytest.fixture
def leasing(redis_server, store):
    """Services of a verifier whose proof of work grants a tier with a lease."""
    quick = {"cost": 1, "counterMax": 5, "tier": "blocked"}
    return create_services(make_settings(redis_server, tiers=TIERS, captcha_providers={"altcha": quick}, may_stop_pods=True), store)


@pytest.fixture
def client(leasing):
    return public_client(leasing)


def publish_lease(store, tier, left, **fields):
    """Publish a server as the reconciler does; its lease ends in `left` seconds."""
    values = {"grant": "old", "rule": "unlock", "until": int(time.time()) + left, "repository": "https://example.com/a/b"}
    store.publish(ALICE, KnownServer("uid-1", tier, **{**values, **fields}))


def post(client, **body):
    return client.post("/egress/servers/alice/", json=body)


def waiting(store):
    pending = store.pending(ALICE, set())
    return pending.unlock and pending.unlock.grant


def json_status(client):
    answer = client.get("/egress/servers/alice", headers={"Accept": "application/json"})
    return {name: answer.json[name] for name in ("tier", "until", "expires_in", "on_expiry", "unlockable", "renewable_in")}


def test_json_status_is_of_one_moment(client, store, monkeypatch):
    """The parts of one answer agree at the end of a lease, however long the verifier takes for them."""
    publish_lease(store, "blocked", LEASE)
    began = int(time.time())
    monkeypatch.setattr("verifier.web.servers.time", SimpleNamespace(time=itertools.count(began, LEASE).__next__))
    found = json_status(client)
    assert found["until"] - found["expires_in"] == began


@pytest.mark.parametrize("by", ["pass", "solution"])
def test_pass_or_solution_renews_a_lease(client, store, impatient, by):
    publish_lease(store, "blocked", LEASE // 2 - 5)
    body = {"token": get_pass(client)} if by == "pass" else {"provider": "altcha", "solution": solve(client, "unlock")}
    answer = post(client, **body)
    assert (answer.status_code, answer.json["state"]) == (202, "pending")
    assert (waiting(store).tier, waiting(store).rule) == ("blocked", "renewal")


def test_lease_in_its_first_half_is_not_renewed_and_nothing_is_spent(client, store, impatient):
    publish_lease(store, "blocked", LEASE // 2 + 30)
    token, solution = get_pass(client), solve(client, "unlock")
    for body in ({"token": token}, {"provider": "altcha", "solution": solution}):
        answer = post(client, **body)
        assert (answer.status_code, answer.json["state"], answer.json["renewable_in"] > 0) == (200, "granted", True)
    assert waiting(store) is None
    publish_lease(store, "blocked", 30)
    assert post(client, token=token).status_code == 202
    assert post(client, provider="altcha", solution=solution).status_code == 202


def test_pass_for_another_tier_does_not_renew_and_is_not_spent(client, store, services, impatient):
    publish_lease(store, "stopped", 10)
    solution = solve(client, "unlock")
    for body in ({"token": get_pass(client)}, {"provider": "altcha", "solution": solution}):
        answer = post(client, **body)
        assert (answer.status_code, answer.json["tier"]) == (200, "stopped")
    assert waiting(store) is None
    publish_lease(store, "blocked", 10)
    assert post(client, provider="altcha", solution=solution).status_code == 202


@pytest.mark.parametrize("body", [{"token": "x"}, {"provider": "altcha", "solution": "x"}, {"provider": "none", "solution": "x"}])
def test_rejected_pass_or_solution_renews_nothing(client, store, body):
    publish_lease(store, "blocked", 10)
    assert post(client, **body).status_code in (200, 400, 403)
    assert waiting(store) is None


def test_renewal_of_a_blocked_or_refused_server_is_refused(client, store, redis_server, impatient):
    publish_lease(store, "blocked", 10)
    store.add_block(Block("block", "repository", "example.com/a/*", "eve", "w", 0), [])
    answer = post(client, token=get_pass(client))
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "blocked")
    assert waiting(store) is None
    assert json_status(client)["renewable_in"] is None
    text = client.get("/egress/servers/alice", headers={"Accept": "text/plain"}).text
    assert "Time left" in text and "enew" not in text


def test_renewal_for_another_user_cannot_be_taken_back(client, internal, store, leasing, impatient):
    """If the renewal spent a use and that use moved on, the server would lose its tier."""
    publish_lease(store, "blocked", 10)
    token = get_pass(client)
    assert post(client, token=token).status_code == 202
    renewal = waiting(store)
    assert launch(internal, "mallory", token=token)["pass_outcome"] in ("used-up", "unknown-tier")
    assert launch(internal_client(leasing), "mallory", token=token)["pass_outcome"] == "used-up"
    assert not is_withdrawn(store, renewal.id)


def test_renewal_takes_no_use_from_another_server(client, store, leasing, impatient):
    token = get_pass(client)
    first = launch(internal_client(leasing), "bob", token=token)
    publish_lease(store, "blocked", 10)
    answer = post(client, token=token)
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "pass-refused")
    assert not is_withdrawn(store, first["grant"])


@pytest.mark.parametrize("by", ["launch", "unlock"])
@pytest.mark.parametrize("over", [False, True])
def test_pass_gives_its_server_one_lease(client, store, leasing, impatient, by, over):
    """A pass is valid for five minutes, and a lease may be shorter: with one pass, a server would get several."""
    token = get_pass(client)
    if by == "launch":
        given = launch(internal_client(leasing), "alice", token=token)["grant"]
    else:
        publish_lease(store, UNVERIFIED, 0, grant="", rule="", until=None)
        assert post(client, token=token).status_code == 202
        given = waiting(store).id
    before = waiting(store)
    ended = {"tier": UNVERIFIED, "rule": "expired", "until": None}
    publish_lease(store, **{"tier": "blocked", "left": 10, "grant": given, **(ended if over else {})})
    answer = post(client, token=token)
    assert (answer.status_code, answer.json["type"]) == (403, TYPE + "pass-refused")
    assert answer.json["detail"] == REJECTED_PASSES["lease-given"]
    assert waiting(store) == before and not is_withdrawn(store, given)
    assert post(client, token=get_pass(client)).status_code == 202, "another pass does"


def test_two_passes_in_turn_give_a_lease_each(client, store, impatient):
    """The pod then carries a grant that is not the one of the first pass, which may not count again for that reason."""
    publish_lease(store, UNVERIFIED, 0, grant="", rule="", until=None)
    tokens = [get_pass(client) for _ in range(2)]
    for token in tokens:
        assert post(client, token=token).status_code == 202
        publish_lease(store, "blocked", 10, grant=waiting(store).id)
    before = waiting(store)
    over = {"tier": UNVERIFIED, "rule": "expired", "until": None}
    for now in ({"tier": "blocked"}, over):
        publish_lease(store, **{"left": 10, "grant": before.id, **now})
        for token in tokens:
            assert (post(client, token=token).status_code, waiting(store)) == (403, before)


def test_pass_whose_answer_was_lost_renews(client, store, impatient):
    """The client asks again before the reconciler has seen the renewal."""
    publish_lease(store, "blocked", 10)
    token = get_pass(client)
    assert [post(client, token=token).status_code for _ in range(2)] == [202, 202]
    assert waiting(store).rule == "renewal"


def test_pass_of_a_launch_is_presented_again_when_its_server_is_ready(client, store, leasing, impatient):
    """BinderHub's page does so, perhaps before the reconciler has seen the launch, and perhaps twice."""
    token = get_pass(client)
    first = launch(internal_client(leasing), "alice", token=token)["grant"]
    publish_lease(store, UNVERIFIED, 0, grant="", rule="", until=None)
    assert [post(client, token=token).status_code for _ in range(2)] == [202, 202]
    assert is_withdrawn(store, first) and not is_withdrawn(store, waiting(store).id)
    publish_lease(store, "blocked", LEASE, grant=waiting(store).id)
    assert post(client, token=token).json["state"] == "granted"


def test_pass_counts_again_after_a_block_is_lifted(place, client, store, impatient):
    """The operator revoked the pass's grant by mistake."""
    place.time = time.time()
    reconciler, operators = place.reconciler(), Operators(reconciler_settings(), place.store, lambda: place.time)
    place.cluster.add(ready=True)
    place.turn(reconciler)
    token = get_pass(client)
    assert post(client, token=token).status_code == 202
    place.turn(reconciler)
    operators.revoke(ALICE, "eve", "looked like a miner")
    place.turn(reconciler)
    assert (place.pod().label, post(client, token=token).json["type"]) == (None, TYPE + "blocked")
    operators.unblock("alice", "eve")
    place.turn(reconciler)
    assert post(client, token=token).status_code == 202
    place.turn(reconciler)
    assert place.pod().label == "blocked"


def test_pass_counts_as_before_when_the_mode_was_allow_meanwhile(place, client, store, impatient):
    """The lease that it gave goes on, and ends at its time. Nobody needs a pass in that mode."""
    place.time = time.time()
    reconciler, allowing = place.reconciler(), place.reconciler(mode="allow", allow_tier="blocked")
    place.cluster.add(ready=True)
    place.turn(reconciler)
    token = get_pass(client)
    assert post(client, token=token).status_code == 202
    for running in (reconciler, allowing, reconciler):
        place.turn(running)
        assert place.pod().grant.id == waiting(store).id
    place.passes(LEASE)
    place.turn(reconciler)
    assert place.pod().label is None
    assert post(client, token=token).status_code == 403


def test_lease_is_renewed_then_expires_then_is_unlocked_again(place, client, store, impatient):
    """Verifier and reconciler together: a lease is renewed, expires, and the server is unlocked again."""
    place.time = time.time()
    reconciler = place.reconciler()
    place.cluster.add(ready=True)
    place.turn(reconciler)
    post(client, token=get_pass(client))
    place.turn(reconciler)
    assert json_status(client) | {"until": 0, "expires_in": 0, "renewable_in": 0} == {
        "tier": "blocked", "until": 0, "expires_in": 0, "on_expiry": "end", "unlockable": False, "renewable_in": 0
    }  # fmt: skip
    place.passes(LEASE)
    place.turn(reconciler)
    assert json_status(client) == {
        "tier": "unverified", "until": None, "expires_in": None, "on_expiry": None, "unlockable": True, "renewable_in": None
    }  # fmt: skip
    post(client, token=get_pass(client))
    place.turn(reconciler)
    assert place.pod().label == "blocked"


# -- what clients and users see


@pytest.mark.parametrize(
    ("tier", "left", "fields", "told"),
    [
        ("verified", 0, {"until": None}, (None, None, False, None)),
        ("blocked", LEASE, {}, (LEASE, "end", False, LEASE // 2)),
        ("blocked", 100, {}, (100, "end", False, 0)),
        ("stopped", 100, {"may_stop": True}, (100, "stop", False, 0)),
        ("stopped", 100, {}, (100, "end", False, 0)),
        ("stopped", -5, {"may_stop": True}, (0, "stop", False, 0)),
        ("unverified", 100, {"rule": Rule.EXPIRED}, (100, "stop", True, None)),
        ("unverified", 0, {"rule": Rule.EXPIRED, "until": None}, (None, None, True, None)),
        ("unverified", 100, {"rule": Rule.BLOCKED}, (None, None, False, None)),
        # The values no longer have the lease or the tier.
        ("verified", 100, {}, (100, "end", False, 0)),
        ("gone", 100, {}, (100, "end", False, None)),
    ],
)
def test_json_status_describes_the_lease(client, store, tier, left, fields, told):
    publish_lease(store, tier, left, **fields)
    found = json_status(client)
    seconds, *rest = told
    if seconds is None:
        assert (found["until"], found["expires_in"]) == (None, None)
    else:
        assert abs(found["until"] - time.time() - left) < 5 and abs(found["expires_in"] - seconds) < 5
    assert [found["on_expiry"], found["unlockable"]] == rest[:2]
    assert found["renewable_in"] == rest[2] or abs(found["renewable_in"] - rest[2]) < 5


@pytest.mark.parametrize(
    ("tier", "left", "rule", "texts", "never"),
    [
        (
            "blocked",
            3725,
            "unlock",
            ["Time left: 1:02:0", " UTC. After that your server loses", "in the second half"],
            "any browser",
        ),
        (
            "blocked",
            100,
            "unlock",
            ["Time left: 1:", "To renew the time, open this page", "/egress/servers/alice/\n"],
            "second half",
        ),
        ("stopped", 100, "valid-pass", ["two minutes later it is stopped"], "keeps running"),
        ("stopped", 100, "unlock", ["keeps running"], "is stopped"),
        ("unverified", 100, Rule.EXPIRED, ["The time is up. Your server will be stopped in 1:", "#unlock"], "Time left"),
    ],
)
def test_text_status_has_the_time_left_and_how_to_renew(client, store, tier, left, rule, texts, never):
    publish_lease(store, tier, left, rule=rule, may_stop=rule == "valid-pass")
    text = client.get("/egress/servers/alice", headers={"Accept": "*/*"}).text
    for part in texts:
        assert part in text, text
    assert never not in text


def test_page_has_the_time_left(client, store):
    publish_lease(store, "stopped", 100, may_stop=True)
    text = client.get("/egress/servers/alice", headers={"Accept": "text/html"}).text
    assert "two minutes later it is stopped" in text and "&#34;on_expiry&#34;: &#34;stop&#34;" in text
    for word in ("example.com/a/b", "uid-1", "old"):
        assert word not in text


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59, "0:59"), (61, "1:01"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_remaining_time_is_shown_as_on_a_clock(seconds, shown):
    assert verifier.web.pages.clock(seconds) == shown


# -- settings and annotations


@pytest.mark.parametrize(
    ("tiers", "text"),
    [
        ({"verified": {"lease": -1}}, "tiers"),
        ({"verified": {"lease": "1h"}}, "tiers"),
        ({"verified": {"lease": 60, "on_expiry": "delete"}}, "tiers"),
        ({"verified": {"lease": 60, "on_expiry": "stop"}}, r"tiers\.verified\.onExpiry is stop.*reconciler\.mayStopPods: true"),
    ],
)
def test_wrong_lease_settings_stop_the_start_with_a_sentence(tiers, text):
    with pytest.raises(InvalidSettings, match=text):
        load(ReconcilerSettings, tiers=tiers)


def test_annotation_of_an_older_version_has_no_end():
    old = {"id": "g", "tier": "verified", "rule": "unlock", "at": 1}
    assert Grant.loads(json.dumps(old)).is_expired(10**12) is False


def test_grant_in_mode_allow_has_no_lease():
    grant = Grant.new("blocked", "mode-allow", 0)
    assert leases.begin(grant, Tier(lease=60), 0, may_stop=True) is grant


def test_left_is_never_negative(leasing):
    left = leases.left(KnownServer("u", "blocked", until=1), leasing.settings, 10)
    assert left == Left(until=1, expires_in=0, on_expiry="end", renewable_in=0)
