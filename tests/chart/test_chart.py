"""The chart as a whole: each values file of chart/ci, a parent chart that imports from it, and the upkeep of its values."""

import ipaddress
import itertools
import json
import re
import shutil

import pytest
import yaml

from binder_egress.gatecheck.netpol import USUAL_LABELS
from ci.value_comments import comments
from tests.support import TOP
from tests.support.charts import CHART, IMAGES, TOPOLOGIES, VALUES, seen_values, stand_in, write

HELMS = ["helm", "helm4"]


@pytest.fixture(scope="module", params=TOPOLOGIES, ids=lambda path: path.name)
def topology(request, render):
    return request.param, render("--values", request.param)


def test_deny_leaves_what_the_comment_of_mode_says(render):
    on = ("builds", "proxy", "agent", "connections", "ingress", "verifier.pdb", "metrics.prometheusRule")
    switches = ",".join(f"{name}.enabled=true" for name in (*on, "metrics.grafanaDashboard"))
    objects = render("--set", f"mode=deny,canary.readiness=true,agent.configMap=lists,ingress.hosts={{hub.example.org}},{switches}")
    stays = [key for key, found in objects.items() if "helm.sh/hook" not in found["metadata"].get("annotations", {})]
    assert {(kind, re.sub("-[0-9a-f]{8}$", "", name)) for kind, name in stays} == {
        *(("NetworkPolicy", f"binder-egress-{name}") for name in ("base", "builds")),
        *(("ConfigMap", f"binder-egress-{name}") for name in ("start-guard", "blocks", "policies")),
        *(("ConfigMap", f"binder-egress-connections-{name}") for name in ("tiers", "ended")),
        *((kind, "binder-egress-connections") for kind in ("DaemonSet", "ServiceAccount", "Role", "RoleBinding", "ConfigMap")),
        ("Secret", "binder-egress"),
        ("Pod", "binder-egress-canary"),
    }
    comment, _ = comments()["mode",]
    remain = "the Secret, the canary with `readiness`, and what ends connections remain."
    assert f"Policies, two ConfigMaps (start guard, blocks), {remain}" in comment.replace("\n", " ")


def pods(objects):
    return {name: document["spec"]["template"] for (kind, name), document in objects.items() if kind == "Deployment"}


def variables(objects):
    return {name: {entry["name"] for entry in pod["spec"]["containers"][0]["env"]} for name, pod in pods(objects).items()}


ROTATED = f"secret.signingKeys={{{'a' * 40},{'b' * 40}}}"


@pytest.mark.parametrize(
    ("setting", "replaced"),
    [
        # Redis has the used passes in memory: after a restart it would refuse the passes that a rotation is meant to keep.
        (ROTATED, {"binder-egress-verifier"}),
        ("captcha.providers.altcha.cost=6000", {"binder-egress-verifier", "binder-egress-reconciler"}),
        ("logLevel=debug", {"binder-egress-verifier", "binder-egress-reconciler"}),
        ("redis.maxmemory=1mb", {"binder-egress-redis"}),
        # It compares the policies with what it expects.
        ("except.203\\.0\\.113\\.0/24=true", {"binder-egress-reconciler"}),
    ],
)
def test_pods_are_replaced_when_what_they_read_changes(render, setting, replaced):
    before, after = (pods(render(f"--set=secret.signingKeys={{{'a' * 40}}}", *options)) for options in ([], ["--set", setting]))
    assert {name for name in before if before[name] != after[name]} == replaced


def test_switch_of_the_mode_leaves_the_pods_of_the_egress_proxy(render):
    """Otherwise their open connections would end. In mode observe the proxies refuse no host, so that switch replaces them."""

    def proxies(*args):
        return pods(render("--set=proxy.enabled=true", *args))["binder-egress-proxy"]

    assert proxies() == proxies("--set=mode=allow")
    for change in ("logLevel=debug", "unverified.hosts.python=true", "rules.repositories.github\\.com/a/b.hosts.python=true"):
        assert proxies() != proxies("--set", change)


