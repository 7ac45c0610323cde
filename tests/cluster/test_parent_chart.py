"""The other way in: a parent chart with BinderHub, one dependency entry, wired by import-values."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import QUICK, TOP, Stage
from test_launches import expect


@pytest.fixture
def parent(stage: Stage, tmp_path: Path) -> Iterator[Stage]:
    """A second namespace, with an operator's parent chart in it."""
    chart = subprocess.run(
        [TOP / "tests/cluster/binderhub-for-tests/make-parent", tmp_path], check=True, capture_output=True, text=True
    )
    other = Stage(stage.context, f"{stage.namespace}-parent")
    quick = [option.replace("--set=", "--set=binder-egress.") for option in QUICK]
    other.helm("upgrade", "--install", "parent", chart.stdout.strip(), "--create-namespace", "--wait", "--timeout=5m", *quick)
    yield other
    other.delete_user_pods()
    other.close()
    stage.run(
        "kubectl", *(["--context", stage.context] if stage.context else []), "delete", "namespace", other.namespace, "--wait=false"
    )


def test_one_dependency_entry_is_enough(parent):
    plain, verified = parent.launch().user, parent.launch(token=parent.get_pass()).user
    assert (parent.tier(plain), parent.tier(verified)) == (None, "verified")
    expect(parent, plain, egress=False)
    expect(parent, verified, egress=True)
