"""`helm rollback` from each mode to each other, with Helm 3 and 4, as a release of its own and as a dependency.

Objects only: no node takes the pods.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.support.cluster.stage import OURS, TOP, Failed, Stage

pytestmark = pytest.mark.long

MODES = ("captcha", "observe", "allow", "deny", "off")

KINDS = "deployments,services,secrets,configmaps,roles,rolebindings,serviceaccounts,networkpolicies,poddisruptionbudgets,pods"

NOWHERE = {"nodeSelector": {"binder-egress/no-node": "has-this"}}

VALUES = {
    "verifier": {**NOWHERE, "pdb": {"enabled": True}},
    "reconciler": NOWHERE,
    "redis": NOWHERE,
    "gatecheck": NOWHERE,
    "observe": {"withoutPolicies": True},
}


TOURS = ("helm alone", "helm4 dependency")
"""Programs and ways. What a rollback does depends on the stored objects, and on the program, and on nothing of both together."""

FROM_NOTHING = "helm dependency"


def tour(modes: tuple[str, ...]) -> Iterator[str]:
    """From the first mode through every change of mode, each once, back to the first."""
    first, *rest = modes
    if not rest:
        return
    for other in rest[1:]:
        yield from (other, first)
    yield rest[0]
    yield from tour(tuple(rest))
    yield first


class Release:
    """A release in a namespace of its own.

    Args:
        stage: the namespace.
        chart: the chart's folder.
        key: the key of our values in it; empty: the chart is ours.

    Attributes:
        revisions: mode → the revision with it.
        made: how many revisions there are.
    """

    def __init__(self, stage: Stage, chart: Path, key: str) -> None:
        self.stage, self.chart, self.key = stage, chart, key
        self.revisions: dict[str, int] = {}
        self.made = 0

    def upgrade(self, mode: str, **more: object) -> None:
        """Run `helm upgrade --install` with a mode."""
        values = {**VALUES, "mode": mode, **more}
        stdin = json.dumps({self.key: values} if self.key else values)
        options = ("--reset-values", "--history-max=0", "--values=-")
        self.stage.helm("upgrade", "--install", "gate", str(self.chart), *options, stdin=stdin)
        self.made += 1
        self.revisions[mode] = self.revision()

    def roll_back(self, mode: str) -> None:
        """Run `helm rollback` to the revision with a mode."""
        self.stage.helm("rollback", "gate", str(self.revisions[mode]), "--history-max=0")
        self.made += 1

    def revision(self) -> int:
        """The current revision, which must have succeeded, by Helm's own labels: `helm history` would unpack every revision."""
        (deployed,) = self.stage.get("secrets", "-l", "owner=helm,name=gate,status=deployed")["items"]
        assert deployed["metadata"]["labels"]["version"] == str(self.made), deployed["metadata"]["labels"]
        return self.made

    def objects(self) -> dict[str, object]:
        """Our objects, without pods of Deployments: kind and name → the parts that must not differ."""
        found: dict[str, object] = {}
        for item in self.stage.get(KINDS, "-l", f"{OURS}")["items"]:
            if "ownerReferences" not in item["metadata"] and "deletionTimestamp" not in item["metadata"]:
                found[f"{item['kind']}/{item['metadata']['name']}"] = item.get("data", item["kind"])
        return found


@pytest.fixture
def releases(stage: Stage, tmp_path: Path) -> Iterator[dict[str, Release]]:
    """One release of each kind, by name, each in its own namespace."""
    parent = tmp_path / "parent"
    shutil.copytree(TOP / "chart", parent / "charts/binder-egress")
    version = yaml.safe_load((TOP / "chart/Chart.yaml").read_text())["version"]
    dependency = {"name": "binder-egress", "version": version, "condition": "binder-egress.enabled"}
    about = {"apiVersion": "v2", "name": "parent", "version": "0.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(about))
    ways = {"alone": (TOP / "chart", ""), "dependency": (parent, "binder-egress")}
    made = {}
    for name in (*TOURS, FROM_NOTHING):
        program, way = name.split()
        own = Stage(stage.context, f"{stage.namespace}-rollback-{program}-{way}", program)
        own.new_namespace()
        made[name] = Release(own, *ways[way])
    yield made
    for release in made.values():
        release.stage.helm("uninstall", "gate", "--ignore-not-found")
        release.stage.delete_namespace()


def test_tour_has_each_change_once():
    changes = list(itertools.pairwise([MODES[0], *tour(MODES)]))
    assert len(changes) == len(set(changes)) == len(MODES) * (len(MODES) - 1) and all(a != b for a, b in changes)


def roll_back_through_all(release: Release) -> None:
    """Make a revision with each mode, and roll back from each to each other."""
    expected = {}
    for mode in reversed(MODES):
        release.upgrade(mode)
        expected[mode] = release.objects()
    secret = expected["captcha"]["Secret/binder-egress"]
    assert {mode: found["Secret/binder-egress"] == secret for mode, found in expected.items()} == dict.fromkeys(MODES, True)
    assert set(expected["off"]) == {"Secret/binder-egress"}
    assert {"Deployment/binder-egress-verifier", "NetworkPolicy/binder-egress-base"} <= set(expected["captcha"])
    for mode in tour(MODES):
        release.roll_back(mode)
        release.revision()
        assert release.objects() == expected[mode], mode
    if release.key:
        roll_back_from_nothing(release)


def roll_back_from_nothing(release: Release) -> None:
    """As docs/maintenance.md says: Helm 3 cannot do this, so use `mode: off` instead."""
    release.upgrade("captcha", enabled=False)
    release.revisions["captcha"] -= 1
    assert set(release.objects()) == {"Secret/binder-egress"}
    if release.stage.helm_program == "helm":
        with pytest.raises(Failed, match='no Secret with the name "binder-egress" found'):
            release.roll_back("captcha")
    else:
        release.roll_back("captcha")


def test_rollback_leads_from_each_mode_to_each_other(releases):
    with ThreadPoolExecutor(len(releases)) as pool:
        running = {name: pool.submit(roll_back_through_all, releases[name]) for name in TOURS}
        releases[FROM_NOTHING].upgrade("captcha")
        running[FROM_NOTHING] = pool.submit(roll_back_from_nothing, releases[FROM_NOTHING])
    assert {name: repr(done.exception()) for name, done in running.items() if done.exception()} == {}
