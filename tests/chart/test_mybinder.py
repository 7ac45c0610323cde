"""The change of docs/mybinder.md: the diffs in docs/mybinder apply in order, and each member is rendered as the page says."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.support.charts import by_name, seen_values, stand_in, write

TOP = Path(__file__).parents[2]
CHART = TOP / "chart"
PAGE = (TOP / "docs/mybinder.md").read_text()
EMERGENCY = (TOP / "docs/mybinder-emergency.md").read_text()
DIFFS = sorted((TOP / "docs/mybinder").iterdir())
APPLY = re.findall(r"^```sh\n(apply\(\) .*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]
SECRETS = re.findall(r"`secrets/config/common/binder-egress.yaml`:\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
BANS = re.findall(r"use it:\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
MEMBERS = {"hetzner-2i2c": "2i2c", "hetzner-gesis": "gesis", "bids-ovh": "bids"}
OBSERVED = ("hetzner-2i2c", "hetzner-gesis")
"""Members that only observe after the fourth diff."""
IMAGE = "REGISTRY/binder-egress-verifier"
PORTS = {80, 443, 9418, 873, 1094, 1095, 16286, 4001}

pytestmark = pytest.mark.timeout(1800)


def imitation(folder):
    """The imitation of the repository in a folder, with its dependencies."""
    path = folder / "mybinder.org-deploy"
    shutil.copytree(TOP / "tests/chart/mybinder", path)
    (folder / "binder-egress").symlink_to(TOP)
    charts = path / "mybinder/charts"
    wired = ("config", "extraConfig", "extraEnv", "extraVolumes", "extraVolumeMounts", "ingress", "jupyterhub", "networkPolicy")
    stand_in(charts / "binderhub", wired)
    stand_in(charts / "binderhub/charts/jupyterhub", ("cull", "hub", "singleuser", "ingress", "custom"))
    write(charts / "binderhub/charts/jupyterhub/values.yaml", {"singleuser": {"extraEnv": {}, "networkPolicy": {"enabled": True}}})
    stand_in(charts / "k8s-log-alerter-zulip", ("enabled", "rules"), "0.1.3")
    return path


def apply(deploy, number, *options):
    if number == 1 and not options:
        shutil.copytree(CHART, deploy / "mybinder/charts/binder-egress", ignore=shutil.ignore_patterns("tests", "ci"))
    command = ["bash", "-euo", "pipefail", "-c", f'{APPLY}\napply "$@"', "apply", str(number), *options]
    done = subprocess.run(command, cwd=deploy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    """A function that gives the repository after the first diffs, which nobody may change: another test gets the same."""

    @cache
    def after(number):
        deploy = imitation(tmp_path_factory.mktemp(f"after-{number}-"))
        for each in range(1, number + 1):
            apply(deploy, each)
        return deploy

    return after


def rendered(helm, deploy, member, *more):
    write(deploy / "secrets.yaml", SECRETS)
    lists = deploy / "config/test-secrets.yaml"
    anchor, use = re.search(r"bannedIps: &\w+\n", BANS)[0], BANS[BANS.index("binder-egress:") :]
    write(deploy / "lists.yaml", lists.read_text().replace("bannedIps:\n", anchor, 1) + use)
    files = [deploy / "secrets.yaml", deploy / f"config/{member}.yaml", deploy / "lists.yaml"]
    values = [option for file in files for option in ("--values", str(file))]
    return by_name(helm("template", member, str(deploy / "mybinder"), "--namespace", member, *values, *more))


@pytest.fixture(scope="module")
def render(helm, after):

    @cache
    def render(number, member, *more):
        return rendered(helm, after(number), member, *more)

    return render


def users(objects):
    return set(objects["NetworkPolicy", "binder-users"]["spec"]["podSelector"]["matchExpressions"][0]["values"])


def policies(objects):
    return {name for kind, name in objects if kind == "NetworkPolicy" and name.startswith("binder-egress-")}


def of_user_pods(objects):
    """Our policies that select user pods, but for the policy that lets the reconciler try the canary."""
    return {
        name
        for name in policies(objects)
        if "component" in objects["NetworkPolicy", name]["spec"]["podSelector"].get("matchLabels", {})
    } - {"binder-egress-label-delay", "binder-egress-node-canary"}


def assert_shut(objects):
    """The gate is shut: our policies alone select user pods, and nobody pings."""
    assert users(objects) == {"dind", "image-builder"}
    assert of_user_pods(objects) == {"binder-egress-base", "binder-egress-tier-verified"}
    hub = seen_values(objects, "jupyterhub")
    assert hub["singleuser"]["networkPolicy"]["enabled"] is False and hub["custom"]["binderEgress"]["closePing"] is True


def test_page_has_each_diff_in_order():
    assert re.findall(r"`apply (\d)`\]\(mybinder/(.+?)\)", PAGE) == [(file.name[0], file.name) for file in DIFFS]


@pytest.mark.parametrize(("number", "member"), [*((1, member) for member in (*MEMBERS, "staging")), (7, "prod")])
def test_first_diff_changes_nothing_and_none_changes_a_member_that_redirects(render, number, member):
    before, after = render(0, member), render(number, member)
    alerter = ("ConfigMap", "k8s-log-alerter-zulip")
    assert {"Egress gate", "Minesweeper killed"} <= seen_values(after, alerter[1])["rules"].keys()
    assert {**after, alerter: None} == {**before, alerter: None}


def test_first_diff_brings_the_chart_into_each_workflow_that_fetches_charts(after):
    deploy = after(1)
    place = yaml.safe_load((deploy / "mybinder/Chart.yaml").read_text())["dependencies"][-1]["repository"]
    for file in (deploy / ".github/workflows").iterdir():
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            steps = job["steps"]
            (fetches,) = [number for number, step in enumerate(steps) if "helm dependency update" in step.get("run", "")]
            (ours,) = [step["with"] for step in steps[:fetches] if "with" in step]
            assert place == f"file://../{ours['path']}/chart"
    assert "/binder-egress" in (deploy / ".gitignore").read_text().splitlines()


def test_lost_wiring_is_alerted_in_the_words_of_the_hook(render):
    regex = re.compile(seen_values(render(1, "staging"), "k8s-log-alerter-zulip")["rules"]["Egress wiring"]["regex"])
    hook = (CHART / "integration/launch_hook.py").read_text()
    errors = re.findall(r'"(binder-egress: [^"]*(?:missing|verifier fails)[^"]*)"', hook)
    assert len(errors) == 2 and all(regex.search(error) for error in errors)


def test_variables_of_binderhub_as_a_list_are_refused(render):
    render(2, "prod", "--set-json", 'binderhub.extraEnv=[{"name":"A","value":"b"}]')
    with pytest.raises(AssertionError, match="extraEnv of BinderHub is a list"):
        render(2, "staging", "--set-json", 'binderhub.extraEnv=[{"name":"A","value":"b"}]')


def test_minesweeper_leaves_the_canary_alone(after, render):
    sweeper = (after(2) / "mybinder/files/minesweeper/minesweeper.py").read_text()
    (selector,) = re.findall('"label_selector": "(.+)"', sweeper)
    wanted, unwanted = selector.split(",!")
    (labels,) = [one["metadata"]["labels"] for (kind, name), one in render(2, "staging").items() if "egress-canary-" in name]
    assert wanted == "component=singleuser-server" and labels["component"] == "singleuser-server" and unwanted in labels
    # And it has the labels by which other policies select user pods.
    assert labels["release"] == "staging"


def test_second_diff_shuts_the_gate_of_staging(render):
    objects = render(2, "staging")
    assert_shut(objects)
    hub, binderhub = seen_values(objects, "jupyterhub"), seen_values(objects, "binderhub")
    address = "https://ovh.staging.mybinder.org/egress/"
    assert f'content="{address}"' in binderhub["config"]["BinderHub"]["extra_header_html"]["binder-egress-address"]
    assert hub["singleuser"]["extraEnv"]["BINDER_EGRESS_URL"].startswith(f"{address}servers/$(JUPYTERHUB_USER)/")
    assert objects["Ingress", "binder-egress"]["spec"]["rules"][0]["host"] == "ovh.staging.mybinder.org"
    # Our pods and user pods have the same image, which is nobody else's.
    (container,) = objects["Deployment", "binder-egress-verifier"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == hub["custom"]["binderEgress"]["startGuard"]["image"] == f"{IMAGE}:0.1.0"
    public = objects["NetworkPolicy", "binder-egress-verifier"]["spec"]["ingress"][0]
    assert public["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "traefik"}}}]
    settings = objects["ConfigMap", "binder-egress"]["data"]
    assert json.loads(settings["BINDER_EGRESS_ALLOWED_ORIGINS"]) == ["https://staging.mybinder.org"]


def test_node_guard_runs_with_the_gate(render):
    assert ("DaemonSet", "binder-egress-node-guard") not in render(1, "staging")
    guard = render(2, "staging")["DaemonSet", "binder-egress-node-guard"]
    wanted = yaml.safe_load((TOP / "docs/node-guard.yaml").read_text())
    (container,) = wanted["spec"]["template"]["spec"]["containers"]
    container["image"] = "REGISTRY/binder-egress-node-guard:0.1.0"
    assert guard == wanted


@pytest.mark.parametrize(("member", "host"), MEMBERS.items())
def test_third_diff_makes_each_member_observe(render, member, host):
    objects = render(3, member)
    assert {"singleuser-server", "dind", "image-builder"} == users(objects) and not of_user_pods(objects)
    assert ("Deployment", "binder-egress-verifier") in objects and ("Deployment", "binder-egress-reconciler") in objects
    address = f"https://{host}.mybinder.org/egress/"
    binderhub, hub = seen_values(objects, "binderhub"), seen_values(objects, "jupyterhub")
    assert {"01-of-their-own", "zz-binder-egress"} == set(binderhub["extraConfig"])
    assert {"GOOGLE_APPLICATION_CREDENTIALS", "BINDER_EGRESS_API", "BINDER_EGRESS_API_TOKEN"} == set(binderhub["extraEnv"])
    snippets = binderhub["config"]["BinderHub"]["extra_header_html"]
    # In the order of their keys: the address before the code that reads it.
    assert sorted(snippets) == ["01-of-their-own", "binder-egress-address", "zz-binder-egress"]
    assert f'content="{address}"' in snippets["binder-egress-address"]
    ours = {"zz-binder-egress-close-ping", "zz-binder-egress-start-guard"}
    assert {"neverRestart"} | ours == set(hub["hub"]["extraConfig"])
    assert hub["singleuser"]["extraEnv"]["BINDER_EGRESS_URL"].startswith(f"{address}servers/$(JUPYTERHUB_USER)/")
    assert hub["custom"]["binderEgress"]["closePing"] is False
    assert hub["singleuser"]["networkPolicy"]["enabled"] is True and hub["singleuser"]["initContainers"] == [{"name": "tc-init"}]
    (rule,) = objects["Ingress", "binder-egress"]["spec"]["rules"]
    assert (rule["host"], rule["http"]["paths"][0]["path"]) == (f"{host}.mybinder.org", "/egress/")
    assert objects["Ingress", "binder-egress"]["spec"]["tls"][0]["secretName"] == f"kubelego-tls-binder-{member}"
    settings = objects["ConfigMap", "binder-egress"]["data"]
    assert json.loads(settings["BINDER_EGRESS_ALLOWED_ORIGINS"]) == ["https://mybinder.org"]
    assert settings["BINDER_EGRESS_MODE"] == "observe"
    networks = json.loads(settings["BINDER_EGRESS_SELF_NETWORKS"])
    assert {"10.42.0.0/16", "192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"} <= set(networks)


def test_fourth_diff_shuts_the_gate_of_one_member(render):
    objects = render(4, "bids-ovh")
    assert_shut(objects)
    # Only what the emergency page deletes opens anything.
    assert re.findall(r"kubectl delete networkpolicy (\S+)", EMERGENCY) == ["binder-egress-tier-verified"]
    assert not objects["NetworkPolicy", "binder-egress-base"]["spec"].get("egress")
    egress = objects["NetworkPolicy", "binder-egress-tier-verified"]["spec"]["egress"]
    (world,) = [rule for rule in egress for peer in rule["to"] if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"]
    assert {port["port"] for port in world["ports"]} == PORTS and {port["protocol"] for port in world["ports"]} == {"TCP"}
    assert not [peer for rule in egress for peer in rule["to"] if ":" in peer.get("ipBlock", {}).get("cidr", "")]
    (block,) = [peer["ipBlock"] for peer in world["to"] if peer["ipBlock"]["cidr"] == "0.0.0.0/0"]
    assert {"1.1.1.1/32", "1.2.3.4/32", "10.0.0.0/8", "169.254.0.0/16"} <= set(block["except"])
    traefik = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "traefik"}}}
    assert {"to": [traefik], "ports": [{"port": 443, "protocol": "TCP"}]} in egress
    for member in OBSERVED:
        others = render(4, member)
        assert "singleuser-server" in users(others) and not of_user_pods(others)


def test_sixth_diff_gives_staging_packages_without_a_pass(render):
    before = {member: render(5, member) for member in ("staging", *MEMBERS)}
    assert not [name for _, name in before["staging"] if "proxy" in name and name.startswith("binder-egress")]
    objects = render(6, "staging")
    assert objects["Deployment", "binder-egress-proxy"]["spec"]["replicas"] == 2
    assert objects["Deployment", "binder-egress-proxy"]["spec"]["template"]["spec"]["priorityClassName"] == "binderhub-core"
    tiers = json.loads(objects["ConfigMap", "binder-egress-proxy"]["data"]["tiers.json"])
    assert tiers["unverified"]["hosts"] == ["conda", "julia", "python", "r"] and tiers["verified"]["hosts"] == ["*"]
    assert set(tiers["verified"]["ports"]) == {str(port) for port in PORTS}
    (proxy,) = objects["Deployment", "binder-egress-proxy"]["spec"]["template"]["spec"]["containers"]
    annotations = objects["Deployment", "binder-egress-proxy"]["spec"]["template"]["metadata"]["annotations"]
    assert {"name": "admin", "containerPort": int(annotations["prometheus.io/port"]), "protocol": "TCP"} in proxy["ports"]
    (rate,) = [one["value"] for one in proxy["env"] if one["name"] == "BINDER_EGRESS_PROXY_BYTES_PER_SECOND"]
    assert int(rate) * 8 == 1_000_000
    (names,) = [one["value"] for one in proxy["env"] if one["name"] == "BINDER_EGRESS_PROXY_OWN_NAMES"]
    assert set(json.loads(names)) == {f"{host}staging.mybinder.org" for host in ("", "hub.", "hub.ovh.", "ovh.")}
    # The page of a server says so.
    settings = objects["ConfigMap", "binder-egress"]["data"]
    assert json.loads(settings["BINDER_EGRESS_UNVERIFIED_HOSTS"]) == tiers["unverified"]["hosts"]
    variable = seen_values(objects, "jupyterhub")["singleuser"]["extraEnv"]["HTTPS_PROXY"]["valueFrom"]["configMapKeyRef"]
    assert (variable["name"], variable["key"]) == ("binder-egress-proxy-variables", "address")
    for member in MEMBERS:
        assert render(6, member).keys() == before[member].keys()
        assert_shut(before[member])  # by the fifth diff


def test_seventh_diff_gives_all_members_what_staging_has(render):
    tried = render(6, "staging")
    for member in ("staging", *MEMBERS):
        objects = render(7, member)
        for kind, name in (("ConfigMap", "binder-egress-proxy"), ("PodDisruptionBudget", "binder-egress-proxy")):
            assert objects[kind, name].get("data") == tried[kind, name].get("data")
        (proxy,) = objects["Deployment", "binder-egress-proxy"]["spec"]["template"]["spec"]["containers"]
        variables = {one["name"]: one.get("value") for one in proxy["env"]}
        assert variables["BINDER_EGRESS_PROXY_BYTES_PER_SECOND"] == "125000"
        host = MEMBERS.get(member, "ovh.staging")
        assert {"mybinder.org", f"{host}.mybinder.org"} <= set(json.loads(variables["BINDER_EGRESS_PROXY_OWN_NAMES"]))


def of_deny():
    """The values of the page's last command for mode `deny`."""
    command = re.findall(r"^helm upgrade bids-ovh .*binder-egress.mode=deny.*$", EMERGENCY, re.MULTILINE)[-1]
    return [part for option in re.findall(r"--set (\S+)", command) for part in ("--set", option)]


