"""A pump: the bytes that it moves, and when the byte limits let it begin."""

import asyncio
import socket

import pytest

from tests.support.clock import Clock
from verifier.proxy.limits import BURST_SECONDS, Bucket
from verifier.proxy.splice import Pump


@pytest.fixture
def ends():
    """Two connections: bytes that are sent at one end of the first arrive at the far end of the second, if a pump moves them."""
    pairs = [socket.socketpair(), socket.socketpair()]
    for one in (end for pair in pairs for end in pair):
        one.setblocking(False)
    (sender, source), (target, receiver) = pairs
    yield sender, source, target, receiver
    for one in (sender, source, target, receiver):
        one.close()


def test_splice_moves_all_and_ends(ends):
    sender, source, target, receiver = ends

    async def main():
        sender.sendall(b"some bytes")
        sender.close()
        pump = Pump(source, target, [Bucket(0)])
        await asyncio.wait_for(pump.ended, 60)
        pump.stop()
        return pump.moved, receiver.recv(100)

    assert asyncio.run(main()) == (10, b"some bytes")


def test_new_connection_waits_for_the_debt_of_those_before(ends, monkeypatch):
    """Otherwise a server would get a free step with each connection that it opens."""
    later = []
    sender, source, target, receiver = ends
    clock = Clock()
    bucket = Bucket(1000, clock)
    bucket.take(1000 * BURST_SECONDS + 500)

    async def main():
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
        return early, seconds, arrived

    assert asyncio.run(main()) == (0, pytest.approx(0.5), b"some bytes")