def test_list_that_no_variable_can_hold_is_refused(helm, tmp_path):
    """As JSON, a repository of these is 31 bytes long, with its quotes and a comma."""

    def render(count):
        blocked = {f"github.com/owner/name-{number:06}": True for number in range(count)}
        (tmp_path / "values.json").write_text(json.dumps({"rules": {"blockedRepositories": blocked}}))
        return helm("template", "r", CHART, "--values", tmp_path / "values.json", check=False)

    # The list has one comma less than entries and two brackets; the variable's name has 34 letters, and `=` and a zero follow.
    most = (131_072 - 34 - 2 - 1) // 31
    assert render(most).returncode == 0
    refused = render(most + 1)
    assert refused.returncode != 0 and "the variable BINDER_EGRESS_BLOCKED_REPOSITORIES 1310" in refused.stderr


def test_upgrade_leaves_redis(render, tmp_path):
    """Redis has the used passes in memory, so its pod may not contain the version."""
    before = shutil.copytree(CHART, tmp_path / "chart")
    about = before / "Chart.yaml"
    about.write_text(re.sub(r"(?m)^(version|appVersion): .*", r"\1: 0.0.9", about.read_text(), count=2))
    first, second = pods(render(chart=before)), pods(render())
    assert {name for name in first if first[name] != second[name]} == {"binder-egress-verifier", "binder-egress-reconciler"}


def test_secret_and_pods_of_helm_test_alone_outlive_an_uninstallation(topology):
    for name, document in topology[1].items():
        annotations = document["metadata"].get("annotations", {})
        assert ("helm.sh/resource-policy" in annotations) == (name == ("Secret", "binder-egress")), name
        # Helm leaves hooks alone.
        if hook := annotations.get("helm.sh/hook"):
            assert (hook, document["kind"]) == ("test", "Pod"), name
            labels = document["metadata"]["labels"]
            told = labels.get("binder-egress/gatecheck") == "test" or labels.get("app.kubernetes.io/component") == "helm-test"
            assert told, f"no command of NOTES deletes {name}"


def test_pods_are_hardened(topology):
    for (kind, name), document in topology[1].items():
        if kind not in ("Deployment", "DaemonSet", "Pod"):
            continue
        pod = document["spec"] if kind == "Pod" else document["spec"]["template"]["spec"]
        # binder-egress-test reads the results of the other pods of `helm test`.
        with_token = ("binder-egress-reconciler", "binder-egress-connections", "binder-egress-test")
        assert pod["automountServiceAccountToken"] is (name in with_token)
        on_node = name == "binder-egress-connections"
        assert pod["securityContext"].get("runAsNonRoot") is (None if on_node else True)
        assert (pod["securityContext"]["runAsUser"] == 0) == on_node
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        of_node = {"binder-egress-agent": {"hostPID"}, "binder-egress-connections": {"hostNetwork"}}
        assert {"hostNetwork", "hostPID", "hostIPC"} & set(pod) == of_node.get(name, set())
        # Only hashes of keys, hosts and the operator's volumes are mounted: no files of the node, no Kubernetes token.
        mounted = {volume["name"]: volume for volume in pod.get("volumes", []) if "emptyDir" not in volume}
        assert ("api-keys" in mounted) == (name == "binder-egress-verifier")
        assert set(mounted) <= {"api-keys", "reporters", "tiers", "redis-ca", "corporate-ca", "policies", "configmap"}
        assert all({"configMap", "secret"} & set(volume) for volume in mounted.values())
        for container in pod.get("initContainers", []) + pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]} | ({"add": ["NET_ADMIN"]} if on_node else {})
            assert container["resources"]["limits"]["memory"]


WEAKER = {
    "podSecurityContext": [{"runAsNonRoot": False}, {"runAsUser": 0}, {"supplementalGroups": [0]}, {"sysctls": []}],
    "securityContext": [{"privileged": True}, {"runAsUser": 0}, {"capabilities": {"drop": []}}, {"procMount": "Unmasked"}],
}
"""Fields of security contexts that nobody may set, one at a time."""


def test_security_contexts_take_no_field_that_weakens_the_hardening(helm):
    properties = json.loads((CHART / "values.schema.json").read_text())["properties"]
    components = {name for name, each in properties.items() if set(WEAKER) & set(each.get("properties", ()))}
    assert components == {"podDefaults", "verifier", "reconciler", "proxy", "gatecheck", "redis"}
    for context, fields in WEAKER.items():
        for field in fields:
            options = [f"--set-json={component}.{context}={json.dumps(field)}" for component in sorted(components)]
            refused = helm("template", "r", CHART, *options, check=False)
            assert refused.returncode != 0
            assert not [component for component in components if f"/{component}/{context}" not in refused.stderr], field


