"""Bypasses: NetworkPolicies that allow an unverified user pod more than our base policy, and the advice about them."""

import pytest

from binder_egress.gatecheck.netpol import judge, selects, usual_labels
from binder_egress.model.labels import LABELS_PER_POD, TIER_LABEL, shared_labels
from tests.support.network_policies import BASE, EXPECTED, OURS, USER_PODS, egress, jupyterhub, policy

PODS = [usual_labels(USER_PODS)]
PRIVATE = [{"ipBlock": {"cidr": cidr}} for cidr in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
DNS_PORTS = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
SINGLEUSER = "jupyterhub.singleuser.networkPolicy"


def judged(*others, pods=PODS, ours=OURS):
    return judge([*ours, *others], EXPECTED, pods)


def test_defaults_from_the_api_server_are_not_a_change():
    filled = {
        **{key: value for key, value in BASE.items() if key != "egress"},
        "policyTypes": ["Egress", "Ingress"],
        "ingress": [{**BASE["ingress"][0], "ports": [{"port": 8888, "protocol": "TCP"}]}],
    }
    rendered = {**EXPECTED, "binder-egress-base": {**BASE, "ingress": [{**BASE["ingress"][0], "ports": [{"port": 8888}]}]}}
    found = judge([policy("binder-egress-base", filled), OURS[1]], rendered, PODS)
    assert (found.altered, found.base_missing) == ([], False)


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, True),
        ({"matchLabels": {"component": "singleuser-server"}}, True),
        ({"matchLabels": {"component": "hub"}}, False),
        ({"matchLabels": {"unknown": "x"}}, False),
        ({"matchLabels": {"component": "singleuser-server", "unknown": "x"}}, False),
        # A label that every user pod has, with a value that we do not know.
        ({"matchLabels": {"release": "binder"}}, True),
        ({"matchExpressions": [{"key": "component", "operator": "In", "values": ["dind", "singleuser-server"]}]}, True),
        ({"matchExpressions": [{"key": "component", "operator": "In", "values": ["dind"]}]}, False),
        ({"matchExpressions": [{"key": "component", "operator": "NotIn", "values": ["dind"]}]}, True),
        ({"matchExpressions": [{"key": "component", "operator": "NotIn", "values": ["singleuser-server"]}]}, False),
        ({"matchExpressions": [{"key": "release", "operator": "NotIn", "values": ["binder"]}]}, True),
        ({"matchExpressions": [{"key": "unknown", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "component", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "unknown", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "unknown", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "component", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "jupyterhub"}, "matchExpressions": [{"key": "release", "operator": "Exists"}]}, True),
    ],
)
def test_selector_matches_labels_of_user_pods(selector, selected):
    assert selects(selector, PODS[0]) is selected
    everything = egress({}, selector=selector)
    assert bool(judged(policy("other", everything)).bypasses) is selected


@pytest.mark.parametrize("pods", [PODS, [{**USER_PODS, TIER_LABEL: "verified"}]], ids=["without a tier", "with a tier"])
def test_policy_for_unverified_pods_is_a_bypass_and_one_for_a_tier_is_listed(pods):
    """A pod with a tier is judged as it was before."""
    unverified = {"matchExpressions": [{"key": TIER_LABEL, "operator": "DoesNotExist"}]}
    assert [bypass.policy for bypass in judged(policy("a", egress({}, selector=unverified)), pods=pods).bypasses] == ["a"]
    for selector in ({"matchLabels": {TIER_LABEL: "verified"}}, {"matchExpressions": [{"key": TIER_LABEL, "operator": "Exists"}]}):
        found = judged(policy("b", egress({}, selector=selector)), pods=pods)
        assert (found.bypasses, found.by_tier) == ([], ["b"])


def test_policy_that_opens_nothing_is_not_a_bypass():
    assert judged(policy("deny-all", egress(selector={}))).bypasses == []
    assert judged(policy("types", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})).bypasses == []


