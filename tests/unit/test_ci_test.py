"""`ci/test`: arguments that it rejects, runs that select no test, and failed tests that it runs once more (D-374)."""

import os
import subprocess
import sys

import pytest

from tests.support import TOP

WITH_CALICO = ("battery", "connections", "gatecheck", "leases", "proxy", "start_guard")
"""The files of cluster tests that run with Calico, too."""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("hub7", "no part hub7; see ci/test --help"),
        ("--clusters 0 cluster", "--clusters takes a number from 1 to 9"),
        ("unit -- tests/unit/test_typo.py::test_one -k one", "no file tests/unit/test_typo.py in tests/"),
        ("-- tests/support/waiting.py", "no part for tests/support"),
        ("docs hub6 -- tests/docs/test_site.py", "part hub6, and no file in tests/cluster"),
    ],
)
def test_wrong_arguments_run_nothing_and_say_why(arguments, said):
    done = subprocess.run([TOP / "ci/test", *arguments.split()], cwd=TOP, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"ci/test: {said}\n")


@pytest.mark.parametrize("script", ["attack", "bench", "demo", "economics", "rehearse", "screenshots", "test"])
def test_help_is_the_comment_at_the_top_and_makes_nothing(script, tmp_path):
    text = (TOP / "ci" / script).read_text()
    comment = [line.removeprefix("#").removeprefix(" ") for line in text.split("\n. ")[0].splitlines()[1:]]
    cache = tmp_path / "cache"
    environment = {**os.environ, "BINDER_EGRESS_CACHE": str(cache)}
    done = subprocess.run([TOP / "ci" / script, "--help"], cwd=TOP, capture_output=True, text=True, timeout=20, env=environment)
    assert (done.returncode, done.stdout.splitlines(), done.stderr, cache.exists()) == (0, comment, "", False)


@pytest.fixture
def run(tmp_path):
    """A function that runs `ci/test` on a project's tests, part → code, where there is nothing to build and no cluster."""
    (tmp_path / "ci").mkdir()
    for name in ("test", "test_summary.py"):
        (tmp_path / "ci" / name).symlink_to(TOP / "ci" / name)
    (tmp_path / "ci/lib.sh").write_text((TOP / "ci/lib.sh").read_text() + "packages() { :; }\n")
    commands = (
        "frontend",
        "thebe",
        "tools/build",
        "calico/build",
        "images/build",
        "cluster/up",
        "cluster/load",
        "cluster/down",
        "cluster/in",
    )
    for name, code in {**dict.fromkeys(commands, ":"), "cluster/in": '"$@"', "venv": f"echo {sys.prefix}"}.items():
        (tmp_path / "ci" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "ci" / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / "ci" / name).chmod(0o755)
    plugins = "-p no:schemathesis -p no:hypothesispytest -p no:anyio"  # They take seconds to load.
    environment = {**os.environ, "BINDER_EGRESS_CACHE": str(tmp_path / "cache"), "PYTEST_ADDOPTS": plugins}

    def run(arguments, **tests):
        for part, code in tests.items():
            (tmp_path / "tests" / part).mkdir(parents=True)
            for name in WITH_CALICO if part == "cluster" else ["any"]:
                (tmp_path / f"tests/{part}/test_{name}.py").write_text(code)
        command = [tmp_path / "ci/test", *arguments.split()]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(("arguments", "code"), [("unit docs -- -k one", 0), ("unit docs -- -k none", 1)])
def test_run_that_selects_no_test_fails(run, arguments, code):
    """With several parts, a part that selects none is no failure, unless no other does."""
    done = run(arguments, docs="def test_one(): pass", unit="def test_two(): pass")
    assert (done.returncode, "ci/test: no test was selected" in done.stderr) == (code, code == 1), done.stdout + done.stderr


AT_FIRST_AND_THEN = """
import pathlib
import pytest

def test_it():
    first = pathlib.Path(__file__).with_name("first")
    if not first.exists():
        first.touch()
        pytest.fail("at first")
    {then}

def test_other():
    pass
"""


@pytest.mark.parametrize(
    ("then", "code", "said"),
    [
        ("pass", 0, "1 passed, 1 flaky, 0 failed"),
        ("pytest.fail('and then')", 1, "1 passed, 0 flaky, 1 failed"),
        ("pytest.skip('and then')", 1, "1 passed, 0 flaky, 1 failed"),
    ],
)
def test_only_a_test_that_passes_then_is_flaky(run, then, code, said):
    done = run("docs", docs=AT_FIRST_AND_THEN.format(then=then))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, f"{said}, 0 skipped"), done.stdout + done.stderr


MEETS = """
import os, pathlib, time

def test_it():
    lane = os.environ.get("CLUSTER_NETWORK") or pathlib.Path(__file__).parent.name
    pathlib.Path(lane).touch()
    until = time.monotonic() + 60
    while not all(pathlib.Path(each).exists() for each in ("docs", "cluster", "calico")):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert lane != "cluster" or os.environ["CLUSTER_NODES"] == "2"
    assert lane != "calico"
"""


def test_clusters_of_both_networks_run_beside_the_others_and_a_failure_there_counts(run):
    done = run("--clusters 1 docs cluster calico", docs=MEETS, cluster=MEETS)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "7 passed, 0 flaky, 6 failed, 0 skipped"), (
        done.stdout + done.stderr
    )
    assert "  tests/cluster/test_battery::test_it\n" in done.stdout
