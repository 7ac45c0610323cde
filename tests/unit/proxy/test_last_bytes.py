"""Connections of the egress proxy that move bytes: what a host sends last reaches the client, however the connection ends."""

import asyncio
import contextlib
import weakref
from functools import partial

import pytest

from binder_egress.model.records import PodAddresses
from binder_egress.proxy import closing, plain, splice, tunnels
from binder_egress.proxy.connections import Proxy
from binder_egress.proxy.decide import Policy
from binder_egress.proxy.flow import Connected, Flow
from binder_egress.proxy.limits import Bucket, Limits
from binder_egress.proxy.metrics import Metrics
from binder_egress.proxy.refusals import End
from binder_egress.proxy.requests import Tunnel, read_request
from binder_egress.proxy.resolve import Resolver

POD = PodAddresses("uid-1", "alice", "", ("127.0.0.1",), "any")

SENT_BYTES = 100_000
"""The bytes of an answer. The buffer of a socket has room for them."""


def connected(request, client, upstream):
    return Connected(Flow("127.0.0.1", client), request, POD, upstream, "192.0.2.1", lambda: None, [Bucket(0)])


def move(flow):
    return asyncio.create_task(Proxy(Policy({}), Limits(), Resolver(), Metrics())._move(flow))


async def begin(flow, *_):
    """Begin a tunnel after its hellos."""
    flow.pumps += [splice.Pump(flow.client, flow.upstream, flow.buckets), splice.Pump(flow.upstream, flow.client, flow.buckets)]


class Piece:
    """A piece of a body, which a frame holds."""


async def turns():
    """More turns of the loop than what is ready needs: sockets of one machine are ready at once."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_upload_in_chunks_of_a_byte_leaves_others_their_turns(sockets):
    """The buffers of two sockets have room for all chunks, so nothing has to wait."""
    pod, client, upstream, host = sockets
    head, chunks, taken = b"POST http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\nTransfer-Encoding: chunked\r\n\r\n", 100, 0
    pod.sendall(head + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")

    async def other():
        nonlocal taken
        while True:
            taken += 1
            await asyncio.sleep(0)

    request = await read_request(client)
    others = asyncio.create_task(other())
    await asyncio.wait_for(plain.send(connected(request, client, upstream), request), 60)
    others.cancel()
    assert host.recv(65536).count(b"x") >= chunks
    assert taken >= chunks // plain.PIECES_A_TURN


async def test_client_gets_what_a_limit_of_bytes_held_back_when_the_host_ended(sockets, monkeypatch):
    """The client says something more, which finds the host gone while its answer waits in the proxy."""
    monkeypatch.setattr(closing, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(splice, "take", lambda *_: 1.0)
    monkeypatch.setattr(tunnels, "begin", begin)
    pod, client, upstream, host = sockets
    loop, held = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def hold(seconds, call, *arguments):
        if call != loop.add_reader:
            return call_later(seconds, call, *arguments)
        held.append(partial(call, *arguments))
        return call_later(3600, lambda: None)

    monkeypatch.setattr(loop, "call_later", hold)
    host.sendall(bytes(SENT_BYTES))
    host.close()
    pod.send(b"x")
    flow = connected(Tunnel("ok.example", 443), client, upstream)
    moving = move(flow)
    await turns()
    toward_host, toward_client = held
    toward_host()
    await turns()
    assert flow.pumps[0].ended.done()
    toward_client()
    came = 0
    async with asyncio.timeout(60):
        while not moving.done():
            for go_on in held[2:]:
                held.remove(go_on)
                go_on()
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                came += len(pod.recv(SENT_BYTES))
    with contextlib.suppress(BlockingIOError):
        came += len(pod.recv(SENT_BYTES))
    assert await moving is End.BROKEN
    with flow:
        assert came == SENT_BYTES


@pytest.mark.parametrize("whole", [True, False], ids=["of a whole request", "of a request that the host cut short"])
async def test_request_that_has_gone_on_is_forgotten(sockets, whole, monkeypatch):
    """A client may read its answer slowly. What waits in sockets counts; what the parser and the frames of an exception hold does
    not."""
    pod, client, upstream, host = sockets
    in_frame = []

    async def send(flow, request, really=plain.send):
        piece = Piece()
        in_frame.append(weakref.ref(piece))
        await really(flow, request)

    monkeypatch.setattr(plain, "send", send)
    head = b"POST http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\nContent-Length: 1000\r\n\r\n"

    pod.send(head + bytes(1000 if whole else 500))
    asked = await read_request(client)
    flow = connected(asked, client, upstream)
    moving = move(flow)
    await turns()
    host.sendall(bytes(SENT_BYTES))
    host.close()
    pod.send(bytes(100))
    await turns()
    moving.cancel()
    with flow:
        assert (asked.pieces.gi_frame, in_frame[0]()) == (None, None)


@pytest.mark.parametrize("closes", [False, True], ids=["and stays", "and closes"])
async def test_client_gets_an_answer_that_comes_before_the_end_of_the_body(sockets, closes):
    """Such an answer is a refusal, often. The host does not read the rest."""
    pod, client, upstream, host = sockets
    head = b"POST http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    answer = b"HTTP/1.1 413 Too Large\r\n\r\n"

    pod.send(head)
    asked = await read_request(client)
    flow = connected(asked, client, upstream)
    if not closes:
        host.sendall(answer)
    moving = move(flow)
    pod.send(b"a part of the body")
    await turns()
    if closes:
        host.sendall(answer)
        host.close()
        pod.send(b"another part")
        assert await asyncio.wait_for(moving, 60) is End.BROKEN
    came = pod.recv(1000)
    moving.cancel()
    with flow:
        assert came.split(b"\r\n\r\n")[:2] == [b"HTTP/1.1 100 Continue", b"HTTP/1.1 413 Too Large"]