def test_policy_without_types_covers_ingress_and_any_egress_rules():
    spec = {"podSelector": {}, "egress": [{}], "ingress": [{}]}
    assert {bypass.direction for bypass in judged(policy("a", spec)).bypasses} == {"egress", "ingress"}
    assert [bypass.direction for bypass in judged(policy("a", {"podSelector": {}, "ingress": [{}]})).bypasses] == ["ingress"]
    # The policy has egress rules, but its types do not include egress.
    assert judged(policy("a", {"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]})).bypasses == []


def test_policy_that_opens_what_the_base_policy_opens_is_not_a_bypass():
    same = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": BASE["ingress"]}
    assert judged(policy("same", same)).bypasses == []
    every_port = {**same, "ingress": [{"from": BASE["ingress"][0]["from"]}]}
    assert [bypass.direction for bypass in judged(policy("wider", every_port)).bypasses] == ["ingress"]
    more = {**same, "ingress": [{**BASE["ingress"][0], "from": [*BASE["ingress"][0]["from"], {"podSelector": {}}]}]}
    assert len(judged(policy("more", more)).bypasses) == 1


def test_rule_is_named_by_its_position():
    found = judged(policy("other", egress({"to": [{"podSelector": {}}]}, {"ports": [{"port": 443}]}))).bypasses
    assert [(one.policy, one.direction, one.rule) for one in found] == [("other", "egress", 1), ("other", "egress", 2)]


APP = {"podSelector": {"matchLabels": {"app": "x"}}}


@pytest.mark.parametrize(
    ("peers", "words"),
    [
        ([], "everywhere"),
        ([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}], "0.0.0.0/0 without 10.0.0.0/8"),
        ([APP], "pods app=x of this namespace"),
        ([{"namespaceSelector": {}}], "every pod of every namespace"),
        ([{"namespaceSelector": {"matchLabels": {"a": "b"}}, **APP}], "pods app=x of namespaces a=b"),
    ],
)
def test_opened_traffic_is_described_in_words(peers, words):
    for rule, ports in (
        ({}, "every port and protocol"),
        ({"ports": [{"port": 8000, "endPort": 8010}, {"protocol": "SCTP"}]}, "TCP 8000-8010 and SCTP every port"),
    ):
        (bypass,) = judged(policy("other", egress({"to": peers, **rule}))).bypasses
        assert bypass.opens == f"{ports} to {words}"


KUBE_SYSTEM = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
WORLD = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.169.254/32"]}


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        *(
            (
                {"to": [{"podSelector": {"matchLabels": {"component": component}}}], "ports": [{"port": port}]},
                [f"{SINGLEUSER}.enabled: false"],
            )
            for component, port in (("hub", 8081), ("proxy", 8000))
        ),
        ({"to": PRIVATE, "ports": DNS_PORTS}, ["dnsPortsPrivateIPs: false"]),
        ({"to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}], "ports": DNS_PORTS}, ["dnsPortsCloudMetadataServer: false"]),
        ({"to": [KUBE_SYSTEM], "ports": DNS_PORTS}, ["dnsPortsKubeSystemNamespace: false"]),
        ({"to": [{"ipBlock": WORLD}]}, ["nonPrivateIPs: false"]),
        ({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}, ["nonPrivateIPs: false", "privateIPs: false", "cloudMetadataServer: false"]),
        ({"to": PRIVATE}, [".privateIPs: false"]),
        ({"to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}]}, ["cloudMetadataServer: false"]),
        ({"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}, [f"{SINGLEUSER}.egress: []"]),
    ],
)
def test_jupyterhub_policy_is_recognised_with_the_value_of_each_rule(rule, change):
    (bypass,) = judged(jupyterhub(rule)).bypasses
    assert [part for part in change if part not in bypass.change] == []
    if "nonPrivateIPs" not in "".join(change):
        assert "nonPrivateIPs" not in bypass.change


def test_jupyterhub_ingress_is_recognised():
    own = {
        "from": [{"podSelector": {"matchLabels": {"hub.jupyter.org/network-access-singleuser": "true"}}}],
        "ports": [{"port": "notebook-port"}],
    }
    (bypass,) = judged(jupyterhub(ingress=[own])).bypasses
    assert (bypass.direction, bypass.change) == ("ingress", f"`{SINGLEUSER}.enabled: false`")
    (bypass,) = judged(jupyterhub(ingress=[{}])).bypasses
    assert bypass.change == f"`{SINGLEUSER}.ingress: []`"


def test_mybinder_policy_is_recognised():
    selector = {
        "matchLabels": {"release": "prod"},
        "matchExpressions": [{"key": "component", "operator": "In", "values": ["singleuser-server", "dind", "image-builder"]}],
    }
    rule = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}], "ports": [{"port": 443}]}
    (bypass,) = judged(policy("binder-users", egress(rule, selector=selector))).bypasses
    assert "tiers.<tier>.ports" in bypass.change and "dind" in bypass.change


def test_other_policies_are_named_by_their_release():
    annotations = {"meta.helm.sh/release-name": "monitoring"}
    (bypass,) = judged(policy("x", egress({}), annotations=annotations)).bypasses
    assert "Helm release monitoring" in bypass.change


def test_missing_and_altered_own_policies_are_found():
    found = judged(ours=[])
    assert (found.missing, found.base_missing) == (sorted(EXPECTED), True)
    found = judged(ours=[OURS[0]])
    assert (found.missing, found.base_missing) == (["binder-egress-tier-verified"], False)
    # A base policy that somebody opened by hand is a bypass too; the advice is to run helm upgrade.
    opened = policy("binder-egress-base", {**BASE, "egress": [{}]}, labels={"app.kubernetes.io/name": "binder-egress"})
    found = judged(ours=[opened, OURS[1]])
    assert (found.altered, found.base_missing) == (["binder-egress-base"], False)
    assert [(bypass.policy, bypass.opens) for bypass in found.bypasses] == [
        ("binder-egress-base", "every port and protocol to everywhere")
    ]
    assert "helm upgrade" in found.bypasses[0].change


@pytest.mark.parametrize("change", [{"policyTypes": ["Ingress"]}, {"podSelector": {"matchLabels": {"component": "nobody"}}}])
def test_base_policy_that_does_not_isolate_counts_as_missing(change):
    found = judged(ours=[policy("binder-egress-base", {**BASE, **change}), OURS[1]])
    assert found.base_missing


def test_base_policy_that_misses_some_user_pods_counts_as_missing():
    ours = [policy("binder-egress-base", {**BASE, "podSelector": {"matchLabels": {"release": "binder"}}}), OURS[1]]
    selected, missed = ({**USER_PODS, "release": release} for release in ("binder", "other"))
    assert not judged(ours=ours, pods=[selected]).base_missing
    assert judged(ours=ours, pods=[selected, missed]).base_missing


def test_altered_policy_of_a_tier_is_not_somebody_elses():
    opened = policy("binder-egress-tier-verified", {**OURS[1]["spec"], "egress": [{}], "ingress": [{}]})
    found = judged(ours=[OURS[0], opened])
    assert (found.altered, found.by_tier) == (["binder-egress-tier-verified"], [])


def test_release_without_policies_has_no_bypass():
    found = judge([policy("other", egress({}))], {}, PODS)
    assert (found.bypasses, found.missing, found.base_missing) == ([], [], False)


def test_labels_of_running_pods_replace_the_usual_labels():
    """With two hubs in one namespace, the other hub's policy does not select our pods."""
    other = policy("singleuser", egress({}, selector={"matchLabels": {"release": "other"}}))
    assert judged(other).bypasses
    running = [dict(shared_labels({"component": "singleuser-server", "release": "binder", TIER_LABEL: "verified"}))]
    assert judged(other, pods=running).bypasses == []
    assert judged(other, pods=[*running, {"component": "singleuser-server", "release": "other"}]).bypasses


def test_pod_kind_is_the_labels_that_many_pods_share():
    labels = {"component": "singleuser-server", TIER_LABEL: "verified"}
    kinds = {shared_labels({**labels, "hub.jupyter.org/username": name}) for name in ("a", "b")}
    (kind,) = kinds
    assert dict(kind) == {"component": "singleuser-server", "hub.jupyter.org/username": None}
    assert set(LABELS_PER_POD) <= set(usual_labels(USER_PODS))
