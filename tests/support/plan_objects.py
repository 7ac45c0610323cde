"""Objects of clusters, as the charts of network plugins and of others make them, for tests of `egress plan`."""

from collections.abc import Sequence
from typing import Any

from binder_egress.plan.findings import Given, Objects
from binder_egress.plan.network_plugin import PLUGINS


def workload(
    name: str,
    namespace: str = "kube-system",
    labels: dict[str, str] | None = None,
    host_network: bool = False,
    containers: Sequence[dict[str, Any]] = (),
    release: dict[str, str] | None = None,
    **container: Any,
) -> dict[str, Any]:
    """A Deployment or DaemonSet with these containers, or with one of its own name; `release` are Helm's annotations."""
    labels = labels or {"k8s-app": name}
    named = [{"image": "registry.example.org/x", **each} for each in containers or [{"name": name, **container}]]
    pod = {"containers": named, **({"hostNetwork": True} if host_network else {})}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": release or {}},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def node(
    name: str = "node-1",
    kubelet: str = "v1.34.4",
    address: str = "10.1.0.1",
    cidrs: tuple[str, ...] = ("10.42.0.0/24",),
    notes: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A node; `notes` are its annotations."""
    return {
        "metadata": {"name": name, "annotations": notes or {}},
        "spec": {"podCIDRs": list(cidrs)},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"kubeletVersion": kubelet, "architecture": "amd64"},
        },
    }


def dns_service(name: str = "kube-dns", namespace: str = "kube-system", target: int | str = 53, **selector: str) -> dict[str, Any]:
    """The cluster's DNS."""
    ports = [{"name": each.lower(), "port": 53, "protocol": each, "targetPort": target} for each in ("UDP", "TCP")]
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "10.43.0.10", "selector": selector or {"k8s-app": "kube-dns"}, "ports": ports},
    }


def ingress(**spec: Any) -> dict[str, Any]:
    """BinderHub's Ingress."""
    paths = {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "binder", "port": {"number": 80}}}}]}
    rules = [{"host": "hub.example.org", "http": paths}]
    tls = [{"secretName": "kubelego-tls-binder-binder", "hosts": ["hub.example.org"]}]
    return {"metadata": {"name": "binder"}, "spec": {"ingressClassName": "traefik", "rules": rules, "tls": tls, **spec}}


def policy(name: str, selector: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy for egress."""
    return {"metadata": {"name": name}, "spec": {"podSelector": selector, "policyTypes": ["Egress"], **spec}}


def of_release(name: str, namespace: str) -> dict[str, str]:
    """The annotations that Helm gives each object of a release."""
    return {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace}


def ingress_class(name: str, **annotations: str) -> dict[str, Any]:
    """An IngressClass with these annotations."""
    return {"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": "example.org/controller"}}


OF_TRAEFIK = of_release("traefik", "kube-system")
TRAEFIK_LABELS = {"app.kubernetes.io/name": "traefik", "app.kubernetes.io/instance": "traefik-kube-system"}
TRAEFIK = workload("traefik", labels=TRAEFIK_LABELS, release=OF_TRAEFIK)


def k3s(**instead: list[Any]) -> dict[str, list[Any]]:
    """Everything that is read in k3s with its defaults and BinderHub in it."""
    image = "quay.io/jupyterhub/k8s-binderhub:1.0.0-0.dev.git.3901.h2d9b3f7"
    return {
        "NetworkPolicies": [],
        "user pods": [],
        "BinderHub's Deployment": [workload("binder", "binder", {"component": "binder"}, image=image)],
        "Ingresses": [ingress()],
        "IngressClasses": [ingress_class("traefik", **OF_TRAEFIK, **{"ingressclass.kubernetes.io/is-default-class": "true"})],
        "HTTPRoutes": [],
        "ResourceQuotas": [],
        "namespace": [{"metadata": {"name": "binder", "labels": {}}}],
        "DaemonSets": [],
        "Deployments": [workload("coredns", labels={"k8s-app": "kube-dns"}), TRAEFIK],
        "Services": [dns_service()],
        "nodes": [node(kubelet="v1.34.4+k3s1")],
        "Cilium's settings": [],
        "addresses of the API server": [{"ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}],
        "API groups": [],
        "other policies": [],
        **instead,
    }


def given(values: dict[str, Any] | None = None, setting: str = "open", **instead: list[Any]) -> Given:
    """k3s with its defaults, except what is named instead."""
    return Given(values or {}, Objects(k3s(**instead)), setting=setting)


def of_tenant() -> dict[str, list[Any]]:
    """What somebody creates who may create everything in a namespace of his own, so that `egress plan` believes it."""
    eve = {"name": "eve"}
    pods = {"component": "singleuser-server", "hub.jupyter.org/username": "eve"}
    backend = {"matches": [{"path": {"value": "/"}}], "backendRefs": [{"name": "binder", "port": 80}]}
    route = {"hostnames": ["eve.example.org"], "parentRefs": [{"name": "eve"}], "rules": [backend]}
    # As if they were parts of Traefik in kube-system.
    lures = [
        workload(f"{name}-{number}", "tenant", {"app.kubernetes.io/name": name}, number == 2, release=OF_TRAEFIK)
        for name in ("traefik", "ingress-nginx")
        for number in (1, 2)
    ]
    caches = [
        workload(name, "tenant", args=["-localip", address])
        for name, address in (("node-local-dns", "203.0.113.53"), ("nodelocaldns", "10.66.66.66"))
    ]
    plugins = [
        workload(name, "tenant", containers=[{"name": name, "securityContext": {"privileged": True}}])
        for plugin in PLUGINS.values()
        for name in plugin["daemon_sets"]
    ]
    services = [dns_service(name, "tenant", **{"k8s-app": "eve"}) for name in ("kube-dns", "coredns", "dns-default")]
    for number, service in enumerate(services, 1):
        service["spec"]["clusterIP"] = f"10.43.66.{number}"
    killer = workload("killer", "tenant", containers=[{"name": "tcpflowkiller", "securityContext": {"privileged": True}}])
    addresses = {"addressType": "IPv4", "endpoints": [{"addresses": ["203.0.113.7"]}]}
    settings = {"enable-policy": "never", "policy-cidr-match-mode": "nodes", "identity-max-jitter": "0s"}
    return {
        "NetworkPolicies": [policy("open", {}, egress=[{}])],
        "user pods": [
            {"metadata": {**eve, "labels": pods}, "spec": {"hostNetwork": True, "containers": [{"name": "x", "image": "x"}]}}
        ],
        "BinderHub's Deployment": [workload("binder", "tenant", {"component": "binder"}, image="x:9.9.9")],
        "Ingresses": [ingress(rules=[{**rule, "host": "eve.example.org"} for rule in ingress()["spec"]["rules"]])],
        "HTTPRoutes": [{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": eve, "spec": route}],
        "ResourceQuotas": [{"metadata": eve, "spec": {"hard": {"pods": "1"}}}],
        "DaemonSets": [*plugins, *caches, *lures, workload("minesweeper", "tenant"), killer],
        "Deployments": lures,
        "Services": services,
        "Cilium's settings": [{"metadata": {"name": "cilium-config", "namespace": "tenant"}, "data": settings}],
        "addresses of the API server": [
            {"metadata": {**eve, "labels": {"kubernetes.io/service-name": "kubernetes"}}, "ports": [{"port": 22}], **addresses}
        ],
    }
