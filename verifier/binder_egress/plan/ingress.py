"""Checks of the way in: BinderHub's Ingress or route, and where an ingress controller's packets come from."""

import re
from collections.abc import Iterator

from ..gatecheck.checklist import CHECKS
from .cluster_services import NAMESPACE_LABEL
from .findings import JSON, NOT_RECOGNISED, RECOGNISED, CannotSee, Finding, Given, Setting
from .network_plugin import engine_of, matches_nodes_by_address

HOST = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+")
"""A host name, as the chart's values take it."""

CLASS = "kubernetes.io/ingress.class"
"""The annotation that names the class of an Ingress, in older ones."""

CONTROLLERS = {"ingress-nginx", "rke2-ingress-nginx", "traefik", "haproxy-ingress", "kubernetes-ingress", "contour", "kong"}
"""The label `app.kubernetes.io/name` of ingress controllers, in their own charts."""

TUNNELS = ("projectcalico.org/IPv4IPIPTunnelAddr", "projectcalico.org/IPv4VXLANTunnelAddr", "projectcalico.org/IPv6VXLANTunnelAddr")
"""The annotations of nodes with the addresses from which a node's own packets come in Calico's overlay."""

MAX_NODES = 20
"""The most nodes whose addresses are listed. Larger clusters change their nodes."""

ELSEWHERE = "Set ingress.enabled and ingress.hosts in BinderHub's values, or give the verifier a host of its own (publicUrl)"


def ingress(given: Given) -> Iterator[Finding]:
    """How visitors reach BinderHub: from the cluster, and from the values where it cannot be seen."""
    try:
        objects = given.objects.see("Ingresses")
    except CannotSee:
        wanted = given.value("ingress") or {}
        if not wanted.get("enabled"):
            raise
        objects = [_rendered(wanted, given.release)]
    leading = [each for each in objects if _leads_to_binderhub(each)]
    if leading:
        yield _of_ingress(leading[0])
        return
    routes = [each for each in given.objects.see("HTTPRoutes") if _route_leads_to_binderhub(each)]
    if routes:
        yield _of_route(routes[0])
    else:
        yield Finding("ingress", NOT_RECOGNISED, "no Ingress and no HTTPRoute leads to BinderHub", ELSEWHERE)


def _rendered(wanted: JSON, release: str) -> JSON:
    """The Ingress that BinderHub's chart makes of its values, as far as it matters here."""
    hosts, tls = list(wanted.get("hosts") or []), list(wanted.get("tls") or [])
    https = wanted.get("https") or {}
    if https.get("enabled") and https.get("type", "kube-lego") == "kube-lego":
        tls.append({"secretName": f"kubelego-tls-binder-{release}", "hosts": hosts})
    paths = {"paths": [{"backend": {"service": {"name": "binder"}}}]}
    return {
        "metadata": {"annotations": wanted.get("annotations") or {}},
        "spec": {
            "ingressClassName": wanted.get("ingressClassName"),
            "rules": [{"host": host, "http": paths} for host in hosts],
            "tls": tls,
        },
    }


def _leads_to_binderhub(one: JSON) -> bool:
    paths = [path for rule in one["spec"].get("rules") or [] for path in (rule.get("http") or {}).get("paths") or []]
    return any(((path.get("backend") or {}).get("service") or {}).get("name") == "binder" for path in paths)


def _of_ingress(one: JSON) -> Finding:
    spec = one["spec"]
    hosts = sorted({rule["host"] for rule in spec["rules"] if HOST.fullmatch(rule.get("host") or "")})
    if not hosts:
        return Finding("ingress", NOT_RECOGNISED, "BinderHub's Ingress names no host", "Set ingress.enabled and ingress.hosts")
    settings = [Setting(("ingress", "enabled"), True), Setting(("ingress", "hosts"), hosts)]
    named = spec.get("ingressClassName")
    older = (one["metadata"].get("annotations") or {}).get(CLASS)
    if named:
        settings.append(Setting(("ingress", "ingressClassName"), named))
    elif older:
        settings.append(Setting(("ingress", "annotations"), {CLASS: older}))
    tls = [
        {"secretName": entry["secretName"], "hosts": [host for host in entry.get("hosts") or hosts if host in hosts]}
        for entry in spec.get("tls") or []
        if entry.get("secretName")
    ]
    text = f"BinderHub's Ingress has the host {', '.join(hosts)}, the class {named or older or 'that is the default'}"
    if tls:
        settings.append(Setting(("ingress", "tls"), tls))
        text += f" and the TLS Secret {', '.join(entry['secretName'] for entry in tls)}"
        return Finding("ingress", RECOGNISED, text, settings=tuple(settings))
    do = "Without https browsers calculate nothing: make sure that something in front of it ends TLS"
    return Finding("ingress", RECOGNISED, f"{text} and no TLS", do, settings=tuple(settings))


