"""The chart, for tests of the objects that it renders."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support import TOP

CHART = TOP / "chart"

VALUES: dict[str, Any] = yaml.load((CHART / "values.yaml").read_text(), Loader=yaml.CSafeLoader)
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


def write(path: Path, content: object) -> None:
    """Write a text, or anything else as YAML, into a file of a folder that may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))


def stand_in(path: Path, properties: Sequence[str] | Mapping[str, object], version: str = "1.0.0") -> None:
    """A sub-chart in a folder, whose schema has these properties alone, or these with their schemas. It renders the values that it
    gets, in a ConfigMap."""
    write(path / "Chart.yaml", {"apiVersion": "v2", "name": path.name, "version": version})
    schemas = properties if isinstance(properties, Mapping) else {key: {} for key in properties}
    closed = {"type": "object", "additionalProperties": False, "properties": {**schemas, "global": {}}}
    write(path / "values.schema.json", json.dumps(closed))
    shown = (
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {path.name}}}\ndata:\n  values: {{{{ .Values | toJson | quote }}}}\n"
    )
    write(path / "templates/values.yaml", shown)


def seen_values(rendered: dict[tuple[str, str], dict[str, Any]], chart: str) -> dict[str, Any]:
    """The values that a `stand_in` got."""
    values: dict[str, Any] = json.loads(rendered["ConfigMap", chart]["data"]["values"])
    return values
