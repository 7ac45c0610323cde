"""The Grafana dashboard: queries that Prometheus can read, about existing metrics and labels."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from tests.support.metrics import samples

TOP = Path(__file__).parents[2]
DASHBOARD = json.loads((TOP / "chart/dashboards/binder-egress.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']} {target['refId']}": target for panel in PANELS for target in panel["targets"]}
LABELS = {
    "decision", "direction", "group", "host", "instance", "key", "kind", "le", "list", "outcome", "pass_outcome", "pod", "policy",
    "provider", "rule", "source", "target", "tier", "who",
}  # fmt: skip


def named(expression):
    return set(re.findall(r"binder_egress_\w+", expression))


@pytest.mark.parametrize("title", QUERIES)
def test_queries_are_promql_about_existing_metrics(title):
    expression = QUERIES[title]["expr"]
    promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    assert named(expression) and named(expression) <= samples(), named(expression) - samples()
    assert expression.count('{namespace=~"$namespace"}') == len(re.findall(r"binder_egress_\w+", expression))


@pytest.mark.parametrize("title", QUERIES)
def test_labels_of_a_legend_are_kept_by_its_query(title):
    kept = {label for group in re.findall(r"by \(([^)]*)\)", QUERIES[title]["expr"]) for label in group.split(", ")}
    assert kept <= LABELS
    assert set(re.findall(r"{{(\w+)}}", QUERIES[title]["legendFormat"])) <= kept


@pytest.mark.parametrize("title", QUERIES)
def test_counters_are_shown_by_their_rate(title):
    for name in named(QUERIES[title]["expr"]):
        if name.endswith(("_total", "_bucket")):
            assert re.search(rf"rate\({name}\{{", QUERIES[title]["expr"]), name


def test_metrics_of_api_keys_are_shown_for_each_key():
    shown = {name: target["expr"] for target in QUERIES.values() for name in named(target["expr"]) if "api_key" in name}
    assert shown.keys() == {name for name in samples() if "api_key" in name and not name.endswith("_created")}
    assert all(re.search(r"by \(key[,)]", expression) for expression in shown.values())


def test_panels_have_different_ids_and_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_variables_of_queries_are_defined():
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}


@pytest.mark.timeout(1800)
def test_chart_has_the_dashboard_unchanged(helm):
    text = helm("template", "r", TOP / "chart", "--set", "metrics.grafanaDashboard.enabled=true")
    (found,) = [one for one in yaml.safe_load_all(text) if one and one["metadata"]["name"] == "binder-egress-dashboard"]
    assert json.loads(found["data"]["binder-egress.json"]) == DASHBOARD
