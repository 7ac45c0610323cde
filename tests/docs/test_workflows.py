"""The workflows: the scripts that they call exist, the actions that they use are pinned, and a release is checked. `ci/test lint`
runs actionlint."""

import base64
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


def test_half_an_upload_to_pypi_can_be_finished():
    """PyPI refuses a file that it has, and a job that runs again uploads all of them."""
    jobs = yaml.safe_load((TOP / ".github/workflows/release.yml").read_text())["jobs"]
    assert jobs["python-client"]["steps"][-1]["with"]["skip-existing"] is True


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


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_checkouts_keep_no_token(workflow):
    """What runs after a checkout could read a token that is in it."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    steps = [step for job in jobs for step in job.get("steps", []) if step.get("uses", "").startswith("actions/checkout@")]
    assert steps and all(step["with"]["persist-credentials"] is False for step in steps)


def test_lock_files_are_made_without_strangers_programs_and_without_the_token():
    (job,) = yaml.safe_load((TOP / ".github/workflows/refreeze.yml").read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "token" in str(step)] == ["ci/refreeze-pull-request"] and "env" not in job
    (compiled,) = re.findall(r'uv" pip compile (?:.*\\\n)+.*', (TOP / "ci/refreeze").read_text())
    assert " --only-binary :all: " in compiled


def test_new_lock_files_are_pushed_with_the_token_of_the_environment(tmp_path):
    """`gh` is a small program here, and GitHub a server that wants a password and then says no."""
    got = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            got.append(self.headers["Authorization"])
            self.send_response(403 if got[-1] else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    top, programs = tmp_path / "top", tmp_path / "bin"
    (top / "ci").mkdir(parents=True)
    shutil.copy(TOP / "ci/refreeze-pull-request", top / "ci")
    programs.mkdir()
    gh = programs / "gh"
    gh.write_text('#!/bin/sh\n[ "$*" != "auth git-credential get" ] || printf "username=x\\npassword=%s\\n" "$GH_TOKEN"\n')
    gh.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "GIT_TERMINAL_PROMPT": "0",
        "GH_TOKEN": "secret",
    }
    run = partial(subprocess.run, cwd=top, env=environment, capture_output=True, text=True)
    origin = f"http://127.0.0.1:{server.server_port}/o/r.git"
    who = ("-c", "user.name=n", "-c", "user.email=n@example.org")
    for command in (("init",), ("remote", "add", "origin", origin), ("add", "."), (*who, "commit", "--message=m")):
        run(["git", *command], check=True)
    with (top / "ci/refreeze-pull-request").open("a") as file:
        file.write("# newer\n")
    assert run(["ci/refreeze-pull-request"]).returncode
    server.shutdown()
    server.server_close()
    assert got == [None, f"Basic {base64.b64encode(b'x:secret').decode()}"]
    assert "secret" not in (top / ".git/config").read_text()


def test_unit_tests_get_their_programs_and_rights():
    """They run the egress proxy in network namespaces: Docker refuses `unshare` in a container without rights, and Debian's image
    has no `ip`."""
    files = [*TOP.glob("tests/unit/**/*.py"), *TOP.glob("tests/support/egress_proxy/*.py")]
    text = "".join(file.read_text() for file in files)
    called = set(re.findall(r'"(unshare|ip|nft|curl|git|wget|redis-server|openssl)[" ]', text))
    assert {"unshare", "ip"} <= called
    jobs = yaml.safe_load((TOP / ".github/workflows/test.yml").read_text())["jobs"].values()
    (job,) = (job for job in jobs if "unit" in job["strategy"]["matrix"]["parts"])
    assert "--privileged" in job["container"]["options"].split()
    (unit,) = re.findall(r"^unit\(\) \{\n(.*?)^\}", (TOP / "ci/test").read_text(), re.DOTALL | re.MULTILINE)
    (packages,) = re.findall(r"^  packages (.*)$", unit, re.MULTILINE)
    names = {"ip": "iproute2", "nft": "nftables"}
    assert {names.get(program, program) for program in called - {"unshare"}} <= set(packages.split())


def test_a_release_is_refused_while_a_file_has_another_version():
    refused = subprocess.run([TOP / "ci/release-check", "9.9.9-rc.1"], capture_output=True, text=True)
    assert refused.returncode == 1 and not refused.stdout
    places = re.findall(r"^(\S+?)[:,]", refused.stderr, re.MULTILINE)
    assert set(places) == {
        "chart/Chart.yaml",
        "chart/README.md",
        "CONTRIBUTING.md",
        "docs/agent.md",
        "docs/bans.md",
        "docs/install.md",
        "docs/link-local.md",
        "docs/mybinder.md",
        "docs/mybinder/1-nothing-happens.diff",
        "docs/mybinder/2-staging-shuts.diff",
        "docs/propose-bans.yaml",
        "pyproject.toml",
        "client/pyproject.toml",
        "frontend/pages/package.json",
        "CHANGELOG.md",
    }


def test_all_files_have_one_version():
    """The changelog is the exception: it says `(unreleased)` until the release is made. Pages may speak of the time before, too."""
    (version,) = re.findall(r"^version: (\S+)$", (TOP / "chart/Chart.yaml").read_text(), re.MULTILINE)
    checked = subprocess.run([TOP / "ci/release-check", version], capture_output=True, text=True)
    assert checked.stderr.partition("True only")[0] in (
        "",
        f"Not {version}:\nCHANGELOG.md, the first heading: {version} (unreleased)\n",
    )
    if not checked.returncode:
        assert checked.stdout.splitlines() == [f"version={version}", "redis=docker.io/library/redis:7.2-bookworm"]


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("README.md", "Nothing has been published yet, so [build the image](docs/install.md#chart-and-images) first."),
        ("chart/Chart.yaml", "maintainers: []"),
        ("SECURITY.md", "Nothing has been released yet."),
        ("client/README.md", "`pip install ./client` installs it from a checkout; it needs Python 3.11 or later."),
        ("frontend/pages/README.md", "It is not on npm yet."),
        ("chart/README.md", "    repository: …"),
        ("docs/bans.md", "with: {ref: 0.1.0}  # the id of a commit, until this tag exists"),
        ("docs/agent.md", "The agent has an image of its own: build it (`docker build --target agent .`)."),
        ("docs/maintenance.md", "Build and push the images of the new version first, as long as none are published."),
    ],
)
def test_pages_that_say_that_there_is_no_release_are_found(tmp_path, page, line):
    for file in ("ci/release-check", page):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(TOP / "ci/release-check", tmp_path / "ci")
    (tmp_path / page).write_text(f"# Title\n\n{line}\n")
    (found,) = runpy.run_path(str(tmp_path / "ci/release-check"))["not_yet"]()
    place, words = found.split(": ", 1)
    assert place == f"{page}, line 3" and words in line


@pytest.mark.parametrize(("version", "refused"), [("9.9.9", True), ("9.9.9-rc.1", False)])
def test_a_release_is_refused_while_a_page_says_that_there_is_none(monkeypatch, capsys, version, refused):
    """A release candidate is not: it is tried while pages still say so."""
    check = runpy.run_path(str(TOP / "ci/release-check"))["main"]
    monkeypatch.setitem(check.__globals__, "versions", lambda: iter(()))
    monkeypatch.setitem(check.__globals__, "not_yet", lambda: iter(["a page"]))
    monkeypatch.setattr(sys, "argv", ["ci/release-check", version])
    with pytest.raises(SystemExit, match="a page") if refused else nullcontext():
        check()
    assert (f"version={version}\n" in capsys.readouterr().out) != refused


def test_login_is_at_the_registry_of_the_images(tmp_path):
    """The workflow's own commands."""
    jobs = yaml.safe_load((TOP / ".github/workflows/release.yml").read_text())["jobs"]
    (check,) = (step for step in jobs["check"]["steps"] if step.get("id") == "check")
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci/release-check").symlink_to("/bin/true")
    environment = {**os.environ, "IMAGES": "registry.example.org/hub/egress", "GITHUB_OUTPUT": str(tmp_path / "output")}
    subprocess.run(["bash", "-e", "-c", check["run"]], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "output").read_text() == "registry=registry.example.org\n"
    assert jobs["check"]["outputs"]["registry"] == "${{ steps.check.outputs.registry }}"
    (login,) = (step for step in jobs["image"]["steps"] if "login-action" in step.get("uses", ""))
    assert login["with"]["registry"] == "${{ needs.check.outputs.registry }}"
