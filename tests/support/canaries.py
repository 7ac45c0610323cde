"""Pods of canaries, as the API server shows them."""

from binder_egress.model.labels import GATECHECK_LABEL


def pod(name="canary", node="n1", value="node-canary", state="running", **meta):
    """A canary's pod; with the value `canary`, the one without a controller. `state` is its container's."""
    return {
        "metadata": {"uid": f"uid-{name}", "name": name, "labels": {GATECHECK_LABEL: value}, **meta},
        "spec": {"nodeName": node},
        "status": {"podIP": "10.0.0.1", "containerStatuses": [{"state": {state: {}}}]},
    }
