"""The metrics of verifier and egress proxy: their names and types, and how tests read them."""

import subprocess
from pathlib import Path

import yaml
from flask.testing import FlaskClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


def named(by_type: dict[str, str]) -> dict[str, str]:
    """Name → type of metrics, which are listed by type and without `binder_egress_`."""
    return {f"binder_egress_{name}": metric_type for metric_type, names in by_type.items() for name in names.split()}


NAMES = named(
    {
        "counter": "access launches launches_without_context launches_by_claim solutions passes api_key_requests "
        "announcements_refused clients_without_address unlocks reconciler_failures grants user_pods_without_launch_record "
        "start_guards lease_expiries detection_reports detections start_guard_seconds user_pods_with_ping "
        "user_pods_hindered connections_ended reported_launches",
        "gauge": "launches_largest_share api_key_servers api_key_servers_per_day api_key_expires_timestamp_seconds "
        "captcha_provider_up captcha_provider_misconfigured captcha_stand_in store_up user_pods_not_covered "
        "reconciler_last_seen_timestamp_seconds user_pods blocks policies_read_timestamp_seconds bypasses "
        "base_policy_missing policies_wrong canary_shut label_delay_seconds proxy_addresses_hidden "
        "node_user_pods node_shut node_label_delay_seconds node_proxy_serves node_agent "
        "node_user_pods_unknown_to_proxy "
        "redis_memory_used_ratio",
        "histogram": "captcha_verify_seconds challenge_price unlock_seconds reconciler_lag_seconds",
    }
)
"""Name and type of every metric of the verifier."""

PROXY_NAMES = named(
    {
        "counter": "proxy_connections proxy_bytes proxy_new_hosts",
        "gauge": "proxy_open_connections proxy_connections_taken proxy_source_ports_taken proxy_pods "
        "proxy_addresses_claimed_twice proxy_knows_pods proxy_wanted_hosts",
        "histogram": "proxy_resolve_seconds proxy_connect_seconds",
    }
)
"""Name and type of every metric of the egress proxy."""

AGENT_NAMES = named({"counter": "agent_reports agent_rounds", "gauge": "agent_unseen_processes"})
"""Name and type of the agent's metrics that alerts use."""


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