LABEL = "example.org/team"


@pytest.mark.parametrize("values", TOPOLOGIES, ids=lambda path: path.name)
def test_common_labels_are_on_every_object_and_pod_and_in_no_selector(render, values):
    kinds = ["--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"]
    switches = ("builds", "metrics.grafanaDashboard", "metrics.prometheusRule", "verifier.pdb")
    every = ",".join(f"{switch}.enabled=true" for switch in switches)
    objects = render("--values", values, *kinds, "--set", every, "--set-json", f'commonLabels={{"{LABEL}": "hub"}}')
    for (kind, name), document in objects.items():
        assert document["metadata"]["labels"].pop(LABEL) == "hub", (kind, name)
        if kind in ("Deployment", "DaemonSet"):
            assert document["spec"]["template"]["metadata"]["labels"].pop(LABEL) == "hub", name
        if kind != "ConfigMap":
            assert LABEL not in json.dumps(document), (kind, name)


def test_policies_open_nothing_for_everybody(topology):
    """No rule is for everybody; no policy selects every pod."""
    for (kind, name), document in topology[1].items():
        if kind != "NetworkPolicy":
            continue
        spec = document["spec"]
        assert spec["podSelector"].get("matchLabels"), name
        rules = [(rule, "to") for rule in spec.get("egress") or []] + [(rule, "from") for rule in spec.get("ingress") or []]
        for rule, peers in rules:
            assert rule.get(peers) or rule.get("ports"), f"{name} has a rule for everything"


@pytest.mark.parametrize("more", [[], ["--set", "tiers.verified.cidrs.::/0=true"]], ids=["default", "all of IPv6"])
def test_private_addresses_are_closed(render, more):
    objects = render(*more)
    rules = objects["NetworkPolicy", "binder-egress-tier-verified"]["spec"]["egress"]
    blocks = [peer["ipBlock"] for rule in rules for peer in rule["to"] if "ipBlock" in peer]

    def reachable(address):
        address = ipaddress.ip_address(address)
        return any(
            address in ipaddress.ip_network(block["cidr"])
            and not any(address in ipaddress.ip_network(cidr) for cidr in block["except"])
            for block in blocks
        )

    closed = (
        "0.0.0.0 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 169.254.169.254 168.63.129.16 172.16.0.1 172.31.255.254 192.0.0.192 "
        "192.168.255.255 198.19.0.1 224.0.0.1 255.255.255.255 :: ::1 fc00::1 fd00:ec2::254 fd20:ce::254 fdff::1 fe80::1 fec0::1 "
        "ff02::1 64:ff9b::a00:1 64:ff9b:1::1 2002:a00:1:: 2001::1"
    )
    assert not [address for address in closed.split() if reachable(address)]
    opened = ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.128.0.1", "172.32.0.1", "203.0.113.10", "2606:4700::1111", "2a00::1"]
    assert [address for address in opened if reachable(address)] == opened


def test_exceptions_hold_on_kube_router(render):
    """kube-router splits ::/0 into 2000::/3 and fd00::/8, and the narrowest entry of its set wins, even if it is no exception."""
    made = [ipaddress.ip_network("2000::/3"), ipaddress.ip_network("fd00::/8")]
    excepted = [ipaddress.ip_network(cidr) for cidr in VALUES["except"] if ":" in cidr]
    for network in made:
        assert not [cidr for cidr in excepted if network.subnet_of(cidr)]
    halves = [cidr for cidr in excepted if cidr.subnet_of(made[1])]
    assert list(ipaddress.collapse_addresses(halves)) == [made[1]]


@pytest.mark.parametrize("name", ["reconciler", "receiver"])
def test_reconciler_and_receiver_see_no_secret_but_redis_password(render, name):
    objects = render("--set=agent.enabled=true", "--set=agent.configMap=lists")
    container = objects["Deployment", f"binder-egress-{name}"]["spec"]["template"]["spec"]["containers"][0]
    keys = [entry["valueFrom"]["secretKeyRef"]["key"] for entry in container["env"] if "secretKeyRef" in entry.get("valueFrom", {})]
    assert keys == [f"redis-{name}-password"] and "envFrom" not in container


