"""`helm rollback` from each mode to each other, with Helm 3 and 4, as a release of its own and as a dependency.

Objects only: the API server has no node, and nothing runs.
"""

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import TOP, charts
from tests.support.control_plane import ControlPlane

MODES = ("captcha", "observe", "allow", "deny", "off")

KINDS = "deployments,services,secrets,configmaps,roles,rolebindings,serviceaccounts,networkpolicies,poddisruptionbudgets,pods"

VALUES = {"verifier": {"pdb": {"enabled": True}}, "observe": {"withoutPolicies": True}}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """A function that runs a program in the namespace `binder` of an API server."""
    plane = ControlPlane(charts.tools() / "kubeall", tmp_path_factory.mktemp("plane"))
    plane.add("/api/v1/namespaces", {"metadata": {"name": "binder"}})
    yield plane.run
    plane.stop()


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A chart that has ours as a dependency."""
    shutil.copytree(TOP / "chart", tmp_path / "parent/charts/binder-egress")
    version = yaml.safe_load((TOP / "chart/Chart.yaml").read_text())["version"]
    dependency = {"name": "binder-egress", "version": version, "condition": "binder-egress.enabled"}
    charts.write(
        tmp_path / "parent/Chart.yaml", {"apiVersion": "v2", "name": "parent", "version": "0", "dependencies": [dependency]}
    )
    return tmp_path / "parent"


# What a rollback does depends on the stored objects, and on the program, and on nothing of both together.
@pytest.mark.parametrize(("program", "key"), [("helm", ""), ("helm4", "binder-egress"), ("helm", "binder-egress")])
def test_rollback_leads_from_each_mode_to_each_other(run, parent, program, key):
    def helm(*args: str, stdin: str = "") -> None:
        done = run(program, *charts.with_images(args), "--history-max=0", stdin=stdin)
        assert done.returncode == 0, done.stderr

    def upgrade(mode: str, **more: object) -> None:
        values = {**VALUES, "mode": mode, **more}
        stdin = json.dumps({key: values} if key else values)
        helm("upgrade", "--install", "gate", str(parent if key else TOP / "chart"), "--reset-values", "--values=-", stdin=stdin)

    def objects() -> dict[str, Any]:
        """Our objects: kind and name → the parts that must not differ."""
        found = json.loads(run("kubectl", "get", KINDS, "-l", "app.kubernetes.io/name=binder-egress", "-o", "json").stdout)["items"]
        return {f"{item['kind']}/{item['metadata']['name']}": item.get("data", item["kind"]) for item in found}

    expected = {}
    for mode in MODES:
        upgrade(mode)
        expected[mode] = objects()
    secret = expected["captcha"]["Secret/binder-egress"]
    assert {mode: found["Secret/binder-egress"] == secret for mode, found in expected.items()} == dict.fromkeys(MODES, True)
    assert set(expected["off"]) == {"Secret/binder-egress"}
    assert {"Deployment/binder-egress-verifier", "NetworkPolicy/binder-egress-base"} <= set(expected["captcha"])
    # Helm 3 does the rest as a release of its own, which differs from a dependency in nothing else.
    pairs, now = itertools.combinations(MODES, 2), MODES[-1]
    for mode in (mode for first, other in pairs for mode in (first, other, first)):
        if (program, key) != ("helm", "binder-egress") and mode != now:
            helm("rollback", "gate", str(MODES.index(mode) + 1))
            assert objects() == expected[mode], (now, mode)
            now = mode
    if key:
        # As docs/maintenance.md says: Helm 3 cannot come back from nothing, so use `mode: off` instead.
        upgrade("captcha", enabled=False)
        assert set(objects()) == {"Secret/binder-egress"}
        back = run(program, "rollback", "gate", "1")
        assert ('no Secret with the name "binder-egress" found' in back.stderr) == (program == "helm") == bool(back.returncode)
    run(program, "uninstall", "gate")
    run("kubectl", "delete", "secret", "--all")
