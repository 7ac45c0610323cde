"""The event loop of the egress proxy: a pod that always has more for it leaves others their turns."""

import asyncio
import itertools
import socket

from verifier.proxy.connections import ACCEPTED_A_TURN, Proxy
from verifier.proxy.decide import Policy
from verifier.proxy.flow import Connected, Flow
from verifier.proxy.limits import Bucket, Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.plain import PIECES_A_TURN, send
from verifier.proxy.process import listen
from verifier.proxy.requests import read_request
from verifier.proxy.resolve import Resolver

CHUNKS = 100
"""Chunks of a body. The buffers of two sockets have room for all of them, so nothing has to wait."""

CONNECTIONS = 100
"""Connections that wait to be accepted."""


async def test_upload_in_chunks_of_a_byte_leaves_others_their_turns():
    (pod, client), (upstream, host) = socket.socketpair(), socket.socketpair()
    for one in (client, upstream):
        one.setblocking(False)
    head = b"POST http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    pod.sendall(head + b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n")
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    request = await read_request(client)
    flow = Connected(Flow("127.0.0.1", client), request, None, upstream, "192.0.2.1", None, [Bucket(0)])
    others = asyncio.create_task(other())
    await asyncio.wait_for(send(flow, request), 60)
    others.cancel()
    assert host.recv(65536).count(b"x") >= CHUNKS
    assert turns >= CHUNKS // PIECES_A_TURN
    for one in (pod, client, upstream, host):
        one.close()


async def test_flood_of_connections_leaves_others_their_turns():
    proxy = Proxy(Policy({}), Limits(connections=CONNECTIONS, new_per_second=CONNECTIONS), Resolver(), Metrics())
    listener = listen(0, "127.0.0.1")
    pod = [socket.create_connection(listener.getsockname()) for _ in range(CONNECTIONS)]
    serving, accepted = asyncio.create_task(proxy.serve(listener)), [0]
    async with asyncio.timeout(60):
        while accepted[-1] < CONNECTIONS:
            await asyncio.sleep(0)
            accepted.append(proxy.open)
    serving.cancel()
    for one in (listener, *pod):
        one.close()
    assert max([after - before for before, after in itertools.pairwise(accepted)]) <= ACCEPTED_A_TURN
