"""Checks of what our own pods need from the cluster: DNS, and the API server."""

from collections.abc import Iterator
from ipaddress import ip_address

from ..gatecheck.checklist import CHECKS
from .findings import JSON, NOT_RECOGNISED, RECOGNISED, SYSTEM, Finding, Given, Setting, name_of

NAMESPACE_LABEL = "kubernetes.io/metadata.name"

USUAL_DNS = (SYSTEM, "k8s-app", "kube-dns")
"""The namespace and the label of DNS pods that the chart's defaults name (`dns`)."""

DNS_SERVICES = {"kube-dns", "coredns", "rke2-coredns-rke2-coredns", "dns-default"}
"""The names of Services that are the cluster's DNS: kubeadm, k3s and the clouds, kubespray, RKE2, OpenShift."""

DNS_NAMESPACES = (SYSTEM, "openshift-dns")
"""The namespaces in which those Services are."""

NODE_CACHES = {"node-local-dns", "nodelocaldns", "node-local-dns-cache"}
"""The names of NodeLocal DNSCache's DaemonSet."""

USUAL_API_PORTS = {443, 6443}
"""The ports of the API server that the chart opens (`reconciler.networkPolicy.apiServer.ports`)."""


def dns(given: Given) -> Iterator[Finding]:
    """How pods resolve names: the Service, the labels of its pods, their port, and a cache on the nodes."""
    services = [
        service
        for service in given.objects.within("Services", *DNS_NAMESPACES)
        if service["metadata"]["name"] in DNS_SERVICES and (service["spec"].get("selector"))
    ]
    if len(services) != 1:
        names = ", ".join(map(name_of, services))
        text = f"several Services may be the cluster's DNS: {names}" if services else "no known Service is the cluster's DNS"
        yield Finding("DNS", NOT_RECOGNISED, text, CHECKS["DNS"].do)
        return
    (service,) = services
    namespace, selector = service["metadata"]["namespace"], dict(service["spec"]["selector"])
    port = _pods_port(given, service)
    usual_namespace, label, value = USUAL_DNS
    settings = []
    if namespace != usual_namespace:
        settings.append(Setting(("dns", "namespaceLabels"), {NAMESPACE_LABEL: namespace}))
    if selector.get(label) != value:
        settings.append(Setting(("dns", "podLabels"), {**({} if label in selector else {label: False}), **selector}))
    if port != 53:
        settings.append(Setting(("dns", "ports"), {53: False, port: True}))
    labels = ", ".join(f"{key}={text}" for key, text in sorted(selector.items()))
    text = f"DNS is the Service {name_of(service)}: pods {labels}, port {port}"
    yield Finding("DNS", RECOGNISED, text, settings=tuple(settings))
    yield from _node_cache(given, service)


def _pods_port(given: Given, service: JSON) -> int:
    """The port of the DNS pods. A Service may name it by the name that the pods' containers give it."""
    (target,) = {
        port.get("targetPort", 53) for port in service["spec"]["ports"] if port["port"] == 53 and port["protocol"] == "UDP"
    }
    if isinstance(target, int):
        return target
    ports = {
        port["containerPort"]
        for kind in ("Deployments", "DaemonSets")
        for workload in given.objects.within(kind, service["metadata"]["namespace"])
        if service["spec"]["selector"].items() <= (workload["spec"]["template"]["metadata"].get("labels") or {}).items()
        for container in workload["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports") or []
        if port.get("name") == target
    }
    (found,) = ports
    return int(found)


def _node_cache(given: Given, service: JSON) -> Iterator[Finding]:
    """A DNS cache on each node is in the node's network, so policies know it by its addresses alone."""
    caches = [each for each in given.objects.within("DaemonSets", SYSTEM) if each["metadata"]["name"] in NODE_CACHES]
    addresses = {address for each in caches for address in _local_addresses(each)}
    if not addresses:
        return
    addresses |= set(service["spec"].get("clusterIPs") or [service["spec"]["clusterIP"]])
    parsed = sorted(map(ip_address, addresses), key=str)
    text = f"NodeLocal DNSCache, {', '.join(map(name_of, caches))}, answers on each node, at {', '.join(map(str, parsed))}"
    if len(caches) > 1 or any(address.is_global for address in parsed):
        wrong = "several of it" if len(caches) > 1 else "a public address"
        yield Finding("DNS", NOT_RECOGNISED, f"{text}: {wrong}", CHECKS["DNS"].do)
        return
    cidrs = {f"{address}/{address.max_prefixlen}": True for address in parsed}
    yield Finding("DNS", RECOGNISED, text, settings=(Setting(("dns", "cidrs"), cidrs),))


def _local_addresses(daemon_set: JSON) -> Iterator[str]:
    """The values of the option `-localip`, in each way of writing it."""
    for container in daemon_set["spec"]["template"]["spec"]["containers"]:
        words = [str(word) for word in [*(container.get("command") or []), *(container.get("args") or [])]]
        for option, value in zip(words, [*words[1:], ""], strict=True):
            name, _, own = option.partition("=")
            if name.lstrip("-") == "localip":
                yield from (own or value).split(",")


def api_server(given: Given) -> Iterator[Finding]:
    """The ports of the API server, as policies see them: its addresses have them, not the Service."""
    slices = given.objects.see("addresses of the API server")
    ports = {int(port["port"]) for found in slices for port in found.get("ports") or []}
    if not ports:
        yield Finding("API server", NOT_RECOGNISED, "the Service kubernetes has no addresses", CHECKS["API server"].do)
        return
    more = {port: True for port in sorted(ports - USUAL_API_PORTS)}
    settings = (Setting(("reconciler", "networkPolicy", "apiServer", "ports"), more),) if more else ()
    text = f"the API server has the port{'s' if len(ports) > 1 else ''} {', '.join(map(str, sorted(ports)))}"
    yield Finding("API server", RECOGNISED, text, settings=settings)
