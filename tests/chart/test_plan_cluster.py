"""`egress plan` as an operator runs it, at a real API server with the objects of each network plugin, and with each trap. The chart
accepts what it writes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from binder_egress.plan.checks import examine
from binder_egress.plan.cluster import PATHS
from binder_egress.plan.files import our_values
from binder_egress.plan.findings import CANNOT_SEE, NOT_RECOGNISED, RECOGNISED
from tests.support.charts import CHART
from tests.support.control_plane import ControlPlane, below
from tests.support.egress_command import run_egress
from tests.support.plan_objects import (
    OF_TRAEFIK,
    TRAEFIK,
    dns_service,
    given,
    ingress,
    ingress_class,
    k3s,
    node,
    of_release,
    of_tenant,
    policy,
    workload,
)
from tests.support.waiting import eventually

VALUES = "USER-SUPPLIED VALUES:\nextraEnv:\n- {name: A, value: secret-of-mine}\n"
FINDING = re.compile(rf"^({NOT_RECOGNISED}|{RECOGNISED}|{CANNOT_SEE}) +(\S.*?)  +(\S.*)$", re.MULTILINE)

KINDS = {
    "cilium.io/v2": {"CiliumNetworkPolicy": True, "CiliumClusterwideNetworkPolicy": False, "CiliumNode": False},
    "crd.projectcalico.org/v1": {"NetworkPolicy": True, "GlobalNetworkPolicy": False},
    "crd.antrea.io/v1beta1": {"ClusterNetworkPolicy": False},
    "k8s.ovn.org/v1": {"EgressFirewall": True},
    "networking.gke.io/v1alpha1": {"FQDNNetworkPolicy": True},
    "networking.k8s.aws/v1alpha1": {"ApplicationNetworkPolicy": True, "PolicyEndpoint": True},
    "kubeovn.io/v1": {"SecurityGroup": False, "Subnet": False},
    "policy.networking.k8s.io/v1alpha1": {"AdminNetworkPolicy": False},
    "policy.networking.k8s.io/v1alpha2": {"ClusterNetworkPolicy": False},
    "gateway.networking.k8s.io/v1": {"HTTPRoute": True},
}
"""The kinds that network plugins bring, by API group, and whether their objects are in a namespace."""

GROUPS = ["apps", "discovery.k8s.io", "networking.k8s.io", *(group.partition("/")[0] for group in KINDS)]

RIGHTS = [
    {"apiGroups": [""], "resources": ["configmaps", "namespaces", "nodes", "pods", "resourcequotas", "services"]},
    {"apiGroups": GROUPS, "resources": ["*"]},
]
"""What `egress plan` reads. Secrets are not among it."""

NAMESPACES = (
    "binder", "calico-system", "kube-flannel", "openshift-dns", "openshift-ovn-kubernetes", "gateways", "ingress-nginx", "tenant",
)  # fmt: skip

Place = tuple[str, dict[str, Any]]
"""The path at which an object is created, and the object."""


def other(group: str, kind: str, name: str, **fields: Any) -> Place:
    """An object of a kind that a network plugin, or another program, brings."""
    return below(group, kind, KINDS[group][kind]), {"apiVersion": group, "kind": kind, "metadata": {"name": name}, **fields}


def places(objects: dict[str, list[Any]], namespace: str = "binder") -> Iterator[Place]:
    """Where each object of `k3s` belongs. The namespace and the API server's addresses are there without us."""
    for name, (path, _) in PATHS.items():
        root, _, resource = path.format(namespace=namespace).rpartition("/")
        for each in objects.get(name, []) if name not in ("namespace", "addresses of the API server") else ():
            where = each["metadata"].get("namespace") if "/namespaces/" not in root else None
            yield f"{root}{f'/namespaces/{where}' if where else ''}/{resource}", each


