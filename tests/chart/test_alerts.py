"""The alerts: expressions that Prometheus can read, about existing metrics; `promtool` tries for which time series they fire."""

import re

import promql_parser
import pytest

from tests.support import TOP
from tests.support.charts import objects
from tests.support.metrics import promtool, samples

# A unit test compares them with the verifier's answer.
SAMPLES = samples()

# Alert → its labels, the time series for which it fires, and others for which it does not, each minute of an hour; all metrics are
# `binder_egress_…`. `4x60` is 4 all the time, `0+1x60` one more each minute. Where the alert must ignore a label, two series differ
# in it.
SEEN = {
    "BinderEgressApiKeySpent": (
        {"key": "course"},
        {
            "api_key_servers{key='course',pod='a'}": "5x60",
            "api_key_servers{key='course',pod='b'}": "4x60",
            "api_key_servers_per_day{key='course',pod='a'}": "5x60",
        },
        {
            "api_key_servers{key='course'}": "4x60",
            "api_key_servers{key='other'}": "9x60",
            "api_key_servers_per_day{key='course'}": "5x60",
            "api_key_servers_per_day{key='other'}": "10x60",
        },
    ),
    "BinderEgressDetected": (
        {"source": "cryptnono"},
        {
            "detections_total{source='cryptnono',list='',outcome='revoked',pod='a'}": "0x20 1x40",
            "detections_total{source='cryptnono',list='',outcome='revoked',pod='b'}": "0x20 1x40",
        },
        {"detections_total{source='cryptnono',list='',outcome='observed'}": "0+1x60"},
    ),
    "BinderEgressDetectionsLimited": (
        {"source": "falco", "list": "miners"},
        {"detections_total{source='falco',list='miners',outcome='limited'}": "0x20 1x40"},
        {"detections_total{source='falco',list='miners',outcome='revoked'}": "0+1x60"},
    ),
    "BinderEgressReportsLost": (
        {"source": "cryptnono", "outcome": "unreadable"},
        {
            "detection_reports_total{source='cryptnono',outcome='unreadable',pod='a'}": "0x10 1x50",
            "detection_reports_total{source='cryptnono',outcome='unreadable',pod='b'}": "0x10 1x50",
        },
        {"detection_reports_total{source='cryptnono',outcome='report'}": "0+1x60"},
    ),
    "BinderEgressReportsLost (a token that no source has)": (
        {"outcome": "wrong-token"},
        {"detection_reports_total{source='',outcome='wrong-token'}": "0x10 1x50"},
        {"detection_reports_total{source='cryptnono',outcome='other'}": "0+1x60"},
    ),
    "BinderEgressReportsLost (more than are accepted)": (
        {"source": "falco", "outcome": "too-many"},
        {"detection_reports_total{source='falco',outcome='too-many'}": "0x10 1x50"},
        {"detection_reports_total{source='falco',outcome='report'}": "0+1x60"},
    ),
    "BinderEgressApiKeyEnds": (
        {"key": "course"},
        {"api_key_expires_timestamp_seconds{key='course'}": "604800x60"},
        {"api_key_expires_timestamp_seconds{key='course'}": "608400x60"},
    ),
    "BinderEgressGateOpen": (
        {"target": "hub"},
        {"canary_shut{target='hub',pod='a'}": "0x60", "canary_shut{target='hub',pod='b'}": "1x60"},
        {"canary_shut{target='hub'}": "1 0 1 1 0 1x60", "canary_shut{target='verifier'}": "1x60"},
    ),
    "BinderEgressNodeOpen": (
        {"node": "n2"},
        {"node_shut{node='n1'}": "1x60", "node_shut{node='n2',pod='a'}": "0x60", "node_shut{node='n2',pod='b'}": "1x60"},
        {"node_shut{node='n1'}": "1x60"},
    ),
    "BinderEgressNodeNotKnown": (
        {"node": "n2"},
        {"node_shut{node='n1'}": "1x60", "node_user_pods{node='n1'}": "3x60", "node_user_pods{node='n2'}": "1x60"},
        # A node without user pods has nothing to show, and a node that is open has an alert of its own.
        {
            "node_user_pods{node='n1'}": "0x60",
            "node_user_pods{node='n2'}": "2x60",
            "node_shut{node='n2'}": "0x60",
            "node_user_pods{node='n3'}": "2x60",
            "node_shut{node='n3'}": "1 _ 1 1 1x60",
        },
    ),
    "BinderEgressNodeWithoutAgent": (
        {"node": "n2"},
        {"node_agent{node='n1'}": "1x60", "node_agent{node='n2'}": "0x60", "node_user_pods{node='n2'}": "1x60"},
        {"node_agent{node='n1'}": "0x60", "node_user_pods{node='n1'}": "0x60", "node_user_pods{node='n3'}": "1x60"},
    ),
    "BinderEgressCanarySilent": ({"namespace": "binder"}, {"store_up": "1x60"}, {"canary_shut{target='hub'}": "0x60"}),
    "BinderEgressLabelsLate": (
        {"change": "off"},
        {"label_delay_seconds{change='on'}": "0.2x60", "label_delay_seconds{change='off'}": "60x60"},
        {"label_delay_seconds{change='on'}": "5x60", "label_delay_seconds{change='off'}": "0.1x60"},
    ),
    "BinderEgressProxyAddressesHidden": (
        {},
        {"proxy_addresses_hidden{pod='a'}": "1x60", "proxy_addresses_hidden{pod='b'}": "1x60"},
        {"proxy_addresses_hidden": "0x20 1x3 0x60"},
    ),
    "BinderEgressNodeWithoutProxy": (
        {"node": "n2"},
        {"node_proxy_serves{node='n1'}": "1x60", "node_proxy_serves{node='n2'}": "0x60", "proxy_knows_pods{pod='a'}": "1x60"},
        {"node_proxy_serves{node='n1'}": "1x60", "node_proxy_serves{node='n2'}": "1x60", "proxy_knows_pods{pod='a'}": "1x60"},
    ),
    "BinderEgressNodeWithoutProxy (the proxy serves nobody, as other alerts say)": (
        {"node": "n2"},
        {"node_proxy_serves{node='n2'}": "0x60", "proxy_knows_pods{pod='a'}": "0x60", "proxy_knows_pods{pod='b'}": "1x60"},
        {"node_proxy_serves{node='n2'}": "0x60", "proxy_knows_pods{pod='a'}": "0x60"},
    ),
    "BinderEgressNodeWithoutProxy (start guards say so)": (
        {"node": "n2"},
        {
            "node_user_pods_unknown_to_proxy{node='n1'}": "2x60",
            "node_user_pods_unknown_to_proxy{node='n2'}": "1x24 2x60",
            "proxy_knows_pods": "1x60",
        },
        {"node_user_pods_unknown_to_proxy{node='n2'}": "0x5 3x60", "proxy_knows_pods": "1x60"},
    ),
    "BinderEgressNodeWithoutProxy (the first pods of a node)": (
        {"node": "n2"},
        {"node_user_pods_unknown_to_proxy{node='n2'}": "_x20 1x60", "proxy_knows_pods": "1x60"},
        {"node_user_pods_unknown_to_proxy{node='n2'}": "_x20 0x60", "proxy_knows_pods": "1x60"},
    ),
    "BinderEgressProxyAddressesClaimedTwice": (
        {},
        {"proxy_addresses_claimed_twice{pod='a'}": "1x60", "proxy_addresses_claimed_twice{pod='b'}": "0x60"},
        {"proxy_addresses_claimed_twice": "0x20 1x3 0x60"},
    ),
    "BinderEgressBypass": (
        {"policy": "singleuser", "direction": "egress"},
        {"bypasses{policy='singleuser',direction='egress'}": "2x60"},
        {"bypasses{policy='singleuser',direction='egress'}": "2x3 _x60"},
    ),
    "BinderEgressBasePolicyMissing": (
        {},
        {"base_policy_missing{pod='a'}": "0x60", "base_policy_missing{pod='b'}": "1x60"},
        {"base_policy_missing": "0x60"},
    ),
    "BinderEgressPolicyAltered": ({}, {"policies_wrong": "1x60"}, {"policies_wrong": "0x60"}),
    "BinderEgressPoliciesUnread": ({}, {"policies_read_timestamp_seconds": "0x60"}, {"policies_read_timestamp_seconds": "0+60x60"}),
    "BinderEgressPodNotIsolated": (
        {"outcome": "open"},
        {"start_guards_total{outcome='open'}": "3x25 4x35", "start_guards_total{outcome='closed'}": "0+9x60"},
        {"start_guards_total{outcome='open'}": "3x60", "start_guards_total{outcome='closed'}": "0+9x60"},
    ),
    "BinderEgressUserPodsNotCovered": (
        {},
        {"user_pods_not_covered{pod='a'}": "0x20 2x40", "user_pods_not_covered{pod='b'}": "0x20 1x40"},
        {"user_pods_not_covered": "0x60"},
    ),
    "BinderEgressUserPodsHindered": ({}, {"user_pods_hindered_total": "3x25 4x35"}, {"user_pods_hindered_total": "3x60"}),
    "BinderEgressReconcilerGone": (
        {},
        {"reconciler_last_seen_timestamp_seconds": "0+60x20 0x40"},
        {"reconciler_last_seen_timestamp_seconds": "0+60x60"},
    ),
    # One server, of which each attempt waits for 10 s.
    "BinderEgressReconcilerFailing": (
        {},
        {"reconciler_failures_total{pod='a'}": "0x10 0+5x50", "reconciler_failures_total{pod='b'}": "0x10 0+5x50"},
        {"reconciler_failures_total": "0+1x60"},
    ),
    "BinderEgressReconcilerFailing (everything failed for three minutes)": (
        {},
        {"reconciler_failures_total": "0x14 0+500x46"},
        {"reconciler_failures_total": "0x24 500 1000 1500x40"},
    ),
    "BinderEgressStoreDown": (
        {},
        {"store_up{pod='a'}": "1x60", "store_up{pod='b'}": "0x60"},
        {"store_up{pod='a'}": "1x60", "store_up{pod='b'}": "1 0 1x60"},
    ),
    "BinderEgressRedisNearlyFull": ({}, {"redis_memory_used_ratio": "0.95x60"}, {"redis_memory_used_ratio": "0.85x60"}),
    "BinderEgressAgentReportsFail": (
        {},
        {"agent_reports_total{outcome='failed'}": "0+1x60"},
        {"agent_reports_total{outcome='failed'}": "0 0 1x60", "agent_reports_total{outcome='sent'}": "0+1x60"},
    ),
    "BinderEgressAgentCrowded": (
        {},
        {"agent_unseen_processes{reason='crowded',pod='a'}": "0x60", "agent_unseen_processes{reason='crowded',pod='b'}": "7x60"},
        {"agent_unseen_processes{reason='other-user'}": "9x60"},
    ),
    "BinderEgressAgentCrowded (all pods of a node together)": (
        {},
        {"agent_unseen_processes{reason='late'}": "7x60"},
        {"agent_unseen_processes{reason='hidden'}": "7x60"},
    ),
    # One agent that goes on is enough.
    "BinderEgressAgentGone": (
        {},
        {"agent_rounds_total{pod='a'}": "7x60", "user_pods{tier='',pod='a'}": "3x60", "user_pods{tier='verified',pod='a'}": "0x60"},
        {"agent_rounds_total{pod='a'}": "7x60", "agent_rounds_total{pod='b'}": "0+2x60", "user_pods{tier='',pod='a'}": "3x60"},
    ),
    "BinderEgressAgentGone (nothing is scraped)": (
        {},
        {"user_pods{tier='verified'}": "1x60"},
        {"user_pods{tier='verified'}": "0x60"},
    ),
    "BinderEgressVerifierGone": ({"namespace": "binder"}, {}, {"store_up": "0x60"}),
    "BinderEgressWiringLost": (
        {},
        {"launches_without_context_total": "0+1x60", "user_pods_without_launch_record_total": "2x60"},
        {"launches_without_context_total": "7x60", "user_pods_without_launch_record_total": "2x60"},
    ),
    "BinderEgressWiringLost (nobody told of a pod)": (
        {},
        {"user_pods_without_launch_record_total{pod='a'}": "0+1x60", "user_pods_without_launch_record_total{pod='b'}": "0+1x60"},
        {"user_pods_without_launch_record_total": "2x60"},
    ),
    "BinderEgressWiringLost (the token is wrong)": (
        {},
        {"announcements_refused_total{pod='a'}": "0+1x60", "announcements_refused_total{pod='b'}": "0x60"},
        {"announcements_refused_total": "7x60"},
    ),
    "BinderEgressOneClient": (
        {},
        {"launches_largest_share{pod='a'}": "0.6x60", "launches_largest_share{pod='b'}": "0x60"},
        {"launches_largest_share": "0.5x60"},
    ),
    # It does not fire if another replica reaches the provider.
    "BinderEgressCaptchaProviderDown": (
        {"provider": "hcaptcha"},
        {"captcha_provider_up{provider='hcaptcha'}": "0x60", "captcha_provider_up{provider='cap'}": "1x60"},
        {"captcha_provider_up{provider='cap',pod='a'}": "0x60", "captcha_provider_up{provider='cap',pod='b'}": "1x60"},
    ),
    "BinderEgressProxyGone": (
        {},
        {"proxy_knows_pods{pod='a'}": "0x60"},
        {"proxy_knows_pods{pod='a'}": "0x60", "proxy_knows_pods{pod='b'}": "1x60"},
    ),
    "BinderEgressProxyGone (nothing is scraped)": ({}, {}, {"proxy_knows_pods": "1x60"}),
    "BinderEgressProxyFlood": (
        {},
        {
            "proxy_connections_total{rule='limit',tier='unverified',pod='a'}": "0+40x60",
            "proxy_connections_total{rule='host-limit',tier='unverified',pod='b'}": "0+40x60",
        },
        {
            "proxy_connections_total{rule='limit',tier='unverified'}": "0+40x60",
            "proxy_connections_total{rule='not-listed',tier='unverified'}": "0+400x60",
        },
    ),
    "BinderEgressProxyFull": (
        {"who": "unverified"},
        {
            "proxy_connections_taken{who='unverified',pod='a'}": "0.95x60",
            "proxy_connections_taken{who='unverified',pod='b'}": "0.1x60",
            "proxy_connections_taken{who='all',pod='a'}": "0.6x60",
        },
        {"proxy_connections_taken{who='all'}": "0.9x60"},
    ),
    "BinderEgressProxyHostsUnreachable": (
        {},
        {
            "proxy_connections_total{decision='refused',rule='unreachable',tier='verified'}": "0+4x60",
            "proxy_connections_total{decision='refused',rule='not-listed',tier='verified'}": "0+90x60",
            "proxy_connections_total{decision='allowed',rule='',tier='verified'}": "0+10x60",
        },
        {
            "proxy_connections_total{decision='refused',rule='unreachable',tier='verified'}": "0+4x60",
            "proxy_connections_total{decision='refused',rule='not-listed',tier='verified'}": "0+4x60",
            "proxy_connections_total{decision='allowed',rule='',tier='verified'}": "0+20x60",
        },
    ),
    "BinderEgressProxyHostsUnreachable (none was reached)": (
        {},
        {"proxy_connections_total{decision='refused',rule='unreachable'}": "0+4x60"},
        {"proxy_connections_total{decision='refused',rule='unreachable'}": "0+1x60"},
    ),
    "BinderEgressCaptchaProviderMisconfigured": (
        {"provider": "hcaptcha"},
        {"captcha_provider_misconfigured{provider='hcaptcha'}": "1x60"},
        {"captcha_provider_misconfigured{provider='hcaptcha'}": "0x60"},
    ),
}

