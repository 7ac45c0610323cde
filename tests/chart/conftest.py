"""Helm, for the tests of the chart."""

import os
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tools():
    """The folder that helm is in."""
    return Path(subprocess.run([TOP / "ci/tools/build"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


@pytest.fixture(params=["helm", "helm4"], ids=["Helm 3", "Helm 4"])
def helm(tools, request):
    """A function that runs helm and returns its output; without a cluster, whatever kubeconfig there is."""

    def run(*args, check=True):
        env = {**os.environ, "KUBECONFIG": "/nonexistent"}
        result = subprocess.run([tools / request.param, *args], capture_output=True, text=True, env=env)
        if check:
            assert result.returncode == 0, result.stderr
        return result.stdout if check else result

    return run