@pytest.fixture(scope="module")
def plane(tools, tmp_path_factory):
    """An API server that knows these kinds. `operator` has `RIGHTS`, and `guest` has them in BinderHub's namespace alone."""
    plane = ControlPlane(tools / "kubeall", tmp_path_factory.mktemp("plane"), "operator", "guest", "stranger")
    try:
        for name in NAMESPACES:
            plane.add("/api/v1/namespaces", {"metadata": {"name": name}})
        rbac, reads = "/apis/rbac.authorization.k8s.io/v1", ["get", "list", "watch"]
        plane.add(f"{rbac}/clusterroles", {"metadata": {"name": "reads"}, "rules": [{**right, "verbs": reads} for right in RIGHTS]})
        role = {"kind": "ClusterRole", "name": "reads", "apiGroup": "rbac.authorization.k8s.io"}
        for user, resource in (("operator", "clusterrolebindings"), ("guest", "namespaces/binder/rolebindings")):
            subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
            plane.add(f"{rbac}/{resource}", {"metadata": {"name": user}, "roleRef": role, "subjects": [subject]})
        for group, kinds in KINDS.items():
            for kind, is_namespaced in kinds.items():
                plane.define(group, kind, is_namespaced)
        eventually(lambda: {*GROUPS} <= {group["name"] for group in plane.ask("GET", "/apis/").json()["groups"]}, what=GROUPS)
        yield plane
    finally:
        plane.stop()


class Operator:
    """Somebody with a kubeconfig, who types the command in an empty folder."""

    def __init__(self, plane: ControlPlane, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._plane, self._typing, self._kubeconfig = plane, (monkeypatch, capsys), folder / "kubeconfig"
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(self._kubeconfig))
        (folder / "work").mkdir()
        monkeypatch.chdir(folder / "work")

    @contextmanager
    def cluster(self, *others: Place, **instead: list[Any]) -> Iterator[None]:
        """k3s with its defaults, except what is named instead, and objects of other kinds."""
        with self._plane.kept([*places(k3s(**instead)), *others]):
            yield

    def plan(self, *options: str, values: str = VALUES, user: str = "operator") -> tuple[int, str]:
        """Returns the exit code, and what the command prints."""
        self._plane.kubeconfig(self._kubeconfig, user)
        code, out, errors = run_egress(*self._typing, "plan", "--from", "-", *options, lines=values)
        return code, out + errors


@pytest.fixture
def operator(plane, tmp_path, monkeypatch, capsys):
    return Operator(plane, tmp_path, monkeypatch, capsys)


def written() -> dict[str, str]:
    return {path.name: path.read_text() for path in Path().iterdir()}


def planned() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path("your-egress-values.yaml").read_text())
    return found


