"""The five modes, switched with `helm upgrade` as in an emergency."""

import json
import re
from collections.abc import Set

import pytest

from tests.support.cluster.packets import assert_reaches, forbidden
from tests.support.cluster.stage import OPEN, OURS, QUICK, SINGLEUSER, TOP, Failed, Stage
from tests.support.cluster.timeouts import CANARY_SECONDS, ROLLOUT_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def switch(stage):
    """Switch the mode. The next test begins in it; after the last test it is captcha again."""
    yield lambda mode, *more: stage.install_gate(*QUICK, f"--set=mode={mode}", *more)
    stage.install_gate(*QUICK)


def await_open(stage: Stage, user: str, tried: dict[str, str], shut: Set[str] = frozenset()) -> None:
    """Wait until all targets are open, except those that stay shut: deleted policies may stay in force for a while."""
    reached: dict[str, bool] = {}

    def is_open() -> bool:
        reached.update(stage.battery(user, tried))
        assert not any(reached[name] for name in shut), reached
        return all(reached[name] for name in tried if name not in shut)

    eventually(is_open, TIER_SECONDS, reached)


def policies(stage: Stage) -> set[str]:
    return {item["metadata"]["name"] for item in stage.get("networkpolicies")["items"]}


def test_allow_gives_everybody_the_tier_and_captcha_leaves_it_to_those_who_solved(stage, switch):
    before, verified = stage.launch().user, stage.launch_verified()
    assert stage.tier(before) is None
    switch("allow")
    stage.await_tier(before, "verified")
    plain = stage.launch().user
    stage.await_tier(plain, "verified")
    assert_reaches(stage, plain, egress=True)
    switch("captcha")
    for user in (before, plain):
        stage.await_tier(user, None)
    assert stage.tier(verified) == "verified"
    assert_reaches(stage, plain, egress=False, closing=OPEN)


def documented(stage: Stage, script: str) -> str:
    """What commands of the documentation print. They name the namespace `binder`."""
    kubectl = f"kubectl --context {stage.context}" if stage.context else "kubectl"
    script = script.replace("kubectl ", f"{kubectl} ").replace("--namespace binder ", f"--namespace {stage.namespace} ")
    return stage.run("sh", "-euc", script)


def test_deny_needs_one_policy(stage, switch, bypass, tmp_path):
    verified = stage.launch_verified()
    # As docs/abuse.md says, what ends with `deny` can be saved, and the servers that had a tier are still known.
    page = (TOP / "docs/abuse.md").read_text()
    ((save, find),) = re.findall(
        r"^   ```sh\n(   egress=.*?)^   ```\n.*?In `mode: deny`.*?`(kubectl .*?)`", page, re.MULTILINE | re.DOTALL
    )
    documented(stage, f"cd {tmp_path}\n{save}")
    assert verified in {row["user"] for row in json.loads((tmp_path / "grants.json").read_text())}
    for component in ("verifier", "reconciler"):
        assert verified in (tmp_path / f"{component}.log").read_text()
    # Link-local is open in this cluster; test_gatecheck.py tests that.
    stage.install_gate(
        "--set=mode=deny", "--set=canary.readiness=true", "--set=canary.interval=5", "--set=gatecheck.shut.link-local=false"
    )
    assert policies(stage) == {"binder-egress-base"}
    left = stage.get("deployments,statefulsets,services,secrets,roles,configmaps", "-l", OURS)["items"]
    # The Secret stays: with a new one, BinderHub would be cut off after the switch back until it restarts. Start guards read one
    # ConfigMap, and the other has the blocks.
    assert {(item["kind"], item["metadata"]["name"]) for item in left} == {
        ("Secret", "binder-egress"),
        ("ConfigMap", "binder-egress-start-guard"),
        ("ConfigMap", "binder-egress-blocks"),
    }
    assert_reaches(stage, verified, egress=False, closing=OPEN)
    launched = stage.launch()
    assert_reaches(stage, launched.user, egress=False)
    assert [line.split()[0] for line in documented(stage, find).splitlines()[1:]] == [stage.pod_name(verified)]
    # Packets prove it without a reconciler: `helm test`'s, and the canary's, for whose readiness Helm has waited.
    (canary,) = stage.get("pods", "-l", "binder-egress/gatecheck=canary,component=singleuser-server")["items"]
    # The canary restarts after its first result.
    stage.kubectl("wait", "--for=condition=Ready", f"pod/{canary['metadata']['name']}", f"--timeout={CANARY_SECONDS}s")
    stage.helm("test", "binder-egress", f"--timeout={ROLLOUT_SECONDS}s")
    bypass(SINGLEUSER)
    stage.kubectl("wait", "--for=condition=Ready=false", f"pod/{canary['metadata']['name']}", f"--timeout={CANARY_SECONDS}s")
    with pytest.raises(Failed, match="binder-egress-test-unverified"):
        stage.helm("test", "binder-egress", f"--timeout={ROLLOUT_SECONDS}s")
    said = stage.kubectl("logs", "binder-egress-test-unverified")
    assert re.search("FAILED: must be shut, and is open: .*kubernetes-api", said), said
    stage.kubectl("delete", "pods", "-l", "binder-egress/gatecheck=test")


def test_observe_labels_and_blocks_nobody(stage, switch):
    # JupyterHub's own policy is off here, so nothing would isolate user pods any more.
    with pytest.raises(Failed, match="no other policy isolates user pods"):
        switch("observe")
    assert "binder-egress-base" in policies(stage)
    switch("observe", "--set=observe.withoutPolicies=true")
    assert policies(stage).isdisjoint({"binder-egress-base", "binder-egress-tier-verified"})
    plain = stage.launch().user
    stage.launch_verified()
    assert stage.tier(plain) is None
    # Without our policies everything is open, so every target of the other tests can be reached. Our own pods keep their policies.
    own = {"in-cluster port of the verifier", "Redis"}
    tried = {**stage.targets(), **forbidden(stage)}
    await_open(stage, plain, tried, own)


def test_off_leaves_nothing_behind_and_launches_go_on(stage, switch):
    switch("off")
    assert policies(stage) == set()
    await_open(stage, stage.launch().user, stage.targets())
