"""Checks of what else runs around user pods: Pod Security, quotas, other guards, Prometheus, and the nodes."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..gatecheck.checklist import CHECKS, FLOW_KILLER_CONTAINER
from ..model.ping import SYSCTL
from .findings import JSON, NOT_RECOGNISED, RECOGNISED, CannotSee, Finding, Given, Setting, name_of

ENFORCED = "pod-security.kubernetes.io/enforce"

SYSCTL_JUDGES = {
    "constraints.gatekeeper.sh": "Gatekeeper",
    "kyverno.io": "Kyverno",
    "security.openshift.io": "OpenShift",
}
"""API groups of programs that may refuse pods with a sysctl. Pod Security's levels allow ours, which Kubernetes calls safe."""

TC_INIT_BYTES_PER_SECOND = 125_000
"""The rate that mybinder.org's tc-init gives a user pod, 1 Mbit/s."""

USER_NODES = [
    {"key": key, "operator": "Equal", "value": "user", "effect": "NoSchedule"}
    for key in ("hub.jupyter.org/dedicated", "hub.jupyter.org_dedicated")
]
"""The tolerations that Zero to JupyterHub gives each user pod, and our chart the agents and the canaries by default."""


def pod_security(given: Given) -> Iterator[Finding]:
    """The Pod Security label of the namespace."""
    for namespace in given.objects.see("namespace"):
        level = (namespace["metadata"].get("labels") or {}).get(ENFORCED, "nothing")
        do = "The agent (agent.enabled) needs hostPID, which that refuses" if level in ("baseline", "restricted") else ""
        yield Finding("Pod Security", RECOGNISED, f"the namespace enforces {level} of Pod Security's levels", do)


def ping(given: Given) -> Iterator[Finding]:
    """Whether something may refuse pods with the sysctl that closes ping, which no kubelet has to allow."""
    pods = given.value("jupyterhub", "singleuser", "extraPodConfig") or {}
    if pods.get("hostNetwork") or any(pod["spec"].get("hostNetwork") for pod in given.objects.see("user pods")):
        do = "Set jupyterhub.custom.binderEgress.closePing to false (docs/link-local.md); policies do not select such pods either"
        yield Finding("ping", RECOGNISED, "user pods are in their node's network, where the kubelet refuses our sysctl", do, True)
        return
    groups = sorted(SYSCTL_JUDGES[group["name"]] for group in given.objects.see("API groups") if group["name"] in SYSCTL_JUDGES)
    if groups:
        do = f"Allow the sysctl {SYSCTL} in user pods, or no server starts"
        yield Finding("ping", NOT_RECOGNISED, f"rules of {', '.join(groups)} may refuse it", do)
    else:
        yield Finding("ping", RECOGNISED, f"nothing that is known here refuses the sysctl {SYSCTL}")


def user_nodes(given: Given) -> Iterator[Finding]:
    """Taints that user pods tolerate beside Zero to JupyterHub's: agents and canaries have to go wherever user pods do."""
    of_hub = ("scheduling", "userPods", "tolerations"), ("singleuser", "extraTolerations")
    lists = [given.value("jupyterhub", *path) or [] for path in of_hub]
    lists += [pod["spec"].get("tolerations") or [] for pod in given.objects.see("user pods")]
    more: list[JSON] = []
    for each in (toleration for each_list in lists for toleration in each_list):
        toleration = {name: each[name] for name in ("key", "operator", "value", "effect") if name in each}
        # Kubernetes gives each pod its own, with a time limit.
        if not toleration.get("key", "").startswith("node.kubernetes.io/") and toleration not in [*USER_NODES, *more]:
            more.append(toleration)
    if more:
        more.sort(key=str)
        keys = sorted({each.get("key", "each taint") for each in more})
        settings = tuple(Setting((part, "tolerations"), [*USER_NODES, *more]) for part in ("agent", "gatecheck"))
        yield Finding("user nodes", RECOGNISED, f"user pods tolerate {', '.join(keys)}", settings=settings)


def pre_puller(given: Given) -> Iterator[Finding]:
    """JupyterHub's pre-puller, which does not know the image of our init container."""
    puller = given.value("jupyterhub", "prePuller") or {}
    is_on = any((puller.get(way) or {}).get("enabled") for way in ("hook", "continuous"))
    if is_on and "binder-egress" not in (puller.get("extraImages") or {}):
        do = "Add our image as binder-egress to jupyterhub.prePuller.extraImages, or the first server of a node waits for it"
        yield Finding("pre-puller", RECOGNISED, "JupyterHub's pre-puller is on, and does not fetch the start guard's image", do)