def accepted(render, setting: str = "open", *more: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of the chart with our values, as the command wrote them."""
    return render(f"--values={CHART}/settings/{setting}.yaml", "--values=your-egress-values.yaml", *more)


def found(out: str) -> dict[str, tuple[str, str]]:
    """The last finding of each check: state, and what was seen."""
    return {id: (state, seen) for state, id, seen in FINDING.findall(out)}


def aws(*arguments: str, **environment: str) -> dict[str, list[Any]]:
    variables = [{"name": name, "value": value} for name, value in environment.items()]
    agent = {"name": "aws-eks-nodeagent", "args": ["--enable-ipv6=false", *arguments]}
    return sets(workload("aws-node", containers=[{"name": "aws-node", "env": variables}, agent]))


def cilium(name: str = "cilium", **settings: str) -> dict[str, list[Any]]:
    daemon_set = plugin(name, "cilium-agent", labels={"k8s-app": "cilium"})
    data = {"enable-policy": "default", **{key.replace("_", "-"): value for key, value in settings.items()}}
    config = {"metadata": {"name": "cilium-config", "namespace": "kube-system"}, "data": data}
    return {"DaemonSets": [daemon_set], "Cilium's settings": [config]}


def plugin(name: str, *containers: str, namespace: str = "kube-system", labels: dict[str, str] | None = None) -> dict[str, Any]:
    return workload(name, namespace, labels, host_network=True, containers=[{"name": each} for each in containers])


def sets(*made: dict[str, Any]) -> dict[str, list[Any]]:
    return {"DaemonSets": list(made)}


OF_NGINX = of_release("ingress-nginx", "ingress-nginx")

EKS = "aws, in kube-system, NETWORK_POLICY_ENFORCING_MODE"

PLUGINS: dict[str, tuple[dict[str, list[Any]], str, bool]] = {
    "k3s": ({"nodes": [node(kubelet="v1.34.4+k3s1")]}, "kube-router, in k3s", False),
    "kube-router": (sets(plugin("kube-router", "kube-router")), "kube-router, in kube-system", False),
    "Calico": (sets(plugin("calico-node", "calico-node", namespace="calico-system")), "calico, in calico-system", False),
    "Canal": (sets(plugin("rke2-canal", "calico-node", "kube-flannel")), "calico, in kube-system", False),
    "Cilium": (cilium(), "cilium, in kube-system, policy-cidr-match-mode none", False),
    "Cilium, set": (
        cilium(identity_max_jitter="0s", policy_cidr_match_mode="nodes"),
        "cilium, in kube-system, policy-cidr-match-mode nodes", False,
    ),
    "Cilium, off": (
        cilium(enable_policy="never"),
        "cilium, in kube-system, policy-cidr-match-mode none, enable-policy never", True,
    ),
    "Cilium, auditing": (
        cilium(policy_audit_mode="true", enable_k8s_networkpolicy="true"),
        "cilium, in kube-system, policy-cidr-match-mode none, policy-audit-mode true", True,
    ),
    "AWS, standard": (aws("--enable-network-policy=true", AWS_VPC_K8S_CNI_LOGLEVEL="DEBUG"), f"{EKS} standard", False),
    "AWS, strict": (aws("--enable-network-policy=true", NETWORK_POLICY_ENFORCING_MODE="strict"), f"{EKS} strict", False),
    "AWS, off": (aws("--enable-network-policy=false"), "aws, in kube-system, without --enable-network-policy=true", True),
    "AWS and Calico": (
        sets(plugin("aws-node", "aws-node", "aws-eks-nodeagent"), plugin("calico-node", "calico-node", namespace="calico-system")),
        "calico, in calico-system", False,
    ),
    "GKE": (cilium("anetd"), "gke-dataplane-v2, in kube-system", False),
    "Antrea": (
        sets(plugin("antrea-agent", "antrea-agent", "antrea-ovs", labels={"app": "antrea"})), "antrea, in kube-system", False,
    ),
    "OVN-Kubernetes": (
        sets(plugin("ovnkube-node", "ovn-controller", "ovnkube-controller", namespace="openshift-ovn-kubernetes")),
        "ovn-kubernetes, in openshift-ovn-kubernetes", False,
    ),
    "kindnet": (sets(plugin("kindnet", "kindnet-cni", labels={"app": "kindnet"})), "kindnet, in kube-system", False),
    "flannel": (sets(plugin("kube-flannel-ds", "kube-flannel", namespace="kube-flannel")), "flannel, in kube-flannel, alone", True),
    "flannel with policies": (
        sets(plugin("kube-flannel-ds", "kube-flannel", "kube-network-policies", namespace="kube-flannel")),
        "kube-network-policies, in kube-flannel", False,
    ),
}  # fmt: skip
"""Objects of each network plugin, as its chart makes them; what is seen; whether there could be no gate."""


@pytest.mark.parametrize("name", PLUGINS)
def test_network_plugin_is_known_by_what_its_chart_makes(operator, name):
    objects, seen, stops = PLUGINS[name]
    with operator.cluster(**{"nodes": [node()], **objects}):
        code, out = operator.plan()
    assert found(out)["network plugin"] == (RECOGNISED, seen)
    assert code == (1 if stops else 0) and ("Change this before you shut the gate" in out) == stops


def test_k3s_needs_little_and_is_only_read(operator, plane, render):
    """Also the API server at a port of its own: policies see it there. An audit log has each request."""
    with operator.cluster():
        code, out = operator.plan("--image", "registry.example.org/verifier")
    # No user pod runs here, and the values do not name its label.
    unseen = {id: state for id, (state, _) in found(out).items() if state != RECOGNISED}
    assert (code, unseen) == (0, {"user labels": CANNOT_SEE})
    assert "secret-of-mine" not in out and "--version 1.0.0-0.dev.git.3901.h2d9b3f7 --values your-values.yaml" in out
    assert yaml.safe_load(written()["your-values.yaml"]) == {"extraEnv": {"A": "secret-of-mine"}}
    assert planned() == {
        "image": {"name": "registry.example.org/verifier"},
        "ingress": {
            "enabled": True, "hosts": ["hub.example.org"], "ingressClassName": "traefik",
            "tls": [{"secretName": "kubelego-tls-binder-binder", "hosts": ["hub.example.org"]}],
        },
        "reconciler": {"networkPolicy": {"apiServer": {"ports": {plane.port: True}}}},
        "verifier": {"networkPolicy": {"publicFrom": {"ingress-controller": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": TRAEFIK["spec"]["selector"]["matchLabels"]},
        }}}},
    }  # fmt: skip
    (public, *_) = accepted(render, "balanced")["NetworkPolicy", "binder-egress-verifier"]["spec"]["ingress"]
    assert [*planned()["verifier"]["networkPolicy"]["publicFrom"].values()] == public["from"]
    asked = plane.asked("operator")
    assert len(asked) > len(PATHS) and {line["verb"] for line in asked} <= {"get", "list"}
    assert not [line for line in asked if "secret" in line["requestURI"].lower()]


def test_policies_of_other_kinds_are_named_and_not_judged(operator):
    made = [(group, kind) for group, kinds in KINDS.items() for kind in kinds]
    with operator.cluster(*(other(group, kind, "x") for group, kind in made)):
        code, out = operator.plan()
    harmless = ("CiliumNode", "HTTPRoute", "PolicyEndpoint", "Subnet")
    names = ", ".join(sorted(f"{kind} x" for _, kind in made if kind not in harmless))
    assert code == 0 and found(out)["other policies"] == (NOT_RECOGNISED, f"policies of other kinds: {names}")


def test_dns_elsewhere_is_told_and_openshifts_is_known(operator, plane, render):
    with operator.cluster(Services=[dns_service("bind")]):
        assert found(operator.plan()[1])["DNS"] == (NOT_RECOGNISED, "no known Service is the cluster's DNS")
    pods, port = {"dns.operator.openshift.io/daemonset-dns": "default"}, {"name": "dns", "containerPort": 5353, "protocol": "UDP"}
    daemon_set = workload("dns-default", "openshift-dns", labels=pods, ports=[port])
    cache = workload("node-local-dns", args=["-localip", "169.254.20.10"])
    with operator.cluster(Services=[dns_service("dns-default", "openshift-dns", "dns", **pods)], DaemonSets=[daemon_set, cache]):
        operator.plan("--overwrite")
    assert planned()["dns"] == {
        "namespaceLabels": {"kubernetes.io/metadata.name": "openshift-dns"},
        "podLabels": {"k8s-app": False, **pods},
        "ports": {53: False, 5353: True},
        "cidrs": {"10.43.0.10/32": True, "169.254.20.10/32": True},
    }
    text = yaml.safe_dump(accepted(render)["NetworkPolicy", "binder-egress-reconciler"])
    assert str(plane.port) in text and "169.254.20.10/32" in text and "openshift-dns" in text and "kube-dns" not in text


def test_tenant_of_the_cluster_decides_nothing(operator, plane):
    """He creates all that `egress plan` reads in namespaces, in his own. Only administrators create the rest."""
    his, above = of_tenant(), {"namespace", "nodes", "IngressClasses"}
    assert {*his} == {*PATHS} - above
    slices = [("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", each) for each in his["addresses of the API server"]]
    policies = [
        (below(group, kind).replace("/binder/", "/tenant/"), {"apiVersion": group, "kind": kind, "metadata": {"name": "eve"}})
        for group, kinds in KINDS.items()
        for kind, is_namespaced in kinds.items()
        if is_namespaced and kind != "HTTPRoute"
    ]
    controller = workload("controller", "ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}, release=OF_NGINX)
    nginx = {
        "Ingresses": [ingress(ingressClassName="nginx")], "Deployments": [TRAEFIK, controller],
        "IngressClasses": [ingress_class("nginx", **OF_NGINX), ingress_class("traefik", **OF_TRAEFIK)],
    }  # fmt: skip

    def plans() -> Iterator[Any]:
        for cluster in ({}, cilium(), nginx, {"Services": [], "Deployments": [], "nodes": [node()]}):
            with operator.cluster(**cluster):
                yield operator.plan("--overwrite", "--setting", "balanced"), written()

    before = list(plans())
    assert ["ingress-nginx/controller" in out for (_, out), _ in before] == [False, False, True, False]
    with plane.kept([*places(his, "tenant"), *slices, *policies]):
        assert list(plans()) == before


def test_gateway_alone_is_a_route(operator, render):
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "web", "namespace": "gateways"}
    hosts, rule = ["hub.example.org"], {"backendRefs": [{"name": "binder", "port": 80}]}
    spec = {"hostnames": hosts, "parentRefs": [{**parent, "status": "x"}], "rules": [rule]}
    with operator.cluster(Ingresses=[]):
        assert found(operator.plan()[1])["ingress"] == (NOT_RECOGNISED, "no Ingress and no HTTPRoute leads to BinderHub")
    with operator.cluster(other("gateway.networking.k8s.io/v1", "HTTPRoute", "binder", spec=spec), Ingresses=[]):
        operator.plan("--overwrite", values="config: {BinderHub: {base_url: /binder/}}\n")
    assert planned()["httpRoute"] == {"enabled": True, "hostnames": hosts, "parentRefs": [parent]}
    assert planned()["ingress"] == {"path": "/binder/egress/"}
    (rule,) = accepted(render)["HTTPRoute", "binder-egress"]["spec"]["rules"]
    assert rule["matches"][0]["path"]["value"] == "/binder/egress/"


def test_planned_ports_are_the_only_ones_of_each_tier(render, tmp_path, monkeypatch):
    """Also of the tier of *strict* for people who sign in, whose addresses the settings file opens."""
    monkeypatch.chdir(tmp_path)
    values = {"config": {"BinderHub": {"auth_enabled": True}}, "networkPolicy": {"egress": {"tcpPorts": [80, 443]}}}
    Path("your-egress-values.yaml").write_text(our_values(examine(given(values, "strict")), []))
    turnstile = [f"--set=captcha.providers.turnstile.{each}" for each in ("enabled=true", "siteKey=x", "existingSecret=y")]
    rendered = accepted(render, "strict", *turnstile)
    for tier in ("verified", "signed-in"):
        egress = rendered["NetworkPolicy", f"binder-egress-tier-{tier}"]["spec"]["egress"]
        (world,) = [rule for rule in egress if any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in rule["to"])]
        assert {(port["protocol"], port["port"]) for port in world["ports"]} == {("TCP", 80), ("TCP", 443)}


def test_without_rights_the_cluster_is_out_of_sight(operator):
    """Values say what they can, and somebody is named who knows the rest."""
    hub = "ingress: {enabled: true, hosts: [hub.example.org]}\n"
    with operator.cluster():
        code, out = operator.plan(values=hub, user="stranger")
    states = found(out)
    seen = {id for id, (state, _) in states.items() if state != CANNOT_SEE}
    assert code == 0 and seen == {"maps", "sign-in", "base URL", "ingress"}
    assert planned()["ingress"]["hosts"] == ["hub.example.org"]
    assert states["network plugin"] == (CANNOT_SEE, "DaemonSets: 403 Forbidden")
    assert states["other policies"][1].startswith("AdminNetworkPolicy, ApplicationNetworkPolicy, CiliumClusterwideNetworkPolicy,")


def test_rights_in_binderhubs_namespace_show_that(operator):
    with operator.cluster(NetworkPolicies=[policy("wide", {}, egress=[{}])]):
        code, out = operator.plan(user="guest")
    unseen = {id for id, (state, _) in found(out).items() if state == CANNOT_SEE}
    assert code == 1 and "the NetworkPolicy wide" in out and {"network plugin", "DNS", "API server", "architectures"} <= unseen
    assert not {"bypass", "ingress", "quotas", "BinderHub's version"} & unseen


def test_check_says_what_has_changed_and_writes_nothing(operator):
    with operator.cluster():
        assert operator.plan("--check")[0] == 2 and not written()
        operator.plan()
        before = written()
        assert operator.plan("--check")[0] == 0
    with operator.cluster(Services=[]):
        code, out = operator.plan("--check")
    assert code == 1 and "new: DNS: no known Service is the cluster's DNS" in out and "no longer: DNS: " in out
    assert written() == before
