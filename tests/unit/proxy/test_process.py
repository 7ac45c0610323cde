"""The process `binder-egress proxy`, with a real Redis."""

import asyncio
import itertools
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import AsyncMock, Mock

import pytest

from binder_egress.model.records import PodAddresses
from binder_egress.proxy import hosts
from binder_egress.proxy import process as process_module
from binder_egress.proxy.connections import Proxy
from binder_egress.proxy.decide import Kind, Policy, decide
from binder_egress.proxy.own_names import OwnNames
from binder_egress.proxy.process import policy
from binder_egress.settings import InvalidSettings, ProxySettings, load
from binder_egress.store.errors import StoreUnavailable
from tests.support.egress_proxy.process import ProxyProcess, publish, status
from tests.support.ports import free_port
from tests.support.reconciling import announce
from tests.support.waiting import eventually


@pytest.fixture
def process(redis_server):
    found = ProxyProcess(redis_server, "ok.example")
    yield found
    found.kill()


def ask(port, target="evil.example:443"):
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        found = b""
        while more := connection.recv(4096):
            found += more
        return found.decode()


def test_proxy_is_ready_once_the_reconciler_is_heard_and_drains(process, store):
    """After SIGTERM it accepts no new connections, and open ones go on."""
    assert status(f"{process.admin}/readyz")[0] == 503
    assert ask(process.port).startswith("HTTP/1.1 503 The egress proxy does not know this server yet")

    def ready():
        publish(store)
        return status(f"{process.admin}/readyz")[0] == 200

    eventually(ready)
    head, _, body = ask(process.port).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 403 No internet access: open https://hub.example/egress/servers/alice/\r\n")
    assert "Proxy-Status: binder-egress; error=http_request_denied" in head and body.startswith("No internet access")
    found, text = status(f"http://127.0.0.1:{process.port}/")
    assert found == 200 and json.loads(text)["uid"] == "uid-1"
    metrics = status(f"{process.admin}/metrics")[1]
    line = 'binder_egress_proxy_connections_total{decision="refused",group="",rule="not-listed",tier="unverified"} 1.0'
    assert line in metrics
    assert status(f"{process.admin}/other")[0] == 404
    eventually(store.wanted_hosts)
    assert [(row["repository"], row["host"], row["times"]) for row in store.wanted_hosts()] == [("", "evil.example", 1)]
    announce(store, hub_url="https://JUPYTER.example:8443/hub/")
    own = "HTTP/1.1 403 The hub itself is not reachable through its egress proxy"
    eventually(lambda: publish(store) or ask(process.port, "jupyter.example:443").startswith(own))
    address = ("127.0.0.1", process.port)
    with socket.create_connection(address, 10) as held, ThreadPoolExecutor(1) as pool:
        time.sleep(0.3)
        ended = pool.submit(process.stop)
        eventually(lambda: status(f"{process.admin}/readyz")[0] == 503)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 10)
        held.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held.recv(100).startswith(b"HTTP/1.1 400 ")
    ended.result()


async def test_host_of_jupyterhub_is_refused_whatever_else_the_verifier_says(monkeypatch):
    """A captured verifier has no more than two names refused."""
    names = ("https://[", "/hub/", "https://JUPYTER.example:8443/hub/", "https://moved.example/", "https://third.example/")
    hub, proxy = Mock(side_effect=[StoreUnavailable("down"), "", *names, EOFError]), Mock()
    monkeypatch.setattr(process_module, "HUB_SECONDS", 0)
    with pytest.raises(EOFError):
        await process_module._refuse_hub(proxy, Mock(hub=hub))
    assert [call.args for call in proxy.refuse.call_args_list] == [("jupyter.example",), ("moved.example",)]


@pytest.mark.parametrize(
    ("owner", "task"),
    [
        *((Proxy, task) for task in ("serve", "watch")),
        (OwnNames, "look_up"),
        *((process_module, task) for task in ("_publish", "_report", "_refuse_hub")),
    ],
)
def test_fault_in_a_task_ends_the_process_with_an_error(store, monkeypatch, caplog, owner, task):
    """Kubernetes starts it again. It would otherwise go on without cuts, or without refusing the hub's own names.

    The feed ends before its event loop, or it would log that the loop is closed, as a second fault.
    """

    monkeypatch.setattr(owner, task, AsyncMock(side_effect=RuntimeError("the test asks for it")))
    with pytest.raises(SystemExit) as ended:
        process_module.run(load(ProxySettings, proxy_port=free_port(), proxy_admin_port=0), Policy({}), store)
    (fault,) = [record for record in caplog.records if record.exc_info]
    assert (ended.value.code, fault.levelname, fault.getMessage()) == (1, "ERROR", "fault in the egress proxy")
    assert "RuntimeError: the test asks for it" in caplog.text
    assert "feed" not in [thread.name for thread in threading.enumerate()]


