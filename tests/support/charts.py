"""The chart, for tests of the objects that it renders."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support import TOP

CHART = TOP / "chart"

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
"""The chart's default values."""

IMAGES = TOP / "tests/support/images.yaml"
"""Values that name our images, which a checkout does not."""

TOPOLOGIES = sorted((CHART / "ci").glob("*-values.yaml"))
"""A values file for each way of installing the chart."""


def tools() -> Path:
    """The folder with helm and helm4. The first use builds them, which takes minutes."""
    done = subprocess.run([TOP / "ci/tools/build"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


def with_images(args: Sequence[str | Path]) -> list[str]:
    """The arguments of a helm command, with the names of our images first if it renders a checkout, which names none."""
    done = [str(arg) for arg in args]
    if done[0] not in ("install", "lint", "template", "upgrade"):
        return done
    for place, arg in enumerate(done):
        if Path(arg, "charts/binder-egress").is_dir():
            file = Path(arg, "values.yaml")
            if file.exists() and "image" in (yaml.safe_load(file.read_text()).get("binder-egress") or {}):
                return done
            image = yaml.safe_load(IMAGES.read_text())["image"]["name"]
            return [*done[: place + 1], f"--set=binder-egress.image.name={image}", *done[place + 1 :]]
        if Path(arg, "templates/verifier").is_dir():
            return [*done[: place + 1], f"--values={IMAGES}", *done[place + 1 :]]
    return done


def objects(text: str) -> list[dict[str, Any]]:
    """The objects in a text that Helm rendered."""
    # In C, which is eight times faster: this took as long as Helm.
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def by_name(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects in a text that Helm rendered, by kind and name, which no two of them share."""
    rendered = objects(text)
    named = {(one["kind"], one["metadata"]["name"]): one for one in rendered}
    assert len(named) == len(rendered), "two objects with one name"
    return named
