"""What a running installation lets nobody do, and tells nobody: its Redis, its public port and its logs."""

import base64

import pytest

from tests.support.cluster.stage import Failed
from tests.support.cluster.timeouts import POD_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually


def test_verifiers_user_of_redis_stops_no_pod(stage):
    code = (
        "from binder_egress.settings import VerifierSettings, load; from binder_egress.store.connection import connect\n"
        "redis = connect(load(VerifierSettings)); assert redis.get('binder-egress:epoch')\n"
        "redis.set('binder-egress:stop:alice/', 'uid')"
    )
    with pytest.raises(Failed, match="NoPermissionError"):
        stage.kubectl("exec", "deployment/binder-egress-verifier", "--", "python3", "-c", code)


def test_image_builds_do_not_reach_the_public_port(stage):
    """Pods that reach it may state a client's address. Every other pod reaches it, because it could be an ingress controller."""
    target = {"verifier": f"tcp://{stage.cluster_ip('binder-egress')}:80"}
    options = ("--image=localhost/user-server:1", "--image-pull-policy=IfNotPresent", "--restart=Never")
    components = ("image-builder", "dind", "binderhub-build", "other")
    try:
        for component in components:
            labels = f"--labels=component={component},test=public-port"
            stage.kubectl("run", component, *options, labels, "--command", "--", "probe", "serve", ":8080")
        stage.kubectl("wait", "--for=condition=Ready", "pod", "-l", "test=public-port", f"--timeout={POD_SECONDS}s")
        with stage.installed(*(f"--set=verifier.networkPolicy.publicFrom.{name}.enabled=false" for name in ("nodes", "pods"))):
            eventually(lambda: stage.battery_in("other", target)["verifier"], TIER_SECONDS)
            assert [component for component in components if stage.battery_in(component, target)["verifier"]] == ["other"]
    finally:
        stage.kubectl("delete", "pod", "-l", "test=public-port", "--grace-period=0", "--force", "--ignore-not-found")


def test_logs_have_no_secrets(stage):
    token = stage.get_pass()
    user = stage.launch(token=token).user
    stage.await_tier(user, "verified")
    stage.unlock_well(user)
    secret = stage.get("secret", "binder-egress")["data"]
    forbidden = [token, token[:40], *(base64.b64decode(value).decode().strip() for value in secret.values())]
    for what in ("deployment/binder-egress-verifier", "deployment/binder-egress-reconciler", "deployment/binder"):
        eventually(lambda what=what: user in stage.kubectl("logs", what), TIER_SECONDS, f"{what} says nothing about the launch")
        logs = stage.kubectl("logs", what)
        for text in forbidden:
            assert text not in logs, what