@pytest.mark.parametrize("member", OBSERVED)
def test_deny_on_a_member_that_only_observes_needs_no_policy_of_others(render, member):
    objects = render(4, member, *of_deny())
    assert of_user_pods(objects) == {"binder-egress-base"} and users(objects) == {"dind", "image-builder"}
    assert seen_values(objects, "jupyterhub")["singleuser"]["networkPolicy"]["enabled"] is False
    # Without the last value, JupyterHub's own policy is still on.
    first = render(4, member, *of_deny()[:2])
    assert seen_values(first, "jupyterhub")["singleuser"]["networkPolicy"]["enabled"] is True


@pytest.mark.parametrize("mode", ["allow", "deny"])
def test_emergency_modes_keep_the_base_policy(after, helm, tmp_path, mode):
    deploy = shutil.copytree(after(4), tmp_path / "deploy")
    config = deploy / "config/bids-ovh.yaml"
    config.write_text(config.read_text().replace("mode: captcha", f"mode: {mode}"))
    objects = rendered(helm, deploy, "bids-ovh")
    assert users(objects) == {"dind", "image-builder"} and "binder-egress-base" in of_user_pods(objects)
    assert (("Deployment", "binder-egress-verifier") in objects) is (mode == "allow")


def test_reversed_diffs_end_where_they_began(after, helm, render, tmp_path):
    deploy = shutil.copytree(after(7), tmp_path / "deploy")
    (tmp_path / "binder-egress").symlink_to(TOP)
    for number in range(7, 0, -1):
        apply(deploy, number, "--reverse")
    shutil.rmtree(deploy / "mybinder/charts/binder-egress")
    assert rendered(helm, deploy, "bids-ovh") == render(0, "bids-ovh")


def test_members_share_signing_keys_and_no_other_secret(render):
    secrets = [render(3, member)["Secret", "binder-egress"] for member in MEMBERS]
    found = [one.get("stringData") or one["data"] for one in secrets]
    assert len({one["signing-keys"] for one in found}) == 1
    for name in ("api-token", "redis-password"):
        assert len({one[name] for one in found}) == len(MEMBERS)
