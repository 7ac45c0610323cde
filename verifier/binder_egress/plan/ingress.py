"""Checks of the way in: BinderHub's Ingress or route, and where an ingress controller's packets come from."""

import re
from collections.abc import Iterator

from ..gatecheck.checklist import CHECKS
from .binderhub import base_url_of
from .cluster_services import NAMESPACE_LABEL
from .findings import JSON, NOT_RECOGNISED, RECOGNISED, CannotSee, Finding, Given, Setting, name_of
from .network_plugin import SEVERAL, engine_of, matches_nodes_by_address

HOST = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+")
"""A host name, as the chart's values take it."""

CLASS = "kubernetes.io/ingress.class"
"""The annotation that names the class of an Ingress, in older ones."""

CONTROLLERS = {"ingress-nginx", "rke2-ingress-nginx", "traefik", "haproxy-ingress", "kubernetes-ingress", "contour", "kong"}
"""The label `app.kubernetes.io/name` of ingress controllers, in their own charts."""

IS_DEFAULT = "ingressclass.kubernetes.io/is-default-class"

RELEASE, RELEASE_NAMESPACE = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"
"""The annotations with which Helm says, on each object that it creates, which release it belongs to."""

TUNNELS = ("projectcalico.org/IPv4IPIPTunnelAddr", "projectcalico.org/IPv4VXLANTunnelAddr", "projectcalico.org/IPv6VXLANTunnelAddr")
"""The annotations of nodes with the addresses from which a node's own packets come in Calico's overlay."""

MAX_NODES = 20
"""The most nodes whose addresses are listed. Larger clusters change their nodes."""

ELSEWHERE = "Set ingress.enabled and ingress.hosts in BinderHub's values, or give the verifier a host of its own (publicUrl)"


def ingress(given: Given) -> Iterator[Finding]:
    """How visitors reach BinderHub: from the cluster, and from the values where it cannot be seen."""
    kind, leading = "Ingresses", _ingresses(given)
    if not leading:
        kind, routes = "HTTPRoutes", given.objects.see("HTTPRoutes")
        leading = next(filter(None, ([one for one in routes if _route_leads_to(one, to)] for to in _services(given))), [])
    if len(leading) > 1:
        names = ", ".join(sorted(each["metadata"]["name"] for each in leading))
        yield Finding("ingress", NOT_RECOGNISED, f"several {kind} lead to BinderHub: {names}", CHECKS["ingress"].do)
    elif leading:
        yield _of_ingress(leading[0]) if kind == "Ingresses" else _of_route(leading[0])
        if (_leads_to if kind == "Ingresses" else _route_leads_to)(leading[0], _hubs_proxy(given)):
            seen = "visitors reach BinderHub through JupyterHub's proxy, and the verifier past it"
            yield Finding("ingress", RECOGNISED, seen, "Name networks in trustedProxies, no number (docs/fairness.md)")
    else:
        yield Finding("ingress", NOT_RECOGNISED, "no Ingress and no HTTPRoute leads to BinderHub", ELSEWHERE)


def _ingresses(given: Given) -> list[JSON]:
    """The Ingresses in BinderHub's namespace that lead to it; the one of the values, if those cannot be seen."""
    try:
        objects = given.objects.see("Ingresses")
    except CannotSee:
        wanted = given.value("ingress") or {}
        if not wanted.get("enabled"):
            raise
        objects = [_rendered(wanted, given.release, _services(given)[0])]
    return next(filter(None, ([one for one in objects if _leads_to(one, to)] for to in _services(given))), [])


def _services(given: Given) -> list[str]:
    """The names of the Services through which visitors reach BinderHub; a later one only without the first.

    JupyterHub's proxy leads to what is below `/services/`, if that is a service of the hub (`hub.services`).
    """
    if not given.layout.beside:
        return ["binder"]
    full = given.value("fullnameOverride")
    named = [each["metadata"]["name"] for each in given.deployments()]
    try:
        by_hub = base_url_of(given).startswith("/services/")
    except CannotSee:
        by_hub = False
    # The chart names the Service as the Deployment.
    return [*(named or [f"{full}-binderhub" if full else "binderhub"]), *([_hubs_proxy(given)] if by_hub else [])]


def _hubs_proxy(given: Given) -> str:
    full = given.value("jupyterhub", "fullnameOverride")
    return f"{full}-proxy-public" if full else "proxy-public"


def _rendered(wanted: JSON, release: str, service: str) -> JSON:
    """The Ingress that BinderHub's chart makes of its values, as far as it matters here."""
    hosts, tls = list(wanted.get("hosts") or []), list(wanted.get("tls") or [])
    https = wanted.get("https") or {}
    if https.get("enabled") and https.get("type", "kube-lego") == "kube-lego":
        tls.append({"secretName": f"kubelego-tls-binder-{release}", "hosts": hosts})
    paths = {"paths": [{"backend": {"service": {"name": service}}}]}
    return {
        "metadata": {"annotations": wanted.get("annotations") or {}},
        "spec": {
            "ingressClassName": wanted.get("ingressClassName"),
            "rules": [{"host": host, "http": paths} for host in hosts],
            "tls": tls,
        },
    }


