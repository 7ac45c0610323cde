"""Metrics: names and types, which are an interface, and the counted events."""

import re
import time
from dataclasses import fields

import pytest

from binder_egress.model.passes import Passes
from binder_egress.store import reconciler_counters as counters
from binder_egress.web.metrics import OWN, SHARED, Metrics
from tests.support import TOP
from tests.support.apps import get_pass, internal_client, launch, reconciler, run_pod, solve
from tests.support.metrics import NAMES, families, value

pytestmark = pytest.mark.usefixtures("impatient")


def test_metrics_have_stable_names_and_types_and_help(internal):
    found = families(internal)
    assert {name: family.type for name, family in found.items()} == NAMES
    assert [name for name, family in found.items() if not family.documentation.endswith(".")] == []
    of_detections = found["binder_egress_detections"].documentation
    assert [outcome for outcome in counters.DetectionOutcome if not re.search(rf"\b{outcome}\b", of_detections)] == []


def test_each_row_is_shown_with_its_labels_and_help(services, store, internal, in_redis):
    """A metric is added as a row, and as a name in `NAMES`."""
    store.heartbeat(1, {"verified": 1}, {"grants:verified:unlock": 1})
    found = families(internal)
    rows = {f"binder_egress_{row.name}": row for row in (*OWN, *SHARED)}
    counted = [getattr(services.metrics, one.name) for one in fields(Metrics)]
    assert found.keys() == rows.keys() | {one.describe()[0].name for one in counted} | {"binder_egress_reconciler_lag_seconds"}
    for name, row in rows.items():
        assert found[name].documentation == row.help, name
        assert all(set(sample.labels) == set(row.labels.split()) for sample in found[name].samples), name


@pytest.mark.parametrize("wrong", ['"x"', '{"nodes": 1}', '{"canary": {"targets": [1]}}', '{"judgement": {"missing": null}}'])
def test_findings_that_nobody_published_are_none(store, internal, wrong):
    store.publish_gatecheck(wrong)
    found = families(internal)
    assert found.keys() == NAMES.keys()
    assert [found[f"binder_egress_{name}"].samples for name in ("canary_shut", "node_shut", "policies_wrong")] == [[], [], []]


def test_launches_are_counted_by_tier_rule_and_pass_outcome(public, internal):
    token = get_pass(public)
    for user in "ab":
        launch(internal, user, token=token)
    launch(internal, "c", token=token, repository="other")
    launch(internal, "d", token="forged")
    launch(internal, "e", context=False)
    labels = {"tier": "verified", "rule": "valid-pass"}
    for outcome in ("free", "moved"):
        assert value(internal, "binder_egress_launches_total", pass_outcome=outcome, **labels) == 1, outcome
    labels = {"tier": "unverified", "rule": "default"}
    for outcome in ("used-up", "invalid", "none"):
        assert value(internal, "binder_egress_launches_total", pass_outcome=outcome, **labels) == 1, outcome
    assert value(internal, "binder_egress_launches_without_context_total") == 1


def test_solutions_are_counted_by_outcome_with_the_time_of_checking_them_and_the_passes(public, internal, redis_server):
    solution, old = solve(public), solve(public)
    for sent in (solution, solution, "bad"):
        public.post("/egress/passes", json={"provider": "altcha", "solution": sent})
    redis_server.wipe()
    public.post("/egress/passes", json={"provider": "altcha", "solution": old})
    for outcome in ("ok", "replayed", "rejected", "before-epoch"):
        labels = {"provider": "altcha", "purpose": "launch", "outcome": outcome}
        assert value(internal, "binder_egress_solutions_total", **labels) == 1, outcome
    assert value(internal, "binder_egress_passes_total", tier="verified") == 1
    for outcome, checked in (("ok", 3), ("rejected", 1)):
        seconds = "binder_egress_captcha_verify_seconds_count"
        assert value(internal, seconds, provider="altcha", outcome=outcome) == checked, outcome


def test_names_from_clients_create_no_time_series(public, internal):
    for number in range(20):
        public.post("/egress/passes", json={"provider": f"provider-{number}", "solution": "x"})
        public.get(f"/egress/challenge?purpose=purpose-{number}")
        public.post(f"/egress/servers/user-{number}", json={"token": "x"})
        launch(internal, f"user-{number}", repository=f"repository-{number}", token=f"token-{number}")
    text = internal.get("/metrics").text
    assert not [word for word in ("provider-1", "purpose-1", "user-1", "repository-1", "token-1") if word in text]


