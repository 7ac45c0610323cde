"""The layouts that `egress plan` knows: by what it recognises each, the files that it writes for it, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from binder_egress.commands.egress import egress
from binder_egress.plan.binderhub import OURS_IN_LIST
from binder_egress.plan.checks import examine
from binder_egress.plan.findings import BELOW, BESIDE, CANNOT_SEE, RECOGNISED, Finding, Given, Layout, Objects
from binder_egress.plan.layouts import NotKnown, recognise, together
from tests.support.charts import VALUES
from tests.support.plan_objects import ingress, k3s, workload

TOKEN = {"name": "JUPYTERHUB_API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "hub.services.binder.apiToken"}}}
UI: dict[str, Any] = {"base_url": "/", "auth_enabled": True, "enable_api_only_mode": False}
SERVICE = {"config": {"BinderHub": UI}, "extraEnv": [TOKEN], "dockerApi": {"nodeSelector": {"x": "y"}}}
HUB = {
    "hub": {"config": {"JupyterHub": {"authenticator_class": "null"}}},
    "singleuser": {"extraEnv": [{"name": "A", "value": "b"}]},
}
SIBLINGS = {"binderhub-service": SERVICE, "jupyterhub": HUB, "nfs": {"enabled": False}}
"""Values as hubs of 2i2c's parent chart `basehub` have them."""


def deployed(name: str = "binderhub", base: str = "/", **labels: str) -> dict[str, Any]:
    """The Deployment of binderhub-service."""
    usual = {"helm.sh/chart": "binderhub-service-0.1.0", "app.kubernetes.io/name": "binderhub-service"}
    probe = {"httpGet": {"path": f"{base}versions", "port": "http"}}
    image = "quay.io/2i2c/binderhub-service:0.1.0-0.dev.git.336.hca79dc0"
    return workload(name, "binder", {**usual, **labels}, image=image, startupProbe=probe)


OLD = workload("binder", "binder", {"component": "binder"}, image="x:1.0.0")


def running(*deployments: dict[str, Any], **instead: Any) -> Objects:
    return Objects(k3s(**{"BinderHub's Deployment": list(deployments), **instead}))


def layout(values: dict[str, Any], hub: dict[str, Any] | None = None, objects: Objects | None = None) -> Layout:
    return recognise(values, hub, objects or Objects(), parent=False)


def beside(objects: Objects, parent: str = "", **config: Any) -> dict[str, Finding]:
    """The last finding of each check, with this `config.BinderHub`."""
    values = {**SERVICE, "config": {"BinderHub": config}, "jupyterhub": HUB}
    return {each.id: each for each in examine(Given(values, objects, setting="strict", layout=Layout(BESIDE, "x", parent)))}


def test_each_layout_is_known_by_values_and_else_by_what_runs():
    assert layout({"jupyterhub": {}, "extraEnv": {}}) == Layout(BELOW, "`jupyterhub` in the values")
    assert layout(SERVICE, HUB) == Layout(BESIDE, "`dockerApi` in the values")
    assert layout(SIBLINGS) == Layout(BESIDE, "the key binderhub-service in the values", "binderhub-service")
    assert layout({"binderhub": {}, "x": 1}) == Layout(BELOW, "the key binderhub in the values", "binderhub")
    of_both: dict[str, Any] = {"config": {}, "extraEnv": []}
    assert layout(of_both, objects=running(OLD)) == Layout(BELOW, "the Deployment that runs")
    assert layout(of_both, HUB, running(deployed())) == Layout(BESIDE, "the Deployment that runs")
    assert layout(of_both, HUB) == Layout(BESIDE, "--hub")
    assert layout(of_both) == Layout(), "as before there was another"


@pytest.mark.parametrize(
    ("values", "hub", "says"),
    [
        ({"persistence": {}, "ingress": {}}, None, "`persistence`, and no key that tells which chart"),
        ({"basehub": SIBLINGS}, None, "`basehub`, and no key"),
        ({}, None, "do not tell"),
        (HUB, None, "are JupyterHub's: give BinderHub's with --from, and these with --hub"),
        ({"jupyterhub": HUB, "dockerApi": {}}, None, "keys of two charts: `jupyterhub`, and `dockerApi`"),
        ({"binderhub": {}, "binderhub-service": {}}, None, "two BinderHubs"),
        ({"binderhub-service": SERVICE}, None, "no map `jupyterhub` beside it"),
        (SERVICE, None, "with --hub"),
        (SERVICE, {"grafana": {}}, "these are not JupyterHub's"),
        ({"jupyterhub": {}}, HUB, "leave --hub out"),
        (SIBLINGS, HUB, "leave --hub out"),
    ],
)
def test_what_is_not_known_is_refused_with_what_to_do(values, hub, says):
    with pytest.raises(NotKnown, match=r".") as refused:
        layout(values, hub)
    assert says in str(refused.value)


def test_values_and_cluster_that_differ_stop():
    found = examine(Given({}, running(OLD), layout=Layout(BESIDE, "x")))
    assert next(each for each in found if each.id == "layout").stops
    assert not [each for each in examine(Given({}, running(OLD, deployed()), layout=Layout(BELOW, "x"))) if each.stops]
    assert [each.state for each in examine(Given({}, Objects())) if each.id == "layout"] == [CANNOT_SEE]


def test_binderhub_service_gets_its_labels_version_and_ingress():
    own = ingress(rules=[{"host": "hub.example.org", "http": {"paths": [{"backend": {"service": {"name": "binderhub"}}}]}}])
    found = beside(running(deployed(), Ingresses=[own]), **UI)
    (peers,) = found["layout"].settings
    assert peers.path == ("verifier", "networkPolicy", "internalFrom") and peers.value["binder"] == {"enabled": False}
    labels = peers.value["binderhub-service"]["podSelector"]["matchLabels"]
    assert labels == {"app.kubernetes.io/name": "binderhub-service", "app.kubernetes.io/component": "binderhub"}
    assert "0.1.0-0.dev.git.336.hca79dc0" in found["BinderHub's version"].seen
    assert found["ingress"].state == RECOGNISED and "hub.example.org" in found["ingress"].seen
    assert "auth_enabled" in found["sign-in"].seen


def test_binderhub_behind_the_hubs_proxy_is_reached_by_the_hubs_ingress():
    hubs = ingress(rules=[{"host": "hub.example.org", "http": {"paths": [{"backend": {"service": {"name": "proxy-public"}}}]}}])
    found = beside(running(deployed(base="/services/binder/"), Ingresses=[hubs]), "binderhub-service")
    assert {each.path: each.value for each in found["base URL"].settings} == {("ingress", "path"): "/services/binder/egress/"}
    assert "trustedProxies" in found["ingress"].do
    assert beside(running(deployed(), Ingresses=[hubs]))["ingress"].state != RECOGNISED


def test_what_a_parent_chart_may_say_by_itself_is_not_known():
    """`helm get values` prints none of a parent chart's defaults."""
    found = beside(running(), "binderhub-service")
    assert found["sign-in"].state == found["base URL"].state == CANNOT_SEE
    assert found["layout"].stops and "unless the parent chart" in found["layout"].seen
    alone = beside(running())
    assert "JupyterHub starts the servers" in alone["sign-in"].seen and "BinderHub only builds: nobody" in alone["layout"].seen
    assert not beside(running(), "binderhub-service", **UI)["layout"].stops
    for env, says in (([], "nobody signs in"), ([{"name": "JUPYTERHUB_OAUTH_CALLBACK_URL"}], "has auth_enabled")):
        old = workload("binder", "binder", {"component": "binder"}, env=env)
        below = examine(Given({}, running(old), layout=Layout(BELOW, "x", "binderhub")))
        assert says in next(each.seen for each in below if each.id == "sign-in")


# -- the files


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in a folder, without a cluster."""
    monkeypatch.chdir(tmp_path)
    Path("hub.yaml").write_text(yaml.safe_dump(HUB))

    def run(values, *options):
        done = CliRunner().invoke(egress, ["plan", "--no-cluster", "--from", "-", *options], input=yaml.safe_dump(values))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    return run


def written(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path(name).read_text())
    return found


def test_two_releases_have_a_file_each(run):
    code, out = run(SERVICE, "--hub=hub.yaml")
    assert code == 0 and "binderhub-service beside JupyterHub" in out and "nobody signs in" not in out
    assert "extraEnv of binderhub-service is a list" in out and "everything that" not in out
    assert written("your-values.yaml") == {**SERVICE, "extraEnv": [TOKEN, *OURS_IN_LIST]}
    assert written("your-hub-values.yaml") == {**HUB, "singleuser": {"extraEnv": {"A": "b"}}}
    assert written("your-egress-values.yaml")["verifier"]["networkPolicy"]["internalFrom"]
    for chart, theirs, document in (
        ("binderhub-service/binderhub-service", "your-values.yaml", "binderhub"),
        ("jupyterhub/jupyterhub", "your-hub-values.yaml", "jupyterhub"),
    ):
        (line,) = [line for line in out.splitlines() if f" {chart} " in line]
        assert f".data.{document}\\.yaml" in line and f"--values {theirs} --values binder-egress-{document}.yaml" in line
    assert run(SERVICE)[0] == 2


def test_siblings_have_one_file_and_ours_is_for_the_same_parent(run):
    code, out = run(SIBLINGS, "--image=registry.example.org/verifier")
    assert code == 0 and "a parent chart with binderhub-service beside JupyterHub" in out
    hub = {**HUB, "singleuser": {"extraEnv": {"A": "b"}}}
    service = {**SERVICE, "extraEnv": [TOKEN, *OURS_IN_LIST]}
    assert written("your-values.yaml") == {**SIBLINGS, "binderhub-service": service, "jupyterhub": hub}
    ours = written("your-egress-values.yaml")
    assert set(ours) == {"binder-egress", "jupyterhub"} and ours["jupyterhub"]["custom"]["binderEgress"]["closePing"] is False
    before = Path("your-values.yaml").read_text()
    assert run(written("your-values.yaml"), "--overwrite")[0] == 0 and Path("your-values.yaml").read_text() == before


def test_variables_of_the_list_are_those_of_the_map():
    of_map = VALUES["integration"]["binderhub"]["extraEnv"]
    made = {one["name"]: one.get("value") or {"valueFrom": one["valueFrom"]} for one in OURS_IN_LIST}
    assert made == of_map


def test_values_of_siblings_come_together_for_the_checks():
    assert together(SIBLINGS, None, layout(SIBLINGS)) == together(SERVICE, HUB, layout(SERVICE, HUB))
