"""The commands of docs/install.md and of the pages that follow it, unchanged: to a BinderHub with us, and without us again.

One story: each test begins where the previous one ended. At first, the chart of an earlier release is installed.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.support.cluster.installing import BINDERHUB, Load, Operator, ask, await_tier_or_unlock
from tests.support.cluster.node_guard import node_guard
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import QUICK, TOP, Stage
from tests.support.cluster.timeouts import HUB_SECONDS, ROLLOUT_SECONDS, TIER_SECONDS
from tests.support.doc_examples import section
from tests.support.waiting import eventually, patiently

INSTALL, MAINTENANCE = "docs/install.md", "docs/maintenance.md"
ABUSE, UNINSTALL = "docs/abuse.md", "docs/uninstall.md"
UPGRADE = "Upgrade, and roll back"
FILES = ("your-egress-values.yaml", "your-values.yaml")
"""What `egress plan` writes."""

SEEN = (
    r"recognised +bypass +no NetworkPolicy but JupyterHub's own opens anything for user pods",
    r"recognised +DNS +DNS is the Service kube-system/kube-dns: pods k8s-app=kube-dns, port 53",
    r"recognised +API server +the API server has the port 6443",
    r"not recognised +network plugin +no DaemonSet of a known network plugin",
    r"not recognised +ingress +no Ingress and no HTTPRoute leads to BinderHub",
)
"""What `egress plan` sees in the local cluster, whose network plugin runs on the node."""

OURS_OVER_BINDERHUBS = {"binder-egress-base", "binder-egress-tier-verified"}
"""Policies for user pods."""


def release_before(folder: Path) -> Path:
    """A chart as an earlier release may have had it: it differs so much that every policy and every pod but Redis' is different.

    There is no published release. This chart has the same image, with its own tag as a published chart has, and the same templates
    except the canary's, because the story sets its interval.
    """
    shutil.copytree(TOP / "chart", folder)
    about = folder / "Chart.yaml"
    version = yaml.safe_load(about.read_text())["appVersion"]
    replace(about, f"\nversion: {version}\nappVersion: {version}\n", "\nversion: 0.0.9\nappVersion: 0.0.9\n")
    values = folder / "values.yaml"
    (ours,) = re.findall(r'^image:\n(?:  .*\n)*?  tag: ""', values.read_text(), re.MULTILINE)
    replace(values, ours, ours.replace('tag: ""', f'tag: "{version}"'))
    replace(values, "  threads: 32", "  threads: 16")
    replace(folder / "templates" / "_gatecheck.tpl", '"initialDelaySeconds" 120', '"initialDelaySeconds" 110')
    replace(values, "  198.18.0.0/15: true", "  198.18.0.0/16: true")
    return folder


def with_options(values: dict, options: list[str]) -> dict:
    """Values, and then options of the form `--set=a.b=1`."""
    for option in options:
        name, _, value = option.removeprefix("--set=").partition("=")
        *maps, last = name.split(".")
        place = values
        for key in maps:
            place = place.setdefault(key, {})
        place[last] = yaml.safe_load(value)
    return values


def replace(file: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text that must exist."""
    text = file.read_text()
    assert old in text, old
    file.write_text(text.replace(old, new, 1))


