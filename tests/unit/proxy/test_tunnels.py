"""Tunnels: their beginning, until the host has answered the ClientHello (D-403), and what a change of their pod does to them.

`test_battery` has a host with OpenSSL, which asks for a second ClientHello.
"""

import asyncio
import ipaddress
import socket
import tracemalloc
from contextlib import asynccontextmanager, suppress

import pytest

from binder_egress.model.grants import UNVERIFIED
from binder_egress.model.networks import NetworkSet
from binder_egress.proxy import accounting, connections, tunnels, upstream
from binder_egress.proxy.decide import Policy, TierHosts
from binder_egress.proxy.flow import Connected
from binder_egress.proxy.hello import MAX_HELLO_BYTES
from binder_egress.proxy.hosts import HostList
from binder_egress.proxy.limits import Limits, Usage
from binder_egress.proxy.metrics import Metrics
from binder_egress.proxy.resolve import Resolver
from tests.support.clock import Clock
from tests.support.egress_proxy.hellos import (
    CHANGE_CIPHER_SPEC,
    RETRY,
    encrypted_client_hello,
    hello,
    hello_1_3,
    hello_for,
    server_hello,
    server_name,
)
from tests.support.egress_proxy.loopback import publish, served

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

NAMED, ENCRYPTED = hello_for("a.example"), hello(server_name("a.example"), encrypted_client_hello())
NO_KEY, WITH_KEY, OTHER = hello_1_3("a.example", has_key=False), hello_1_3("a.example"), hello_1_3("b.example")
NO_NAME = hello_1_3(has_key=False), hello_1_3()
EARLY_DATA = b"\x17\x03\x03\0\x05early"
ASKS, ANSWERS = server_hello(RETRY), server_hello()
WARNING, ALERT = b"\x15\x03\x03\0\x02\x01\x70", b"\x15\x03\x03\0\x02\x02\x28"

ENDED, OTHER_NAME, NOT_TLS = ("allowed", "ended"), ("refused", "server-name"), ("refused", "not-tls")


