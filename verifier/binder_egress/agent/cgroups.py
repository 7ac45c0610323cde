"""Finds the pod that a process belongs to, from the text of its `/proc/PID/cgroup`."""

import re

# The kubelet names a pod's cgroup `pod<uid>` (cgroupfs), or `…-pod<uid>.slice` with underscores for the dashes (systemd, where a
# dash in a name separates levels): kubernetes, pkg/kubelet/cm, cgroup_manager_linux.go and pod_container_manager_linux.go. Older
# containerd with a kubelet on systemd wrote `…-pod<uid>.slice:cri-containerd:<container>` as one part. The uid of a static pod is
# not a UUID, and is not looked for: user pods are never static.
_POD = re.compile(r"(?:^|-)pod([0-9a-f]{8}([-_])[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{12})(?:\.slice)?(?::|$)")


def pod_uid(text: str) -> str | None:
    """The uid of the pod in whose cgroup a process is.

    In each path, the outermost part that names a pod counts: a pod that can create cgroups creates them below its own, with any
    name. Read from inside a container, the path may begin with `/..`, which makes no difference here.

    Args:
        text: the content of `/proc/PID/cgroup`, one line for each hierarchy (cgroups(7)).

    Returns:
        The uid with dashes. None: no pod, or the hierarchies of version 1 name several.
    """
    found = set()
    # Not `splitlines`: the name of a cgroup may contain any other character that ends a line in Unicode.
    for line in text.split("\n"):
        path = line.split(":", 2)[-1]
        for part in path.split("/"):
            if match := _POD.search(part):
                found.add(match[1].replace("_", "-"))
                break
    return found.pop() if len(found) == 1 else None