@dataclass
class Story:
    """The state that tests hand on.

    Attributes:
        operator: the operator.
        before: the objects before the first command.
        values: the current `your-egress-values.yaml`.
        key: an API key.
        open, shut: users of servers with and without network.
    """

    operator: Operator
    before: set[str]
    values: dict = field(default_factory=dict)
    key: str = ""
    open: str = ""
    shut: str = ""

    @property
    def stage(self) -> Stage:
        return self.operator.stage

    def write_values(self, more: dict) -> None:
        """Add to the values, as operators do."""
        self.values.update(more)
        (self.operator.folder / "your-egress-values.yaml").write_text(yaml.safe_dump(self.values))

    def launch_with(self, token: str) -> str:
        """Launch with a pass. Returns the user of a server that has its tier."""
        user = self.stage.launch(token=token).user
        await_tier_or_unlock(self.stage, user, token)
        return user

    def policies(self) -> set[str]:
        return {item["metadata"]["name"] for item in self.stage.get("networkpolicies")["items"]}

    def uids(self, component: str) -> set[str]:
        """The pods of one of our components, or of the canary, without those that are ending."""
        label = "binder-egress/gatecheck=canary" if component == "canary" else f"app.kubernetes.io/component={component}"
        pods = self.stage.get("pods", "-l", label)["items"]
        return {pod["metadata"]["uid"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}

    def await_network(self, user: str, egress: bool) -> None:
        """Policies are changed when the command ends, and take effect when every node has heard of the change."""
        patiently(lambda: assert_reaches(self.stage, user, egress), TIER_SECONDS, (AssertionError,))


@pytest.fixture(scope="module")
def story(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A BinderHub with JupyterHub's own policy for user pods, as before our chart."""
    own = Stage(stage.context, f"{stage.namespace}-install")
    operator = Operator(own, tmp_path_factory.mktemp("operator"))
    operator.check_out(release_before(tmp_path_factory.mktemp("before") / "chart"))
    values = "--set=jupyterhub.singleuser.networkPolicy.enabled=true"
    own.helm("install", "binder", str(BINDERHUB), "--create-namespace", "--wait", f"--timeout={ROLLOUT_SECONDS}s", values)
    yield Story(operator, operator.objects())
    own.delete_namespace()


@pytest.fixture(scope="module")
def link_local_closed() -> Iterator[None]:
    """IPv6 link-local closed on the node by the node guard. Other tests find it open, as on k3s."""
    with node_guard() if os.environ.get("CLUSTER_TARGETS") else nullcontext():
        yield


def test_documented_commands_install_in_mode_observe(story):
    """The quick path until the gate is shut. `egress plan` looks at a real API server, and changes nothing there."""
    said = story.operator.type(INSTALL, "Quick path", 0)
    assert story.operator.objects() == story.before
    planned, theirs = (yaml.safe_load((story.operator.folder / name).read_text()) for name in FILES)
    assert theirs == {"jupyterhub": {"singleuser": {"networkPolicy": {"enabled": True}}}}
    for seen in (*SEEN, f"--namespace {story.stage.namespace}"):
        assert re.search(seen, said), said
    (values,) = section(INSTALL, "1. Look first", "yaml")
    story.write_values(with_options({**planned, **yaml.safe_load(values)}, QUICK))
    images = story.operator.type(INSTALL, "Chart and images", 1).splitlines()
    assert [re.sub(r":[\w.-]+$", "", image) for image in images] == [
        "image: docker.io/library/redis", "image: localhost/binder-egress/verifier",
    ]  # fmt: skip
    story.operator.type(INSTALL, "Quick path", 1)
    notes = story.stage.helm("get", "notes", "binder-egress")
    story.operator.await_binderhub()
    # The command in NOTES makes the same file.
    (command,) = re.findall(r"^ +(kubectl get configmap .*\n.*) > binder-egress.yaml$", notes, re.M)
    assert story.operator.run(command) == (story.operator.folder / "binder-egress.yaml").read_text()

    assert "singleuser" in story.policies() and not OURS_OVER_BINDERHUBS & story.policies()
    user = story.stage.launch(token=story.stage.get_pass()).user

    def told() -> list[str]:
        lines = story.stage.kubectl("logs", "deploy/binder-egress-verifier").splitlines()
        return [line for line in lines if user in line and '"launch"' in line]

    eventually(told, TIER_SECONDS, "the verifier was not told of the launch")
    (launch,) = told()
    assert json.loads(launch)["pass_outcome"] == "free"
    assert user in story.operator.type(INSTALL, "3. See what it would do")
    story.stage.delete_user_pods()


def test_documented_commands_close_the_gate(story, link_local_closed):
    """The end of the quick path, with an API key that the operator made and put into the values."""
    command = ("exec", "deploy/binder-egress-reconciler", "--", "egress", "keys", "create", "--json")
    made = json.loads(
        story.stage.kubectl(*command, "--name=course", "--tier=verified", "--servers-per-day=500", "--expires=1d", "--why=test")
    )
    story.key = made["key"]
    story.write_values(made["values"])
    if not os.environ.get("CLUSTER_TARGETS"):
        story.write_values({"gatecheck": {"shut": {"link-local": False}}})
    story.operator.type(INSTALL, "Quick path", 2)
    *wire, _ = section(INSTALL, "Quick path")[1].splitlines()[-3:]
    story.operator.run("\n".join(wire))
    story.operator.await_binderhub()
    assert story.policies() >= OURS_OVER_BINDERHUBS and "singleuser" not in story.policies()
    said = story.operator.type_until_well(INSTALL, "4. Shut the gate")
    assert re.search(r"unverified +kubernetes-api +shut +ok", said) and "FAILED" not in said, said
    story.open, story.shut = story.launch_with(story.stage.get_pass()), story.stage.launch().user


def under_load(story: Story, number: int) -> None:
    """Run a block of the section on upgrades while people launch, and check that nobody lost anything."""
    pods = {component: story.uids(component) for component in ("verifier", "reconciler", "redis", "canary")}
    secret = story.stage.get("secret", "binder-egress")["data"]
    earned = patiently(story.stage.get_pass, HUB_SECONDS)
    waiting = patiently(lambda: ask(story.stage, story.key), HUB_SECONDS).json()["token"]
    with Load(story.stage, story.open, story.shut, story.key) as load:
        story.operator.type(MAINTENANCE, UPGRADE, number)
        load.await_some()
    changed = {component for component, before in pods.items() if not before & story.uids(component)}
    assert changed == {"verifier", "reconciler", "canary"}
    assert story.stage.get("secret", "binder-egress")["data"] == secret
    # Earlier passes are valid, with a launch and for a running server.
    late = story.launch_with(earned)
    other = story.stage.launch("fake/somebody/else/main").user
    story.stage.unlock_well(other, token=waiting)
    assert_reaches(story.stage, story.open, egress=True)
    assert_reaches(story.stage, story.shut, egress=False)
    for user in (late, other):
        story.stage.kubectl("delete", "pod", story.stage.pod_name(user), "--wait=false")


def excepted(story: Story) -> str:
    """The part of the tier's policy about a network in which the two versions differ."""
    (found,) = set(re.findall(r"198\.18\.0\.0/\d+", json.dumps(story.stage.get("networkpolicy", "binder-egress-tier-verified"))))
    return found


@pytest.mark.timeout(3600)  # An upgrade of everything under load takes half of the usual limit on a busy machine.
def test_upgrade_under_load_loses_nothing(story):
    story.operator.check_out(TOP / "chart")
    wiring = story.operator.folder / "binder-egress.yaml"
    before = wiring.read_text()
    assert excepted(story) == "198.18.0.0/16"
    under_load(story, 0)
    assert excepted(story) == "198.18.0.0/15"
    assert wiring.read_text() == before, "BinderHub would have to be upgraded too"


@pytest.mark.long
@pytest.mark.timeout(3600)  # An upgrade of everything under load takes half of the usual limit on a busy machine.
def test_rollback_under_load_loses_nothing(story):
    under_load(story, 1)
    assert excepted(story) == "198.18.0.0/16"


@pytest.mark.long
def test_documented_commands_change_the_secrets(story):
    """The bearer token, and Redis' passwords. Nothing else changes, and people launch with network afterwards."""

    def secret() -> dict[str, str]:
        return story.stage.get("secret", "binder-egress")["data"]

    redis = {"redis-password", *(f"redis-{part}-password" for part in ("verifier", "reconciler", "proxy", "receiver"))}
    for number, changes in enumerate(({"api-token"}, redis)):
        before = secret()
        story.operator.type(MAINTENANCE, "Changing secrets", number)
        story.operator.await_binderhub()
        story.stage.await_settled()
        assert {key for key, value in secret().items() if value != before[key]} == changes
        user = story.launch_with(patiently(story.stage.get_pass, HUB_SECONDS))
        story.stage.kubectl("delete", "pod", story.stage.pod_name(user), "--wait=false")
    assert_reaches(story.stage, story.open, egress=True)


def test_emergency_command_denies_and_an_upgrade_allows_again(story):
    story.operator.type(ABUSE, "Two switches")
    story.await_network(story.open, False)
    # Back, with the command of an upgrade. BinderHub's token is still valid, and servers that had egress have it again.
    story.operator.type(MAINTENANCE, UPGRADE, 0)
    story.await_network(story.open, True)
    story.launch_with(patiently(story.stage.get_pass, HUB_SECONDS))


def test_uninstalling_leaves_what_notes_say(story):
    notes = story.stage.helm("get", "notes", "binder-egress")
    servers = {pod["metadata"]["uid"] for pod in story.stage.pods()}
    story.operator.type(UNINSTALL, "The commands", 0)
    story.operator.await_binderhub()
    tests = {f"pod/binder-egress-test{part}" for part in ("", "-control", "-unverified", "-tier-verified")}
    left = story.operator.await_left(story.before, lambda left: left == {"secret/binder-egress", *tests})
    # Servers go on, and all have the network that JupyterHub's own policy allows.
    pods = story.stage.pods()
    assert {pod["metadata"]["uid"] for pod in pods} == servers
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}
    theirs = {"hub", "DNS", "public HTTP", "public TCP", "public UDP"}
    for user in (story.open, story.shut):

        def reached(user: str = user) -> set[str]:
            return {name for name, got in story.stage.battery(user, story.stage.targets()).items() if got}

        # Our policies are gone when the command ends, and stop taking effect a moment later.
        eventually(lambda reached=reached: reached() == theirs, TIER_SECONDS, reached)
    assert story.stage.launch().ready
    # NOTES have the commands of docs/uninstall.md, and these remove everything.
    assert story.operator.delete_as_told(notes) == left
    story.operator.await_left(story.before, lambda left: not left)
    told = {line.strip().removesuffix(" --ignore-not-found") for line in notes.splitlines() if "kubectl delete" in line}
    ours = section(UNINSTALL, "The commands")[1]
    assert {frozenset(line.replace(story.stage.namespace, "binder").split()) for line in told} == {
        frozenset(line.split()) for line in ours.splitlines()
    }
    story.operator.typed.append(ours)


@pytest.mark.long
def test_policies_alone_shut_the_gate(story, link_local_closed):
    """No network for anybody, proved with packets, and then removed again."""
    story.stage.delete_user_pods()
    story.operator.type(INSTALL, "Policies only", 0)
    link_local = [] if os.environ.get("CLUSTER_TARGETS") else ["--set=gatecheck.shut.link-local=false"]
    if link_local:
        story.stage.helm("upgrade", "binder-egress", str(TOP / "chart"), "--reuse-values", *link_local)
    off = "--set=jupyterhub.singleuser.networkPolicy.enabled=false"
    story.stage.helm("upgrade", "binder", str(BINDERHUB), "--reuse-values", off, "--wait", f"--timeout={ROLLOUT_SECONDS}s")
    story.operator.await_binderhub()
    story.operator.type(INSTALL, "Policies only", 1)
    assert story.policies() == {"binder-egress-base"}
    story.await_network(story.stage.launch().user, False)
    notes = story.stage.helm("get", "notes", "binder-egress")
    story.stage.helm("uninstall", "binder-egress", "--wait")
    tests = {"pod/binder-egress-test-control", "pod/binder-egress-test-unverified"}
    left = story.operator.await_left(story.before, lambda left: left == {"secret/binder-egress", *tests})
    assert story.operator.delete_as_told(notes) == left
    story.operator.await_left(story.before, lambda left: not left)


@pytest.mark.long
def test_commands_were_all_typed(story):
    headings = re.findall(r"^## (.*)$", (TOP / INSTALL).read_text(), re.M)
    written = [code for heading in headings for code in section(INSTALL, heading) if not code.startswith("docker ")]
    elsewhere = ((MAINTENANCE, UPGRADE), (MAINTENANCE, "Changing secrets"), (ABUSE, "Two switches"), (UNINSTALL, "The commands"))
    more = [code for page, heading in elsewhere for code in section(page, heading)]
    assert set(story.operator.typed) == {*written, *more}