@asynccontextmanager
async def tunnel(monkeypatch, tier=UNVERIFIED, tier_when_connected="", buffer=0):
    """A pod has an open tunnel to `a.example`, and may have another tier when the host is connected. Yields the sockets of both
    ends, and the proxy. `buffer`: bytes that the pod can receive without reading."""
    proxy = connections.Proxy(POLICY, Limits(), Resolver(lambda name: [HOST]), Metrics(), log_connections=True)
    publish(proxy, tier)
    ours, host = socket.socketpair()
    ours.setblocking(False)
    host.settimeout(60)

    async def connected(address, port, seconds):
        publish(proxy, tier_when_connected or tier)
        return ours

    monkeypatch.setattr(upstream, "_connected", connected)
    async with served(proxy) as address:
        with socket.socket() as pod, host:
            pod.settimeout(60)
            if buffer:
                pod.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            pod.connect(address)
            pod.sendall(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await received(pod, 1)
            assert b" 200 " in head
            yield pod, host, proxy


async def received(one, length):
    """That many bytes, or those until the end."""
    found = b""
    while len(found) < length and (more := await asyncio.to_thread(one.recv, length - len(found))):
        found += more
    return found


async def exchange(monkeypatch, turns, tier=UNVERIFIED, is_open=True):
    """In turns, the pod sends bytes, and the host answers, in pieces if it has a list of them. The host ends a tunnel that is open
    then. Returns what each got that the other sent, until the host had no answer, and what each got in the end."""
    async with tunnel(monkeypatch, tier) as (pod, host, _):
        got = []
        for sent, answer in turns:
            await asyncio.to_thread(pod.sendall, sent)
            if not answer:
                break
            got.append(await received(host, len(sent)))
            pieces = answer if isinstance(answer, list) else [answer]
            for piece in pieces:
                await asyncio.to_thread(host.sendall, piece)
                await asyncio.sleep(0.002 * (len(pieces) > 1))
            got.append(await received(pod, len(b"".join(pieces))))
        if is_open:
            host.shutdown(socket.SHUT_WR)
        end = await received(pod, 1)
        pod.close()
        return got, end, await received(host, 1 << 20)


def through(*turns):
    """What both sides get if everything is passed on."""
    return [part for sent, answer in turns for part in (sent, b"".join(answer) if isinstance(answer, list) else answer)], b"", b""


@pytest.mark.parametrize(
    ("turns", "tier"),
    [
        pytest.param([(hello_for("a.example"), ANSWERS), (b"more", b"more")], UNVERIFIED, id="no question"),
        pytest.param([(NO_KEY, ASKS), (WITH_KEY, ANSWERS), (b"more", b"more")], UNVERIFIED, id="question"),
        pytest.param([(NO_KEY, [bytes([one]) for one in ASKS]), (WITH_KEY, ANSWERS)], UNVERIFIED, id="question in pieces"),
        pytest.param([(NO_KEY, [ANSWERS[:20], ANSWERS[20:]])], UNVERIFIED, id="answer in pieces"),
        pytest.param([(NO_KEY, WARNING + ANSWERS), (b"more", b"more")], UNVERIFIED, id="warning"),
        pytest.param([(NO_KEY, ALERT), (b"more", b"more")], UNVERIFIED, id="alert"),
        pytest.param([(NO_KEY, ASKS), (EARLY_DATA + WITH_KEY, ANSWERS)], UNVERIFIED, id="early data before a second hello"),
        pytest.param([(NO_NAME[0], ASKS), (NO_NAME[1], ANSWERS)], ANY, id="no name"),
    ],
)
async def test_hellos_for_one_host_are_passed_on(turns, tier, monkeypatch, ends):
    assert await exchange(monkeypatch, turns, tier) == through(*turns)
    assert ends() == [ENDED]


@pytest.mark.parametrize(
    ("turns", "end", "tier"),
    [
        pytest.param([(NO_KEY, ASKS), (OTHER, b"")], OTHER_NAME, UNVERIFIED, id="another name"),
        pytest.param([(NO_KEY, ASKS), (NO_NAME[1], b"")], OTHER_NAME, UNVERIFIED, id="no name"),
        pytest.param([(NO_KEY, ASKS), (NO_NAME[1], b"")], OTHER_NAME, ANY, id="no name any more"),
        pytest.param([(NO_NAME[0], ASKS), (WITH_KEY, b"")], OTHER_NAME, ANY, id="a name at last"),
        pytest.param([(NO_KEY, [ASKS[:30], ASKS[30:]]), (OTHER, b"")], OTHER_NAME, UNVERIFIED, id="asked in pieces"),
        pytest.param([(NO_KEY, ASKS), (EARLY_DATA + OTHER, b"")], OTHER_NAME, UNVERIFIED, id="after early data"),
        pytest.param([(NO_KEY, ASKS), (b"GET / HTTP/1.1\r\n\r\n", b"")], NOT_TLS, UNVERIFIED, id="no hello"),
        pytest.param([(NO_KEY, ASKS), (WITH_KEY, ASKS)], NOT_TLS, UNVERIFIED, id="second question"),
        pytest.param([(NO_KEY, b"HTTP/1.1 400 Bad Request\r\n")], NOT_TLS, UNVERIFIED, id="host without TLS"),
    ],
)  # fmt: skip
async def test_other_hellos_end_the_tunnel(turns, end, tier, monkeypatch, ends):
    got, *rest = await exchange(monkeypatch, turns, tier, is_open=False)
    passed_on, *_ = through(*(turn for turn in turns if turn[1]))
    assert (got, rest) == (passed_on, [b"", b""])
    assert ends() == [end]


@pytest.mark.parametrize("early", [CHANGE_CIPHER_SPEC + EARLY_DATA, bytes(2 * MAX_HELLO_BYTES)], ids=["early data", "much"])
async def test_host_gets_what_follows_the_hello_once_it_has_answered(early, monkeypatch, ends):
    async with tunnel(monkeypatch) as (pod, host, _):
        await asyncio.to_thread(pod.sendall, WITH_KEY + early)
        assert await received(host, len(WITH_KEY)) == WITH_KEY
        await asyncio.sleep(0.05)
        host.setblocking(False)
        with pytest.raises(BlockingIOError):
            host.recv(1)
        host.settimeout(60)
        host.sendall(ANSWERS)
        assert await received(host, len(early)) == early
        assert await received(pod, len(ANSWERS)) == ANSWERS
    assert ends() == [ENDED]


@pytest.mark.parametrize("answer", [b"", ALERT, ASKS[:20]], ids=["nothing", "alert", "half an answer"])
async def test_host_that_closes_at_once_closes_the_tunnel(answer, monkeypatch, ends):
    assert await exchange(monkeypatch, [(WITH_KEY, answer)]) == (through((WITH_KEY, answer)) if answer else ([], b"", WITH_KEY))
    assert ends() == [ENDED]


@pytest.mark.parametrize("broken", [False, True], ids=["no TLS", "broken"])
async def test_client_that_reads_nothing_keeps_its_connection(broken, monkeypatch, ends):
    """What the host has sent would otherwise stay in the kernel for minutes, and nothing would count it."""
    answer = (ANSWERS if broken else b"") + bytes(60_000)

    async with tunnel(monkeypatch, buffer=2048) as (pod, host, proxy):
        pod.sendall(WITH_KEY + b"more")
        await received(host, len(WITH_KEY))
        if broken:
            host.shutdown(socket.SHUT_RD)  # What follows the hello cannot be passed on.
        host.sendall(answer)
        await asyncio.sleep(0.2)
        assert proxy.open == 1
        assert len(await received(pod, len(answer))) > 10_000
    assert len(ends()) == 1


async def test_judged_bytes_are_not_kept_while_the_client_reads_nothing(monkeypatch):
    """They are 16 KiB of each side, and the client may take an hour."""

    async with tunnel(monkeypatch, buffer=2048) as (pod, host, proxy):
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            pod.sendall(WITH_KEY + bytes(14_000))
            await received(host, len(WITH_KEY))
            host.sendall(bytes(60_000))
            await asyncio.sleep(0.5)
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert proxy.open == 1
        await received(pod, 60_000)
    assert kept < 12_000


@pytest.mark.parametrize(
    ("limit", "sent", "answer"),
    [*(("ANSWER_SECONDS", WITH_KEY, answer) for answer in (b"", WARNING, ASKS[:20])), ("HELLO_SECONDS", NO_KEY, ASKS)],
    ids=["nothing", "warning", "half an answer", "no second hello"],
)
async def test_tunnel_on_which_a_side_does_not_go_on_ends_in_time(limit, sent, answer, monkeypatch, ends):
    async with tunnel(monkeypatch) as (pod, host, _):
        monkeypatch.setattr(tunnels, limit, 0.1)  # It does not hold for the first hello, for which the proxy waits by now.
        pod.sendall(sent)
        host.sendall(answer)
        with suppress(ConnectionResetError):
            assert await received(pod, 1000) in (answer, b"")
    assert ends() == [("allowed", "timeout")]


# -- a change of the pod


@pytest.mark.parametrize(
    ("sent", "tier", "end"),
    [
        pytest.param(NAMED, UNVERIFIED, ENDED, id="allowed"),
        pytest.param(NAMED, CLOSED, ("cut", "address"), id="closed address"),
        pytest.param(hello(), UNVERIFIED, ("cut", "server-name"), id="no name"),
        pytest.param(ENCRYPTED, UNVERIFIED, ("cut", "server-name"), id="encrypted name"),
    ],
)
async def test_open_tunnel_is_cut_if_the_new_tier_refuses_its_address_or_its_clienthello(sent, tier, end, monkeypatch, ends):
    async with tunnel(monkeypatch, ANY) as (pod, host, proxy):
        pod.sendall(sent)
        assert await received(host, len(sent)) == sent
        publish(proxy, tier)
    assert ends() == [end]


async def test_host_gets_nothing_if_the_tier_that_the_pod_got_meanwhile_closes_its_address(monkeypatch, ends):
    async with tunnel(monkeypatch, ANY, CLOSED) as (pod, host, _):
        pod.sendall(NAMED)
        assert not await received(host, 1)
    assert ends() == [("refused", "address")]


@pytest.mark.parametrize("when", ["while the host is connected", "while the tunnel is open"])
@pytest.mark.parametrize(("before", "now"), [(ANY, UNVERIFIED), (UNVERIFIED, ANY)])
async def test_bytes_that_move_and_wait_in_a_tunnel_count_for_the_tier_that_its_pod_has_now(before, now, when, monkeypatch, ends):
    clock = Clock()
    usage = Usage(Limits(all_bytes_per_second=1_000_000), clock)
    monkeypatch.setattr(connections, "Usage", lambda *_: usage)
    monkeypatch.setattr(Connected, "waiting", 3)
    monkeypatch.setattr(accounting, "MOST_WAITING_BYTES", 4)  # for unverified servers 2

    async with tunnel(monkeypatch, before, before if when == "while the tunnel is open" else now) as (pod, host, proxy):
        pod.sendall(NAMED)
        await received(host, len(NAMED))
        host.sendall(ANSWERS)
        await received(pod, len(ANSWERS))
        _, of_all, _ = usage.bytes("uid-2", verified=False)
        assert not of_all.is_full  # The hellos count, too.
        clock.now += 1
        assert of_all.is_full
        if when == "while the tunnel is open":
            publish(proxy, now)
        host.sendall(b"x")
        await received(pod, 1)
        *_, of_unverified = usage.bytes("uid-2", verified=False)
        assert of_unverified.is_full == (now != UNVERIFIED)
        watching = asyncio.create_task(proxy.watch())
        await asyncio.sleep(0)  # the first round
        watching.cancel()
    assert ends() == [("cut", "not-taken") if now == UNVERIFIED else ENDED]
