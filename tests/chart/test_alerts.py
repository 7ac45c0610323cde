"""The alerts: expressions that Prometheus can read, about metrics that there are, with what they tell people."""

import re
from pathlib import Path

import promql_parser
import pytest
import yaml
from test_metrics import NAMES

TOP = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(1800)

# A unit test compares NAMES with what the verifier answers.
SAMPLES = {f"{name}_total" if kind == "counter" else name for name, kind in NAMES.items()}


@pytest.fixture
def rules(helm):
    text = helm("template", "r", TOP / "chart", "--namespace", "binder", "--set", "metrics.prometheusRule.enabled=true")
    (found,) = [document for document in yaml.safe_load_all(text) if document and document["kind"] == "PrometheusRule"]
    (group,) = found["spec"]["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_what_must_be_noticed_has_an_alert(rules):
    assert set(rules) == {
        "BinderEgressBasePolicyMissing", "BinderEgressBypass", "BinderEgressCanarySilent", "BinderEgressCaptchaProviderDown",
        "BinderEgressCaptchaProviderMisconfigured", "BinderEgressGateOpen", "BinderEgressPodNotIsolated",
        "BinderEgressPoliciesUnread", "BinderEgressPolicyAltered", "BinderEgressReconcilerGone",
        "BinderEgressStoreDown", "BinderEgressVerifierGone", "BinderEgressWiringLost",
    }  # fmt: skip


def test_every_expression_is_promql_about_metrics_that_there_are(rules):
    for name, rule in rules.items():
        promql_parser.parse(rule["expr"])
        named = set(re.findall(r"binder_egress_\w+", rule["expr"]))
        assert named and named <= SAMPLES, (name, named - SAMPLES)
        assert rule["expr"].count('{namespace="binder"') == len(re.findall(r"binder_egress_\w+", rule["expr"])), name


def test_a_wrong_expression_would_be_seen():
    with pytest.raises(ValueError):
        promql_parser.parse("max by (policy (binder_egress_bypasses) > 0")


def test_every_alert_says_what_is_wrong_and_how_bad_it_is(rules):
    for name, rule in rules.items():
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert set(rule["annotations"]) == {"summary", "description"} and rule["annotations"]["description"].endswith("."), name
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert re.search(rf"by \([^)]*\b{label}\b", rule["expr"]), (name, label)


def test_the_docs_list_every_alert(rules):
    listed = set(re.findall(r"`(BinderEgress\w+)`", (TOP / "docs/proof.md").read_text()))
    assert listed == set(rules)
