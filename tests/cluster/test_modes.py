"""The five modes, switched by `helm upgrade` as on a bad day."""

import pytest
from stage import OURS, QUICK, Failed, Stage
from test_launches import expect


@pytest.fixture
def switch(stage):
    """Switch the mode; back to captcha at the end."""
    yield lambda mode: stage.install_gate(*QUICK, f"--set=mode={mode}")
    stage.install_gate(*QUICK)


def policies(stage: Stage) -> set[str]:
    return {item["metadata"]["name"] for item in stage.get("networkpolicies")["items"]}


def test_observe_decides_and_labels_and_stops_nobody(stage, switch):
    switch("observe")
    assert policies(stage).isdisjoint({"binder-egress-base", "binder-egress-tier-verified"})
    plain, verified = stage.launch().user, stage.launch(token=stage.get_pass()).user
    assert (stage.tier(plain), stage.tier(verified)) == (None, "verified")
    reached = stage.battery(plain, stage.targets())
    assert all(reached.values()), f"without policies everything is open: {reached}"


def test_allow_gives_everybody_the_tier(stage, switch):
    before = stage.launch().user
    assert stage.tier(before) is None
    switch("allow")
    stage.await_tier(before, "verified", 30)
    launched = stage.launch()
    stage.await_tier(launched.user, "verified")
    expect(stage, launched.user, egress=True)


def test_allow_works_without_redis_and_verifier(stage, switch):
    switch("allow")
    for what in ("deployment/binder-egress-verifier", redis(stage)):
        stage.kubectl("scale", what, "--replicas=0")
    launched = stage.launch()
    stage.await_tier(launched.user, "verified", 30)
    for what in ("deployment/binder-egress-verifier", redis(stage)):
        stage.kubectl("scale", what, "--replicas=1")


def test_deny_needs_nothing_but_one_policy(stage, switch):
    verified = stage.launch(token=stage.get_pass()).user
    switch("deny")
    assert policies(stage) == {"binder-egress-base"}
    left = stage.get("deployments,statefulsets,services,secrets,roles,configmaps", "-l", OURS)["items"]
    # The Secret stays: with a new one, BinderHub would be cut off on the way back until it restarts.
    assert [(item["kind"], item["metadata"]["name"]) for item in left] == [("Secret", "binder-egress")]
    expect(stage, verified, egress=False)
    launched = stage.launch()
    expect(stage, launched.user, egress=False)


def test_off_leaves_nothing_behind_and_launches_go_on(stage, switch):
    switch("off")
    assert policies(stage) == set()
    launched = stage.launch()
    assert all(stage.battery(launched.user, stage.targets()).values())


def test_a_wrong_value_is_refused_with_a_sentence(stage):
    with pytest.raises(Failed, match="mode"):
        stage.install_gate("--set=mode=closed")
    with pytest.raises(Failed, match="nonsense"):
        stage.install_gate("--set=nonsense=1")


def redis(stage: Stage) -> str:
    return stage.kubectl("get", "deployments,statefulsets", "-l", "app.kubernetes.io/component=redis", "-o", "name").split()[0]
