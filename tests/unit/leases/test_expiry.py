"""When a lease begins and ends, and what the reconciler does then."""

import logging
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from binder_egress.decisions import leases
from binder_egress.decisions.leases import STOP_GRACE_SECONDS
from binder_egress.kubernetes_api import ApiServerUnavailable
from binder_egress.model.grants import Egress, EndedLease, Rule
from binder_egress.model.passes import LEEWAY_SECONDS
from binder_egress.model.records import Record
from binder_egress.operators import actions
from binder_egress.operators.actions import CommandOperators
from binder_egress.settings import Tier
from binder_egress.web.app import create_services
from tests.support.leases import LEASE, add_leased_pod, reconciler_settings
from tests.support.reconciling import ALICE, record_decision

# -- start of a lease


@pytest.mark.parametrize("seconds", [LEASE // 2, LEASE + 1], ids=["replaced", "ended"])
def test_launch_gives_its_lease_once_though_its_pod_does_not_become_ready(place, reconciler, seconds):
    given = Egress.new("blocked", "valid-pass", place.time)
    record_decision(place.store, ALICE, Record(given, image="image:1", repository="r"), 3600)
    place.cluster.add()
    place.turn(reconciler)
    assert place.store.pending(ALICE, set()).launch
    place.turn(reconciler, after=seconds)
    unlock = place.grant("blocked")
    place.turn(reconciler)
    assert (place.pod().grant.id, place.pod().label) == (unlock.id, "blocked")
    place.turn(reconciler, after=LEASE + 1)
    assert (place.pod().grant.id, place.pod().label) == (unlock.id, None)
    assert place.store.known(ALICE).repository == "r"


def test_grant_by_an_operator_has_the_lease_of_its_tier(place, reconciler, impatient):
    place.cluster.add()
    place.turn(reconciler)
    operators = CommandOperators(reconciler_settings(), place.store, lambda: place.time)
    actions.grant(operators, ALICE, "blocked", "eve", "a course")
    place.turn(reconciler)
    assert place.pod().grant.until == 1_000_000 + LEASE
    because = actions.explain(operators, ALICE)["because"]
    assert "Its lease ends at 1970-01-12T13:56:40Z." in because and "eve: a course" in because
    assert actions.grants(operators)[0]["until"] == 1_000_000 + LEASE
    place.turn(reconciler, after=LEASE)
    assert "its lease ended at 1970-01-12T13:56:40Z" in actions.explain(operators, ALICE)["because"]


# -- end of a lease


def test_expired_server_is_unverified_and_can_be_unlocked_again(place, reconciler, caplog):
    given = add_leased_pod(place, reconciler, "blocked")
    place.turn(reconciler, fresh=False, after=LEASE - 1)
    assert place.pod().label == "blocked"
    place.advance(1)
    caplog.clear()
    with caplog.at_level(logging.INFO, "binder-egress"):
        place.turn(reconciler, fresh=False)
    assert place.pod().label is None
    assert place.pod().grant == EndedLease(given.id, 1_000_000 + LEASE, given.origin, given.why, may_stop=given.may_stop)
    known = place.store.known(ALICE)
    assert (known.tier, known.label, known.grant.stop_at) == ("unverified", "", None)
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "pod"]
    assert (line["user"], line["tier"], line["rule"], line["grant"]) == ("alice", "unverified", Rule.EXPIRED, given.id)
    place.turn(reconciler, after=10 * STOP_GRACE_SECONDS)
    assert not place.pod().ended and len(place.cluster.patches) == 2
    again = place.grant("blocked")
    place.turn(reconciler)
    assert place.pod().grant == replace(again, until=int(place.time) + LEASE)
    assert place.pod().label == "blocked"


def test_stopped_server_loses_network_first_and_then_its_pod(place, reconciler, caplog):
    add_leased_pod(place, reconciler, "stopped")
    place.turn(reconciler, fresh=False, after=LEASE)
    assert (place.pod().label, place.pod().ended) == (None, False)
    assert place.store.known(ALICE).grant.stop_at == place.time + STOP_GRACE_SECONDS
    place.turn(reconciler, after=STOP_GRACE_SECONDS - 1)
    assert not place.pod().ended
    place.advance(1)
    with caplog.at_level(logging.INFO, "binder-egress"):
        place.turn(reconciler, fresh=False)
    assert place.pod().ended
    assert [record.fields["rule"] for record in caplog.records if record.getMessage() == "stop"] == [Rule.EXPIRED]


def test_pod_that_has_not_started_is_not_stopped(place, reconciler):
    """Its image may take longer than its lease. It has the whole grace from its start."""
    given = Egress.new("stopped", "valid-pass", place.time)
    record_decision(place.store, ALICE, Record(given, image="image:1", repository="r"), 3600)
    place.cluster.add(starting=True)
    place.turn(reconciler)
    place.turn(reconciler, after=LEASE)
    assert (place.pod().label, place.pod().grant.rule) == (None, Rule.EXPIRED)
    for _ in range(3):
        place.advance(STOP_GRACE_SECONDS)
        reconciler.enqueue_due()
        assert len(reconciler.queue) == 0, "nothing is due before it has started"
        place.turn(reconciler)
    assert not place.pod().ended
    place.cluster.change("jupyter-alice--", starting=False)
    place.turn(reconciler)
    place.turn(reconciler, after=STOP_GRACE_SECONDS - 1)
    assert not place.pod().ended
    place.turn(reconciler, fresh=False, after=1)
    assert place.pod().ended


@pytest.mark.parametrize("waits", [[LEASE - 10], [LEASE], [LEASE, STOP_GRACE_SECONDS - 1]])
def test_renewed_launch_is_stopped_later(place, reconciler, waits):
    add_leased_pod(place, reconciler, "stopped")
    for seconds in waits:
        place.turn(reconciler, after=seconds)
    place.grant("stopped", rule="renewal")
    place.turn(reconciler)
    for seconds, ended in ((LEASE, False), (STOP_GRACE_SECONDS - 1, False), (1, True)):
        place.turn(reconciler, after=seconds)
        assert place.pod().ended is ended


def test_expiries_are_counted_and_a_label_that_is_forged_later_is_removed(place, reconciler, settings):
    for number, tier in enumerate(["blocked", "stopped", "stopped"]):
        add_leased_pod(place, reconciler, tier, f"user{number}", f"uid-{number}")
    place.advance(LEASE)
    place.store.gone = True
    place.turn(reconciler)
    place.store.gone = False
    reconciler.heartbeat()
    place.cluster.change("jupyter-user0--", label="blocked")
    place.turn(reconciler)
    assert place.pod("jupyter-user0--").label is None
    reconciler.heartbeat()
    text = generate_latest(create_services(settings, place.store).metrics.registry).decode()
    assert 'binder_egress_lease_expiries_total{on_expiry="end"} 1.0' in text
    assert 'binder_egress_lease_expiries_total{on_expiry="stop"} 2.0' in text


# -- cases in which a pod must not be stopped, or must not keep egress


@pytest.fixture
def expired(place, reconciler):
    add_leased_pod(place, reconciler, "stopped")
    place.turn(reconciler, after=LEASE)
    assert place.pod().grant.rule == Rule.EXPIRED


@pytest.mark.parametrize(
    ("mode", "ended"),
    [
        ({"mode": "captcha"}, True),
        ({"mode": "observe"}, False),
        ({"mode": "allow", "allow_tier": "stopped"}, False),
        ({"mode": "captcha", "may_stop_pods": False, "tiers": {"verified": {}}}, False),
    ],
)
def test_pod_with_an_earlier_expiry_is_stopped_only_if_pods_still_may_be(place, mode, ended, expired):
    """Mode `observe` is the way to go back, so it does not stop pods whose lease ended in mode `captcha`."""
    later = place.reconciler(**mode)
    for _ in range(3):
        place.turn(later)
        place.advance(STOP_GRACE_SECONDS)
    assert place.pod().ended is ended
    # Back in mode captcha, the pod has the whole grace period again.
    again = place.reconciler()
    place.turn(again)
    place.turn(again, after=STOP_GRACE_SECONDS - 1)
    assert place.pod().ended is ended


@pytest.mark.parametrize("when", ["before the read", "between read and deletion", "only in Redis"])
def test_renewal_at_the_last_moment_prevents_the_stop(place, reconciler, monkeypatch, expired, when):
    place.advance(STOP_GRACE_SECONDS)
    read, given = place.cluster.read, []

    def renew():
        given.append(place.grant("stopped"))

    def renew_on_the_pod():
        """The deletion names the version that was read, so it fails."""
        renew()
        place.turn(place.reconciler())

    if when == "before the read":
        renew()
    elif when == "between read and deletion":
        place.cluster.before_delete = renew_on_the_pod
    else:
        monkeypatch.setattr(place.cluster, "read", lambda name: renew() or read(name))
    place.turn(reconciler)
    assert not place.pod().ended
    if when != "only in Redis":
        assert (place.pod().grant.id, place.pod().label) == (given[0].id, "stopped")


@pytest.mark.parametrize(("tier", "waits"), [("stopped", [LEASE, STOP_GRACE_SECONDS]), ("blocked", [LEASE - 1, 1])])
def test_lagging_watch_neither_expires_a_renewed_lease_nor_stops_its_pod(place, reconciler, in_redis, tier, waits):
    add_leased_pod(place, reconciler, tier)
    place.turn(reconciler, after=waits[0])
    again = place.grant(tier)
    place.turn(place.reconciler())
    # This reconciler has not seen the renewal, and the record in Redis has expired.
    in_redis.delete(f"binder-egress:unlock:{ALICE.key}")
    place.turn(reconciler, fresh=False, after=waits[1])
    assert (place.pod().grant.id, place.pod().label, place.pod().ended) == (again.id, tier, False)


def test_renewal_after_the_read_of_redis_keeps_the_label(place, reconciler):
    """Redis is asked about many servers at once, so an answer can be older than a renewal."""
    add_leased_pod(place, reconciler, "blocked")
    place.advance(LEASE)
    before = place.store.pending(ALICE, set())
    place.grant("blocked")
    reconciler.reconcile(ALICE, before)
    assert [grant.tier for _, grant in place.cluster.patches] == ["blocked", "blocked"]


def test_later_pod_of_the_same_name_is_not_stopped(place, reconciler, expired):
    place.advance(STOP_GRACE_SECONDS)
    place.cluster.add(uid="uid-2")
    place.turn(reconciler, fresh=False)
    assert (place.pod().uid, place.pod().ended) == ("uid-2", False)


def test_lease_without_redis_ends_egress_but_stops_no_pod(place, reconciler):
    """Without Redis a renewal cannot be recorded. Once Redis is back, there is time for one."""
    add_leased_pod(place, reconciler, "stopped")
    place.store.gone = True
    place.turn(reconciler, after=LEASE)
    assert (place.pod().label, place.pod().grant.rule) == (None, Rule.EXPIRED)
    place.turn(reconciler, after=100 * STOP_GRACE_SECONDS)
    assert not place.pod().ended
    reconciler.enqueue_due()
    assert len(reconciler.queue) == 0  # thousands of pods would otherwise be tried each second
    place.store.gone = False
    reconciler.heartbeat()
    place.turn(reconciler)
    place.turn(reconciler, after=STOP_GRACE_SECONDS - 1)
    assert not place.pod().ended
    place.turn(reconciler, after=1)
    assert place.pod().ended


def test_pod_that_has_ended_is_never_due(place, reconciler):
    add_leased_pod(place, reconciler, "stopped")
    place.cluster.change("jupyter-alice--", ended=True)
    place.turn(reconciler)
    place.advance(LEASE)
    reconciler.enqueue_due()
    assert len(reconciler.queue) == 0


def test_grace_of_a_gone_pod_is_forgotten(place, reconciler, expired):
    """It would stay in memory; and a pod that is back, after a list without it, has the whole grace again."""
    place.advance(STOP_GRACE_SECONDS - 1)
    pod = place.cluster.pods.pop("jupyter-alice--")
    place.turn(reconciler)
    place.cluster.pods[pod.name] = pod
    place.turn(reconciler)
    place.turn(reconciler, after=1)
    assert not place.pod().ended


@pytest.mark.parametrize("away", ["down", "down, and back before a heartbeat", "wiped"])
def test_redis_outage_restarts_the_grace_period(place, reconciler, away, expired):
    place.advance(STOP_GRACE_SECONDS - 1)
    if away == "wiped":
        place.redis_server.wipe()
        place.store.report_verifier("verifier", {})
    else:
        place.store.gone = True
        place.turn(reconciler)
        place.store.gone = False
    if away in ("down", "wiped"):
        reconciler.heartbeat()
    place.turn(reconciler, after=1)
    assert not place.pod().ended
    place.turn(reconciler, after=STOP_GRACE_SECONDS)
    assert place.pod().ended


def test_pod_is_not_stopped_while_no_verifier_runs(place, reconciler, in_redis, expired):
    in_redis.delete("binder-egress:verifiers")
    place.turn(reconciler, after=STOP_GRACE_SECONDS)
    place.store.report_verifier("verifier", {})
    place.turn(reconciler, after=STOP_GRACE_SECONDS - 1)
    assert not place.pod().ended
    place.turn(reconciler, after=1)
    assert place.pod().ended


def test_missing_permission_to_stop_pods_is_not_retried_constantly(place, reconciler, monkeypatch, expired):
    tried = []

    def forbidden(pod, unchanged):
        tried.append(unchanged)
        raise ApiServerUnavailable("403 Forbidden")

    monkeypatch.setattr(place.cluster, "delete", forbidden)
    for _ in range(8):
        place.turn(reconciler, after=STOP_GRACE_SECONDS / 4)
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
    place.advance(LEASE / 2)
    place.time -= 100 * LEASE
    place.turn(reconciler)
    assert place.pod().grant.until == int(place.time) + LEASE
    place.turn(reconciler, after=LEASE)
    assert place.pod().label is None


def test_clock_set_back_restores_no_expired_egress(place, reconciler):
    add_leased_pod(place, reconciler, "blocked")
    place.turn(reconciler, after=LEASE)
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


# -- restarts, and two reconcilers at once


def test_new_process_needs_only_the_pod(place):
    add_leased_pod(place, place.reconciler(), "stopped")
    place.redis_server.wipe()
    place.store.report_verifier("verifier", {})
    place.turn(place.reconciler(), after=LEASE)
    assert (place.pod().label, place.pod().grant.rule) == (None, Rule.EXPIRED)
    place.redis_server.wipe()
    place.store.report_verifier("verifier", {})
    place.advance(100 * STOP_GRACE_SECONDS)
    last = place.reconciler()
    place.turn(last)
    assert not place.pod().ended, "a restart leaves time to renew"
    place.turn(last, after=STOP_GRACE_SECONDS)
    assert place.pod().ended


def test_two_reconcilers_agree_on_a_lease(place):
    one, other = place.reconciler(), place.reconciler(ahead=2)
    add_leased_pod(place, one, "stopped")
    place.turn(other)
    assert len(place.cluster.patches) == 1
    place.advance(LEASE)
    one.list_pods()
    place.cluster.before_patch = lambda: place.turn(other)
    place.turn(one)
    assert [grant.rule for _, grant in place.cluster.patches] == ["valid-pass", Rule.EXPIRED]
    place.turn(other)
    place.advance(STOP_GRACE_SECONDS)
    place.cluster.before_delete = lambda: place.turn(other)
    place.turn(one)
    assert place.pod().ended


# -- settings


def test_grant_in_mode_allow_has_no_lease():
    grant = Egress.new("blocked", "mode-allow", 0)
    assert leases.begin(grant, Tier(lease=60), 0, may_stop=True) is grant
