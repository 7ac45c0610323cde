"""All processes run with the fewest rights possible, as the live objects show."""

import base64

import pytest

from tests.support.cluster.stage import OURS, QUICK, Failed, Stage
from tests.support.cluster.timeouts import POD_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually


def ours(stage: Stage) -> list[dict]:
    pods = [pod for pod in stage.get("pods", "-l", OURS)["items"] if "deletionTimestamp" not in pod["metadata"]]
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} == {"verifier", "reconciler", "redis"}
    return pods


def test_containers_are_hardened(stage):
    for pod in ours(stage):
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            merged = {**pod["spec"].get("securityContext", {}), **container["securityContext"]}
            assert merged["runAsNonRoot"] is True and merged["runAsUser"] > 0
            assert merged["readOnlyRootFilesystem"] is True and merged["allowPrivilegeEscalation"] is False
            assert merged["capabilities"] == {"drop": ["ALL"]} and merged["seccompProfile"] == {"type": "RuntimeDefault"}


def test_kubernetes_credentials_are_the_reconcilers_alone(stage):
    for pod in ours(stage):
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        mounts = [mount["mountPath"] for container in pod["spec"]["containers"] for mount in container.get("volumeMounts", [])]
        assert ("/var/run/secrets/kubernetes.io/serviceaccount" in mounts) == (component == "reconciler"), component


def test_keys_are_the_verifiers_alone(stage):
    for pod in ours(stage):
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        mounted = [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume]
        assert mounted == (["binder-egress-api-keys"] if component == "verifier" else []), component  # hashes
        text = str([(container.get("env", []), container.get("envFrom", [])) for container in pod["spec"]["containers"]])
        assert ("signing-keys" in text or "SIGNING_KEYS" in text) == (component == "verifier"), component


def test_verifier_has_its_own_user_of_redis(stage):
    for pod in ours(stage):
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        text = str([container.get("env", []) for container in pod["spec"]["containers"]])
        assert ("redis-reconciler-password" in text) == (component != "verifier"), component
    code = (
        "from verifier.settings import VerifierSettings, load; from verifier.store.connection import connect\n"
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
        eventually(lambda: stage.battery_in("other", target)["verifier"], TIER_SECONDS)
        assert [component for component in components if stage.battery_in(component, target)["verifier"]] == ["other"]
    finally:
        stage.kubectl("delete", "pod", "-l", "test=public-port", "--grace-period=0", "--force", "--ignore-not-found")


def test_user_pods_carry_no_kubernetes_credentials(stage):
    pod = stage.pod(stage.launch().user)
    assert pod["spec"]["automountServiceAccountToken"] is False


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


def test_secret_is_kept_across_upgrades(stage):
    before = stage.get("secret", "binder-egress")["data"]
    stage.install_gate(*QUICK)
    assert stage.get("secret", "binder-egress")["data"] == before
