"""Each check of `egress plan`, with the objects of a cluster: what it recognises, and each trap."""

import json
import re
from pathlib import Path

import pytest

from tests.support.plan_objects import TRAEFIK, dns_service, given, ingress, node, policy, workload
from verifier.gatecheck.checklist import CHECKS, PLAN
from verifier.plan.checks import LOOKS, examine
from verifier.plan.findings import CANNOT_SEE, NOT_RECOGNISED, RECOGNISED, Finding, Given, Objects

TOP = Path(__file__).parents[3]


def found(id: str, of: Given) -> Finding:
    """The only finding of a check."""
    (finding,) = [finding for finding in examine(of) if finding.id == id]
    return finding


def settings(finding: Finding) -> dict:
    return {".".join(setting.path): setting.value for setting in finding.settings}


CILIUM = workload("cilium")


def test_network_plugin_of_k3s_is_in_k3s_unless_it_is_off():
    assert found("network plugin", given()).seen == "kube-router, in k3s"
    off = node(kubelet="v1.34.4+k3s1")
    off["metadata"]["annotations"] = {"k3s.io/node-args": json.dumps(["server", "--disable-network-policy"])}
    finding = found("network plugin", given(nodes=[off]))
    assert finding.stops and "--disable-network-policy" in finding.seen
    assert found("network plugin", given(nodes=[off], DaemonSets=[workload("calico-node")])).seen == "calico"
    off["metadata"]["annotations"] = {"k3s.io/node-args": "no JSON"}
    assert not found("network plugin", given(nodes=[off])).stops


def test_unknown_network_plugin_is_not_recognised():
    finding = found("network plugin", given(nodes=[node()], DaemonSets=[workload("new-plugin")]))
    assert finding.state == NOT_RECOGNISED and "helm test" in finding.do and not finding.stops


def test_ip_families_come_from_the_nodes():
    assert found("IP families", given()).seen == "pods have IPv4"
    assert found("IP families", given(nodes=[node(cidrs=("10.42.0.0/24", "fd00::/64"))])).seen == "pods have IPv4 and IPv6"
    assert found("IP families", given(nodes=[node(cidrs=())])).state == CANNOT_SEE


