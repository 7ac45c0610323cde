"""Checks of the policies over user pods. Policies add up, so another one that opens the network voids the gate."""

from collections.abc import Iterator

from ..gatecheck.checklist import CHECKS
from ..gatecheck.netpol import Labels, is_jupyterhubs, is_ours, judge, usual_labels
from .findings import JSON, NOT_RECOGNISED, RECOGNISED, CannotSee, Finding, Given

USER_POD = {"component": "singleuser-server"}

BASE = {
    "podSelector": {"matchLabels": USER_POD},
    "policyTypes": ["Egress", "Ingress"],
    "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"component": component}}}], "ports": [{"port": 8888, "protocol": "TCP"}]}
        for component in ("proxy", "hub")
    ],
}
"""The base policy with the chart's defaults (`base.ingress`)."""


def bypass(given: Given) -> Iterator[Finding]:
    """NetworkPolicies that open something for user pods."""
    found = given.objects.see("NetworkPolicies")
    # Our wiring switches JupyterHub's off when the gate is shut.
    others = [policy for policy in found if not is_jupyterhubs(policy) and not is_ours(policy)]
    expected = {"": BASE}
    base: JSON = {"metadata": {"name": ""}, "spec": BASE}
    bypasses = judge([base, *others], expected, _user_pods(given)).bypasses
    for each in bypasses:
        yield Finding("bypass", RECOGNISED, f"the NetworkPolicy {each.sentence}", f"To change: {each.change}", True)
    if not bypasses:
        yield Finding("bypass", RECOGNISED, "no NetworkPolicy but JupyterHub's own opens anything for user pods")


def _user_pods(given: Given) -> list[Labels]:
    try:
        pods: list[Labels] = [pod["metadata"].get("labels") or {} for pod in given.objects.see("user pods")]
    except CannotSee:
        pods = []
    more = given.value("jupyterhub", "singleuser", "extraLabels") or {}
    return pods or [usual_labels({**{str(key): str(value) for key, value in more.items()}, **USER_POD})]


def other_policies(given: Given) -> Iterator[Finding]:
    """Policies of other kinds, which nobody here can judge."""
    found = given.objects.see("other policies")
    if unread := sorted({policy["kind"] for policy in found if "unread" in policy}):
        raise CannotSee(f"{', '.join(unread)}: no right to read them")
    if found:
        names = ", ".join(sorted(f"{policy['kind']} {policy['name']}" for policy in found))
        yield Finding("other policies", NOT_RECOGNISED, f"policies of other kinds: {names}", CHECKS["other policies"].advice)
    else:
        yield Finding("other policies", RECOGNISED, "no policies of other kinds")
