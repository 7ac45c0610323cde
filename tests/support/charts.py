"""The chart, for tests of the objects that it renders."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).parents[2]

CHART = TOP / "chart"

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
"""The chart's default values."""

TOPOLOGIES = sorted((CHART / "ci").glob("*-values.yaml"))
"""A values file for each way of installing the chart."""


def tools() -> Path:
    """The folder with helm and helm4. The first use builds them, which takes minutes."""
    done = subprocess.run([TOP / "ci/tools/build"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


def objects(text: str) -> list[dict[str, Any]]:
    """The objects in a text that Helm rendered."""
    return [document for document in yaml.safe_load_all(text) if document]


def by_name(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects in a text that Helm rendered, by kind and name.

    Raises:
        AssertionError: two objects have the same kind and name.
    """
    rendered = objects(text)
    named = {(one["kind"], one["metadata"]["name"]): one for one in rendered}
    assert len(named) == len(rendered), "two objects with one name"
    return named
