"""The metrics of verifier and egress proxy: their names and types, and how tests read them."""

import subprocess
from pathlib import Path

import yaml
from flask.testing import FlaskClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

NAMES = {
    "binder_egress_access": "counter",
    "binder_egress_launches": "counter",
    "binder_egress_launches_without_context": "counter",
    "binder_egress_launches_by_claim": "counter",
    "binder_egress_launches_largest_share": "gauge",
    "binder_egress_solutions": "counter",
    "binder_egress_captcha_verify_seconds": "histogram",
    "binder_egress_passes": "counter",
    "binder_egress_api_key_requests": "counter",
    "binder_egress_api_key_servers": "gauge",
    "binder_egress_api_key_servers_per_day": "gauge",
    "binder_egress_api_key_expires_timestamp_seconds": "gauge",
    "binder_egress_challenge_price": "histogram",
    "binder_egress_clients_without_address": "counter",
    "binder_egress_unlocks": "counter",
    "binder_egress_unlock_seconds": "histogram",
    "binder_egress_captcha_provider_up": "gauge",
    "binder_egress_captcha_provider_misconfigured": "gauge",
    "binder_egress_captcha_stand_in": "gauge",
    "binder_egress_store_up": "gauge",
    "binder_egress_reconciler_last_seen_timestamp_seconds": "gauge",
    "binder_egress_reconciler_lag_seconds": "histogram",
    "binder_egress_reconciler_failures": "counter",
    "binder_egress_grants": "counter",
    "binder_egress_user_pods_without_launch_record": "counter",
    "binder_egress_user_pods": "gauge",
    "binder_egress_start_guards": "counter",
    "binder_egress_lease_expiries": "counter",
    "binder_egress_blocks": "gauge",
    "binder_egress_detection_reports": "counter",
    "binder_egress_detections": "counter",
    "binder_egress_start_guard_seconds": "counter",
    "binder_egress_user_pods_with_ping": "counter",
    "binder_egress_policies_read_timestamp_seconds": "gauge",
    "binder_egress_bypasses": "gauge",
    "binder_egress_base_policy_missing": "gauge",
    "binder_egress_policies_wrong": "gauge",
    "binder_egress_canary_shut": "gauge",
    "binder_egress_label_delay_seconds": "gauge",
    "binder_egress_proxy_addresses_hidden": "gauge",
    "binder_egress_redis_memory_used_ratio": "gauge",
}
"""Name and type of every metric of the verifier."""

PROXY_NAMES = {
    "binder_egress_proxy_connections": "counter",
    "binder_egress_proxy_bytes": "counter",
    "binder_egress_proxy_open_connections": "gauge",
    "binder_egress_proxy_connections_taken": "gauge",
    "binder_egress_proxy_source_ports_taken": "gauge",
    "binder_egress_proxy_new_hosts": "counter",
    "binder_egress_proxy_pods": "gauge",
    "binder_egress_proxy_addresses_claimed_twice": "gauge",
    "binder_egress_proxy_knows_pods": "gauge",
    "binder_egress_proxy_wanted_hosts": "gauge",
    "binder_egress_proxy_resolve_seconds": "histogram",
    "binder_egress_proxy_connect_seconds": "histogram",
}
"""The same of the egress proxy."""


AGENT_NAMES = {
    "binder_egress_agent_reports": "counter",
    "binder_egress_agent_rounds": "counter",
    "binder_egress_agent_unseen_processes": "gauge",
}
"""The same of the agent, as far as alerts use them."""


def families(internal: FlaskClient) -> dict[str, Metric]:
    """The metrics at `/metrics` of the in-cluster app, by name."""
    answer = internal.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")
    read = text_string_to_metric_families(answer.text)
    return {family.name: family for family in read if not family.name.endswith("_created")}


def samples() -> set[str]:
    """The names of samples, for queries in alerts and dashboards."""
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {name + suffix for name, metric_type in (NAMES | PROXY_NAMES | AGENT_NAMES).items() for suffix in suffixes[metric_type]}


def value(internal: FlaskClient, name: str, **labels: str) -> float:
    """The value of a sample; 0 if there is none."""
    for family in families(internal).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0


def promtool(folder: Path, tests: list[dict], *rules: dict) -> str:
    """Prometheus' output for tests of these rules and of queries; "" if they are as expected."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "binder-egress", "rules": list(rules)}]}))
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(["promtool", "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr
