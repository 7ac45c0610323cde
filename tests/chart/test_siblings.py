"""binderhub-service beside JupyterHub, below a parent chart and as two releases, as `egress plan` and the chart wire them.

Stand-ins have the rules of both schemas for what the wiring touches (binderhub-service fc8bb6a), and the parent a closed one.
"""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

from binder_egress import __version__
from binder_egress.commands.egress import egress
from tests.support.charts import CHART, VALUES, seen_values, stand_in, write
from tests.unit.plan.test_layouts import HUB, SERVICE, SIBLINGS, TOKEN, UI

TEXTS = {"type": "object", "additionalProperties": {"type": ["string", "null"]}}
SECTIONS = {"type": "object", "additionalProperties": {"type": ["object", "null"]}}
OF_SERVICE = {"enabled": {}, "config": SECTIONS, "dockerApi": {}, "extraConfig": TEXTS, "extraEnv": {"type": "array"}}
WIRED = VALUES["integration"]["binderhub"]
REFUSED = {
    "binderhub-service.extraEnv=[]": "extraEnv of binderhub-service lacks BINDER_EGRESS_API",
    'jupyterhub.singleuser.extraEnv=[{"name":"A"}]': "singleuser.extraEnv of BinderHub is a list",
    'binder-egress.image.tag="v2"': "set jupyterhub.custom.binderEgress.startGuard.image",
}
IMAGE = "registry.example.org/verifier"


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """A parent chart with both, the imports of docs/binderhub-service.md, and the files of `egress plan` in the working folder."""
    stand_in(tmp_path / "charts/binderhub-service", OF_SERVICE)
    write(tmp_path / "charts/binderhub-service/values.yaml", {"config": {"BinderHub": {"port": 8585}}, "extraEnv": []})
    stand_in(tmp_path / "charts/jupyterhub", ("custom", "hub", "singleuser"))
    write(tmp_path / "charts/jupyterhub/values.yaml", {"singleuser": {"extraEnv": {}, "networkPolicy": {"enabled": True}}})
    shutil.copytree(CHART, tmp_path / "charts/binder-egress", ignore=shutil.ignore_patterns("tests", "ci"))
    imports = yaml.safe_load((CHART.parent / "docs/binderhub-service.md").read_text().split("```yaml\n")[1].split("```")[0])
    dependencies = [{"name": name, "version": "1.0.0"} for name in ("binderhub-service", "jupyterhub")]
    dependencies.append({"name": "binder-egress", "version": "0.1.0", **imports})
    write(tmp_path / "Chart.yaml", {"apiVersion": "v2", "name": "basehub", "version": "1.0.0", "dependencies": dependencies})
    closed = {"additionalProperties": False, "properties": dict.fromkeys((*SIBLINGS, "binder-egress", "global"), True)}
    write(tmp_path / "values.schema.json", json.dumps(closed))
    write(tmp_path / "values.yaml", {"binder-egress": {"image": {"name": IMAGE, "tag": __version__}}})
    write(tmp_path / "templates/binder-egress.yaml", '{{- include "binder-egress.refuse" . }}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(values, *options):
    done = CliRunner().invoke(egress, ["plan", "--no-cluster", "--overwrite", "--from=-", *options], input=yaml.safe_dump(values))
    assert done.exit_code == 0 and "nobody signs in" not in done.output and "everything that" not in done.output, done.output
    return done.output


def assert_wired(service, hub):
    token, *ours = service["extraEnv"]
    assert token == TOKEN and {one.pop("name"): one.get("value", one) for one in ours} == WIRED["extraEnv"]
    assert service["extraConfig"] == WIRED["extraConfig"]
    assert service["config"]["BinderHub"].items() >= {**UI, **WIRED["config"]["BinderHub"]}.items()
    assert hub["hub"] == {**HUB["hub"], **WIRED["jupyterhub"]["hub"]}
    assert hub["singleuser"]["extraEnv"].items() >= {"A": "b", **WIRED["jupyterhub"]["singleuser"]["extraEnv"]}.items()
    assert hub["custom"]["binderEgress"]["startGuard"]["image"].startswith(IMAGE)


def test_siblings_below_a_parent_are_wired(helm, render, parent):
    planned(SIBLINGS, f"--image={IMAGE}")
    files = ["--values=your-values.yaml", "--values=your-egress-values.yaml"]
    objects = render(*files, chart=parent)
    assert_wired(seen_values(objects, "binderhub-service"), seen_values(objects, "jupyterhub"))
    peers = str(objects["NetworkPolicy", "binder-egress-verifier"]["spec"]["ingress"][1]["from"])
    assert "'app.kubernetes.io/name': 'binderhub-service'" in peers and "'component': 'binder'" not in peers
    for option, says in REFUSED.items():
        assert says in helm("template", "r", parent, *files, "--set-json", option, check=False).stderr
    planned(yaml.safe_load(before := (parent / "your-values.yaml").read_text()))
    assert (parent / "your-values.yaml").read_text() == before


def test_two_releases_take_a_document_each(render, parent):
    write(parent / "hub.yaml", HUB)
    said, seen = planned(SERVICE, "--hub=hub.yaml", f"--image={IMAGE}"), []
    documents = render("--values=your-egress-values.yaml")["ConfigMap", "binder-egress-binderhub-values"]["data"]
    for name, chart, theirs in (("binderhub", "binderhub-service", "your-values"), ("jupyterhub", "jupyterhub", "your-hub-values")):
        wiring = f"binder-egress-{name}.yaml"
        assert f".data.{name}\\.yaml" in said and f"--values {theirs}.yaml --values {wiring}" in said
        write(parent / wiring, documents[f"{name}.yaml"])
        seen.append(seen_values(render(f"--values={theirs}.yaml", f"--values={wiring}", chart=parent / "charts" / chart), chart))
    assert_wired(*seen)
    assert not seen[1]["singleuser"]["networkPolicy"]["enabled"]
