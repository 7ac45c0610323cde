"""The Grafana dashboard: queries that Prometheus can read, about existing metrics and labels."""

import json
import re

import promql_parser
import pytest
import yaml

from tests.support import TOP
from tests.support.metrics import promtool, samples

DASHBOARD = json.loads((TOP / "chart/dashboards/binder-egress.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']} {target['refId']}": target for panel in PANELS for target in panel["targets"]}
SENT = "container_network_transmit_bytes_total"
"""The only metric that is not ours, but the kubelet's."""

LABELS = {
    "came", "claim", "decision", "direction", "group", "host", "instance", "key", "kind", "le", "list", "namespace", "outcome",
    "pass_outcome", "pod", "policy", "provider", "rule", "source", "target", "tier", "use", "when", "who",
}  # fmt: skip


def named(expression):
    return set(re.findall(r"binder_egress_\w+", expression))


@pytest.mark.parametrize("title", QUERIES)
def test_queries_are_promql_about_existing_metrics_and_labels(title):
    """Counters are shown by their rate, and the query keeps the labels of its legend."""
    expression = QUERIES[title]["expr"]
    promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    assert named(expression) <= samples(), named(expression) - samples()
    metrics = re.findall(rf"binder_egress_\w+|{SENT}", expression)
    assert metrics and expression.count('{namespace=~"$namespace"') == len(metrics)
    for name in named(expression):
        assert not name.endswith(("_total", "_bucket")) or re.search(rf"rate\({name}\{{", expression), name
    kept = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
    assert kept <= LABELS and set(re.findall(r"{{(\w+)}}", QUERIES[title]["legendFormat"])) <= kept


def sample(title, namespace, value):
    expression = QUERIES[title]["expr"].replace("$namespace", namespace)
    return {"expr": expression, "eval_time": "60m", "exp_samples": [{"labels": "{}", "value": value}]}


def test_panel_of_launches_that_nobody_used_counts_pods_that_sent_little(tmp_path):
    """Prometheus' own `promtool`, with what cAdvisor shows of each pod, a value a minute."""
    seen = {
        "jupyter-opened": "4000 4000 5300000x60",
        "jupyter-not-opened": "4000 6000x60",
        "jupyter-gone": "4000 6000x20 _x40",
        "jupyter-opened-and-gone": "4000 90000x20 _x40",
        "jupyter-young": "_x55 4000x6",
        "jupyter-young-and-opened": "_x55 5300000x6",
        "hub-5fc84": "6000x61",
    }
    series = [(f"namespace='binder',pod='{pod}',interface='eth0'", values) for pod, values in seen.items()]
    series += [
        # Another interface of a pod that was opened, and another BinderHub.
        ("namespace='binder',pod='jupyter-opened',interface='net1'", "0x61"),
        ("namespace='elsewhere',pod='jupyter-not-opened',interface='eth0'", "6000x61"),
    ]
    panel = "Launches that nobody used"
    expected = {f"{panel} A": 2, f"{panel} B": 4}
    test = {
        "interval": "1m",
        "input_series": [{"series": f"{SENT}{{{labels}}}", "values": values} for labels, values in series],
        "promql_expr_test": [sample(title, "binder", value) for title, value in expected.items()],
    }
    # Without cAdvisor's metrics nothing is shown; the panel does not look as if everything were well.
    without = {"interval": "1m", "promql_expr_test": [case | {"exp_samples": []} for case in test["promql_expr_test"]]}
    assert promtool(tmp_path, [test, without]) == ""


def test_variables_of_queries_are_defined_and_show_one_hub_at_a_time():
    """Most queries take the largest value, because replicas show the same: another hub's would hide this one's."""
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert used == variables.keys()
    assert not {"includeAll", "multi"} & {key for key, value in variables["namespace"].items() if value}


def test_chart_has_the_dashboard_unchanged(helm):
    text = helm("template", "r", TOP / "chart", "--set", "metrics.grafanaDashboard.enabled=true")
    (found,) = [one for one in yaml.safe_load_all(text) if one and one["metadata"]["name"] == "binder-egress-dashboard"]
    assert json.loads(found["data"]["binder-egress.json"]) == DASHBOARD
