"""Pods, read from the text of `/proc/PID/cgroup`, in the forms of container runtimes, drivers and versions."""

import pytest

from binder_egress.agent.cgroups import pod_uid

UID = "7c2a4bd3-1a2b-4c3d-9e8f-0a1b2c3d4e5f"
SYSTEMD = UID.replace("-", "_")
BURSTABLE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SYSTEMD}.slice"
BOX = "3f0c" * 16


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # kubernetes, pkg/kubelet/cm: cgroup_manager_linux.go and pod_container_manager_linux.go
        ("version 2, cgroupfs", f"0::/kubepods/burstable/pod{UID}/{BOX}"),
        ("version 2, cgroupfs, guaranteed", f"0::/kubepods/pod{UID}/{BOX}"),
        ("version 2, systemd, containerd", f"0::{BURSTABLE}/cri-containerd-{BOX}.scope"),
        ("version 2, systemd, guaranteed", f"0::/kubepods.slice/kubepods-pod{SYSTEMD}.slice/cri-containerd-{BOX}.scope"),
        ("version 2, CRI-O, systemd", f"0::{BURSTABLE}/crio-{BOX}.scope"),
        ("version 2, CRI-O, with its inner folder", f"0::{BURSTABLE}/crio-{BOX}.scope/container"),
        ("version 2, CRI-O, cgroupfs", f"0::/kubepods/besteffort/pod{UID}/crio-{BOX}"),
        # cgroup_namespaces(7): a path outside of the reader's own namespace begins with /..
        ("version 2, from a container", f"0::/../../pod{UID}/{BOX}"),
        ("version 2, from a container, systemd", f"0::/../../kubepods-burstable-pod{SYSTEMD}.slice/cri-containerd-{BOX}.scope"),
        # kind: the kubelet's --cgroup-root is /kubelet
        ("kind", f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SYSTEMD}.slice/cri-containerd-{BOX}.scope"),
        ("another root, of the local cluster", f"0::/cluster-hc/kubepods/besteffort/pod{UID}/{BOX}"),
        ("version 1, cgroupfs", f"12:memory:/kubepods/pod{UID}/{BOX}\n11:cpu,cpuacct:/kubepods/pod{UID}/{BOX}\n0::/\n"),
        ("version 1, systemd, Docker", f"5:pids:{BURSTABLE}/docker-{BOX}.scope\n1:name=systemd:{BURSTABLE}/docker-{BOX}.scope\n"),
        # containerd/cri: the runtime on cgroupfs below a kubelet on systemd
        ("version 1, two drivers", f"4:cpu:/system.slice/containerd.service/kubepods-pod{SYSTEMD}.slice:cri-containerd:{BOX}"),
        ("both versions", f"4:cpu:/kubepods/pod{UID}/{BOX}\n0::/kubepods/pod{UID}/{BOX}"),
        ("a cgroup that the pod made, with the name of another", f"0::/kubepods/pod{UID}/{BOX}/pod{UID.replace('7', '8')}"),
    ],
)
def test_pod_is_known(name, text):
    assert pod_uid(text) == UID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/",
        "0::/init.scope",
        "0::/user.slice/user-1000.slice/session-3.scope",
        f"0::/system.slice/docker-{BOX}.scope",
        # A static pod: its uid is a hash (kubernetes, pkg/kubelet/config, common.go).
        f"0::/kubepods/burstable/pod{'a1' * 16}/{BOX}",
        f"0::/system.slice/tripod{UID}.service",
        f"0::/kubepods/pod{UID}x/{BOX}",
        f"0::/kubepods/pod{UID[:-1]}/{BOX}",
        f"0::/kubepods/pod{SYSTEMD[:9]}{UID[9:]}/{BOX}",
        "no colons",
        # Hierarchies that differ: nothing says which one is right, so no pod is accused.
        f"4:cpu:/kubepods/pod{UID}/{BOX}\n3:pids:/kubepods/pod{UID.replace('7', '8')}/{BOX}\n",
    ],
)
def test_process_of_no_pod_is_left_alone(text):
    assert pod_uid(text) is None


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_cgroup_that_a_pod_named_begins_no_line(end):
    """Only a slash and a newline cannot be in the name of a cgroup (kernel/cgroup/cgroup.c, cgroup_mkdir)."""
    other = UID.replace("7", "8")
    assert pod_uid(f"0::/kubepods/pod{UID}/{BOX}/a{end}0::/kubepods/pod{other}\n") == UID
