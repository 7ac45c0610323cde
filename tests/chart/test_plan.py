"""The values that `egress plan` writes, in the chart."""

import pytest
import yaml

from tests.support.charts import CHART
from tests.support.plan_objects import dns_service, given, node, workload
from verifier.plan.checks import examine
from verifier.plan.files import our_values

PODS = {"dns.operator.openshift.io/daemonset-dns": "default"}

ROUTE = {
    "spec": {
        "hostnames": ["hub.example.org"],
        "parentRefs": [{"name": "web", "namespace": "gateways"}],
        "rules": [{"backendRefs": [{"name": "binder"}]}],
    }
}

CLUSTERS = {
    "k3s": {},
    "other DNS and API server": {
        "Services": [dns_service("dns-default", "openshift-dns", 5353, **PODS)],
        "addresses of the API server": [{"ports": [{"port": 16443}]}],
        "DaemonSets": [workload("node-local-dns", args=["-localip", "169.254.20.10"])],
    },
    "controller in its node's network": {
        "Deployments": [],
        "DaemonSets": [workload("traefik", labels={"app.kubernetes.io/name": "traefik"}, host_network=True)],
        "nodes": [node(), node("node-2", address="fd00::2")],
    },
    "Gateway alone": {"Ingresses": [], "HTTPRoutes": [ROUTE]},
}


@pytest.mark.parametrize("setting", ["open", "balanced"])
@pytest.mark.parametrize("name", CLUSTERS)
def test_planned_values_are_accepted(render, tmp_path, name, setting):
    values = {
        "config": {"BinderHub": {"auth_enabled": True, "base_url": "/binder/"}},
        "jupyterhub": {"singleuser": {"initContainers": [{"name": "tc-init"}]}},
    }
    file = tmp_path / "values.yaml"
    file.write_text(our_values(examine(given(values, setting, **CLUSTERS[name])), []))
    rendered = render(f"--values={CHART}/settings/{setting}.yaml", f"--values={file}")
    planned = yaml.safe_load(file.read_text())
    policy = rendered["NetworkPolicy", "binder-egress-verifier"]
    peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]
    for peer in planned["verifier"]["networkPolicy"]["publicFrom"].values():
        assert peer in peers
    if name == "other DNS and API server":
        text = yaml.safe_dump(rendered["NetworkPolicy", "binder-egress-reconciler"])
        assert "16443" in text and "169.254.20.10/32" in text and "openshift-dns" in text and "kube-dns" not in text
    if name == "Gateway alone":
        (rule,) = rendered["HTTPRoute", "binder-egress"]["spec"]["rules"]
        assert rule["matches"][0]["path"]["value"] == "/binder/egress/"


def test_planned_ports_are_the_only_ones_of_each_tier(render, tmp_path):
    """Also of the tier of *strict* for people who sign in, whose addresses the settings file opens."""
    file = tmp_path / "values.yaml"
    values = {"config": {"BinderHub": {"auth_enabled": True}}, "networkPolicy": {"egress": {"tcpPorts": [80, 443]}}}
    file.write_text(our_values(examine(given(values, "strict")), []))
    turnstile = [f"--set=captcha.providers.turnstile.{each}" for each in ("enabled=true", "siteKey=x", "existingSecret=y")]
    rendered = render(f"--values={CHART}/settings/strict.yaml", f"--values={file}", *turnstile)
    for tier in ("verified", "signed-in"):
        egress = rendered["NetworkPolicy", f"binder-egress-tier-{tier}"]["spec"]["egress"]
        (world,) = [rule for rule in egress if any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in rule["to"])]
        assert {(port["protocol"], port["port"]) for port in world["ports"]} == {("TCP", 80), ("TCP", 443)}