def test_secrets_are_only_in_the_secret(render):
    secret = {"signingKeys": ["k" * 40], "apiToken": "t" * 40, "redisPassword": "p" * 40}
    objects = render("--set-json", f"secret={json.dumps(secret)}")
    del objects["Secret", "binder-egress"]
    text = json.dumps(list(objects.values()))
    for value in ("k" * 40, "t" * 40, "p" * 40):
        assert value not in text


def test_values_for_another_release_are_the_exported_ones(render):
    """Except for the image, which a checkout does not name."""
    found = yaml.safe_load(render()["ConfigMap", "binder-egress-binderhub-values"]["data"]["values.yaml"])
    guard = found["jupyterhub"]["custom"]["binderEgress"]["startGuard"]
    assert guard["image"] == OURS
    guard["image"] = ""
    assert found == VALUES["integration"]["binderhub"]


def test_settings_are_those_that_the_image_reads(render):
    """Each variable of the ConfigMap is a field of the image's settings, and the reconciler gets all its settings."""
    from binder_egress.settings import PREFIX, ProxySettings, ReceiverSettings, ReconcilerSettings, VerifierSettings

    detections = "--set=detections.sources.falco.onMatch=observe"
    objects = render(detections)
    config = objects["ConfigMap", "binder-egress"]["data"]
    env = variables(objects)
    known = {PREFIX + field.upper() for field in {**VerifierSettings.model_fields, **ReconcilerSettings.model_fields}}
    assert set(config) <= known
    # By default there are no secrets of captcha providers, which have a variable each, no sentinels, and users of Redis.
    other = {"redis_sentinel_password", "redis_password"}
    # Launches are kept by the reconciler, where `egress report` runs.
    fields = set(VerifierSettings.model_fields) - {"captcha_secrets", "report_days", *other}
    assert set(config) | env["binder-egress-verifier"] >= {PREFIX + field.upper() for field in fields}
    # Only the verifier's pages say what unverified servers reach.
    fields = {PREFIX + field.upper() for field in set(ReconcilerSettings.model_fields) - other - {"unverified_hosts"}}
    on = "--set=proxy.enabled=true,agent.enabled=true,agent.configMap=lists,agent.report.enabled=true,connections.enabled=true"
    with_proxy = variables(render(detections, on))
    assert with_proxy["binder-egress-reconciler"] == fields
    optional = ("PROXY", "PROXY_SERVICE", "PROXY_LABELS", "RECEIVER_LABELS", "AGENT_LABELS", "CONNECTIONS", "REPORT_DAYS")
    assert env["binder-egress-reconciler"] == fields - {PREFIX + name for name in optional}
    assert with_proxy["binder-egress-proxy"] <= {PREFIX + field.upper() for field in ProxySettings.model_fields}
    assert with_proxy["binder-egress-receiver"] <= {PREFIX + field.upper() for field in ReceiverSettings.model_fields}


# A minimal parent chart: BinderHub with a closed schema, and JupyterHub below it with a default of its own.


