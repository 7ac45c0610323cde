"""Finds NetworkPolicies in the namespace that give an unverified user pod more than our base policy does.

Policies add up, so somebody else's policy can void the gate. These functions read policies as JSON from the API server. They
name the policies that open something, what each rule opens, and what to change. Other kinds of policy (`OTHER_KINDS`) cannot be
judged.

Decisions: D-171, D-172, D-173, D-174.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..model.labels import JSON, TIER_LABEL

Labels = Mapping[str, str | None]
"""A pod's labels. None: the pod has the label, but its value is unknown and may match anything."""

USUAL_LABELS: Labels = {
    "app": "jupyterhub",
    "app.kubernetes.io/component": "singleuser-server",
    "app.kubernetes.io/instance": None,
    "app.kubernetes.io/managed-by": "kubespawner",
    "app.kubernetes.io/name": "jupyterhub",
    "chart": None,
    "component": "singleuser-server",
    "helm.sh/chart": None,
    "heritage": "jupyterhub",
    "hub.jupyter.org/network-access-hub": "true",
    "hub.jupyter.org/servername": None,
    "hub.jupyter.org/username": None,
    "release": None,
}
"""The labels of every user pod, from KubeSpawner 7 and JupyterHub's chart. They stand in for real pods while none run."""

OTHER_KINDS = {
    "cilium.io": "CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy",
    "crd.antrea.io": "Antrea's NetworkPolicy and ClusterNetworkPolicy",
    "crd.nsx.vmware.com": "NSX SecurityPolicy",
    "crd.projectcalico.org": "Calico's NetworkPolicy and GlobalNetworkPolicy",
    "k8s.ovn.org": "OVN-Kubernetes' EgressFirewall and similar kinds",
    "kubeovn.io": "Kube-OVN's security groups",
    "networking.gke.io": "GKE's FQDNNetworkPolicy",
    "networking.k8s.aws": "AWS' ApplicationNetworkPolicy and ClusterNetworkPolicy",
    "policy.networking.k8s.io": "AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy",
    "projectcalico.org": "Calico's NetworkPolicy and GlobalNetworkPolicy",
}
"""API groups whose policies add to NetworkPolicies or overrule them. They are not judged: each has its own rules, order and
tiers, and some apply to the whole cluster. Packets show their effect (`helm test`, the canary)."""


@dataclass(frozen=True)
class Bypass:
    """A rule of another policy that opens more than the base policy does.

    Attributes:
        policy: the policy's name.
        direction: `egress` or `ingress`.
        rule: the rule's position in that list, counted from 1.
        opens: the ports and peers that it opens, in words.
        change: what to do about it.
    """

    policy: str
    direction: str
    rule: int
    opens: str
    change: str

    @property
    def sentence(self) -> str:
        """What it opens, as `egress plan` and `egress doctor` say it."""
        way = "lets every user pod reach" if self.direction == "egress" else "lets others reach every user pod:"
        return f"{self.policy}, {self.direction} rule {self.rule}, {way} {self.opens}"


@dataclass
class Judgement:
    """The judgement of a namespace's policies.

    Attributes:
        bypasses: rules that open more than the base policy does.
        missing: names of our policies that do not exist.
        altered: names of our policies that differ from what the chart renders.
        by_tier: names of other policies that select by our label, and so give a tier more than the chart's values say.
        base_missing: whether the base policy does not exist, or does not isolate every user pod.
    """

    bypasses: list[Bypass] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    by_tier: list[str] = field(default_factory=list)
    base_missing: bool = False


def judge(policies: Iterable[JSON], expected: Mapping[str, JSON], pods: Iterable[Labels]) -> Judgement:
    """Judge the NetworkPolicies of a namespace.

    Args:
        policies: all NetworkPolicies.
        expected: our policies as the chart renders them, `spec` by name. The one without the tier label in its selector is the base
            policy. Empty in mode `observe`, which has no policies: then nothing is missing, and nothing is a bypass.
        pods: the labels of user pods. Policies that select any of them count.
    """
    judgement = Judgement()
    if not expected:
        return judgement
    by_name = {policy["metadata"]["name"]: policy for policy in policies}
    unverified = [{key: value for key, value in labels.items() if key != TIER_LABEL} for labels in pods]
    base = next(name for name, spec in expected.items() if TIER_LABEL not in spec["podSelector"].get("matchLabels", {}))
    for name, spec in expected.items():
        if name not in by_name:
            judgement.missing.append(name)
        elif _plain(by_name[name]["spec"]) != _plain(spec):
            judgement.altered.append(name)
    # An altered base policy still counts if it isolates every user pod in both directions.
    live = by_name[base]["spec"] if base in by_name else {}
    isolates = set(_types(live)) == {"Egress", "Ingress"} if live else False
    judgement.base_missing = not isolates or not all(selects(live["podSelector"], labels) for labels in unverified)
    for name, policy in sorted(by_name.items()):
        if name in expected and name not in judgement.altered:
            continue
        spec = policy["spec"]
        if name not in expected and _names_tier(spec["podSelector"]):
            judgement.by_tier.append(name)
        if any(selects(spec["podSelector"], labels) for labels in unverified):
            judgement.bypasses += _bypasses(policy, expected[base])
    return judgement


