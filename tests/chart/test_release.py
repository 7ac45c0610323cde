"""The products of the release workflow, made with its scripts: the chart with the image pinned by digest, and the packages."""

import os
import re
import subprocess
import tarfile

import pytest
import yaml

from tests.support import TOP

HOME = "https://github.com/example/egress"
IMAGES = "127.0.0.1:5000/egress"
DIGESTS = VERIFIER, AGENT, GUARD, REDIS = ["sha256:" + letter * 64 for letter in "abcd"]


@pytest.mark.parametrize(("version", "candidate"), [("9.9.9", "false"), ("9.9.9-rc.1", "true")])
def test_published_chart_has_its_images_by_digest(tools, helm, tmp_path, version, candidate):
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run([TOP / "ci/release-chart", version, HOME, IMAGES, *DIGESTS, tmp_path], env=environment, check=True)
    chart = tmp_path / f"binder-egress-{version}.tgz"
    with_agent = ("--set=agent.enabled=true", "--set=agent.configMap=lists")
    assert "verifier" in helm("template", "r", chart), "without values"
    rendered = helm("template", "r", chart, "--namespace", "binder", *with_agent)
    ours = {f"{IMAGES}/verifier@{VERIFIER}", f"{IMAGES}/agent@{AGENT}"}
    assert set(re.findall(r"image: \"?([^\s\"]+)", rendered)) == ours | {f"docker.io/library/redis@{REDIS}"}
    assert yaml.safe_load((tmp_path / "node-guard.yaml").read_text())["spec"]["template"]["spec"]["containers"][0]["image"] == (
        f"{IMAGES}/node-guard:{version}@{GUARD}"
    )
    with tarfile.open(chart) as archive:
        values = yaml.safe_load(archive.extractfile("binder-egress/values.yaml"))
        about = yaml.safe_load(archive.extractfile("binder-egress/Chart.yaml"))
        licence, names = archive.extractfile("binder-egress/LICENSE").read(), archive.getnames()
    left_out = tuple(f"binder-egress/{folder}/" for folder in ("tests", "ci", "integration"))
    assert "binder-egress/charts/redis/templates/_manifests.tpl" in names
    assert not [name for name in names if name.startswith(left_out)]
    assert (about["home"], about["sources"]) == (HOME, [HOME])
    picture = about["icon"].removeprefix(f"{HOME}/raw/{version}/")
    assert (TOP / picture).read_text().startswith("<svg ")
    assert about["version"] == about["appVersion"] == version
    assert about["annotations"]["artifacthub.io/prerelease"] == candidate and licence == (TOP / "LICENSE").read_bytes()
    guard = values["integration"]["binderhub"]["jupyterhub"]["custom"]["binderEgress"]["startGuard"]["image"]
    assert guard == f"{IMAGES}/verifier@{VERIFIER}", "the other pods' own"
    listed = [one["image"] for one in yaml.safe_load(about["annotations"]["artifacthub.io/images"])]
    named = zip(("verifier", "agent", "node-guard"), DIGESTS, strict=False)
    assert listed == [
        *(f"{IMAGES}/{name}:{version}@{digest}" for name, digest in named),
        f"docker.io/library/redis:7.2-bookworm@{REDIS}",
    ]


def test_chart_without_a_digest_is_not_packaged(tmp_path):
    for place in range(len(DIGESTS)):
        digests = [*DIGESTS[:place], "latest", *DIGESTS[place + 1 :]]
        command = [TOP / "ci/release-chart", "9.9.9", HOME, IMAGES, *digests, tmp_path]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode == 2 and "not a digest" in refused.stderr and not list(tmp_path.iterdir())


def test_what_has_no_digest_is_not_signed():
    """A tag may be moved between the push and the signature."""
    for reference in (f"{IMAGES}/verifier", f"{IMAGES}/verifier:9.9.9", f"{IMAGES}/verifier@{VERIFIER[:-1]}"):
        refused = subprocess.run([TOP / "ci/release-sign", reference], capture_output=True, text=True)
        assert refused.returncode == 2 and f"without a digest: {reference}" in refused.stderr


def test_dockerfile_names_its_images_by_digest():
    text = (TOP / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM .* AS (\S+)$", text, re.MULTILINE))
    images = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - stages
    assert images and all(re.search("@sha256:[0-9a-f]{64}$", image) for image in images)


def test_packages_are_built(tmp_path):
    subprocess.run([TOP / "ci/release-packages", tmp_path], check=True)
    made = {re.sub(r"-\d.*?(?=-py3|\.t)", "-V", str(path.relative_to(tmp_path))) for path in tmp_path.rglob("*.*")}
    assert made == {
        "python/binder_egress_client-V.tar.gz",
        "python/binder_egress_client-V-py3-none-any.whl",
        "python/binder_egress-V-py3-none-any.whl",
        "npm/binder-egress-pages-V.tgz",
    }
