"""The server of the egress proxy: a change of a pod counts for the connections that it has already."""

import asyncio
import ipaddress
import socket
from contextlib import asynccontextmanager, closing

import pytest

from tests.support.clock import Clock
from tests.support.egress_proxy.hellos import encrypted_client_hello, hello, hello_for, server_hello, server_name
from tests.support.egress_proxy.loopback import publish, served
from verifier.grants import UNVERIFIED
from verifier.networks import NetworkSet
from verifier.proxy import accounting, connections, upstream
from verifier.proxy.decide import Policy, TierHosts
from verifier.proxy.flow import Connected
from verifier.proxy.hosts import HostList
from verifier.proxy.limits import Limits, Usage
from verifier.proxy.metrics import Metrics
from verifier.proxy.resolve import Resolver

HOST = "203.0.113.1"
"""The address of `a.example`."""

ANY, CLOSED = "any", "closed"
"""Tiers: one that reaches every host, and one that reaches every name but not that address. Unverified servers have `a.example`."""

POLICY = Policy(
    {
        ANY: TierHosts(HostList(["*"])),
        CLOSED: TierHosts(HostList(["*"]), closed=NetworkSet([ipaddress.ip_network(HOST)])),
        UNVERIFIED: TierHosts(HostList(["a.example"])),
    }
)

NAMED, UNNAMED = hello_for("a.example"), hello()
ENCRYPTED = hello(server_name("a.example"), encrypted_client_hello())


@asynccontextmanager
async def tunnel(monkeypatch, first_bytes, tier, tier_when_connected):
    """The pod opens a tunnel to `a.example` in one tier, and has another one when the host is connected. Yields the proxy, what the
    host got, a reader of the pod's side and a writer of the host's side."""
    proxy = connections.Proxy(POLICY, Limits(), Resolver(lambda name: [HOST]), Metrics(), log_connections=True)
    ours, host = socket.socketpair()
    ours.setblocking(False)

    async def connected(address, port, seconds):
        publish(proxy, tier_when_connected)
        return ours

    monkeypatch.setattr(upstream, "_connected", connected)
    publish(proxy, tier)
    async with served(proxy) as address:
        reader, writer = await asyncio.open_connection(*address)
        host_reader, host_writer = await asyncio.open_connection(sock=host)
        with closing(writer), closing(host_writer):
            writer.write(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n" + first_bytes)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            yield proxy, await host_reader.read(len(first_bytes)), reader, host_writer


@pytest.mark.parametrize(
    ("first_bytes", "tier", "end"),
    [
        pytest.param(NAMED, UNVERIFIED, ("allowed", "ended"), id="allowed"),
        pytest.param(NAMED, CLOSED, ("cut", "address"), id="closed address"),
        pytest.param(UNNAMED, UNVERIFIED, ("cut", "server-name"), id="no name"),
        pytest.param(ENCRYPTED, UNVERIFIED, ("cut", "server-name"), id="encrypted name"),
    ],
)
async def test_open_tunnel_is_cut_if_the_new_tier_refuses_its_address_or_its_clienthello(first_bytes, tier, end, monkeypatch, ends):
    async with tunnel(monkeypatch, first_bytes, ANY, ANY) as (proxy, came, *_):
        assert came == first_bytes
        publish(proxy, tier)
    assert ends() == [end]


async def test_host_gets_nothing_if_the_tier_that_the_pod_got_meanwhile_closes_its_address(monkeypatch, ends):
    async with tunnel(monkeypatch, NAMED, ANY, CLOSED) as (_, came, *_):
        assert not came
    assert ends() == [("refused", "address")]


@pytest.mark.parametrize("when", ["while the host is connected", "while the tunnel is open"])
@pytest.mark.parametrize(("before", "now"), [(ANY, UNVERIFIED), (UNVERIFIED, ANY)])
async def test_bytes_that_move_and_wait_in_a_tunnel_count_for_the_tier_that_its_pod_has_now(before, now, when, monkeypatch, ends):
    clock, answer = Clock(), server_hello()
    usage = Usage(Limits(all_bytes_per_second=1_000_000), clock)
    monkeypatch.setattr(connections, "Usage", lambda *_: usage)
    monkeypatch.setattr(Connected, "waiting", 3)
    monkeypatch.setattr(accounting, "MOST_WAITING_BYTES", 4)  # for unverified servers 2

    tier_when_connected = before if when == "while the tunnel is open" else now
    async with tunnel(monkeypatch, NAMED, before, tier_when_connected) as (proxy, _, reader, host_writer):
        host_writer.write(answer)
        await reader.readexactly(len(answer))
        _, of_all, _ = usage.bytes("uid-2", verified=False)
        assert not of_all.is_full  # The hellos count, too.
        clock.now += 1
        assert of_all.is_full
        if when == "while the tunnel is open":
            publish(proxy, now)
        host_writer.write(b"x")
        await reader.readexactly(1)
        *_, of_unverified = usage.bytes("uid-2", verified=False)
        assert of_unverified.is_full == (now != UNVERIFIED)
        watching = asyncio.create_task(proxy.watch())
        await asyncio.sleep(0)  # the first round
        watching.cancel()
    assert ends() == [("cut", "not-taken") if now == UNVERIFIED else ("allowed", "ended")]