def test_unlocks_are_counted_by_outcome(public, internal, store, services):
    run_pod(store)
    token = get_pass(public)
    launch(internal, "bob", token=token, repository="other")
    old = services.passes.sign(Passes.new("verified", 1, time.time() - 1000, 1))
    gold = services.passes.sign(Passes.new("gold", 1, time.time(), 60))
    for sent in (get_pass(public), token, "forged", old, gold):
        public.post("/egress/servers/alice", json={"token": sent})
    for outcome in ("pending", "used-up", "invalid", "expired", "unknown-tier"):
        assert value(internal, "binder_egress_unlocks_total", outcome=outcome) == 1, outcome


def test_duration_of_an_unlock_is_measured(public, internal, store, monkeypatch):
    monkeypatch.setattr("binder_egress.web.servers.UNLOCK_WAIT_SECONDS", 2)
    run_pod(store)
    with reconciler(store):
        assert public.post("/egress/servers/alice", json={"token": get_pass(public)}).status_code == 200
    assert value(internal, "binder_egress_unlocks_total", outcome="granted") == 1
    assert value(internal, "binder_egress_unlock_seconds_count") == 1


def test_reports_of_the_reconciler_are_shown(internal, store, in_redis):
    assert value(internal, "binder_egress_reconciler_last_seen_timestamp_seconds") == 0
    counted = {"pods-without-launch-record": 2, counters.FAILURES: 3, "grants:verified:valid-pass": 2, "grants:verified:unlock": 1}
    counted |= {f"{counters.START_GUARD}closed": 2, counters.START_GUARD_TIME: 10_500}
    store.heartbeat(1234.5, {"verified": 2, "unverified": 3}, counted)
    for name, labels, number in (
        ("reconciler_last_seen_timestamp_seconds", {}, 1234.5),
        ("user_pods", {"tier": "verified"}, 2),
        ("user_pods", {"tier": "unverified"}, 3),
        ("user_pods_without_launch_record_total", {}, 2),
        ("reconciler_failures_total", {}, 3),
        ("grants_total", {"tier": "verified", "rule": "valid-pass"}, 2),
        ("grants_total", {"tier": "verified", "rule": "unlock"}, 1),
        ("start_guards_total", {"outcome": "closed"}, 2),
        ("start_guard_seconds_total", {}, 10.5),
    ):
        assert value(internal, f"binder_egress_{name}", **labels) == number, name
    assert 25 <= in_redis.ttl("binder-egress:reconciler") <= 30
    store.heartbeat(2, {}, {"grants:verified:valid-pass": 1})
    assert value(internal, "binder_egress_grants_total", tier="verified", rule="valid-pass") == 3
    assert families(internal)["binder_egress_user_pods"].samples == [], "tiers without pods"


def test_reconciler_lag_is_shown(internal, store):
    for seconds in (0.03, 0.031, 30, 31):
        store.heartbeat(1, {}, counters.lag_counters(seconds))
    name = "binder_egress_reconciler_lag_seconds"
    # The buckets of a histogram are cumulative.
    assert [value(internal, f"{name}_bucket", le=le) for le in counters.LAG_BUCKETS] == [1, 2, 2, 2, 2, 2, 3, 4]
    assert value(internal, f"{name}_count") == 4
    assert value(internal, f"{name}_sum") == pytest.approx(61.061)


def test_start_guard_outcomes_and_failures_are_shown_from_the_start(internal):
    """Prometheus sees no increase in a counter that appears with 1; the alert would miss the first pod without isolation."""
    page = (TOP / "docs/start-guard.md").read_text()
    outcomes = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    shown = {
        sample.labels["outcome"]: sample.value
        for sample in families(internal)["binder_egress_start_guards"].samples
        if sample.name.endswith("_total")
    }
    assert shown == dict.fromkeys(outcomes, 0)
    assert families(internal)["binder_egress_reconciler_failures"].samples[0].value == 0


def test_metrics_without_redis_report_it_and_keep_their_counters(services, redis_server):
    internal = internal_client(services)
    launch(internal)
    assert value(internal, "binder_egress_store_up") == 1
    redis_server.stop()
    assert value(internal, "binder_egress_store_up") == 0
    labels = {"tier": "unverified", "rule": "default", "pass_outcome": "none"}
    assert value(internal, "binder_egress_launches_total", **labels) == 1
    internal.post("/api/launches", json={"user": "a", "image": "i"})
    labels = {"tier": "unverified", "rule": "store-unavailable", "pass_outcome": "none"}
    assert value(internal, "binder_egress_launches_total", **labels) == 1
