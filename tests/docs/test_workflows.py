"""The workflows: the scripts that they call exist, the actions that they use are pinned, and a release is checked. `ci/test lint`
runs actionlint."""

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).parents[2]
WORKFLOWS = sorted((TOP / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(workflow):
    """A tag can be moved, a commit cannot. The comment is for readers and for Dependabot, which updates both."""
    for line in re.findall(r"^.*\buses: .*$", workflow.read_text(), re.MULTILINE):
        assert "uses: ./" in line or re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_exist(workflow):
    for script in re.findall(r"run: (ci/[\w/-]+)", workflow.read_text()):
        assert os.access(TOP / script, os.X_OK), script


def test_unit_tests_get_their_programs_and_rights():
    """They run the egress proxy in network namespaces: Docker refuses `unshare` in a container without rights, and Debian's image
    has no `ip`."""
    files = [*TOP.glob("tests/unit/**/*.py"), *TOP.glob("tests/support/egress_proxy/*.py")]
    called = set(re.findall(r'"(unshare|ip|curl|git|wget|redis-server|openssl)[" ]', "".join(file.read_text() for file in files)))
    assert {"unshare", "ip"} <= called
    jobs = yaml.safe_load((TOP / ".github/workflows/test.yml").read_text())["jobs"].values()
    (job,) = (job for job in jobs if "unit" in job["strategy"]["matrix"]["parts"])
    assert "--privileged" in job["container"]["options"].split()
    (unit,) = re.findall(r"^unit\(\) \{\n(.*?)^\}", (TOP / "ci/test").read_text(), re.DOTALL | re.MULTILINE)
    (packages,) = re.findall(r"^  packages (.*)$", unit, re.MULTILINE)
    assert {{"ip": "iproute2"}.get(program, program) for program in called - {"unshare"}} <= set(packages.split())


def test_a_release_is_refused_while_a_file_has_another_version():
    refused = subprocess.run([TOP / "ci/release-check", "9.9.9"], capture_output=True, text=True)
    assert refused.returncode == 1 and not refused.stdout
    places = re.findall(r"^(\S+?)[:,]", refused.stderr, re.MULTILINE)
    assert set(places) == {
        "chart/Chart.yaml",
        "chart/README.md",
        "chart/values.yaml",
        "CONTRIBUTING.md",
        "docs/agent.md",
        "docs/bans.md",
        "docs/install.md",
        "docs/mybinder.md",
        "docs/node-guard.yaml",
        "pyproject.toml",
        "client/pyproject.toml",
        "frontend/pages/package.json",
        "CHANGELOG.md",
    }


def test_all_files_have_one_version():
    """The changelog is the exception: it says `(unreleased)` until the release is made."""
    (version,) = re.findall(r"^version: (\S+)$", (TOP / "chart/Chart.yaml").read_text(), re.MULTILINE)
    checked = subprocess.run([TOP / "ci/release-check", version], capture_output=True, text=True)
    assert checked.stderr in ("", f"Not {version}:\nCHANGELOG.md, the first heading: {version} (unreleased)\n")
    if not checked.returncode:
        images = {"image": "verifier", "agent": "agent", "node-guard": "node-guard"}
        told = [f"version={version}", *(f"{key}=docker.io/binder-egress/{name}" for key, name in images.items())]
        assert checked.stdout.splitlines() == [*told, "redis=docker.io/library/redis:7.2-bookworm", "registry=docker.io"]


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("docker.io/binder-egress/verifier", "docker.io"),
        ("registry.example.org/hub/verifier", "registry.example.org"),
        ("localhost:5000/verifier", "localhost:5000"),
        ("binder-egress/verifier", "docker.io"),
        ("verifier", "docker.io"),
    ],
)
def test_login_is_at_the_registry_of_the_images(image, registry):
    check = runpy.run_path(str(TOP / "ci/release-check"))
    assert check["registry"](image) == registry
    release = (TOP / ".github/workflows/release.yml").read_text()
    (login,) = re.findall(r"uses: docker/login-action@.*\n +with:\n +registry: (.*)", release)
    assert login == "${{ needs.check.outputs.registry }}"
    assert "      registry: ${{ steps.check.outputs.registry }}\n" in release
