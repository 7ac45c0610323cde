"""The client's package as users get it: source archive and wheel, installed outside this checkout."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support import TOP

SOURCE = TOP / "client"
PROJECT = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
# As packages have it: 1.2.3-rc.1 is 1.2.3rc1.
VERSION = str(Version(PROJECT["version"]))
NAME = f"binder_egress_client-{VERSION}"
MODULES = {f"binder_egress_client/{file.name}" for file in (SOURCE / "binder_egress_client").glob("*") if file.is_file()}

OFFLINE = ("--no-index", "--disable-pip-version-check")


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Runs a command and returns its output. It does not inherit the environment, so this checkout is not on its path."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), **environment},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made from the source archive, and that from a copy because a build leaves files behind."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(SOURCE, folder / "client", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    run(sys.executable, "-c", "import setuptools.build_meta as build; build.build_sdist('..')", cwd=folder / "client")
    build = ("-m", "pip", "wheel", *OFFLINE, "--no-deps", "--no-build-isolation")
    run(sys.executable, *build, folder / f"{NAME}.tar.gz", cwd=folder)
    return folder / f"{NAME}-py3-none-any.whl"


def test_wheel_contains_the_client_only(wheel):
    with zipfile.ZipFile(wheel) as content:
        files = set(content.namelist())
        about = {name.rpartition("/")[2]: name for name in files if ".dist-info/" in name}
        assert content.read(about["LICENSE"]) == (SOURCE / "LICENSE").read_bytes() == (TOP / "LICENSE").read_bytes()
        commands = content.read(about["entry_points.txt"]).decode().split("\n")
    assert files - set(about.values()) == MODULES and "binder_egress_client/py.typed" in MODULES
    assert set(about) == {"METADATA", "LICENSE", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
    assert [line for line in commands if line] == ["[console_scripts]", "binder-egress-client = binder_egress_client.command:main"]


def test_imported_packages_are_required():
    trees = [ast.parse(file.read_text()) for file in (SOURCE / "binder_egress_client").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    others = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    packages = packages_distributions()
    required = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert {package for name in others for package in packages[name]} == required


def test_installed_command_runs(wheel, tmp_path):
    run(sys.executable, "-m", "pip", "install", *OFFLINE, "--no-deps", "--target", "installed", wheel, cwd=tmp_path)
    command, own = tmp_path / "installed/bin/binder-egress-client", {"PYTHONPATH": str(tmp_path / "installed")}
    assert run(command, "--version", cwd=tmp_path, **own).strip().endswith(VERSION)
    # The command gets as far as its first request; nothing listens at port 1.
    done = subprocess.run(
        [command, "launch", "gh/o/r/HEAD", "--binder", "http://127.0.0.1:1", "--json"],
        cwd=tmp_path, env=own, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and '"launch-failed"' in done.stdout and "Connection refused" in done.stderr
