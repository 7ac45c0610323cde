"""The gate of a parent chart with mybinder.org's own policy for user pods is shut while pods run, as in docs/mybinder.md."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster.commands import doctor
from tests.support.cluster.packets import assert_reaches, stream
from tests.support.cluster.stage import QUICK, TOP, Stage
from tests.support.cluster.timeouts import ROLLOUT_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually


@pytest.fixture
def parent(stage: Stage) -> Iterator[Stage]:
    """A second namespace."""
    other = Stage(stage.context, f"{stage.namespace}-switch-on")
    yield other
    other.delete_namespace()


@pytest.fixture
def deploy(parent: Stage, tmp_path: Path) -> Callable[..., None]:
    """A function that deploys the parent chart with values for binder-egress, and JupyterHub's own policy on or off."""
    chart = tmp_path / "mybinder"
    subprocess.run([TOP / "tests/cluster/binderhub-for-tests/make-parent", chart], check=True, capture_output=True)
    templates = chart / "templates"
    templates.mkdir()
    shutil.copy(TOP / "tests/chart/mybinder/mybinder/templates/netpol.yaml", templates)
    only = ["git", "apply", "--include=mybinder/templates/netpol.yaml", TOP / "docs/mybinder/1-nothing-happens.diff"]
    subprocess.run(only, cwd=tmp_path, check=True, capture_output=True)
    assert "binder-egress" in (templates / "netpol.yaml").read_text()
    quick = [option.replace("--set=", "--set=binder-egress.") for option in QUICK]

    def deploy(own_policy: bool, **egress: Any) -> None:
        # Port 9000 is the tests' own: servers on the other ports end a connection by themselves.
        allowed = {"enabled": True, "egress": {"tcpPorts": [80, 443, 9000], "cidr": "0.0.0.0/0"}}
        hub = {"singleuser": {"networkPolicy": {"enabled": own_policy}}}
        values = {"binderhub": {"networkPolicy": allowed, "jupyterhub": hub}, "binder-egress": egress}
        options = ("--create-namespace", "--wait", f"--timeout={ROLLOUT_SECONDS}s", "--values=-", *quick)
        parent.helm("upgrade", "--install", "parent", str(chart), *options, stdin=yaml.safe_dump(values))
        parent.await_settled()
        if egress["enabled"]:
            parent.await_address("binder-egress", 8081, "/healthz")
        parent.await_binderhub()

    return deploy


def await_public(parent: Stage, user: str) -> None:
    """Wait until a user's pod reaches the internet: policies may be late."""
    tried = {"public TCP": parent.targets()["public TCP"]}
    eventually(lambda: parent.battery(user, tried)["public TCP"], TIER_SECONDS, f"{user} has no network")


def test_gate_closes_while_pods_run(parent, deploy):
    """Servers with a solved challenge keep the network, over open and new connections; all others can be unlocked."""
    deploy(own_policy=True, enabled=False)
    before = parent.launch().user
    await_public(parent, before)

    deploy(own_policy=True, enabled=True, mode="observe")
    plain, verified = parent.launch().user, parent.launch_verified()
    assert [parent.tier(user) for user in (before, plain)] == [None, None]
    for user in (before, plain, verified):
        await_public(parent, user)

    running = stream(parent, verified)
    try:
        deploy(own_policy=False, enabled=True, mode="captcha")
        for user in (before, plain):
            assert_reaches(parent, user, egress=False, closing=parent.targets())
        assert_reaches(parent, verified, egress=True)
        assert running.poll() is None, "the open connection of a verified server ended"
    finally:
        running.kill()
        running.wait()
    assert doctor(parent)["bypass"] == [("ok", "no other NetworkPolicy opens anything for user pods")]

    # No server has to be launched again, not even those that are older than binder-egress here.
    for user in (before, plain):
        parent.unlock_well(user)
        assert_reaches(parent, user, egress=True)
