"""The story of ci/rehearse: an operator with a published chart, and without a checkout."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tests.support.cluster.installing import BINDERHUB, Operator, await_tier_or_unlock
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import FROM_NODES, QUICK, Stage
from tests.support.cluster.timeouts import HUB_SECONDS, ROLLOUT_SECONDS
from tests.support.doc_examples import section
from tests.support.waiting import patiently

CHART, BEFORE, VERSION = (os.environ[f"REHEARSAL_{name}"] for name in ("CHART", "BEFORE", "VERSION"))
IMAGE = os.environ["REHEARSAL_IMAGE"]
DIGESTS = {VERSION: os.environ["REHEARSAL_DIGEST"], BEFORE: os.environ["REHEARSAL_DIGEST_BEFORE"]}
INSTALL = "docs/install.md"


@contextmanager
def timed(text: str) -> Iterator[None]:
    """Say how long something took, in whole seconds, for the report."""
    began = time.monotonic()
    yield
    print(f"- {text}: {time.monotonic() - began:.0f} s", flush=True)


class Reader(Operator):
    """Somebody who follows the install guide with a published chart.

    What the guide says of a checkout is replaced here, and nothing else: the folder of the chart, the image that one builds, and
    where `egress` comes from.

    Args:
        stage: the namespace.
        folder: where they work. It has no checkout.
        version: the chart's version.
    """

    def __init__(self, stage: Stage, folder: Path, version: str) -> None:
        self.version = version
        super().__init__(stage, folder)
        programs = Path(os.environ["REHEARSAL_PROGRAMS"])
        (self.folder / "bin/egress").unlink()
        (self.folder / "bin/egress").symlink_to(programs / "egress")

    def check_out(self, chart: Path) -> None:
        """Nothing: there is no checkout."""

    def run(self, code: str) -> str:
        code = re.sub(r" --image \S+", "", code)
        return super().run(code.replace(" chart/ ", f" {CHART} --version {self.version} --plain-http "))


def to_a_gated_pod(stage: Stage, folder: Path, version: str) -> tuple[Reader, str, str]:
    """From a BinderHub without us to servers with and without egress.

    Returns:
        The operator, and the users of a server with and of one without.
    """
    with timed("BinderHub, as before"):
        own = "--set=jupyterhub.singleuser.networkPolicy.enabled=true"
        wait = ("--create-namespace", "--wait", f"--timeout={ROLLOUT_SECONDS}s")
        stage.helm("install", "binder", str(BINDERHUB), *wait, own)
    reader = Reader(stage, folder, version)
    with timed(f"{version}: egress plan"):
        reader.type(INSTALL, "Quick path", 0)
    values = reader.folder / "your-egress-values.yaml"
    planned = yaml.safe_load(values.read_text()) or {}
    assert "image" not in planned
    # Challenges that a test solves at once, and the guide's ingress.
    (ingress,) = section(INSTALL, "1. Look first", "yaml")
    quick = {"captcha": {"providers": {"altcha": {"cost": 1, "counterMax": 5}}}, "canary": {"interval": 5}}
    assert len(QUICK) == 3 + len(FROM_NODES)
    values.write_text(yaml.safe_dump({**planned, **yaml.safe_load(ingress), **quick}))
    with timed(f"{version}: installed in observe, with doctor"):
        reader.type(INSTALL, "Quick path", 1)
        reader.await_binderhub()
    with timed(f"{version}: shut"):
        reader.type(INSTALL, "Quick path", 2)
        reader.run("\n".join(section(INSTALL, "Quick path")[1].splitlines()[-3:-1]))
        reader.await_binderhub()
        reader.type_until_well(INSTALL, "4. Shut the gate")
    with timed(f"{version}: two servers, and packets from each"):
        open_, shut = launched(stage, True), launched(stage, False)
    runs(stage, version)
    guard = stage.pod(open_)["spec"]["initContainers"][-1]
    assert (guard["name"], guard["image"]) == ("binder-egress-start-guard", f"{IMAGE}@{DIGESTS[version]}")
    return reader, open_, shut


def launched(stage: Stage, egress: bool) -> str:
    """Launch with or without a pass, and send packets from inside. Returns the user."""
    if egress:
        token = patiently(stage.get_pass, HUB_SECONDS)
        user = stage.launch(token=token).user
        await_tier_or_unlock(stage, user, token)
    else:
        user = stage.launch().user
    assert_reaches(stage, user, egress=egress)
    return user


def runs(stage: Stage, version: str) -> None:
    """Check that the processes run the image that was published with a version."""
    for name in ("verifier", "reconciler"):
        (pod,) = (
            pod
            for pod in stage.get("pods", "-l", f"app.kubernetes.io/component={name}")["items"]
            if "deletionTimestamp" not in pod["metadata"]
        )
        assert pod["spec"]["containers"][0]["image"] == f"{IMAGE}@{DIGESTS[version]}", pod["spec"]["containers"]


def upgrade(reader: Reader, open_: str, shut: str) -> None:
    """Upgrade with the guide's commands while two servers run, and check that both keep what they have."""
    stage = reader.stage
    uids = {user: stage.pod(user)["metadata"]["uid"] for user in (open_, shut)}
    earned = patiently(stage.get_pass, HUB_SECONDS)
    reader.version = VERSION
    with timed(f"upgrade from {BEFORE} to {VERSION}"):
        reader.type("docs/maintenance.md", "Upgrade, and roll back", 0)
        # Its start guard has another image.
        reader.run(section(INSTALL, "Quick path")[1].splitlines()[2])
        reader.await_binderhub()
        stage.await_settled()
    runs(stage, VERSION)
    assert {user: stage.pod(user)["metadata"]["uid"] for user in uids} == uids
    assert_reaches(stage, open_, egress=True)
    assert_reaches(stage, shut, egress=False)
    user = stage.launch(token=earned).user
    await_tier_or_unlock(stage, user, earned)
    assert_reaches(stage, user, egress=True)
    print("- both servers kept what they had; a pass from before the upgrade was good after it", flush=True)


def close_link_local(stage: Stage) -> None:
    """The node guard, as it is published: k3s' network leaves IPv6 link-local open, and `doctor` would find it."""
    stage.kubectl("apply", "--namespace", "kube-system", "--filename", os.environ["REHEARSAL_NODE_GUARD"])
    stage.kubectl("rollout", "status", "--namespace", "kube-system", "daemonset/binder-egress-node-guard")


def main() -> None:
    """Install the new version, and then upgrade the one before to it."""
    with TemporaryDirectory() as folder:
        for name in ("fresh", "upgraded"):
            (Path(folder) / name).mkdir()
        fresh = Stage(None, "rehearsal-fresh", patient=True)
        with timed("the node guard"):
            close_link_local(fresh)
        to_a_gated_pod(fresh, Path(folder) / "fresh", VERSION)
        fresh.delete_namespace()
        again = Stage(None, "rehearsal-upgrade", patient=True)
        upgrade(*to_a_gated_pod(again, Path(folder) / "upgraded", BEFORE))


if __name__ == "__main__":
    main()
