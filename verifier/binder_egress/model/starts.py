"""Why a user pod cannot start because of what this chart adds to it: Kubernetes' own reason, read from the pod."""

from .labels import JSON, START_GUARD_CONTAINER
from .ping import SYSCTL

NORMAL = ("", "PodInitializing", "ContainerCreating")
"""Why a container waits that will soon run."""

MAX_CHARACTERS = 300
"""The most characters of Kubernetes' message that are kept. It names an image, or the file of a container."""


def hindrance(pod: JSON) -> str:
    """Why a pod does not start because of its start guard (image, limits), or of the sysctl that closes ping.

    Args:
        pod: the pod, as JSON.

    Returns:
        Kubernetes' reason and message, `ImagePullBackOff: Back-off pulling …`; empty if there is none.
    """
    status = pod.get("status") or {}
    if status.get("reason") == "SysctlForbidden" and SYSCTL in status.get("message", ""):
        return _words(status)
    if status.get("phase") != "Pending":
        return ""
    for container in status.get("initContainerStatuses") or []:
        if container["name"] == START_GUARD_CONTAINER:
            state = container.get("state") or {}
            waiting = state.get("waiting") or {}
            # `CrashLoopBackOff` hides why the container ended.
            ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
            if ended.get("exitCode") and "running" not in state:
                return _words(ended | {"message": ""} if ended.get("reason") == "OOMKilled" else ended)
            return _words(waiting) if waiting.get("reason", "") not in NORMAL else ""
    return ""


def _words(of: JSON) -> str:
    return ": ".join(filter(None, (of.get("reason"), of.get("message"))))[:MAX_CHARACTERS]