AT = "30m"


@pytest.fixture(scope="module")
def rules(helm):
    agent = "agent.enabled=true,agent.configMap=lists,detections.sources.falco.onMatch=observe"
    on = ("--set", f"metrics.prometheusRule.enabled=true,proxy.enabled=true,{agent}")
    text = helm("template", "r", TOP / "chart", "--namespace", "binder", *on)
    (found,) = [document for document in objects(text) if document["kind"] == "PrometheusRule"]
    (group,) = found["spec"]["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_alerts_are_those_with_time_series_here(rules):
    assert set(rules) == {case.split()[0] for case in SEEN}


def test_expressions_are_promql_about_existing_metrics(rules):
    for name, rule in rules.items():
        promql_parser.parse(rule["expr"])
        named = set(re.findall(r"binder_egress_\w+", rule["expr"]))
        assert named and named <= SAMPLES, (name, named - SAMPLES)
        assert rule["expr"].count('{namespace="binder"') == len(re.findall(r"binder_egress_\w+", rule["expr"])), name


def test_alerts_have_severity_summary_and_description(rules):
    for name, rule in rules.items():
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert set(rule["annotations"]) == {"summary", "description"} and rule["annotations"]["description"].endswith("."), name
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert re.search(rf"by \([^)]*\b{label}\b", rule["expr"]), (name, label)


def test_docs_list_every_alert(rules):
    listed = set(re.findall(r"`(BinderEgress\w+)`", (TOP / "docs/alerts.md").read_text()))
    assert listed == set(rules)


def series(seen, namespace):
    made = []
    for name, values in seen.items():
        metric, _, labels = name.removesuffix("}").partition("{")
        made.append({"series": f"binder_egress_{metric}{{namespace='{namespace}',{labels}}}".replace(",}", "}"), "values": values})
    return made


def expected(rule, labels):

    def fill(text):
        named = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels.get(found[1], ""), text)
        return named.replace("{{ $value }}", "60")  # of the one alert that names it

    return {
        "exp_labels": labels | rule["labels"],
        "exp_annotations": {name: fill(text) for name, text in rule["annotations"].items()},
    }


def test_alert_fires_when_something_is_wrong_and_only_then(rules, tmp_path):
    tests = []
    for case, (labels, wrong, well) in SEEN.items():
        name = case.split()[0]
        at = {"eval_time": AT, "alertname": name}
        # Another BinderHub in the cluster with the opposite state makes no difference.
        for here, there, alerts in ((wrong, well, [expected(rules[name], labels)]), (well, wrong, [])):
            tests.append(
                {
                    "name": f"{case}: {'something is wrong' if alerts else 'all is well'}",
                    "interval": "1m",
                    "input_series": series(here, "binder") + series(there, "elsewhere"),
                    "alert_rule_test": [at | {"exp_alerts": alerts}],
                }
            )
    assert promtool(tmp_path, tests, *rules.values()) == ""