OPEN = {"egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}


def test_foreign_policy_is_judged_by_the_labels_of_user_pods():
    foreign = policy("course", {"matchLabels": {"course": "x"}}, **OPEN)
    assert not found("bypass", given(NetworkPolicies=[foreign])).stops
    values = {"jupyterhub": {"singleuser": {"extraLabels": {"course": "x"}}}}
    assert found("bypass", given(values, NetworkPolicies=[foreign])).stops
    pod = {"metadata": {"labels": {"component": "singleuser-server", "course": "x"}}}
    assert found("bypass", given(NetworkPolicies=[foreign], **{"user pods": [pod]})).stops


def test_policies_of_jupyterhub_and_of_ours_do_not_count():
    selector = {"matchLabels": {"component": "singleuser-server"}}
    own = policy("singleuser", selector, **OPEN)
    ours = policy("binder-egress-tier-verified", selector, **OPEN)
    ours["metadata"]["labels"] = {"app.kubernetes.io/name": "binder-egress"}
    assert not found("bypass", given(NetworkPolicies=[own, ours])).stops
    assert found("bypass", given(NetworkPolicies=[own, policy("x", {}, **OPEN)])).stops


def test_user_pods_without_the_label_stop():
    pod = {"metadata": {"labels": {"hub.jupyter.org/username": "x"}}}
    assert found("user labels", given(**{"user pods": [pod]})).stops


def test_lists_are_told_and_texts_stop():
    finding = found("maps", given({"extraEnv": [{"name": "A", "value": "secret"}]}))
    assert finding.seen.startswith("extraEnv is a list (A),") and "secret" not in finding.seen and not finding.stops
    assert "refers to another" in found("maps", given({"extraEnv": [{"name": "B", "value": "$(A)"}]})).do
    assert found("maps", given({"jupyterhub": {"hub": {"extraConfig": "c.x = 1"}}})).stops
    assert found("maps", given()).seen == "everything that the wiring adds to is a map"


def test_version_is_the_tag_of_binderhubs_image():
    assert "1.0.0-0.dev.git.3901.h2d9b3f7" in found("BinderHub's version", given()).seen
    local = [workload("binder", "binder", image="localhost/jupyterhub:1")]
    assert found("BinderHub's version", given(**{"BinderHub's Deployment": local})).state == NOT_RECOGNISED


def test_sign_in_opens_the_hub_and_dns():
    signs_in = {"config": {"BinderHub": {"auth_enabled": True}}}
    assert settings(found("sign-in", given(signs_in, "strict"))) == {"base.allowHub": True, "base.allowDns": True}
    assert settings(found("sign-in", given(setting="strict"))) == {"rules.authenticatedUsers": {"*": False}}
    assert not settings(found("sign-in", given()))


@pytest.mark.parametrize(("base", "path"), [("/binder/", "/binder/egress/"), ("/a/b", "/a/b/egress/"), ("/", None)])
def test_path_is_below_base_url(base, path):
    wanted = settings(found("base URL", given({"config": {"BinderHub": {"base_url": base}}})))
    assert wanted == ({"ingress.path": path} if path else {})


def test_strange_base_url_is_not_recognised():
    for base in ("/a b/", "https://x/", ["/"]):
        assert found("base URL", given({"config": {"BinderHub": {"base_url": base}}})).state == NOT_RECOGNISED


def test_proxies_of_user_servers_are_told():
    values = {"jupyterhub": {"singleuser": {"extraEnv": {"https_proxy": "http://proxy", "X": "1"}}}}
    assert "have https_proxy," in found("user proxy", given(values)).seen
    values["jupyterhub"]["singleuser"]["extraEnv"]["BINDER_EGRESS_URL"] = "…"
    assert not [finding for finding in examine(given(values)) if finding.id == "user proxy"]


def test_dns_of_rke2_has_the_usual_label():
    rke2 = dns_service("rke2-coredns-rke2-coredns", **{"k8s-app": "kube-dns", "app.kubernetes.io/name": "rke2-coredns"})
    assert not settings(found("DNS", given(Services=[rke2])))


def test_dns_elsewhere_is_not_recognised():
    for services in ([], [dns_service("bind")], [dns_service(), dns_service("coredns")]):
        finding = found("DNS", given(Services=services))
        assert finding.state == NOT_RECOGNISED and "dns.cidrs" in finding.do


@pytest.mark.parametrize("arguments", [["-localip", "169.254.20.10,10.43.0.10"], ["--localip=169.254.20.10"]])
def test_dns_cache_on_the_nodes_is_listed_with_the_service(arguments):
    cache = workload("node-local-dns", args=arguments)
    wanted = {"dns.cidrs": {"10.43.0.10/32": True, "169.254.20.10/32": True}}
    findings = [finding for finding in examine(given(DaemonSets=[cache])) if finding.id == "DNS"]
    assert settings(findings[-1]) == wanted


def test_api_server_without_addresses_is_not_recognised():
    assert found("API server", given(**{"addresses of the API server": []})).state == NOT_RECOGNISED


def test_no_way_in_is_told():
    other = ingress(rules=[{"host": "x.example.org", "http": {"paths": [{"backend": {"service": {"name": "grafana"}}}]}}])
    assert found("ingress", Given({}, Objects({"Ingresses": [other]}, {"HTTPRoutes": "403"}))).state == CANNOT_SEE
    finding = found("ingress", given(Ingresses=[other]))
    assert finding.state == NOT_RECOGNISED and "publicUrl" in finding.do
    assert "https" in found("ingress", given(Ingresses=[ingress(tls=[])])).do


def test_older_ingress_names_its_class_in_an_annotation():
    older = ingress(ingressClassName=None)
    older["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "nginx", "run": "$(reboot)"}
    wanted = settings(found("ingress", given(Ingresses=[older])))
    assert wanted["ingress.annotations"] == {"kubernetes.io/ingress.class": "nginx"} and "ingress.ingressClassName" not in wanted


NGINX = {"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"}


def test_controller_in_its_nodes_network_is_known_by_the_nodes():
    in_node = workload("ingress-nginx-controller", "ingress-nginx", NGINX, host_network=True)
    here = given(Deployments=[], DaemonSets=[in_node])
    cidrs = {"node-1": {"ipBlock": {"cidr": "10.1.0.1/32"}}}
    assert settings(found("public port", here)) == {"verifier.networkPolicy.publicFrom": cidrs}
    tunnelled = node(notes={"projectcalico.org/IPv4VXLANTunnelAddr": "10.42.0.0"})
    here = given(Deployments=[], DaemonSets=[in_node, workload("calico-node")], nodes=[tunnelled])
    wanted = settings(found("public port", here))["verifier.networkPolicy.publicFrom"]
    assert {peer["ipBlock"]["cidr"] for peer in wanted.values()} == {"10.1.0.1/32", "10.42.0.0/32"}
    here = given(Deployments=[], DaemonSets=[in_node, CILIUM])
    assert found("public port", here).state == NOT_RECOGNISED
    matched = {"Cilium's settings": [{"data": {"policy-cidr-match-mode": "nodes pods"}}]}
    here = given(Deployments=[], DaemonSets=[in_node, CILIUM], **matched)
    assert settings(found("public port", here)) == {"verifier.networkPolicy.publicFrom": cidrs}


def test_controllers_that_are_none_or_several_are_not_recognised():
    for deployments in ([], [TRAEFIK, workload("ingress-nginx-controller", "ingress-nginx", NGINX)]):
        assert found("public port", given(Deployments=deployments)).state == NOT_RECOGNISED


def test_flow_killer_stops_settings_with_the_egress_proxy():
    killer = workload("cryptnono", "support", command=["tcpflowkiller", "--threshold=24"])
    assert not found("flow killer", given(DaemonSets=[killer])).stops
    assert found("flow killer", given(setting="balanced", DaemonSets=[killer])).stops
    parent = {"cryptnono": {"detectors": {"tcpFlowKiller": {"enabled": True}}}}
    assert found("flow killer", Given({}, setting="strict", parent=parent)).stops


def test_tc_init_gives_the_egress_proxy_a_rate():
    values = {"jupyterhub": {"singleuser": {"initContainers": [{"name": "tc-init", "image": "x"}]}}}
    assert settings(found("tc-init", given(values, "balanced"))) == {"proxy.limits.bytesPerSecond": 125_000}
    assert not settings(found("tc-init", given(values)))


def test_ports_of_the_site_are_the_ports_of_each_tier():
    values = {"networkPolicy": {"egress": {"tcpPorts": [80, 443]}}}
    wanted = {"tiers.verified.ports.tcp": {80: True, 443: True}}
    assert settings(found("ports", given(values))) == wanted
    wanted["tiers.signed-in.ports.tcp"] = {80: True, 443: True}
    assert settings(found("ports", given(values, "strict"))) == wanted
    assert not [finding for finding in examine(given()) if finding.id == "ports"]


def test_strict_names_its_captcha_provider():
    assert not [finding for finding in examine(given()) if finding.id == "provider"]
    finding = found("provider", given(setting="strict"))
    assert finding.state == NOT_RECOGNISED and "captcha.providers" in finding.do and not finding.stops
    providers = {"altcha": {"enabled": True}, "turnstile": {"enabled": False}}
    parent = {"binder-egress": {"captcha": {"providers": providers}}}
    assert found("provider", Given({}, setting="strict", parent=parent)).stops
    providers["turnstile"]["enabled"] = True
    finding = found("provider", Given({}, setting="strict", parent=parent))
    assert finding.state == RECOGNISED and finding.seen.endswith("turnstile")


def test_sysctl_against_ping_may_be_refused():
    assert found("ping", given()).state == RECOGNISED
    finding = found("ping", given(**{"API groups": [{"name": "kyverno.io"}]}))
    assert finding.state == NOT_RECOGNISED and "Kyverno" in finding.seen
    in_node = {"jupyterhub": {"singleuser": {"extraPodConfig": {"hostNetwork": True}}}}
    pod = {"metadata": {"labels": {"component": "singleuser-server"}}, "spec": {"hostNetwork": True}}
    for here in (given(in_node), given(**{"user pods": [pod]})):
        assert found("ping", here).stops and "closePing" in found("ping", here).do


def test_pre_puller_is_told_unless_it_has_our_image():
    def told(puller):
        return [finding for finding in examine(given({"jupyterhub": {"prePuller": puller}})) if finding.id == "pre-puller"]

    ours = {"binder-egress": {"name": "x", "tag": "1"}}
    assert not told({}) and not told({"hook": {"enabled": False}})
    assert not told({"hook": {"enabled": True}, "extraImages": ours})
    assert "prePuller.extraImages" in told({"continuous": {"enabled": True}})[0].do


def test_minesweeper_has_to_spare_the_canary():
    assert "binder-egress/gatecheck" in found("minesweeper", given(DaemonSets=[workload("minesweeper", "prod")])).do


def test_surroundings_are_told():
    namespace = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    here = given(
        namespace=[namespace],
        ResourceQuotas=[{"metadata": {"name": "small"}}],
        **{"API groups": [{"name": "monitoring.coreos.com"}]},
    )
    assert "enforces baseline" in found("Pod Security", here).seen
    assert "small" in found("quotas", here).seen
    assert "serviceMonitor" in found("Prometheus", here).do
    other = node()
    other["status"]["nodeInfo"]["architecture"] = "riscv64"
    assert found("architectures", given(nodes=[node(), other])).state == NOT_RECOGNISED


@pytest.mark.parametrize("what", [None, "text", 7, [], {"metadata": None}, {"spec": {"rules": 7}}])
def test_nothing_in_the_cluster_or_the_values_raises(what):
    names = given().objects.found
    for values in ({"extraEnv": [what], "config": what, "ingress": what, "jupyterhub": {"singleuser": what}}, {"extraEnv": what}):
        assert examine(Given(values, Objects({name: [what] for name in names})))
        assert examine(Given(values, Objects(), setting="strict"))


def test_pages_that_sentences_name_exist():
    for module in (*(TOP / "verifier/plan").glob("*.py"), *(TOP / "verifier/gatecheck").glob("*.py")):
        for page in re.findall(r"(?:docs|chart)/[\w-]+\.\w+", module.read_text()):
            assert (TOP / page).is_file(), (module, page)


def test_each_check_of_the_list_is_carried_out():
    assert set(LOOKS) == {id for id, check in CHECKS.items() if PLAN in check.by}
