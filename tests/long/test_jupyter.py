"""Jupyter's own traffic with the variables of the egress proxy: the real packages, and a proxy that refuses every connection."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.support import TOP
from tests.support.ports import free_port

PACKAGES = (
    "jupyter_server==2.21.1",
    "ipykernel==7.4.0",
    "jupyter-server-proxy==4.6.0",
    "distributed==2026.8.0",
    "requests==2.34.2",
    "websocket-client",
)
POD = "10.42.0.5"
(NO_PROXY,) = re.findall(r"^ +NO_PROXY: &noproxy (.+)$", (TOP / "chart/values.yaml").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of a virtual environment with these packages."""
    folder = tmp_path_factory.mktemp("jupyter")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return folder / "bin/python"


def tried(python, no_proxy):
    """The things that work in a pod with these variables: a network namespace with an address and no way out."""
    proxy = f"http://127.0.0.1:{free_port()}"
    variables = {name: proxy for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    variables |= {"NO_PROXY": no_proxy, "no_proxy": no_proxy}
    inside = f"ip link set lo up; ip address add {POD}/32 dev lo; exec {python} {TOP / 'tests/long/jupyter.py'} {POD}"
    # Jupyter and its kernels end with the namespace of their processes.
    command = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "sh", "-ec", inside]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)
    assert not done.returncode, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(1200)
def test_jupyters_own_traffic_is_undisturbed(python):
    found = tried(python, NO_PROXY.replace("$(BINDER_EGRESS_POD_IP)", POD))
    assert len(found) == 7 and set(found.values()) == {True}, found


@pytest.mark.timeout(1200)
def test_the_pods_address_must_be_in_no_proxy(python):
    found = tried(python, "localhost,127.0.0.1")
    disturbed = {"kernel asks the pod's address", "Dask by the pod's address"}
    assert {name for name, works in found.items() if works is not True} == disturbed, found
