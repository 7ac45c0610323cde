"""Helm, for the tests of the chart."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import charts


def pytest_collection_modifyitems(items):
    """The tools are built on first use, which takes minutes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def tools():
    return charts.tools()


def pytest_generate_tests(metafunc):
    """Both versions of Helm where they could differ: where a module names them in `HELMS`. They have the same template engine."""
    if "helm" in metafunc.fixturenames:
        helms = getattr(metafunc.module, "HELMS", ["helm4"])
        metafunc.parametrize("helm", helms, indirect=True, scope="session", ids={"helm": "Helm 3", "helm4": "Helm 4"}.get)


@pytest.fixture(scope="session")
def helm(tools, request):
    """A function that runs helm, without a cluster, and returns its output, or with `check=False` the result of the command. A
    checkout gets names of images (`charts.with_images`)."""

    def run(*args, check=True):
        env = {**os.environ, "KUBECONFIG": "/nonexistent"}
        result = subprocess.run([tools / request.param, *charts.with_images(args)], capture_output=True, text=True, env=env)
        if check:
            assert result.returncode == 0, result.stderr
        return result.stdout if check else result

    return run


@pytest.fixture(scope="session")
def render(helm):
    """A function that renders a chart and returns its objects by kind and name."""

    def run(*args, chart=charts.CHART):
        return charts.by_name(helm("template", "r", chart, "--namespace", "binder", *args))

    return run
