"""Which function carries out which check of the list, in the order in which findings are shown."""

from collections.abc import Callable, Iterator

from ..gatecheck.checklist import CHECKS
from . import binderhub, cluster_services, ingress, layouts, network_plugin, policies, surroundings
from .findings import CANNOT_SEE, NOT_RECOGNISED, CannotSee, Finding, Given

LOOKS: dict[str, Callable[[Given], Iterator[Finding]]] = {
    "layout": layouts.layout,
    "BinderHub's version": binderhub.version,
    "maps": binderhub.maps,
    "sign-in": binderhub.sign_in,
    "base URL": binderhub.base_url,
    "user labels": binderhub.user_labels,
    "user proxy": binderhub.user_proxy,
    "ports": binderhub.ports,
    "provider": binderhub.provider,
    "bypass": policies.bypass,
    "other policies": policies.other_policies,
    "network plugin": network_plugin.network_plugin,
    "labels": network_plugin.labels,
    "identities": network_plugin.identities,
    "IP families": network_plugin.ip_families,
    "DNS": cluster_services.dns,
    "API server": cluster_services.api_server,
    "ingress": ingress.ingress,
    "public port": ingress.public_port,
    "Pod Security": surroundings.pod_security,
    "ping": surroundings.ping,
    "user nodes": surroundings.user_nodes,
    "quotas": surroundings.quotas,
    "pre-puller": surroundings.pre_puller,
    "minesweeper": surroundings.minesweeper,
    "flow killer": surroundings.flow_killer,
    "tc-init": surroundings.tc_init,
    "Prometheus": surroundings.prometheus,
    "architectures": surroundings.architectures,
}


def examine(given: Given) -> list[Finding]:
    """Carry out all checks. Whatever they cannot read becomes a finding, with the list's advice; nothing is raised."""
    findings: list[Finding] = []
    for id, look in LOOKS.items():
        try:
            findings += look(given)
        except CannotSee as error:
            findings.append(Finding(id, CANNOT_SEE, str(error), CHECKS[id].do))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            findings.append(Finding(id, NOT_RECOGNISED, "it has a form that this command does not know", CHECKS[id].do))
    return findings
