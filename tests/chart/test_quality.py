"""The chart as others install it: versions of Kubernetes, names, GitOps, its documentation and its image."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from tests.support import TOP
from tests.support.charts import CHART, TOPOLOGIES, VALUES, objects

OLDEST, NEWEST = "1.28.0", "1.37.0"
"""Versions of Kubernetes: the oldest that Chart.yaml accepts, and the newest whose libraries are published."""


def rendered(helm, *args):
    text = helm("template", "r", CHART, "--namespace", "binder", *args)
    return text, objects(text)


@pytest.mark.parametrize("values", TOPOLOGIES, ids=lambda path: path.name)
def test_topologies_render_for_the_oldest_and_the_newest_kubernetes(helm, values):
    def objects_for(version):
        # Admission policies need 1.30, and the reconciler is told if they are missing.
        without = [f"--set=admissionPolicies.{name}=false" for name in VALUES["admissionPolicies"]]
        _, documents = rendered(helm, "--values", values, "--kube-version", version, *without)
        return [document for document in documents if document["kind"] != "Secret"]  # new in each rendering

    assert objects_for(OLDEST) == objects_for(NEWEST)


VALIDATING = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"


@pytest.mark.parametrize(
    ("args", "there"),
    [
        (["--kube-version", "1.29.9"], False),
        (["--kube-version", "1.30.0"], True),
        (["--kube-version", "v1.31.4-gke.100"], True),
        (["--kube-version", "1.30.0-eks-1"], True),
        (["--kube-version", "1.29.9", "--api-versions", VALIDATING], True),
    ],
)
def test_admission_policies_depend_on_version_and_kinds_without_a_cluster(helm, args, there):
    """Tools that only render know no kinds, or do not report them. They report a version."""
    kinds = [document["kind"] for document in rendered(helm, *args)[1]]
    assert kinds.count("ValidatingAdmissionPolicy") == kinds.count("ValidatingAdmissionPolicyBinding") == 2 * there


def test_renderings_with_an_existing_secret_are_all_the_same(helm):
    """Tools that only render (Argo CD) compare renderings: nothing may be random, and nothing looked up."""
    first, documents = rendered(helm, "--set", "secret.existingSecret=mine")
    assert rendered(helm, "--set", "secret.existingSecret=mine")[0] == first
    assert ("Secret", "binder-egress") not in {(document["kind"], document["metadata"]["name"]) for document in documents}


WITH_PODS = re.compile(r"^kind: (?:Pod|Deployment|DaemonSet|StatefulSet|Job|CronJob)$|redis\.manifests", re.MULTILINE)
"""What a template has that makes pods."""


def test_values_for_openshift_leave_every_id_to_the_cluster(helm, tmp_path):
    """Everything that has pods is on, so that no component is forgotten. The page says that the agent needs ids of its own."""
    section = (TOP / "docs/supported.md").read_text().split("## OpenShift\n", 1)[1].split("\n## ", 1)[0]
    values = tmp_path / "values.yaml"
    values.write_text(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
    everything = "canary.readiness=true,proxy.enabled=true,agent.enabled=true,agent.configMap=lists,connections.enabled=true"
    seen = set()
    for mode in ("captcha", "deny"):
        text, documents = rendered(helm, "--values", values, "--set", f"mode={mode},{everything}")
        sources = re.findall(r"^# Source: binder-egress/(\S+)\n(.*?)(?=^---|\Z)", text, re.MULTILINE | re.DOTALL)
        seen |= {source for source, written in sources if WITH_PODS.search(written)}
        specs = [one.get("spec", {}) for one in documents]
        pods = [spec for spec in [*specs, *(spec.get("template", {}).get("spec", {}) for spec in specs)] if "containers" in spec]
        assert pods
        for pod in pods:
            if pod.get("hostNetwork"):
                continue  # It is root on every cluster.
            assert pod["securityContext"]["runAsNonRoot"] is True
            ids = set(re.findall(r"runAsUser|runAsGroup|fsGroup", json.dumps(pod)))
            assert ids == ({"runAsUser", "runAsGroup"} if pod.get("hostPID") else set()), pod["containers"][0]["name"]
    templates = {file for file in (CHART / "templates").rglob("*.yaml") if WITH_PODS.search(file.read_text())}
    assert seen == {str(file.relative_to(CHART)) for file in templates}
    assert "dns.operator.openshift.io/daemonset-dns" in rendered(helm, "--values", values)[0]


LONGEST = "t" * 40
"""The longest name of a tier that the schema accepts."""


def test_names_are_no_longer_than_labels_may_be(helm):
    """63 characters, although most kinds accept more: names of pods become host names, and names of objects labels."""
    name = ["--set", f"fullnameOverride={'n' * 40}", "--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"]
    tiers = ["--set-json", f"tiers.{LONGEST}={{}}", "--set-json", f"tiers.{LONGEST[:-1]}u={{}}"]
    _, documents = rendered(helm, *name, *tiers)
    names = [document["metadata"]["name"] for document in documents if "admission" not in document["apiVersion"]]
    assert not [name for name in names if len(name) > 63]
    assert len([name for name in names if "-tier-ttt" in name]) == 4, "two tiers that begin alike have different policies and tests"
    long = helm("template", "r" * 53, CHART, "--namespace", "binder", *name)
    for document in yaml.safe_load_all(long):
        for value in (document or {}).get("metadata", {}).get("labels", {}).values():
            assert len(value) <= 63, value


# Its documentation, and its image.


def test_templates_are_in_a_suite():
    named = set()
    for file in (CHART / "tests").glob("*_test.yaml"):
        suite = yaml.safe_load(file.read_text())
        named |= set(suite.get("templates", []))
        for test in suite["tests"]:
            named |= set(test.get("templates", [])) | {test.get("template")}
    there = {str(file.relative_to(CHART)) for file in (CHART / "templates").rglob("*") if file.is_file() and file.suffix != ".tpl"}
    assert there <= named, there - named


def test_paths_and_values_for_chartpress_exist():
    (chart,) = yaml.safe_load((TOP / "chartpress.yaml").read_text())["charts"]
    assert chart["chartPath"] == "chart" and chart["name"] == yaml.safe_load((CHART / "Chart.yaml").read_text())["name"]
    for name, image in chart["images"].items():
        for path in image["paths"] + [image["dockerfilePath"]]:
            assert (TOP / path).exists(), path
        for path in [image["valuesPath"]] if isinstance(image["valuesPath"], str) else image["valuesPath"]:
            found = VALUES
            for key in path.split("."):
                found = found[key]
            assert found == "" or found["name"] == "", f"a checkout names no image: {name}"
        for option in image.get("extraBuildCommandOptions", []):
            assert f" AS {option.removeprefix('--target=')}\n" in (TOP / "Dockerfile").read_text()
    # The images' sources are the paths that trigger a build.
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (TOP / "Dockerfile").read_text(), re.MULTILINE)
    paths = [path for image in chart["images"].values() for path in image["paths"]]
    for source in " ".join(copied).split():
        assert any(source == path or source.startswith(f"{path}/") for path in [*paths, "README.md", "LICENSE"]), source


def test_image_is_published_for_both_platforms():
    assert set(re.findall(r"--platform (\S+)", (TOP / "chartpress.yaml").read_text())) == {"linux/amd64", "linux/arm64"}


def test_dockerfile_does_not_depend_on_the_machine_that_builds():
    text = (TOP / "Dockerfile").read_text()
    assert not re.findall(r"(?i)x86|amd64|aarch64|arm64|uname|--platform|\bARCH|dpkg", text)
    # Packages with native code come as wheels for the platform; nothing is compiled.
    installs = re.findall(r"pip(?: --python \S+)? install (.*)", text.replace("\\\n", ""))
    assert installs and all("--only-binary :all:" in command or "--no-index" in command for command in installs)


def test_dependencies_exist_for_arm64(tmp_path):
    """Checked with the hashes of the lock file: a wheel for this platform, or one for all. Each run builds the images for amd64."""
    platforms = ["--platform=manylinux2014_aarch64", "--platform=manylinux_2_28_aarch64"]
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version=3.11", *platforms]
    for lock in [f"requirements/{name}.lock" for name in ("verifier", "build", "agent", "node")]:
        command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", tmp_path, "--requirement", TOP / lock]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = [file.name for file in tmp_path.iterdir()]
    assert found and all(name.endswith(("-any.whl", "_aarch64.whl")) for name in found), found
    assert any(name.endswith("_aarch64.whl") for name in found)
