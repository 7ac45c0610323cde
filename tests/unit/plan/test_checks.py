"""Each check of `egress plan`, with the objects of a cluster: what it recognises, and each trap."""

import json
import re
from dataclasses import replace

import pytest

from binder_egress.gatecheck.checklist import CHECKS, PLAN
from binder_egress.plan.checks import LOOKS, examine
from binder_egress.plan.cluster import PATHS
from binder_egress.plan.findings import CANNOT_SEE, NOT_RECOGNISED, RECOGNISED, Finding, Given, Objects
from binder_egress.plan.network_plugin import PLUGINS
from tests.support import TOP
from tests.support.charts import VALUES
from tests.support.plan_objects import (
    OF_TRAEFIK,
    TRAEFIK,
    TRAEFIK_LABELS,
    dns_service,
    given,
    ingress,
    ingress_class,
    node,
    of_release,
    of_tenant,
    policy,
    workload,
)


def settings(finding: Finding) -> dict:
    return {".".join(setting.path): setting.value for setting in finding.settings}


def k3s_node(arguments):
    off = node(kubelet="v1.34.4+k3s1")
    off["metadata"]["annotations"] = {"k3s.io/node-args": arguments}
    return off


def of_architecture(name):
    other = node()
    other["status"]["nodeInfo"]["architecture"] = name
    return other


def singleuser(**values):
    return {"jupyterhub": {"singleuser": values}}


def user_pod(spec=None, **labels):
    return {"metadata": {"labels": labels}, "spec": spec or {}}


def from_nodes(*addresses):
    peers = {f"node-{number}": {"ipBlock": {"cidr": f"{address}/32"}} for number, address in enumerate(addresses, 1)}
    return {"verifier.networkPolicy.publicFrom": peers}


def of_binderhub(**values):
    return {"config": {"BinderHub": values}}


def parent(**values):
    return Given({}, setting="strict", parent=values)


def labelled(pods=(), code=None, **sections):
    """Values with KubeSpawner's label in sections of the hub's configuration, and code, and user pods with labels."""
    config = {section: {"component_label": label} for section, label in sections.items()}
    hub = {"config": config} | ({"extraConfig": {"00-mine": code}} if code else {})
    return given({"jupyterhub": {"hub": hub}}, **{"user pods": [user_pod(component=label) for label in pods]})