async def test_server_beyond_its_limit_is_reported_again_only_after_a_while(monkeypatch):
    report = Mock(side_effect=itertools.chain([StoreUnavailable("down")], itertools.repeat(None)))

    async def reported():
        beyond = set()
        task = asyncio.create_task(process_module._report(beyond, Mock(report_scans=report)))
        for found in ({"uid-1", "uid-2"}, {"uid-1", "uid-3"}):
            beyond.update(found)
            while beyond:
                await asyncio.sleep(0.01)
        task.cancel()
        return [sorted(call.args[0]) for call in report.call_args_list]

    monkeypatch.setattr(process_module, "REPORT_SECONDS", 0.01)
    first = await reported()
    assert first == [["uid-1", "uid-2"], ["uid-1", "uid-2"], ["uid-3"]]
    monkeypatch.setattr(process_module, "REPEAT_SECONDS", 0.0)
    assert await reported() == [*first, ["uid-1", "uid-2"], ["uid-1", "uid-3"]]


@pytest.mark.parametrize(
    ("ports", "reached"),
    [([], {80, 443}), (["443"], {443}), (["80-90"], {80}), (["1-1000"], {80, 443}), (["22"], set()), (["0"], set())],
)
def test_ports_of_the_tier_count(ports, reached):
    found = policy(load(ProxySettings, proxy_tiers={"small": {"hosts": ["ok.example"], "ports": ports}}))
    pod = PodAddresses("u", "alice", "", (), "small")
    asked = {443: Kind.TUNNEL, 80: Kind.PLAIN}
    assert {port for port, kind in asked.items() if decide(pod, "ok.example", port, kind, found) is None} == reached


def test_own_names_are_hosts_and_what_is_below_one_and_others_are_named(caplog):
    """`*.example.org` may be a host of the Ingress."""
    own = ["Hub.example.org", "*.Intern.example.org", "python", "*", "192.0.2.1", "*.org"]
    found = policy(load(ProxySettings, proxy_own_names=own))
    assert found.own_names == {"hub.example.org", "*.intern.example.org"}
    assert len(caplog.messages) == 4
    for entry, message in zip(own[2:], caplog.messages, strict=True):
        assert f"{entry} is no host, and refuses nothing" in message


def test_group_without_hosts_in_this_image_is_named_and_stops_nothing(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(hosts, "REGISTRIES", tmp_path / "none")
    found = policy(load(ProxySettings, proxy_tiers={"unverified": {"hosts": ["debian", "ok.example"]}}))
    pod = PodAddresses("u", "alice", "", (), "unverified")
    assert decide(pod, "ok.example", 443, Kind.TUNNEL, found) is None
    assert caplog.messages == ["unverified.hosts: this image has no hosts of the group debian"]


def test_repositories_have_hosts(tmp_path):
    file = tmp_path / "repositories.json"
    file.write_text('{"https://GitHub.com/Org/course": ["api.example.org"], "github.com/org/*": ["all.example.org"]}')
    found = policy(load(ProxySettings, proxy_repositories=str(file), proxy_tiers={"unverified": {}}))
    pod = PodAddresses("u", "alice", "", (), repository="https://github.com/org/course")
    assert all(decide(pod, f"{host}.example.org", 443, Kind.TUNNEL, found) is None for host in ("api", "all"))


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("tiers", {"small": {"hosts": ["pyhton"]}}, r"small\.hosts: 'pyhton' is no host"),
        ("repositories", {"github.com/org/a": ["pyhton"]}, r"rules\.repositories: github\.com/org/a\.hosts: 'pyhton' is no host"),
        ("repositories", {"github.com/org": []}, r"rules\.repositories: .*'github\.com/org' is not host/owner/name"),
        ("repositories", {"github.com/*/course": []}, r"rules\.repositories: .*is not host/owner/name"),
    ],
)
def test_unknown_group_and_wrong_repository_are_named(name, given, sentence):
    with pytest.raises(InvalidSettings, match=sentence):
        policy(load(ProxySettings, **{f"proxy_{name}": given}))
