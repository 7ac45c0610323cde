"""Checks of the network: which plugin enforces policies, with which settings, and which IP families there are."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from ..gatecheck.checklist import CHECKS, LABELS_AT_ONCE
from ..model.labels import LABELS_PER_POD, TIER_LABEL
from .findings import JSON, NOT_RECOGNISED, RECOGNISED, SYSTEM, CannotSee, Finding, Given

PLUGINS: dict[str, JSON] = tomllib.loads((Path(__file__).parent / "network_plugins.toml").read_text(encoding="utf-8"))
"""What each network plugin does, by its id."""

NOTHING_ENFORCES = "Nothing enforces policies, so there can be no gate: install a network plugin that does (docs/networks.md)"

ONLY_PACKETS_TELL = "Whether it enforces policies, only packets tell (`helm test`, after the gate is shut)"

SEVERAL = "several"

DATAPLANE_V2 = "gke-dataplane-v2"

WAITS = {"identity-max-jitter": "30s", "identity-change-grace-period": "5s"}
"""Settings of Cilium's for how long it waits before a changed label acts, one after the other, with their defaults (1.20)."""

OR_PROXY = "With proxy.enabled: true, programs that use the egress proxy wait for no label"
MANAGED = f"Whoever runs the cluster manages Cilium's settings. {OR_PROXY}"

SELECTED = ("component", TIER_LABEL)
"""Labels by which our policies select user pods. The first is the default of userPods.labels."""

ENFORCES_NOTHING = {"enable-policy": "never", "policy-audit-mode": "true", "enable-k8s-networkpolicy": "false"}
"""Settings of Cilium's with which it lets everything through, whatever NetworkPolicies say."""


def _known(given: Given) -> list[tuple[str, JSON]]:
    """The ids and DaemonSets of the network plugins, each once for each of its namespaces. Other namespaces do not count (D-510).

    One that enforces policies hides those that may only give pods their addresses.
    """
    seen: dict[tuple[str, str], JSON] = {}
    for engine, plugin in PLUGINS.items():
        for each in given.objects.within("DaemonSets", SYSTEM, *plugin.get("namespaces", [])):
            # Containers too: flannel's chart can have kube-network-policies in its own DaemonSet.
            names = {each["metadata"]["name"], *(container["name"] for container in each["spec"]["template"]["spec"]["containers"])}
            if names & set(plugin["daemon_sets"]):
                seen.setdefault((engine, each["metadata"]["namespace"]), each)
    enforcing = [(engine, each) for (engine, _), each in seen.items() if not PLUGINS[engine].get("may_give_addresses_alone")]
    return enforcing or [(engine, each) for (engine, _), each in seen.items()]


def engine_of(given: Given) -> tuple[str, JSON]:
    """The id of the network plugin that enforces policies, and its DaemonSet: `("kube-router", {})` for k3s, which has none.

    The id is empty if none is known, and `SEVERAL` if several are.

    Raises:
        CannotSee: neither DaemonSets nor nodes can be read.
    """
    known = _known(given)
    if known:
        return known[0] if len(known) == 1 else (SEVERAL, {})
    if any("+k3s" in node["status"]["nodeInfo"]["kubeletVersion"] for node in given.objects.see("nodes")):
        return ("", {}) if "--disable-network-policy" in _k3s_arguments(given) else ("kube-router", {})
    return "", {}


def _k3s_arguments(given: Given) -> list[str]:
    """The arguments of k3s, which it writes on its nodes."""
    arguments: list[str] = []
    for node in given.objects.see("nodes"):
        try:
            arguments += map(str, json.loads((node["metadata"].get("annotations") or {}).get("k3s.io/node-args", "[]")))
        except (TypeError, ValueError):
            continue
    return arguments


def network_plugin(given: Given) -> Iterator[Finding]:
    """The network plugin, and whether it is set to enforce policies."""
    engine, daemon_set = engine_of(given)
    text = f"{engine}, in {daemon_set['metadata']['namespace'] if daemon_set else 'k3s'}"
    if engine == SEVERAL:
        names = ", ".join(f"{each} in {one['metadata']['namespace']}" for each, one in _known(given))
        yield Finding("network plugin", NOT_RECOGNISED, f"several network plugins: {names}", ONLY_PACKETS_TELL)
    elif engine == "aws":
        yield _aws(daemon_set, text)
    elif engine == "cilium":
        yield _cilium(given, text)
    elif engine == "flannel":
        yield Finding("network plugin", RECOGNISED, f"{text}, alone", NOTHING_ENFORCES, True)
    elif engine:
        yield Finding("network plugin", RECOGNISED, text, PLUGINS[engine].get("note", ""))
    elif "--disable-network-policy" in _k3s_arguments(given):
        text = "k3s runs with --disable-network-policy, and no other network plugin is known"
        yield Finding("network plugin", RECOGNISED, text, NOTHING_ENFORCES, True)
    else:
        text = "no DaemonSet of a known network plugin, where its chart puts it"
        yield Finding("network plugin", NOT_RECOGNISED, text, ONLY_PACKETS_TELL)