def admits_anybody(policies: Iterable[JSON], labels: Labels, port: int) -> bool:
    """Whether pods in any namespace, or any address, can reach a port of a pod.

    Args:
        policies: all NetworkPolicies in the pod's namespace.
        labels: the pod's labels.
        port: a TCP port of the pod.
    """
    specs = [policy["spec"] for policy in policies]
    isolating = [spec for spec in specs if "Ingress" in _types(spec) and selects(spec.get("podSelector") or {}, labels)]
    peers = [
        peer
        for spec in isolating
        for rule in spec.get("ingress") or []
        if any(_has_port(listed, port) for listed in rule.get("ports") or [{}])
        for peer in rule.get("from") or [None]
    ]
    return not isolating or any(peer is None or _is_everybody(peer) for peer in peers)


def _has_port(listed: JSON, port: int) -> bool:
    if listed.get("protocol", "TCP") != "TCP":
        return False
    first = listed.get("port", port)
    # A named port may be this one.
    return not isinstance(first, int) or first <= port <= listed.get("endPort", first)


def _is_everybody(peer: JSON) -> bool:
    if block := peer.get("ipBlock"):
        return str(block["cidr"]).endswith("/0") and not block.get("except")
    return peer.get("namespaceSelector") in ({}, {"matchLabels": {}}, {"matchExpressions": []})


