"""A pump: the bytes that it moves, and when the byte limits let it begin."""

import asyncio
import contextlib
import gc
import socket
import struct

import pytest

from binder_egress.proxy import splice
from binder_egress.proxy.limits import BURST_SECONDS, Bucket
from binder_egress.proxy.splice import Pump
from tests.support.clock import Clock
from tests.support.egress_proxy.not_taken import pipes


async def test_new_connection_waits_for_the_debt_of_those_before(sockets, monkeypatch):
    """Otherwise a server would get a free step with each connection that it opens."""
    later = []
    sender, source, target, receiver = sockets
    clock = Clock()
    bucket = Bucket(1000, clock)
    bucket.take(1000 * BURST_SECONDS + 500)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda seconds, *call: later.append((seconds, call)) or loop.call_at(1e9, *call))
    sender.sendall(b"some bytes")
    pump = Pump(source, target, [bucket])
    for _ in range(10):
        await asyncio.sleep(0)
    early = pump.moved
    ((seconds, (call, *arguments)),) = later
    call(*arguments)
    arrived = await asyncio.wait_for(loop.sock_recv(receiver, 100), 60)
    pump.stop()
    assert (early, seconds, arrived) == (0, pytest.approx(0.5), b"some bytes")


@pytest.fixture
def tcp_ends():
    """Such sockets with TCP, which has resets. The receiver takes little at a time."""
    receiver = socket.socket()
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver.connect(listener.getsockname())
        target, _ = listener.accept()
        sender = socket.create_connection(listener.getsockname())
        source, _ = listener.accept()
    target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    for one in (sender, source, target, receiver):
        one.setblocking(False)
    yield sender, source, target, receiver
    for one in (sender, source, target, receiver):
        one.close()


@pytest.mark.parametrize(
    ("after", "closes"), [(b" bytes", False), (b" bytes", True), (b"", True)], ids=["bytes", "bytes and the end", "the end"]
)
async def test_urgent_byte_is_passed_over(tcp_ends, after, closes):
    """The source stays readable, so a pump that did not pass over it would take steps for as long as the connection is open."""
    sender, source, target, receiver = tcp_ends
    steps = 0

    class Counted(Pump):
        def _step(self, least):
            nonlocal steps
            steps += 1
            super()._step(least)

    sender.send(b"some")
    sender.send(b"!", socket.MSG_OOB)
    sender.send(after)
    if closes:
        sender.shutdown(socket.SHUT_WR)
    pump = Counted(source, target, [Bucket(0)])
    async with asyncio.timeout(60):
        while steps < 1000 and (not pump.ended.done() if closes else pump.moved < len(b"some" + after) or pump.left):
            await asyncio.sleep(0)
    pump.stop()
    assert (receiver.recv(100), pump.moved) == (b"some" + after, len(b"some" + after))
    assert steps <= 10


async def test_pump_that_waits_ends_with_its_target(tcp_ends):
    """The buffer of a connection that was reset stays full. Waiting for room would never end, and would take a whole processor."""
    sender, source, target, receiver = tcp_ends

    pump = Pump(source, target, [Bucket(0)])
    with contextlib.suppress(TimeoutError):
        while True:  # until nothing more is taken
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sender, bytes(1 << 16)), 1)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    receiver.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await asyncio.wait_for(pump.ended, 60)
    pump.stop()


async def test_failure_of_a_stopped_pump_is_no_error_of_the_loop(sockets):
    """If both pumps of a connection fail at once, only one failure is looked at."""
    sender, source, target, receiver = sockets
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["message"]))
    receiver.close()
    sender.sendall(b"some bytes")
    pump = Pump(source, target, [Bucket(0)])
    async with asyncio.timeout(60):
        while not pump.ended.done():
            await asyncio.sleep(0.01)
    pump.stop()
    del pump
    gc.collect()
    assert errors == []


@pytest.mark.parametrize("broken", ["source", "target"])
async def test_pump_of_a_broken_connection_holds_no_pipe(sockets, broken, monkeypatch):
    """The connection may stay for minutes: the other side is still to get what the kernel has for it."""
    monkeypatch.setattr(splice, "_spare", [])
    sender, source, target, receiver = sockets

    before = pipes()
    if broken == "source":
        source.send(b"bytes that nobody reads, so its end is a reset")
        sender.close()
    else:
        sender.send(b"some bytes")
        receiver.close()
    pump = Pump(source, target, [Bucket(0)])
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(pump.ended, 60)
    held = pipes() - before - len(splice._spare)
    pump.stop()
    assert held == 0
