"""Connections to hosts within the limits of new hosts and of source ports, and what a client is told beyond them.

The limits themselves: `test_new_hosts` and `test_source_ports`. By packets, `tests/cluster/test_scans.py` counts a scan.
"""

import asyncio
import itertools
import re
import socket

import pytest

from tests.support.egress_proxy.loopback import publish, served
from verifier.grants import UNVERIFIED
from verifier.proxy import new_hosts, source_ports, upstream
from verifier.proxy.connections import Proxy
from verifier.proxy.decide import Policy, TierHosts
from verifier.proxy.hosts import HostList
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.resolve import Resolver

FULL, OTHER = "203.0.113.1", "203.0.113.2"
PORTS = 80
"""The source ports of the machine: unverified servers may take 20 for one address, and a minute later 20 more."""

HOSTS = {"full.example": [FULL], "other.example": [OTHER], "both.example": [FULL, OTHER]}
POLICY = Policy({tier: TierHosts(HostList(["*"])) for tier in (UNVERIFIED, "verified")})


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def internet(monkeypatch):
    """The addresses that the proxy tries. Those in 198.51.100.0/24 refuse, all others are connected."""
    tried = []

    async def connected(address, port, seconds):
        tried.append(address)
        if address.startswith("198.51.100."):
            raise ConnectionRefusedError
        ours, _ = socket.socketpair()
        ours.setblocking(False)
        return ours

    monkeypatch.setattr(upstream, "_connected", connected)
    return tried


async def ask(address, host):
    """The first line of the answer to a CONNECT, after which the client leaves."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return line.decode().strip().removeprefix("HTTP/1.1 ")


def counted(metrics, name):
    """The values of a metric by its labels, without spaces."""
    found = re.findall(rf"^binder_egress_proxy_{name}{{(.*)}} (\S+)$", metrics.text().decode(), re.MULTILINE)
    return {labels: float(value) for labels, value in found}


async def test_scanner_reaches_few_hosts_and_those_that_it_knows_go_on(internet, metrics, clock):
    """The name with another address in each answer is one host. A host that does not answer counts twice."""
    turns = itertools.count(1)

    def resolve(name):
        if name == "turning.example":
            return [f"203.0.113.{next(turns)}"]
        kind, number = name[0], name[1:].partition(".")[0]
        return [f"{'198.51.100' if kind == 'r' else '192.0.2'}.{number}"]

    limits = Limits(1000, 1000, new_hosts_per_minute=6, unverified_new_hosts_per_minute=4)
    proxy = Proxy(POLICY, limits, Resolver(resolve, clock), metrics, clock=clock)
    refusals = ["502 The host does not answer"] * 2
    refusals += ["429 This server has tried too many hosts in the last minute, try again later"]
    async with served(proxy) as address:
        publish(proxy, UNVERIFIED)
        assert [await ask(address, f"r{number}.example") for number in range(3)] == refusals
        assert internet == ["198.51.100.0", "198.51.100.1"]
        clock.now += new_hosts.WINDOW_SECONDS
        internet.clear()
        publish(proxy, "verified")
        for _ in range(3):
            clock.now += 6  # DNS is asked again
            assert (await ask(address, "turning.example")).startswith("200 ")
        assert len(set(internet)) == 1 and next(turns) > 3
        answers = [await ask(address, f"a{number}.example") for number in range(5)]
        assert {answer[:3] for answer in answers} == {"200"}
        assert (await ask(address, "a0.example")).startswith("200 ")
    rows = counted(metrics, "new_hosts_total")
    assert rows['outcome="immediate",who="verified"'] == 6 and rows['outcome="refused",who="unverified"'] == 1


async def test_unverified_servers_that_take_a_hosts_ports_are_refused_and_others_served(internet, metrics, clock, monkeypatch):
    monkeypatch.setattr(source_ports, "FEW", 0)  # They are for servers with few connections.
    limits = Limits(1000, 1000, source_ports=PORTS, new_hosts_per_minute=0, unverified_new_hosts_per_minute=0)
    proxy = Proxy(POLICY, limits, Resolver(HOSTS.__getitem__, clock), metrics, clock=clock)
    full = "503 Too many connections to this host in the last minute, try again"
    async with served(proxy) as address:
        publish(proxy, UNVERIFIED)
        assert {(await ask(address, "full.example"))[:3] for _ in range(PORTS // 4)} == {"200"}
        assert await ask(address, "full.example") == full
        for host in ("other.example", "both.example"):
            assert (await ask(address, host)).startswith("200 ")
        publish(proxy, "verified")
        assert (await ask(address, "full.example")).startswith("200 ")
        clock.now += source_ports.KEPT_SECONDS
        publish(proxy, UNVERIFIED)
        assert (await ask(address, "full.example")).startswith("200 ")
    refused = 'decision="refused",group="*",rule="host-limit",tier="unverified"'
    assert counted(metrics, "connections_total")[refused] == 1