WIRED = VALUES["integration"]["binderhub"]
SETS_LABEL = "c.KubeSpawner.component_label = x"
COURSE_PODS = {"userPods.labels": {"component": "course"}}
OFF = k3s_node(json.dumps(["server", "--disable-network-policy"]))
OPEN = {"egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}
COURSE = policy("course", {"matchLabels": {"course": "x"}}, **OPEN)
USER_PODS = {"component": "singleuser-server"}
OF_JUPYTERHUB = policy("singleuser", {"matchLabels": USER_PODS}, **OPEN)
OURS = policy("binder-egress-tier-verified", {"matchLabels": USER_PODS}, **OPEN)
OURS["metadata"]["labels"] = {"app.kubernetes.io/name": "binder-egress"}
RKE2_DNS = dns_service("rke2-coredns-rke2-coredns", **{"k8s-app": "kube-dns", "app.kubernetes.io/name": "rke2-coredns"})
GRAFANA = ingress(rules=[{"host": "x.example.org", "http": {"paths": [{"backend": {"service": {"name": "grafana"}}}]}}])
NGINX = {"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"}
OF_NGINX = of_release("ingress-nginx", "ingress-nginx")
CONTROLLER = workload("ingress-nginx-controller", "ingress-nginx", NGINX, release=OF_NGINX)
IN_NODE = workload("ingress-nginx-controller", "ingress-nginx", NGINX, host_network=True, release=OF_NGINX)
"""An ingress controller in a namespace of its own, which the IngressClass names."""
BY_NGINX = {"Deployments": [TRAEFIK], "Ingresses": [ingress(ingressClassName="nginx")],
            "IngressClasses": [ingress_class("nginx", **OF_NGINX), ingress_class("traefik", **OF_TRAEFIK)]}  # fmt: skip
BY = "the ingress controller of the IngressClass"
CIDRS_OF_NODES = {"metadata": {"namespace": "kube-system"}, "data": {"policy-cidr-match-mode": "nodes pods"}}
SECOND = workload("second", labels=TRAEFIK_LABELS, release=OF_TRAEFIK)
TUNNELLED = node(notes={"projectcalico.org/IPv4VXLANTunnelAddr": "10.42.0.0"})
AT_ONCE = "identityChangeGracePeriod: 0s and extraConfig.identity-max-jitter: 0s"
AZURES = node()
AZURES["metadata"]["labels"] = {"kubernetes.azure.com/cluster": "x"}
CILIUM, CALICO, NEW = workload("cilium"), workload("calico-node"), workload("new-plugin")
LOCAL = workload("binder", "binder", image="localhost/jupyterhub:1")
BASELINE = {"pod-security.kubernetes.io/enforce": "baseline"}
KILLER = workload("cryptnono", "support", command=["tcpflowkiller", "--threshold=24"], securityContext={"privileged": True})
KILLER["status"] = {"numberReady": 1}
WITH_KILLER = {"cryptnono": {"detectors": {"tcpFlowKiller": {"enabled": True}}}}
ZERO_TO_JUPYTERHUBS = VALUES["gatecheck"]["tolerations"]
GPUS = [{"key": "example.org/gpu", "operator": "Exists"}]
GPU = singleuser(extraTolerations=GPUS)
FULL = {"key": "example.org/full", "operator": "Exists", "effect": "NoExecute"}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
TC_INIT = singleuser(initContainers=[{"name": "tc-init", "image": "x"}])
SITE_PORTS = {"networkPolicy": {"egress": {"tcpPorts": [80, 443]}}}
WITH_CACHE = {"dns.cidrs": {"10.43.0.10/32": True, "169.254.20.10/32": True}}
PORTS = {"tiers.verified.ports.tcp": {80: True, 443: True}}


def cilium(nodes=(), **data):
    config = {"metadata": {"name": "cilium-config", "namespace": "kube-system"}, "data": data}
    return given(DaemonSets=[CILIUM], nodes=[*nodes, node()], **{"Cilium's settings": [config]})


def providers(**enabled):
    listed = {name: {"enabled": is_on} for name, is_on in enabled.items()}
    return parent(**{"binder-egress": {"captcha": {"providers": listed}}})


def row(id, of, **says):
    return pytest.param(id, of, says, id=f"{id}: {says}")


@pytest.mark.parametrize(
    ("id", "of", "says"),
    [
        row("network plugin", given(), exactly="kube-router, in k3s"),
        row("network plugin", given(nodes=[OFF]), stops=True, seen="--disable-network-policy"),
        row("network plugin", given(nodes=[OFF], DaemonSets=[CALICO]), exactly="calico, in kube-system"),
        row("network plugin", given(nodes=[OFF], DaemonSets=[CALICO, workload("antrea-agent")]), state=NOT_RECOGNISED,
            seen="several network plugins: calico in kube-system, antrea in kube-system"),
        row("network plugin", given(DaemonSets=[CALICO, workload("calico-node", "calico-system")]), state=NOT_RECOGNISED),
        row("network plugin", given(nodes=[k3s_node("no JSON")]), stops=False),
        row("network plugin", given(nodes=[node()], DaemonSets=[NEW]), state=NOT_RECOGNISED, do="helm test", stops=False),
        row("IP families", given(), exactly="pods have IPv4"),
        row("IP families", given(nodes=[node(cidrs=("10.42.0.0/24", "fd00::/64"))]), exactly="pods have IPv4 and IPv6"),
        row("IP families", given(nodes=[node(cidrs=())]), state=CANNOT_SEE),
        # A foreign policy is judged by the labels of user pods. Policies of JupyterHub and of ours do not count.
        row("bypass", given(NetworkPolicies=[COURSE]), stops=False),
        row("bypass", given(singleuser(extraLabels={"course": "x"}), NetworkPolicies=[COURSE]), stops=True),
        row("bypass", given(NetworkPolicies=[COURSE], **{"user pods": [user_pod(**USER_PODS, course="x")]}), stops=True),
        row("bypass", given(NetworkPolicies=[OF_JUPYTERHUB, OURS]), stops=False),
        row("bypass", given(NetworkPolicies=[OF_JUPYTERHUB, policy("x", {}, **OPEN)]), stops=True),
        row("user labels", given(**{"user pods": [user_pod(**{"hub.jupyter.org/username": "x"})]}), stops=True),
        # The hub's values name the label, or pods show it; code hides the values.
        row("user labels", labelled(), state=CANNOT_SEE, seen="the values name no component_label", settings={}),
        row("user labels", labelled(pods=["singleuser-server"]), state=RECOGNISED, stops=False, settings={}),
        row("user labels", labelled(KubeSpawner="course"), state=RECOGNISED, settings=COURSE_PODS),
        row("user labels", labelled(KubeSpawner="x", BinderSpawner="course"), seen="component=course", settings=COURSE_PODS),
        row("user labels", labelled(KubeSpawner="singleuser-server"), state=RECOGNISED, settings={}),
        row("user labels", labelled(pods=["course", "course"]), state=RECOGNISED, settings=COURSE_PODS),
        row("user labels", labelled(pods=["course", "singleuser-server"]), state=NOT_RECOGNISED, stops=True, settings={}),
        row("user labels", labelled(pods=["singleuser-server"], KubeSpawner="course"), state=NOT_RECOGNISED, stops=True),
        row("user labels", labelled(code=SETS_LABEL, KubeSpawner="y"), state=CANNOT_SEE, seen="code in hub.extraConfig"),
        row("user labels", labelled(["course"], SETS_LABEL, KubeSpawner="y"), settings=COURSE_PODS),
        row("user labels", Given(WIRED, Objects({}, {"user pods": "403"})), state=CANNOT_SEE, seen="the values name no"),
        # Lists are told, without their values, and texts stop.
        row("maps", given({"extraEnv": [{"name": "A", "value": "secret"}]}), seen="extraEnv is a list (A),", stops=False),
        row("maps", given({"extraEnv": [{"name": "B", "value": "$(A)"}]}), do="refers to another"),
        row("maps", given({"jupyterhub": {"hub": {"extraConfig": "c.x = 1"}}}), stops=True),
        row("maps", given(), exactly="everything that the wiring adds to is a map"),
        row("BinderHub's version", given(**{"BinderHub's Deployment": [LOCAL]}), state=NOT_RECOGNISED),
        row("sign-in", given(of_binderhub(auth_enabled=True), "strict"), settings={"base.allowHub": True, "base.allowDns": True}),
        row("sign-in", given(setting="strict"), settings={"rules.authenticatedUsers": {"*": False}}),
        row("base URL", given(of_binderhub(base_url="/binder/")), settings={"ingress.path": "/binder/egress/"}),
        row("base URL", given(of_binderhub(base_url="/a/b")), settings={"ingress.path": "/a/b/egress/"}),
        *(row("base URL", given(of_binderhub(base_url=base)), state=NOT_RECOGNISED) for base in ("/a b/", "https://x/", ["/"])),
        row("user proxy", given(singleuser(extraEnv={"https_proxy": "http://proxy", "X": "1"})), seen="have https_proxy,"),
        row("user proxy", given(singleuser(extraEnv={"https_proxy": "x", "BINDER_EGRESS_URL": "…"})), absent=True),
        row("DNS", given(Services=[RKE2_DNS]), settings={}),
        *(
            row("DNS", given(DaemonSets=[workload("node-local-dns", args=arguments)]), settings=WITH_CACHE)
            for arguments in (["-localip", "169.254.20.10,10.43.0.10"], ["--localip=169.254.20.10"])
        ),
        row("DNS", given(DaemonSets=[workload("nodelocaldns", args=["-localip", "10.0.0.1"])]), seen="kube-system/nodelocaldns"),
        *(
            row("DNS", given(DaemonSets=caches), state=NOT_RECOGNISED, seen=why, settings={}, do="dns.cidrs")
            for caches, why in (
                ([workload("node-local-dns", args=["-localip", "8.8.8.8"])], "8.8.8.8: a public address"),
                ([workload(name, args=["-localip", "169.254.20.10"]) for name in ("node-local-dns", "nodelocaldns")], "several"),
            )
        ),
        *(
            row("DNS", given(Services=services), state=NOT_RECOGNISED, do="dns.cidrs")
            for services in ([], [dns_service("bind")], [dns_service(), dns_service("coredns")])
        ),
        row("API server", given(**{"addresses of the API server": []}), state=NOT_RECOGNISED),
        row("ingress", Given({}, Objects({"Ingresses": [GRAFANA]}, {"HTTPRoutes": "403"})), state=CANNOT_SEE),
        row("ingress", given(Ingresses=[GRAFANA]), state=NOT_RECOGNISED, do="publicUrl"),
        row("ingress", given(Ingresses=[ingress(tls=[])]), do="https"),
        row("ingress", given(Ingresses=[ingress(), ingress()]), state=NOT_RECOGNISED, seen="several Ingresses", settings={}),
        # A controller in its node's network is known by the nodes, which Cilium does not match by default.
        row("public port", given(**BY_NGINX, DaemonSets=[IN_NODE]), settings=from_nodes("10.1.0.1")),
        row("public port", given(**BY_NGINX, DaemonSets=[IN_NODE, CILIUM]), state=NOT_RECOGNISED, do="Cilium"),
        row("public port", given(**BY_NGINX, DaemonSets=[IN_NODE, CILIUM, CALICO]), state=NOT_RECOGNISED, do="Cilium"),
        row("public port", given(**BY_NGINX, DaemonSets=[IN_NODE, CILIUM], **{"Cilium's settings": [CIDRS_OF_NODES]}),
            settings=from_nodes("10.1.0.1")),
        row("public port", given(**BY_NGINX, DaemonSets=[IN_NODE, CALICO], nodes=[TUNNELLED]),
            settings=from_nodes("10.1.0.1", "10.42.0.0")),
        # The IngressClass of BinderHub's Ingress says which release its controller is in.
        row("public port", given(**BY_NGINX, DaemonSets=[CONTROLLER]),
            exactly=f"{BY} nginx is ingress-nginx/ingress-nginx-controller"),
        row("public port", given(Ingresses=[ingress(ingressClassName=None)]), exactly=f"{BY} traefik is kube-system/traefik"),
        row("public port", given(**BY_NGINX), state=NOT_RECOGNISED, seen="the IngressClass nginx"),
        row("public port", given(IngressClasses=[ingress_class("traefik")]), state=NOT_RECOGNISED, settings={}),
        row("public port", given(IngressClasses=[]), state=NOT_RECOGNISED, seen="no IngressClass"),
        row("public port", given(Deployments=[]), state=NOT_RECOGNISED),
        row("public port", given(Deployments=[TRAEFIK, SECOND]), state=NOT_RECOGNISED, settings={},
            seen="kube-system/second, kube-system/traefik"),
        row("labels", cilium(), stops=False, do=AT_ONCE,
            exactly="they act after up to 30s (identity-max-jitter), then 5s (identity-change-grace-period)"),
        row("labels", cilium(), do="proxy.enabled: true"),
        row("labels", cilium(**{"identity-max-jitter": "0s"}), do=AT_ONCE, seen="5s (identity-change-grace-period)"),
        row("labels", cilium(**{"identity-max-jitter": "0s", "identity-change-grace-period": "0s"}), do=""),
        row("labels", cilium(nodes=[AZURES]), do="Whoever runs the cluster"),
        row("labels", given(DaemonSets=[workload("anetd")]), state=NOT_RECOGNISED, do="Whoever runs the cluster"),
        row("labels", given(), absent=True),
        row("identities", cilium(), stops=False, do="!hub.jupyter.org/username and !hub.jupyter.org/servername",
            exactly="Cilium makes one for each server"),
        row("identities", cilium(labels="!hub.jupyter.org/username !hub.jupyter.org/servername"), do="",
            exactly="the servers of a tier share one"),
        row("identities", cilium(labels=r"k8s:component binder-egress/ hub\.jupyter\.org/user"), seen="each server"),
        row("identities", cilium(labels="component$ binder-egress app"), exactly="the servers of a tier share one"),
        row("identities", cilium(labels="app component"), stops=True, seen="leaves out binder-egress/tier"),
        row("identities", cilium(labels="!binder !comp"), stops=True, seen="leaves out component and binder-egress/tier"),
        row("identities", cilium(labels="!binder-egress/guard !hub"), stops=False),
        row("identities", cilium(labels="("), state=NOT_RECOGNISED, seen="form"),
        row("identities", cilium(**{"label-prefix-file": "/x"}), state=NOT_RECOGNISED,
            do="component, binder-egress/tier must count"),
        row("identities", given(), absent=True),
        row("flow killer", given(DaemonSets=[KILLER]), stops=False),
        row("flow killer", given(setting="balanced", DaemonSets=[KILLER]), stops=True),
        row("flow killer", parent(**WITH_KILLER), stops=True),
        row("tc-init", given(TC_INIT, "balanced"), settings={"proxy.limits.bytesPerSecond": 125_000}),
        row("tc-init", given(TC_INIT), settings={}),
        row("ports", given(SITE_PORTS), settings=PORTS),
        row("ports", given(SITE_PORTS, "strict"), settings=PORTS | {"tiers.signed-in.ports.tcp": {80: True, 443: True}}),
        row("ports", given(), absent=True),
        row("provider", given(), absent=True),
        row("provider", given(setting="strict"), state=NOT_RECOGNISED, do="captcha.providers", stops=False),
        row("provider", providers(altcha=True, turnstile=False), stops=True),
        row("provider", providers(altcha=True, turnstile=True), state=RECOGNISED, seen="turnstile"),
        row("ping", given(**{"API groups": [{"name": "kyverno.io"}]}), state=NOT_RECOGNISED, seen="Kyverno"),
        row("ping", given(singleuser(extraPodConfig={"hostNetwork": True})), stops=True, do="closePing"),
        row("ping", given(**{"user pods": [user_pod({"hostNetwork": True}, **USER_PODS)]}), stops=True, do="closePing"),
        row("minesweeper", given(DaemonSets=[workload("minesweeper", "binder")]), do="binder-egress/gatecheck"),
        row("Pod Security", given(namespace=[user_pod(**BASELINE)]), seen="enforces baseline"),
        row("user nodes", given(GPU, **{"user pods": [user_pod({"tolerations": [*ZERO_TO_JUPYTERHUBS, FULL, NOT_READY]})]}),
            exactly="user pods tolerate example.org/full, example.org/gpu",
            settings={key: [*ZERO_TO_JUPYTERHUBS, FULL, *GPUS] for key in ("agent.tolerations", "gatecheck.tolerations")}),
        row("user nodes", given(**{"user pods": [user_pod({"tolerations": [*ZERO_TO_JUPYTERHUBS, NOT_READY]})]}), absent=True),
        row("quotas", given(ResourceQuotas=[{"metadata": {"name": "small"}}]), seen="small"),
        row("Prometheus", given(**{"API groups": [{"name": "monitoring.coreos.com"}]}), do="serviceMonitor"),
        row("architectures", given(nodes=[node(), of_architecture("riscv64")]), state=NOT_RECOGNISED),
    ],
)  # fmt: skip
def test_check_finds(id, of, says):
    findings = [finding for finding in examine(of) if finding.id == id]
    if "absent" in says:
        assert findings == []
        return
    *_, finding = findings
    whole = {"state": finding.state, "stops": finding.stops, "settings": settings(finding), "exactly": finding.seen}
    for what, expected in says.items():
        assert expected == whole[what] if what in whole else expected in getattr(finding, what), finding
    assert "secret" not in finding.seen


CLUSTERS = {
    "k3s": given(setting="balanced"),
    "nothing known": given(nodes=[node()], Services=[], Deployments=[], IngressClasses=[]),
    "Cilium": given(**BY_NGINX, DaemonSets=[IN_NODE, CILIUM]),
    "AWS and Calico": given(DaemonSets=[workload("aws-node"), workload("calico-node", "calico-system")]),
    "NodeLocal DNSCache": given(DaemonSets=[workload("node-local-dns", args=["-localip", "169.254.20.10"])]),
    "named port": given(Services=[dns_service(target="dns")], DaemonSets=[
        workload("kube-dns", labels={"k8s-app": "kube-dns"}, ports=[{"name": "dns", "containerPort": 5353}])
    ]),
}  # fmt: skip


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize(
    ("name", "one"),
    [
        pytest.param(name, one, id=f"{name}: {one['metadata']['name']}")
        for name, (path, _) in PATHS.items()
        if "/namespaces" not in path
        for one in of_tenant().get(name, [])
    ],
)
def test_objects_of_a_tenant_change_nothing(cluster, name, one):
    """Of the kinds that are read in all namespaces. Of all kinds, at an API server: tests/chart/test_plan_cluster.py."""
    before = CLUSTERS[cluster]
    seen = {**before.objects.found, name: [*before.objects.found[name], one]}
    first = {**before.objects.found, name: [one, *before.objects.found[name]]}
    assert examine(replace(before, objects=Objects(seen))) == examine(before) == examine(replace(before, objects=Objects(first)))


def test_each_network_plugin_is_known_in_its_namespaces():
    for engine, plugin in PLUGINS.items():
        for namespace in ("kube-system", *plugin.get("namespaces", [])):
            of = given(nodes=[node()], DaemonSets=[workload(name, namespace) for name in plugin["daemon_sets"]])
            (known,) = [finding for finding in examine(of) if finding.id == "network plugin"]
            assert known.state == RECOGNISED and known.seen.startswith(f"{engine}, in {namespace}"), known


def test_older_ingress_names_its_class_in_an_annotation():
    older = ingress(ingressClassName=None)
    older["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "nginx", "run": "$(reboot)"}
    (wanted,) = [settings(finding) for finding in examine(given(Ingresses=[older])) if finding.id == "ingress"]
    assert wanted["ingress.annotations"] == {"kubernetes.io/ingress.class": "nginx"} and "ingress.ingressClassName" not in wanted


def test_pre_puller_is_told_unless_it_has_our_image():
    def told(puller):
        return [finding for finding in examine(given({"jupyterhub": {"prePuller": puller}})) if finding.id == "pre-puller"]

    ours = {"binder-egress": {"name": "x", "tag": "1"}}
    assert not told({}) and not told({"hook": {"enabled": False}})
    assert not told({"hook": {"enabled": True}, "extraImages": ours})
    assert "prePuller.extraImages" in told({"continuous": {"enabled": True}})[0].do


@pytest.mark.parametrize("what", [None, "text", 7, [], {"metadata": None}, {"spec": {"rules": 7}}])
def test_nothing_in_the_cluster_or_the_values_raises(what):
    names = given().objects.found
    for values in ({"extraEnv": [what], "config": what, "ingress": what, "jupyterhub": {"singleuser": what}}, {"extraEnv": what}):
        assert examine(Given(values, Objects({name: [what] for name in names})))
        assert examine(Given(values, Objects(), setting="strict"))


def test_pages_that_sentences_name_exist():
    for module in (*(TOP / "verifier/binder_egress/plan").glob("*.py"), *(TOP / "verifier/binder_egress/gatecheck").glob("*.py")):
        for page in re.findall(r"(?:docs|chart)/[\w-]+\.\w+", module.read_text()):
            assert (TOP / page).is_file(), (module, page)


def test_each_check_of_the_list_is_carried_out():
    assert set(LOOKS) == {id for id, check in CHECKS.items() if PLAN in check.by}
