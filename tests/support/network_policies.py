"""NetworkPolicies: the chart's, as the gate check expects them, and others."""

from binder_egress.model.labels import TIER_LABEL

USER_PODS = {"component": "singleuser-server"}
BASE = {
    "podSelector": {"matchLabels": USER_PODS},
    "policyTypes": ["Ingress", "Egress"],
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"component": "proxy"}}}], "ports": [{"port": 8888, "protocol": "TCP"}]}],
    "egress": [],
}
TIER = {
    "podSelector": {"matchLabels": {**USER_PODS, TIER_LABEL: "verified"}},
    "policyTypes": ["Egress"],
    "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}],
}
EXPECTED = {"binder-egress-base": BASE, "binder-egress-tier-verified": TIER}


def policy(name, spec, **meta):
    return {"metadata": {"name": name, **meta}, "spec": spec}


OURS = [policy(name, spec) for name, spec in EXPECTED.items()]


def egress(*rules, selector=None, **spec):
    selector = {"matchLabels": USER_PODS} if selector is None else selector
    return {"podSelector": selector, "policyTypes": ["Egress"], "egress": list(rules), **spec}


def jupyterhub(*rules, ingress=()):
    """JupyterHub's singleuser policy with these egress rules, as version 4 of its chart renders it."""
    labels = {"app": "jupyterhub", "component": "singleuser-server", "release": "binder"}
    spec = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress", "Egress"], "egress": list(rules)}
    return policy("singleuser", {**spec, "ingress": list(ingress)}, labels={"component": "singleuser", "app": "jupyterhub"})
