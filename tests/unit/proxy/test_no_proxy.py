"""NO_PROXY of user pods: the hosts that clients reach directly, not through the proxy. `docs/proxy.md` has the other variables."""

import http.server
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest
import requests
import yaml
from aiohttp.helpers import get_env_proxy_for_url
from yarl import URL

from tests.support.ports import free_port

VALUES = yaml.safe_load((Path(__file__).parents[3] / "chart/values.yaml").read_text())
VARIABLES = VALUES["integration"]["binderhub"]["jupyterhub"]["singleuser"]["extraEnv"]

DIRECT = ("localhost", "127.0.0.1", "10.42.0.5", "hub", "[::1]", "[fd42::5]")
"""Kernels, the pod's own address for Dask and Spark, and the hub's API (`http://hub:8081/hub/api`), which servers use with
`auth_enabled`."""

PROXIED = ("pypi.example", "10.42.0.6", "hub.example.org", "github.com")


@pytest.fixture(params=["10.42.0.5", "fd42::5"], ids=["IPv4", "IPv6"])
def pod(request, monkeypatch):
    """The variables of a pod with an address."""
    proxy = f"http://127.0.0.1:{free_port()}"
    for name, value in VARIABLES.items():
        if name.upper() == "NO_PROXY":
            value = value.replace("$(BINDER_EGRESS_POD_IP)", request.param)
        monkeypatch.setenv(name, value if isinstance(value, str) else proxy)
    return request.param


def hosts(pod):
    """The hosts that are reached directly: of the two addresses, only the pod's own."""
    other = "[fd42::5]" if pod == "10.42.0.5" else "10.42.0.5"
    return [host for host in DIRECT if host != other]


def test_upper_and_lower_case_say_the_same():
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        assert VARIABLES[name] == VARIABLES[name.lower()]


def test_urllib_asks_the_pod_and_the_hub_directly(pod):
    # urllib compares without the brackets of IPv6 addresses, but with the port.
    seen = {host for host in (*hosts(pod), *PROXIED) if urllib.request.proxy_bypass_environment(host.strip("[]"))}
    assert seen == set(hosts(pod))


def test_requests_asks_the_pod_and_the_hub_directly(pod):
    seen = {host for host in (*hosts(pod), *PROXIED) if not requests.utils.get_environ_proxies(f"http://{host}:8081/hub/api")}
    assert seen == set(hosts(pod))


def test_aiohttp_asks_the_pod_and_the_hub_directly(pod):
    """With `trust_env`; without it, aiohttp connects to everything directly."""

    def direct(host):
        try:
            get_env_proxy_for_url(URL(f"http://{host}:8081/hub/api"))
        except LookupError:
            return True
        return False

    assert {host for host in (*hosts(pod), *PROXIED) if direct(host)} == set(hosts(pod))


def test_curl_asks_the_hub_directly(pod):
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the hub")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        port = server.server_port
        for host, code in (("hub", 0), ("localhost", 0), (pod if "." in pod else f"[{pod}]", 0), ("hub.example.org", 7)):
            command = ["curl", "-sg", "--connect-to", f"::127.0.0.1:{port}", f"http://{host}:{port}/"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            assert (done.returncode, done.stdout) == (code, "" if code else "the hub"), host
        server.shutdown()