def _leads_to(one: JSON, service: str) -> bool:
    paths = [path for rule in one["spec"].get("rules") or [] for path in (rule.get("http") or {}).get("paths") or []]
    return any(((path.get("backend") or {}).get("service") or {}).get("name") == service for path in paths)


def _of_ingress(one: JSON) -> Finding:
    spec = one["spec"]
    hosts = sorted({rule["host"] for rule in spec["rules"] if HOST.fullmatch(rule.get("host") or "")})
    if not hosts:
        return Finding("ingress", NOT_RECOGNISED, "BinderHub's Ingress names no host", "Set ingress.enabled and ingress.hosts")
    settings = [Setting(("ingress", "enabled"), True), Setting(("ingress", "hosts"), hosts)]
    named, older = spec.get("ingressClassName"), _annotations(one).get(CLASS)
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


def _annotations(one: JSON) -> JSON:
    return one["metadata"].get("annotations") or {}


def _route_leads_to(route: JSON, service: str) -> bool:
    rules = route["spec"].get("rules") or []
    return any(backend.get("name") == service for rule in rules for backend in rule.get("backendRefs") or [])


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
    classes = [one for one in given.objects.see("IngressClasses") for each in _ingresses(given) if _is_class_of(one, each)]
    controllers = {name_of(each): each for one in classes for each in _controllers(given, one)}
    names, of_classes = ", ".join(sorted(controllers)), ", ".join(sorted({one["metadata"]["name"] for one in classes}))
    if len(controllers) != 1:
        text = f"no known ingress controller is in the Helm release of the IngressClass {of_classes}"
        if not classes:
            text = "no IngressClass belongs to an Ingress of BinderHub's"
        elif controllers:
            text = f"several ingress controllers: {names}"
        yield Finding("public port", NOT_RECOGNISED, text, CHECKS["public port"].advice)
        return
    (workload,) = controllers.values()
    text = f"the ingress controller of the IngressClass {of_classes} is {names}"
    if workload["spec"]["template"]["spec"].get("hostNetwork"):
        yield _in_node_network(given, text)
        return
    peer = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: workload["metadata"]["namespace"]}},
        "podSelector": {"matchLabels": dict(workload["spec"]["selector"]["matchLabels"])},
    }
    setting = Setting(("verifier", "networkPolicy", "publicFrom"), {"ingress-controller": peer})
    yield Finding("public port", RECOGNISED, text, settings=(setting,))


def _is_class_of(one: JSON, ingress: JSON) -> bool:
    """Whether an IngressClass is the one of an Ingress, which may leave it to the default."""
    named = ingress["spec"].get("ingressClassName") or _annotations(ingress).get(CLASS)
    return bool(one["metadata"]["name"] == named if named else _annotations(one).get(IS_DEFAULT) == "true")


def _controllers(given: Given, ingress_class: JSON) -> Iterator[JSON]:
    """The ingress controllers in the Helm release that an IngressClass, which no tenant may create, says it is of (D-511)."""
    release = {name: _annotations(ingress_class).get(name, "") for name in (RELEASE, RELEASE_NAMESPACE)}
    for kind in ("Deployments", "DaemonSets"):
        for workload in given.objects.within(kind, release[RELEASE_NAMESPACE]):
            labels = workload["spec"]["template"]["metadata"].get("labels") or {}
            if (
                release.items() <= _annotations(workload).items()
                and labels.get("app.kubernetes.io/name") in CONTROLLERS
                and labels.get("app.kubernetes.io/component") not in ("default-backend", "defaultbackend")
            ):
                yield workload


def _in_node_network(given: Given, controller: str) -> Finding:
    text = f"{controller}, in its node's network"
    engine, _ = engine_of(given)
    if engine in ("gke-dataplane-v2", SEVERAL) or (engine == "cilium" and not matches_nodes_by_address(given)):
        do = "Cilium matches no node by its addresses, unless its policy-cidr-match-mode is nodes: ask who runs the cluster"
        return Finding("public port", NOT_RECOGNISED, text, do)
    addresses = []
    for node in given.objects.see("nodes"):
        addresses += [each["address"] for each in node["status"].get("addresses") or [] if each["type"] == "InternalIP"]
        notes = _annotations(node)
        addresses += [notes[name] for name in TUNNELS if engine == "calico" and notes.get(name)]
    if len(addresses) > MAX_NODES or not addresses:
        do = "Name the nodes' network in verifier.networkPolicy.publicFrom: `nodes: {ipBlock: {cidr: …}}`"
        return Finding("public port", NOT_RECOGNISED, f"{text}, on {len(addresses)} addresses", do)
    blocks = {f"node-{n}": {"ipBlock": {"cidr": f"{at}/{128 if ':' in at else 32}"}} for n, at in enumerate(sorted(addresses), 1)}
    setting = Setting(("verifier", "networkPolicy", "publicFrom"), blocks)
    do = "If nodes come and go, name their network in place of their addresses"
    return Finding("public port", RECOGNISED, f"{text}, at {', '.join(sorted(addresses))}", do, settings=(setting,))
