"""NO_PROXY of user pods: the hosts that clients reach directly, not through the proxy. `docs/proxy.md` has the other variables."""

import subprocess
import urllib.request

import pytest
import requests

from tests.support.charts import VALUES
from tests.support.ports import free_port

VARIABLES = VALUES["integration"]["binderhub"]["jupyterhub"]["singleuser"]["extraEnv"]

DIRECT = {"localhost", "127.0.0.1", "[::1]", "hub"}
"""Beside the pod's own address, for Dask and Spark: kernels, and the hub's API (`http://hub:8081/hub/api`), which servers use with
`auth_enabled`."""

PROXIED = {"pypi.example", "10.42.0.6", "hub.example.org", "github.com"}


@pytest.fixture(params=["10.42.0.5", "[fd42::5]"], ids=["IPv4", "IPv6"])
def pod(request, monkeypatch):
    """The variables of a pod with an address, which is returned as URLs have it."""
    proxy = f"http://127.0.0.1:{free_port()}"
    for name, value in VARIABLES.items():
        if name.upper() == "NO_PROXY":
            value = value.replace("$(BINDER_EGRESS_POD_IP)", request.param.strip("[]"))
        monkeypatch.setenv(name, value if isinstance(value, str) else proxy)
    return request.param


def test_upper_and_lower_case_say_the_same():
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        assert VARIABLES[name] == VARIABLES[name.lower()]


def by_urllib(host):
    """It compares without the brackets of IPv6 addresses, but with the port. aiohttp asks it, too."""
    return urllib.request.proxy_bypass_environment(host.strip("[]"))


def by_requests(host):
    return not requests.utils.get_environ_proxies(f"http://{host}:8081/hub/api")


def by_curl(host):
    """It names the port to which it could not connect: the host's, or the proxy's."""
    command = ["curl", "-sSg", "--connect-to", "::127.0.0.1:1", f"http://{host}:8081/hub/api"]
    return " port 1 " in subprocess.run(command, capture_output=True, text=True, timeout=30).stderr


@pytest.mark.parametrize("is_direct", [by_urllib, by_requests, by_curl])
def test_client_asks_the_pod_and_the_hub_directly(pod, is_direct):
    assert set(filter(is_direct, {pod, *DIRECT, *PROXIED})) == {pod, *DIRECT}