def minesweeper(given: Given) -> Iterator[Finding]:
    """mybinder.org's minesweeper, which deletes user pods that are older than servers may become."""
    for each in given.objects.within("DaemonSets", given.namespace):
        if each["metadata"]["name"] == "minesweeper":
            seen = f"minesweeper runs in {given.namespace}"
            yield Finding("minesweeper", RECOGNISED, seen, CHECKS["minesweeper"].advice)


def quotas(given: Given) -> Iterator[Finding]:
    """Quotas of the namespace, which our pods count towards."""
    if names := sorted(quota["metadata"]["name"] for quota in given.objects.see("ResourceQuotas")):
        text = f"the namespace has the ResourceQuota {', '.join(names)}"
        yield Finding("quotas", RECOGNISED, text, CHECKS["quotas"].do)


def prometheus(given: Given) -> Iterator[Finding]:
    """Prometheus' operator."""
    if any(group["name"] == "monitoring.coreos.com" for group in given.objects.see("API groups")):
        do = "Set metrics.serviceMonitor.enabled and metrics.prometheusRule.enabled, and name Prometheus in metrics.from"
        yield Finding("Prometheus", RECOGNISED, "Prometheus' operator is there", do)


def flow_killer(given: Given) -> Iterator[Finding]:
    """cryptnono's flow killer, which ends any process of the node with many connections: the egress proxy is one."""
    in_values = sorted({*_enabled(given.values, FLOW_KILLER_CONTAINER), *_enabled(given.parent, FLOW_KILLER_CONTAINER)})
    try:
        sets = given.objects.see("DaemonSets")
    except CannotSee:
        if not in_values:
            raise
        sets = []
    running = sorted(name_of(each) for each in sets if _runs_flow_killer(each))
    if running or in_values:
        text = f"cryptnono's flow killer: {', '.join([*running, *in_values])}"
        needed = given.setting != "open"
        here = "--setting open does without the proxy" if needed else "this setting does without the proxy"
        yield Finding("flow killer", RECOGNISED, text, f"{CHECKS['flow killer'].advice}; {here}", needed)


def _runs_flow_killer(daemon_set: JSON) -> bool:
    """Whether a DaemonSet has a flow killer whose pods run, with all rights on their nodes: no tenant has those (D-510)."""
    return (daemon_set.get("status") or {}).get("numberReady", 0) > 0 and any(
        FLOW_KILLER_CONTAINER in str(container) and (container.get("securityContext") or {}).get("privileged")
        for container in daemon_set["spec"]["template"]["spec"]["containers"]
    )


def _enabled(values: Any, word: str, path: str = "") -> Iterator[str]:
    """The paths in values whose last key has a word, and that are switched on."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        here = f"{path}.{key}".lstrip(".")
        if word in str(key).lower().replace("-", "") and isinstance(value, Mapping) and value.get("enabled"):
            yield here
        yield from _enabled(value, word, here)


def tc_init(given: Given) -> Iterator[Finding]:
    """tc-init, which caps the rate of user pods to public addresses: the egress proxy has none."""
    containers = given.value("jupyterhub", "singleuser", "initContainers") or []
    named = containers.values() if isinstance(containers, Mapping) else containers
    if any(each.get("name") == "tc-init" for each in named):
        do = "That cap ends at the egress proxy, which gets one of its own"
        cap = Setting(("proxy", "limits", "bytesPerSecond"), TC_INIT_BYTES_PER_SECOND)
        proxy = given.setting != "open"
        text = "user pods have tc-init, which limits what they send"
        yield Finding("tc-init", RECOGNISED, text, do if proxy else "", settings=(cap,) if proxy else ())


def architectures(given: Given) -> Iterator[Finding]:
    """Whether there is an image for each node: on a node that cannot pull it, no user pod starts."""
    found = sorted({node["status"]["nodeInfo"]["architecture"] for node in given.objects.see("nodes")})
    others = [name for name in found if name not in ("amd64", "arm64")]
    state, do = (NOT_RECOGNISED, CHECKS["architectures"].advice) if others else (RECOGNISED, "")
    yield Finding("architectures", state, f"nodes are {', '.join(found)}", do)
