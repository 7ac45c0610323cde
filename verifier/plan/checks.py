"""The list of checks, in the order in which they are shown."""

from . import binderhub, cluster_services, ingress, network_plugin, policies, surroundings
from .findings import Check, Finding, Given

ADMINISTRATOR = "Ask who runs the cluster"

CHECKS = (
    Check("binderhub-version", binderhub.version, "`helm list` shows it: it goes into --version"),
    Check("maps", binderhub.maps, "See the values of BinderHub"),
    Check("sign-in", binderhub.sign_in, "See config.BinderHub.auth_enabled"),
    Check("base-url", binderhub.base_url, "See config.BinderHub.base_url"),
    Check("user-labels", binderhub.user_labels, "See `kubectl get pods --show-labels`"),
    Check("user-proxy", binderhub.user_proxy, "See jupyterhub.singleuser.extraEnv"),
    Check("ports", binderhub.ports, "See networkPolicy.egress.tcpPorts"),
    Check("captcha", binderhub.captcha, "See captcha.providers"),
    Check("policies", policies.policies, "`egress doctor` and `helm test` tell, after the gate is shut"),
    Check("other-policies", policies.other_policies, f"{ADMINISTRATOR}; `helm test` tells, after the gate is shut"),
    Check("network-plugin", network_plugin.network_plugin, f"{ADMINISTRATOR}; `helm test` tells, after the gate is shut"),
    Check("ip-families", network_plugin.ip_families, ADMINISTRATOR),
    Check("dns", cluster_services.dns, "See /etc/resolv.conf in a pod: its server must be the pods of `dns`, or in dns.cidrs"),
    Check("api-server", cluster_services.api_server, f"{ADMINISTRATOR}: if its port is neither 443 nor 6443, set it"),
    Check("ingress", ingress.ingress, "See `kubectl get ingress,httproute`"),
    Check("ingress-controller", ingress.controller, f"{ADMINISTRATOR}: its pods or addresses go into publicFrom"),
    Check("pod-security", surroundings.pod_security, ADMINISTRATOR),
    Check("ping", surroundings.ping, f"{ADMINISTRATOR}; `egress doctor` tells, when a server has started"),
    Check("quotas", surroundings.quotas, ADMINISTRATOR),
    Check("pre-puller", surroundings.pre_puller, "See jupyterhub.prePuller"),
    Check("minesweeper", surroundings.minesweeper, f"{ADMINISTRATOR}: it must spare the canary"),
    Check("flow-killer", surroundings.flow_killer, f"{ADMINISTRATOR}, before you switch the egress proxy on"),
    Check("tc-init", surroundings.tc_init, "See jupyterhub.singleuser.initContainers"),
    Check("prometheus", surroundings.prometheus, ADMINISTRATOR),
    Check("architectures", surroundings.architectures, ADMINISTRATOR),
)


def examine(given: Given) -> list[Finding]:
    """Carry out all checks."""
    return [finding for check in CHECKS for finding in check.findings(given)]