def selects(selector: JSON, labels: Labels) -> bool:
    """Whether a label selector matches a pod, or may match it if a value is unknown."""

    def among(key: str, values: Iterable[str]) -> bool:
        value = labels.get(key)
        return key in labels and (value is None or value in values)

    for key, value in (selector.get("matchLabels") or {}).items():
        if not among(key, [value]):
            return False
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], expression.get("values") or []
        fits = {
            "In": among(key, values),
            "NotIn": labels.get(key) is None or labels[key] not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not fits[expression["operator"]]:
            return False
    return True


def usual_labels(user_pod_labels: Mapping[str, str]) -> Labels:
    """The labels that user pods will have, for use while none are running."""
    return {**USUAL_LABELS, **user_pod_labels}


def is_ours(policy: JSON) -> bool:
    """Whether the labels of a policy say that our chart made it."""
    labels = policy["metadata"].get("labels") or {}
    return "binder-egress" in (labels.get("app.kubernetes.io/name"), labels.get("app.kubernetes.io/part-of"))


def is_jupyterhubs(policy: JSON) -> bool:
    """Whether a policy is JupyterHub's own for user pods, which our wiring switches off."""
    name, labels = policy["metadata"]["name"], policy["metadata"].get("labels") or {}
    return labels.get("component") == "singleuser" or name == "singleuser" or name.endswith("-singleuser")


def _names_tier(selector: JSON) -> bool:
    named = TIER_LABEL in (selector.get("matchLabels") or {})
    return named or any(expression["key"] == TIER_LABEL for expression in selector.get("matchExpressions") or [])


def _types(spec: JSON) -> list[str]:
    return spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


def _bypasses(policy: JSON, base: JSON) -> Iterable[Bypass]:
    name, spec = policy["metadata"]["name"], policy["spec"]
    for kind, direction, peers in (("Egress", "egress", "to"), ("Ingress", "ingress", "from")):
        if kind not in _types(spec):
            continue
        for place, rule in enumerate(spec.get(direction) or [], 1):
            if not all(_covered(pair, base.get(direction) or [], peers) for pair in _pairs(rule, peers)):
                yield Bypass(name, direction, place, _words(rule, peers), _change(policy, direction, rule))


def _pairs(rule: JSON, peers: str) -> list[tuple[Any, Any]]:
    """Each pair of a peer and a port in a rule. None stands for every peer or every port."""
    plain = _plain(rule)
    return [(peer, port) for peer in plain.get(peers) or [None] for port in plain.get("ports") or [None]]


def _covered(pair: tuple[Any, Any], base: list[JSON], peers: str) -> bool:
    return any(peer in (None, pair[0]) and port in (None, pair[1]) for rule in base for peer, port in _pairs(rule, peers))


def _plain(part: Any) -> Any:
    """A spec in a form that can be compared: with the API server's defaults, and without empty parts that mean the same as none."""
    if isinstance(part, list):
        return [_plain(each) for each in part]
    if not isinstance(part, Mapping):
        return part
    may_go = ("egress", "except", "from", "ingress", "matchExpressions", "matchLabels", "ports", "to")
    plain = {key: _plain(value) for key, value in part.items() if value or key not in may_go}
    if "policyTypes" in plain:
        plain["policyTypes"] = sorted(plain["policyTypes"])
    for port in plain.get("ports") or []:
        port.setdefault("protocol", "TCP")
    return plain


# -- in words


def _words(rule: JSON, peers: str) -> str:
    ports = " and ".join(_port(port) for port in rule.get("ports") or []) or "every port and protocol"
    who = ", ".join(_peer(peer) for peer in rule.get(peers) or []) or "everywhere"
    return f"{ports} {peers} {who}"


def _port(port: JSON) -> str:
    number = port.get("port", "every port")
    return f"{port.get('protocol', 'TCP')} {number}{'-{}'.format(port['endPort']) if 'endPort' in port else ''}"


def _peer(peer: JSON) -> str:
    if block := peer.get("ipBlock"):
        return str(block["cidr"]) + (f" without {', '.join(block['except'])}" if block.get("except") else "")
    pods = "every pod" if not peer.get("podSelector") else f"pods {_selector(peer['podSelector'])}"
    if "namespaceSelector" not in peer:
        return f"{pods} of this namespace"
    return f"{pods} of " + (
        f"namespaces {_selector(peer['namespaceSelector'])}" if peer["namespaceSelector"] else "every namespace"
    )


def _selector(selector: JSON) -> str:
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or []:
        values = f" ({', '.join(expression['values'])})" if expression.get("values") else ""
        parts.append(f"{expression['key']} {expression['operator']}{values}")
    return ", ".join(parts) or "of any label"


# -- what to change

_SINGLEUSER = "jupyterhub.singleuser.networkPolicy"
_ALLOW = f"{_SINGLEUSER}.egressAllowRules"


def _change(policy: JSON, direction: str, rule: JSON) -> str:
    meta = policy["metadata"]
    if is_ours(policy):
        return "it was changed by hand, or is left over: `helm upgrade` restores it from the values"
    if is_jupyterhubs(policy):
        return _change_of_jupyterhub(direction, rule)
    if meta["name"] == "binder-users":
        return (
            "mybinder's own policy: let it select only `component` in (dind, image-builder), and move its ports and its excepted "
            "addresses to binder-egress' values `tiers.<tier>.ports` and `tiers.<tier>.except`"
        )
    release = (meta.get("annotations") or {}).get("meta.helm.sh/release-name")
    origin = f"it belongs to the Helm release {release}: " if release else ""
    return f"{origin}change its podSelector so that it does not select user pods, or delete it"


def _change_of_jupyterhub(direction: str, rule: JSON) -> str:
    """The JupyterHub values behind a rule in its singleuser policy."""
    if direction == "ingress":
        is_own = any("hub.jupyter.org/network-access-singleuser" in str(peer) for peer in rule.get("from") or [])
        return f"`{_SINGLEUSER}.enabled: false`" if is_own else f"`{_SINGLEUSER}.ingress: []`"
    dns = bool(rule.get("ports")) and all(port.get("port") == 53 for port in rule["ports"])
    blocks = {
        peer["ipBlock"]["cidr"]: set(peer["ipBlock"].get("except") or []) for peer in rule.get("to") or [] if "ipBlock" in peer
    }
    metadata = any(cidr.startswith("169.254.") for cidr in blocks)
    private = any(cidr.startswith(("10.", "172.16.", "192.168.")) for cidr in blocks)
    flags = []
    if dns:
        flags += ["dnsPortsPrivateIPs"] if private or not rule.get("to") else []
        flags += ["dnsPortsCloudMetadataServer"] if metadata else []
        flags += ["dnsPortsKubeSystemNamespace"] if any("namespaceSelector" in peer for peer in rule.get("to") or []) else []
    elif not rule.get("ports"):
        world = blocks.get("0.0.0.0/0")
        flags += ["nonPrivateIPs"] if world is not None else []
        flags += ["privateIPs"] if private or (world is not None and "10.0.0.0/8" not in world) else []
        excepted = world is None or any(cidr.startswith("169.254.") for cidr in world)
        flags += ["cloudMetadataServer"] if metadata or not excepted else []
    if flags:
        return (
            ", ".join(f"`{_ALLOW}.{flag}: false`" for flag in flags) + f"; `{_SINGLEUSER}.enabled: false` ends all of that policy"
        )
    if any("component" in str(peer.get("podSelector") or "") for peer in rule.get("to") or []):
        return f"JupyterHub's policy always has this rule while it is on: `{_SINGLEUSER}.enabled: false`"
    return f"`{_SINGLEUSER}.egress: []`, or `{_SINGLEUSER}.enabled: false`"