@pytest.fixture
def parent(tmp_path):
    binderhub = tmp_path / "charts/binderhub"
    stand_in(binderhub, ("config", "extraConfig", "extraEnv", "jupyterhub"))
    write(binderhub / "values.yaml", {"extraConfig": {}, "extraEnv": {}})
    stand_in(binderhub / "charts/jupyterhub", ("custom", "hub", "singleuser"))
    hub = {"singleuser": {"extraEnv": {}, "networkPolicy": {"enabled": True}}}
    write(binderhub / "charts/jupyterhub/values.yaml", hub)
    imports = [{"child": "integration.binderhub", "parent": "binderhub"}]
    ours = {"name": "binder-egress", "version": "0.1.0", "condition": "binder-egress.enabled", "import-values": imports}
    dependencies = [{"name": "binderhub", "version": "1.0.0"}, ours]
    write(tmp_path / "Chart.yaml", {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": dependencies})
    own = {"extraConfig": {"01-plausible": "pass"}, "extraEnv": {"OTHER": "kept"}}
    write(tmp_path / "values.yaml", {"binder-egress": {"enabled": True}, "binderhub": own})
    shutil.copytree(CHART, tmp_path / "charts/binder-egress", ignore=shutil.ignore_patterns("tests", "ci"))
    return tmp_path


def test_parent_imports_the_wiring_beside_its_own(render, parent):
    objects = render(chart=parent)
    binderhub = seen_values(objects, "binderhub")
    assert sorted(binderhub["extraConfig"]) == ["01-plausible", "zz-binder-egress"]
    exported = VALUES["integration"]["binderhub"]
    assert binderhub["extraConfig"]["zz-binder-egress"] == exported["extraConfig"]["zz-binder-egress"]
    assert binderhub["extraEnv"] == {"OTHER": "kept", **exported["extraEnv"]}
    hub = seen_values(objects, "jupyterhub")
    assert hub["singleuser"]["extraEnv"] == exported["jupyterhub"]["singleuser"]["extraEnv"]
    assert ("Deployment", "binder-egress-verifier") in objects
    # The imported addresses are the rendered objects'.
    assert ("Service", "binder-egress") in objects and ("Secret", "binder-egress") in objects


def test_parent_gets_no_copy_of_what_it_imports(render, parent):
    templates = parent / "charts/binder-egress/templates"
    notes = (templates / "NOTES.txt").read_text()
    shown = 'kind: ConfigMap\nmetadata: {name: notes}\ndata:\n  text: {{ include "notes" . | quote }}\n'
    (templates / "notes.yaml").write_text(f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}\n{shown}')
    objects = render(chart=parent)
    text = objects["ConfigMap", "notes"]["data"]["text"]
    name = "binder-egress-binderhub-values"
    assert ("ConfigMap", name) in render() and ("ConfigMap", name) not in objects
    assert name not in text and "`import-values` in your Chart.yaml" in text


CHECK = """{{- if index .Values "binder-egress" "enabled" }}
{{- include "binder-egress.refuse" . }}
{{- end }}
"""
"""The template of chart/README.md for a parent chart."""


GUARD = "binderhub.jupyterhub.custom.binderEgress.startGuard"
OURS = f"{yaml.safe_load(IMAGES.read_text())['image']['name']}:{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"


def check(parent):
    """Give the parent chart that template, and the image for user pods."""
    assert CHECK in (CHART / "README.md").read_text()
    (parent / "templates").mkdir()
    (parent / "templates/binder-egress.yaml").write_text(CHECK)
    values = yaml.safe_load((parent / "values.yaml").read_text())
    values["binderhub"]["jupyterhub"] = {"custom": {"binderEgress": {"startGuard": {"image": OURS}}}}
    (parent / "values.yaml").write_text(yaml.safe_dump(values))


@pytest.mark.parametrize("place", ["binderhub", "binderhub.jupyterhub.singleuser"])
def test_parent_with_a_list_of_variables_fails(helm, render, parent, place):
    """Helm merges no map into a list: it keeps the parent's list, drops our variables, and only warns."""
    check(parent)
    assert ("Deployment", "binder-egress-verifier") in render(chart=parent)
    lists = ["--set-json", f'{place}.extraEnv=[{{"name": "OTHER", "value": "x"}}]']
    refused = helm("template", "r", parent, *lists, check=False)
    assert refused.returncode != 0
    rest = place.removeprefix("binderhub").lstrip(".")
    name = f"{rest}.extraEnv" if rest else "extraEnv"
    assert f"{name} of BinderHub is a list, so the variables of binder-egress are lost: write it as a map" in refused.stderr
    render("--set", "binder-egress.enabled=false", *lists, chart=parent)


@pytest.mark.parametrize("option", [f"{GUARD}.image=", "binder-egress.image.tag=v2", "global.imageRegistry=mirror.example.org"])
def test_parent_with_another_image_for_user_pods_fails(helm, render, parent, option):
    """Imported values do not follow `image`."""
    check(parent)
    render("--set", f"{option},{GUARD}.enabled=false", chart=parent)
    refused = helm("template", "r", parent, "--set", option, check=False)
    said = r'The start guard has the image "[^"]*", not "\S+/binder-egress/verifier:\S+": set ' + re.escape(f"{GUARD}.image")
    assert refused.returncode != 0 and re.search(said, refused.stderr), refused.stderr


def test_checkout_without_an_image_is_not_rendered(helm):
    for name, more in (("image", "mode=deny"), ("image", "mode=observe"), ("agent.image", "agent.enabled=true,agent.configMap=l")):
        refused = helm("template", "r", CHART, f"--set={name}.name=,{more}", check=False)
        assert refused.returncode != 0
        assert f"{name}.name is empty, for a checkout names no image: build it, push it and name it there" in refused.stderr


def test_parent_has_the_hint_inside_servers_only_if_it_imports_it(render, parent):
    assert "extraFiles" not in seen_values(render(chart=parent), "jupyterhub")["singleuser"]
    chart = yaml.safe_load((parent / "Chart.yaml").read_text())
    chart["dependencies"][1]["import-values"].append({"child": "integration.hint", "parent": "binderhub"})
    (parent / "Chart.yaml").write_text(yaml.safe_dump(chart))
    singleuser = seen_values(render(chart=parent), "jupyterhub")["singleuser"]
    assert singleuser["extraFiles"] == VALUES["integration"]["hint"]["jupyterhub"]["singleuser"]["extraFiles"]
    assert "BINDER_EGRESS_URL" in singleuser["extraEnv"]


# Upkeep of values. The entries of operators' maps are data, and so are the exported values.

DATA = ("except", "integration.binderhub", "tiers.verified.cidrs", "base.ingress", "userPods.labels", "dns.namespaceLabels")
DATA += ("integration.hint",)
DATA += ("dns.podLabels", "dns.ports", "verifier.networkPolicy.internalFrom", "reconciler.networkPolicy.apiServer.ports")
DATA += ("gatecheck.shut", "gatecheck.sysctls", "proxy.sysctls", "builds.cidrs", "builds.components")
DATA += ("verifier.networkPolicy.captchaProviders.cidrs", "verifier.networkPolicy.captchaProviders.ports")


def leaves(values, path=()):
    """The paths of all values that an operator sets: leaves, and whole maps that are data."""
    for key, value in values.items():
        here = (*path, str(key))
        if isinstance(value, dict) and value and ".".join(here) not in DATA and here[-1] != "resources":
            yield from leaves(value, here)
        else:
            yield here


LEAVES = sorted(leaves(VALUES))


def set_in_suites():
    """The paths that the suites in chart/tests set, and the maps on the way."""

    def paths(node, prefix=()):
        for key, value in node.items():
            # helm-unittest reads a key as a path, unless a part of it is in quotes or brackets.
            here = prefix + tuple(str(key).split("."))
            yield from (here[: i + 1] for i in range(len(prefix), len(here)))
            if isinstance(value, dict):
                yield from paths(value, here)

    found = set()
    for file in (CHART / "tests").glob("*_test.yaml"):
        suite = yaml.safe_load(file.read_text())
        for test in [suite, *suite["tests"]]:
            found.update(paths(test.get("set") or {}))
    return found


def test_values_are_explained():
    found = comments()
    assert not [".".join(path) for path in LEAVES if path not in found]


def test_values_are_set_in_a_suite():
    """A value that no suite sets could have no effect, and nobody would notice."""
    found = set_in_suites()
    assert not [".".join(path) for path in LEAVES if path not in found]


def test_values_and_schema_agree():
    """Values and schema have the same keys, apart from a parent's `enabled`, and from keys that another map explains."""
    pods, provider = set(VALUES["podDefaults"]), set(VALUES["captcha"]["providers"]["hcaptcha"])
    explained = {(each,): pods for each in ("verifier", "reconciler", "proxy", "agent", "gatecheck", "redis")}
    explained |= {("captcha", "providers", name): provider for name in VALUES["captcha"]["providers"]}
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values, node, path):
        while "$ref" in node:
            node = schema["definitions"][node["$ref"].rpartition("/")[2]]
        properties = node.get("properties")
        # Fields of a security context are Kubernetes' own, and none has a default here.
        if not properties or not isinstance(values, dict) or path[-1:] in (("podSecurityContext",), ("securityContext",)):
            return
        extra = {(): {"enabled"}, ("redis",): {"global"}}.get(path, set())
        assert set(values) <= set(properties), path
        assert set(properties) - extra - set(values) <= explained.get(path, set()), path
        for key in values:
            compare(values[key], properties[key], (*path, key))

    compare(VALUES, schema, ())


def test_schema_accepts_no_unknown_values():
    """Except in what belongs to others: BinderHub's values, and entries that become objects of Kubernetes."""

    def open_objects(node, path):
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        if isinstance(node, dict) and "properties" in node and node.get("additionalProperties") is not False:
            yield path
        for key, child in children:
            yield from open_objects(child, f"{path}/{key}")

    found = set(open_objects(json.loads((CHART / "values.schema.json").read_text()), ""))
    assert found == {
        "/properties/global",
        "/properties/global/properties/imagePullSecrets/items/anyOf/1",
        "/properties/httpRoute/properties/parentRefs/items",
        "/properties/integration",
        "/definitions/ingressRules/additionalProperties/properties/ports/items",
        "/definitions/egressRules/additionalProperties/properties/ports/items",
    }


def test_labels_of_every_user_pod_are_those_that_the_gate_check_knows():
    """The chart looks for a policy that selects by these alone. The others differ between pods of one site."""
    (listed,) = re.findall(r"\$usual := dict (.*?) }}", (CHART / "templates" / "validate.yaml").read_text(), re.DOTALL)
    differ = {"chart", "helm.sh/chart", "hub.jupyter.org/servername", "hub.jupyter.org/username"}
    expected = {label: value or "*" for label, value in USUAL_LABELS.items() if label not in differ}
    assert dict(re.findall(r'"(\S+)" "(\S+)"', listed)) == expected


def test_every_value_with_networks_accepts_ipv6_as_processes_and_the_api_server_read_it(helm):
    """Otherwise the reconciler does not start, or an upgrade fails half-way. The next test has more of IPv6."""

    def render(network):
        maps = [f'--set-json={value}={{"{network}": true}}' for value in ("rules.selfNetworks", "except", "tiers.verified.cidrs")]
        lists = [f'--set-json={value}=["{network}"]' for value in ("trustedProxies", "bannedAddresses.all")]
        return helm("template", "r", CHART, *maps, *lists, check=False)

    done = render("2001:DB8::7:0/112")
    assert done.returncode == 0, done.stderr
    refused = render("1::2::3/64").stderr
    for place in ("rules/selfNetworks'", "except'", "tiers/verified/cidrs'", "trustedProxies/0'", "bannedAddresses/all/0'"):
        assert f"at '/{place}" in refused, refused


def test_patterns_of_networks_accept_the_ipv6_that_python_reads():
    """A JSON schema cannot use one pattern for keys and for values, so there are two."""
    definitions = json.loads((CHART / "values.schema.json").read_text())["definitions"]
    (of_keys,) = definitions["cidrs"]["patternProperties"]
    of_values = definitions["address"]["pattern"]
    # Every number of groups before a `::`, between it and a second one, and behind; and groups without a `::`.
    groups = [":".join(["1f"] * count) for count in range(10)]
    written = [*groups, *map("::".join, itertools.product(groups, repeat=2)), *map("::".join, itertools.product(groups, repeat=3))]
    written += [*map(":".join, itertools.product(groups, repeat=2)), "10000::", "::10000", "0000::FFFF"]
    for address in filter(lambda address: ":" in address, written):
        try:
            ipaddress.IPv6Network(f"{address}/128")
            valid = True
        except ValueError:
            valid = False
        assert {bool(re.search(of_keys, f"{address}/128")), bool(re.search(of_values, f"{address}/128"))} == {valid}, address
        assert bool(re.search(of_values, address)) == valid and not re.search(of_keys, address), address


@pytest.mark.parametrize(
    ("entry", "accepted"),
    [("hub.example.org", True), ("*.intern.example.org", True), ("*", False), ("python", False), ("192.0.2.1", False)],
)
def test_names_of_the_hub_are_hosts_and_what_is_below_one(helm, entry, accepted):
    """With a group, or any host, here, the proxy would refuse nothing, or everything."""
    refused = json.dumps({entry: True})
    done = helm("template", "r", CHART, "--set=proxy.enabled=true", f"--set-json=proxy.refusedHosts={refused}", check=False)
    assert (done.returncode == 0) == accepted, done.stderr
    assert accepted or "refusedHosts" in done.stderr


def test_lock_is_valid_and_linked(helm):
    assert (TOP / "Chart.lock").is_symlink() and (TOP / "Chart.lock").resolve() == CHART / "Chart.lock"
    assert re.search(r"redis\s+0\.1\.0\s+unpacked", helm("dependency", "list", CHART))
    assert not list((CHART / "charts").glob("*.tgz"))