def _aws(daemon_set: JSON, text: str) -> Finding:
    containers = daemon_set["spec"]["template"]["spec"]["containers"]
    agents = [container for container in containers if container["name"] in ("aws-eks-nodeagent", "aws-network-policy-agent")]
    if not any("--enable-network-policy=true" in (agent.get("args") or []) for agent in agents):
        return Finding("network plugin", RECOGNISED, f"{text}, without --enable-network-policy=true", NOTHING_ENFORCES, True)
    variables = {item["name"]: item.get("value") for container in containers for item in container.get("env") or []}
    mode = variables.get("NETWORK_POLICY_ENFORCING_MODE") or "standard"
    late = "" if mode == "strict" else "In this mode new pods are open for a second or two, for which the start guard waits. "
    do = f"{late}{PLUGINS['aws']['note']}"
    return Finding("network plugin", RECOGNISED, f"{text}, NETWORK_POLICY_ENFORCING_MODE {mode}", do)


def cilium_settings(given: Given) -> dict[str, str]:
    """The data of the ConfigMap cilium-config beside Cilium's DaemonSet.

    Raises:
        CannotSee: it cannot be read.
    """
    _, daemon_set = engine_of(given)
    configs = given.objects.within("Cilium's settings", daemon_set["metadata"]["namespace"])
    return {key: value for each in configs for key, value in (each.get("data") or {}).items()}


def matches_nodes_by_address(given: Given) -> bool:
    """Whether an address in Cilium's policies can be a node's. The setting is a list.

    Raises:
        CannotSee: its settings cannot be read.
    """
    return "nodes" in re.split("[ ,]+", cilium_settings(given).get("policy-cidr-match-mode") or "")


def _cilium(given: Given, text: str) -> Finding:
    try:
        settings = cilium_settings(given)
    except CannotSee as error:
        return Finding("network plugin", RECOGNISED, f"{text}; its settings cannot be read: {error}", "Ask who runs the cluster")
    text += f", policy-cidr-match-mode {settings.get('policy-cidr-match-mode') or 'none'}"
    if off := [f"{key} {value}" for key, value in ENFORCES_NOTHING.items() if settings.get(key) == value]:
        return Finding("network plugin", RECOGNISED, f"{text}, {', '.join(off)}", NOTHING_ENFORCES, True)
    return Finding("network plugin", RECOGNISED, text)


def _is_managed(given: Given) -> bool:
    """Whether Azure manages Cilium: its nodes have a label."""
    return any("kubernetes.azure.com/cluster" in (node["metadata"].get("labels") or {}) for node in given.objects.see("nodes"))


def labels(given: Given) -> Iterator[Finding]:
    """How late Cilium acts on labels. `egress doctor` measures it, with every plugin."""
    engine = engine_of(given)[0]
    if engine == DATAPLANE_V2:
        yield Finding("labels", NOT_RECOGNISED, f"{PLUGINS[engine]['title']} contains Cilium, which acts late on labels", MANAGED)
    elif engine == "cilium":
        settings = cilium_settings(given)
        waits = {name: settings.get(name) or default for name, default in WAITS.items()}
        seen = ", then ".join(f"{wait} ({name})" for name, wait in waits.items())
        late = not {*waits.values()} <= {"0", "0s"}
        do = (MANAGED if _is_managed(given) else f"With Cilium: {LABELS_AT_ONCE}. {OR_PROXY}") if late else ""
        yield Finding("labels", RECOGNISED, f"they act after up to {seen}", do)


def identities(given: Given) -> Iterator[Finding]:
    """Which labels of user pods are a part of their identity in Cilium."""
    if engine_of(given)[0] != "cilium":
        return
    settings = cilium_settings(given)
    if settings.get("label-prefix-file"):
        seen = "Cilium reads from a file which labels count (label-prefix-file)"
        do = f"{', '.join(SELECTED)} must count, and {', '.join(sorted(LABELS_PER_POD))} not"
        yield Finding("identities", NOT_RECOGNISED, seen, do)
        return
    patterns = (settings.get("labels") or "").split()
    if left_out := [label for label in SELECTED if not _counts(label, patterns)]:
        do = "Cilium must not leave these labels out (labels in the values of its chart)"
        seen = f"Cilium leaves out {' and '.join(left_out)}, by which our policies select"
        yield Finding("identities", RECOGNISED, seen, do, True)
    elif any(_counts(label, patterns) for label in LABELS_PER_POD):
        yield Finding("identities", RECOGNISED, "Cilium makes one for each server", CHECKS["identities"].advice)
    else:
        yield Finding("identities", RECOGNISED, "the servers of a tier share one")


def _counts(label: str, patterns: list[str]) -> bool:
    """Whether a label is a part of the identity, as Cilium 1.20 decides (pkg/labelsfilter/filter.go). Its own patterns match none
    of the labels of user pods that matter here.

    Raises:
        ValueError: a pattern is no regular expression.
    """
    included = ignored = 0
    for pattern in patterns:
        is_ignored = pattern.startswith("!")
        try:
            found = re.match(pattern.removeprefix("!").removeprefix("k8s:"), label)
        except re.error:
            raise ValueError(pattern) from None
        if found and is_ignored:
            ignored = min(ignored or found.end(), found.end())
        elif found:
            included = max(included, found.end())
    return included > ignored or (not ignored and all(pattern.startswith("!") for pattern in patterns))


def ip_families(given: Given) -> Iterator[Finding]:
    """The IP families of pods, from the ranges of nodes."""
    ranges = [cidr for node in given.objects.see("nodes") for cidr in node["spec"].get("podCIDRs") or []]
    families = [name for name, sign in (("IPv4", "."), ("IPv6", ":")) if any(sign in cidr for cidr in ranges)]
    if not families:
        raise CannotSee("nodes name no ranges for pods (spec.podCIDRs)")
    yield Finding("IP families", RECOGNISED, f"pods have {' and '.join(families)}")
