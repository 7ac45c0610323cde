"""Objects of clusters, as the charts of network plugins and of others make them, for tests of `egress plan`."""

from collections.abc import Sequence
from typing import Any

from binder_egress.plan.findings import Given, Objects


def workload(
    name: str,
    namespace: str = "kube-system",
    labels: dict[str, str] | None = None,
    host_network: bool = False,
    containers: Sequence[dict[str, Any]] = (),
    **container: Any,
) -> dict[str, Any]:
    """A Deployment or DaemonSet with these containers, or with one of its own name."""
    labels = labels or {"k8s-app": name}
    named = [{"image": "registry.example.org/x", **each} for each in containers or [{"name": name, **container}]]
    pod = {"containers": named, **({"hostNetwork": True} if host_network else {})}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
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


TRAEFIK = workload("traefik", labels={"app.kubernetes.io/name": "traefik", "app.kubernetes.io/instance": "traefik-kube-system"})


def k3s(**instead: list[Any]) -> dict[str, list[Any]]:
    """Everything that is read in k3s with its defaults and BinderHub in it."""
    image = "quay.io/jupyterhub/k8s-binderhub:1.0.0-0.dev.git.3901.h2d9b3f7"
    return {
        "NetworkPolicies": [],
        "user pods": [],
        "BinderHub's Deployment": [workload("binder", "binder", {"component": "binder"}, image=image)],
        "Ingresses": [ingress()],
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
