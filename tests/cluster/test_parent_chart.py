"""The other way to install: a parent chart with BinderHub and one dependency entry. `helm test`, and its removal, with Helm 4.

test_switch_on.py has pods and packets with such a chart.
"""

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.cluster.installing import Operator
from tests.support.cluster.stage import QUICK, TOP, Stage
from tests.support.cluster.timeouts import POD_SECONDS, ROLLOUT_SECONDS
from tests.support.doc_examples import section

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def parent(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Operator, set[str]]]:
    """A second namespace with an operator's parent chart, and the objects that existed before."""
    operator = Operator(Stage(stage.context, f"{stage.namespace}-parent", "helm4"), tmp_path_factory.mktemp("operator"))
    make_parent = TOP / "tests/cluster/binderhub-for-tests/make-parent"
    chart = subprocess.run([make_parent, tmp_path_factory.mktemp("parent")], check=True, stdout=subprocess.PIPE, text=True)
    other = operator.stage
    other.new_namespace()
    other.kubectl("wait", "--for=create", "serviceaccount/default", "configmap/kube-root-ca.crt", f"--timeout={POD_SECONDS}s")
    before = operator.objects()
    # IPv6 link-local is open here; test_gatecheck.py is about that.
    ours = [*QUICK, "--set=gatecheck.shut.link-local=false"]
    quick = [option.replace("--set=", "--set=binder-egress.") for option in ours]
    other.helm("install", "parent", chart.stdout.strip(), "--wait", f"--timeout={ROLLOUT_SECONDS}s", *quick)
    other.await_address("binder-egress", 8081, "/healthz")
    operator.await_binderhub()
    yield operator, before
    other.delete_namespace()


def test_helm_test_of_the_parent_is_ours(parent):
    said = parent[0].stage.helm("test", "parent", "--logs", f"--timeout={ROLLOUT_SECONDS}s")
    assert re.search(r"unverified +kubernetes-api +shut +ok", said) and "FAILED" not in said, said


def test_uninstalling_leaves_what_the_pages_say(parent):
    operator, before = parent
    operator.stage.launch()
    servers = {pod["metadata"]["uid"] for pod in operator.stage.pods()}
    operator.stage.helm("uninstall", "parent", "--wait")
    tests = {f"pod/binder-egress-test{part}" for part in ("", "-control", "-unverified", "-tier-verified")}
    operator.await_left(before, lambda left: left == {"secret/binder-egress", *tests})
    assert {pod["metadata"]["uid"] for pod in operator.stage.pods()} == servers, "user pods go on"
    ours = "instance=binder-egress"
    assert f"the parent's release takes the place of `{ours}`" in (TOP / "chart/README.md").read_text()
    commands = section("docs/uninstall.md", "The commands")[1]
    assert ours in commands
    operator.run(commands.replace(ours, "instance=parent"))
    operator.await_left(before, lambda left: not left)
