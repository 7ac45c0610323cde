"""The workflows: the scripts that they call exist, the actions that they use are pinned, and a release is checked. `ci/test lint`
runs actionlint."""

import os
import re
import subprocess

import pytest
import yaml

from tests.support import TOP

WORKFLOWS = sorted((TOP / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_calls_what_is_there_and_keeps_no_token(workflow):
    """A tag can be moved, a commit cannot. The comment is for readers and for Dependabot, which updates both. What runs after a
    checkout could read a token that is in it."""
    text = workflow.read_text()
    for line in re.findall(r"^.*\buses: .*$", text, re.MULTILINE):
        assert "uses: ./" in line or re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    for script in re.findall(r"run: (ci/[\w/-]+)", text):
        assert os.access(TOP / script, os.X_OK), script
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job.get("steps", [])]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts and all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize(
    ("releases", "passes"), [("", True), ("9.9.9-rc.1 9.9.90 9x9.9", True), ("9.9.8 9.9.9", False), ("error", False)]
)
def test_a_version_is_published_once(tmp_path, releases, passes):
    """The workflow's own commands. An error is not an answer."""
    jobs = yaml.safe_load((TOP / ".github/workflows/release.yml").read_text())["jobs"]
    (once,) = (step for step in jobs["check"]["steps"] if "published once" in step.get("name", ""))
    gh = tmp_path / "gh"
    gh.write_text(
        f'#!/bin/sh\n[ "$2 $3" = "--paginate repos/o/r/releases" ] || exit 2\n[ error != "{releases}" ] || exit 1\n'
        f"printf '%s\\n' {releases}\n"
    )
    gh.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_REPOSITORY": "o/r", "GITHUB_REF_NAME": "9.9.9"}
    assert (subprocess.run(["bash", "-e", "-c", once["run"]], env=environment).returncode == 0) == passes


def test_lock_files_are_made_without_strangers_programs_and_without_the_token():
    (job,) = yaml.safe_load((TOP / ".github/workflows/refreeze.yml").read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "token" in str(step)] == ["ci/refreeze-pull-request"] and "env" not in job
    (compiled,) = re.findall(r'uv" pip compile (?:.*\\\n)+.*', (TOP / "ci/refreeze").read_text())
    assert " --only-binary :all: " in compiled


def test_all_files_have_one_version_and_a_release_of_another_is_refused():
    """The changelog is the exception: it says `(unreleased)` until the release is made."""
    refused = subprocess.run([TOP / "ci/release-check", "9.9.9-rc.1"], capture_output=True, text=True)
    assert refused.returncode == 1 and not refused.stdout
    places = (
        "chart/Chart.yaml chart/README.md CONTRIBUTING.md docs/agent.md docs/bans.md docs/install.md docs/link-local.md"
        " docs/mybinder.md docs/mybinder/1-nothing-happens.diff docs/mybinder/2-staging-shuts.diff docs/propose-bans.yaml"
        " pyproject.toml client/pyproject.toml frontend/pages/package.json CHANGELOG.md"
    )
    assert set(re.findall(r"^(\S+?)[:,]", refused.stderr, re.MULTILINE)) == set(places.split())
    (version,) = re.findall(r"^version: (\S+)$", (TOP / "chart/Chart.yaml").read_text(), re.MULTILINE)
    checked = subprocess.run([TOP / "ci/release-check", version], capture_output=True, text=True)
    assert checked.stderr in ("", f"Not {version}:\nCHANGELOG.md, the first heading: {version} (unreleased)\n")
    if not checked.returncode:
        assert checked.stdout.splitlines() == [f"version={version}", "redis=docker.io/library/redis:7.2-bookworm"]
