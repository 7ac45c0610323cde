"""The client's package as users get it: source archive and wheel, installed outside this checkout."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution
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


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new virtual environment with the wheel and its requirements in the versions of the lock file; the folder of its commands.

    The requirements are copied from the environment of the tests, so no network is needed. pip downloads nothing, and fails if
    one of them is missing. Packages that are not required, directly or indirectly, cannot be imported.
    """
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin/python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    needed, found = [Requirement(text) for text in PROJECT["dependencies"]], set()
    while needed:
        requirement = needed.pop()
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(requirement.name)
        there = distribution(requirement.name)
        needed += map(Requirement, there.requires or [])
        for file in there.files or []:
            if ".." not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there.locate_file(file), site / file)
    run(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, wheel, cwd=folder)
    return folder / "bin"


def test_wheel_contains_the_client_only(wheel):
    with zipfile.ZipFile(wheel) as content:
        files = set(content.namelist())
        about = {name.rpartition("/")[2]: name for name in files if ".dist-info/" in name}
        metadata = message_from_bytes(content.read(about["METADATA"]))
        assert content.read(about["LICENSE"]) == (SOURCE / "LICENSE").read_bytes() == (TOP / "LICENSE").read_bytes()
        commands = content.read(about["entry_points.txt"]).decode().split("\n")
    assert files - set(about.values()) == MODULES and "binder_egress_client/py.typed" in MODULES
    assert set(about) == {"METADATA", "LICENSE", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
    assert [line for line in commands if line] == ["[console_scripts]", "binder-egress-client = binder_egress_client.command:main"]
    assert (metadata["Name"], metadata["Version"]) == ("binder-egress-client", VERSION)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("BSD-3-Clause", ">=3.11")
    assert metadata["Summary"] and metadata.get_payload(decode=True).strip() == (SOURCE / "README.md").read_bytes().strip()
    required = [text for text in metadata.get_all("Requires-Dist") if "extra" not in text]
    assert set(map(Requirement, required)) == set(map(Requirement, PROJECT["dependencies"]))


def test_installed_command_runs(installed, tmp_path):
    command = installed / "binder-egress-client"
    assert run(command, "--version", cwd=tmp_path).strip().endswith(VERSION)
    assert "launch" in run(command, "--help", cwd=tmp_path)
    # The command gets as far as its first request; nothing listens at port 1.
    done = subprocess.run(
        [command, "launch", "gh/o/r/HEAD", "--binder", "http://127.0.0.1:1", "--json"],
        cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and '"launch-failed"' in done.stdout and "Connection refused" in done.stderr
