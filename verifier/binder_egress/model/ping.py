"""Whether the user's code in a pod can ping: many networks let echo requests past NetworkPolicies (D-230)."""

from collections.abc import Mapping
from typing import Any

WAYS = ("no-sysctl", "privileges")
"""Why a pod may ping, as in `way_to_ping`. Metrics show each of them from the start."""

SYSCTL, CLOSED = "net.ipv4.ping_group_range", "1 0"
"""The sysctl that lists the groups that may open an echo socket, for IPv4 and IPv6, and its value that means no group."""


def way_to_ping(spec: Mapping[str, Any]) -> str:
    """How the user's code in a pod can send echo requests.

    Without the sysctl, any process may, through an echo socket. With NET_RAW, a process can build the packets itself. A process has
    NET_RAW if it runs as root, or gets it from a program in its image that has this file capability, unless it can gain no
    privileges.

    Args:
        spec: the pod's spec, as JSON. The first container is the user's; the others are the operator's.

    Returns:
        `no-sysctl`, `privileges`, or an empty text if it cannot.
    """
    pod = spec.get("securityContext") or {}
    context = spec["containers"][0].get("securityContext") or {}
    sysctls = {each["name"]: each["value"].split() for each in pod.get("sysctls") or []}
    if sysctls.get(SYSCTL) != CLOSED.split():
        return WAYS[0]
    capabilities = context.get("capabilities") or {}
    added, dropped = (set(capabilities.get(key) or []) for key in ("add", "drop"))
    raw = {"ALL", "NET_RAW", "CAP_NET_RAW"}
    may_have = bool(added & raw) or not dropped & raw
    user = context.get("runAsUser", pod.get("runAsUser"))
    is_root = user == 0 or (user is None and not context.get("runAsNonRoot", pod.get("runAsNonRoot")))
    gains = context.get("allowPrivilegeEscalation") is not False
    return WAYS[1] if context.get("privileged") or (may_have and (is_root or gains)) else ""