def _route_leads_to_binderhub(route: JSON) -> bool:
    rules = route["spec"].get("rules") or []
    return any(backend.get("name") == "binder" for rule in rules for backend in rule.get("backendRefs") or [])


def _of_route(route: JSON) -> Finding:
    hosts = [host for host in route["spec"].get("hostnames") or [] if HOST.fullmatch(host)]
    known = ("group", "kind", "namespace", "name", "sectionName", "port")
    parents = [{key: parent[key] for key in known if key in parent} for parent in route["spec"].get("parentRefs") or []]
    if not hosts or not parents:
        do = "Set httpRoute.enabled, httpRoute.hostnames and httpRoute.parentRefs"
        return Finding("ingress", NOT_RECOGNISED, "BinderHub's HTTPRoute names no host, or no Gateway", do)
    settings = (
        Setting(("httpRoute", "enabled"), True), Setting(("httpRoute", "hostnames"), hosts),
        Setting(("httpRoute", "parentRefs"), parents),
    )  # fmt: skip
    gateways = ", ".join(str(parent["name"]) for parent in parents)
    text = f"BinderHub's HTTPRoute has the host {', '.join(hosts)} and the Gateway {gateways}"
    return Finding("ingress", RECOGNISED, text, settings=settings)


def public_port(given: Given) -> Iterator[Finding]:
    """Where an ingress controller's packets come from, which the verifier then accepts alone."""
    found = [
        workload
        for kind in ("Deployments", "DaemonSets")
        for workload in given.objects.see(kind)
        for labels in [workload["spec"]["template"]["metadata"].get("labels") or {}]
        if labels.get("app.kubernetes.io/name") in CONTROLLERS
        and labels.get("app.kubernetes.io/component") not in ("default-backend", "defaultbackend")
    ]
    names = ", ".join(sorted(f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in found))
    if len(found) != 1:
        text = f"several ingress controllers: {names}" if found else "no ingress controller is known"
        yield Finding("public port", NOT_RECOGNISED, text, CHECKS["public port"].advice)
        return
    (workload,) = found
    if workload["spec"]["template"]["spec"].get("hostNetwork"):
        yield _in_node_network(given, names)
        return
    peer = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: workload["metadata"]["namespace"]}},
        "podSelector": {"matchLabels": dict(workload["spec"]["selector"]["matchLabels"])},
    }
    setting = Setting(("verifier", "networkPolicy", "publicFrom"), {"ingress-controller": peer})
    yield Finding("public port", RECOGNISED, f"the ingress controller is {names}", settings=(setting,))


def _in_node_network(given: Given, names: str) -> Finding:
    text = f"the ingress controller {names} is in its node's network"
    engine, _ = engine_of(given)
    if engine == "gke-dataplane-v2" or (engine == "cilium" and not matches_nodes_by_address(given)):
        do = "Cilium matches no node by its addresses, unless its policy-cidr-match-mode is nodes: ask who runs the cluster"
        return Finding("public port", NOT_RECOGNISED, text, do)
    addresses = []
    for node in given.objects.see("nodes"):
        addresses += [each["address"] for each in node["status"].get("addresses") or [] if each["type"] == "InternalIP"]
        notes = node["metadata"].get("annotations") or {}
        addresses += [notes[name] for name in TUNNELS if engine == "calico" and notes.get(name)]
    if len(addresses) > MAX_NODES or not addresses:
        do = "Name the nodes' network in verifier.networkPolicy.publicFrom: `nodes: {ipBlock: {cidr: …}}`"
        return Finding("public port", NOT_RECOGNISED, f"{text}, on {len(addresses)} addresses", do)
    blocks = {f"node-{n}": {"ipBlock": {"cidr": f"{at}/{128 if ':' in at else 32}"}} for n, at in enumerate(sorted(addresses), 1)}
    setting = Setting(("verifier", "networkPolicy", "publicFrom"), blocks)
    do = "If nodes come and go, name their network in place of their addresses"
    return Finding("public port", RECOGNISED, f"{text}, at {', '.join(sorted(addresses))}", do, settings=(setting,))
