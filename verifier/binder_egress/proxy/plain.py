"""Plain requests: sends one with its body to the host, while the answer comes back."""

import asyncio
from contextlib import closing

from .closing import IDLE_SECONDS
from .flow import Connected
from .requests import READ_BYTES, Plain
from .splice import Pump, take

PIECE_SECONDS = 60.0
"""Time limit for a host to take a piece of a plain request, of `READ_BYTES` at most, in seconds."""

PIECES_A_TURN = 16
"""Pieces of a plain request that are sent before other tasks get a turn: of `READ_BYTES` each, as many bytes as one step of a pump
moves."""


async def send(flow: Connected, request: Plain) -> None:
    """Send a plain request, and begin to move the answer: a host may answer before it has the body, and close.

    Raises:
        h11.ProtocolError: the request cannot be sent, or its body is not well-formed.
        OSError: the connection broke, or a side took too long.
    """
    loop, sent = asyncio.get_running_loop(), 0

    async def pass_on(piece: bytes) -> None:
        nonlocal sent
        async with asyncio.timeout(PIECE_SECONDS):
            await loop.sock_sendall(flow.upstream, piece)
        flow.sent += len(piece)
        sent += 1
        # Also without a pause: while bytes and room are there, nothing else in here gives up the turn (D-401).
        if (pause := take(flow.buckets, len(piece))) or sent % PIECES_A_TURN == 0:
            await asyncio.sleep(pause)

    # Closed, because the client decides how long the answer takes, and the request is of no use meanwhile.
    with closing(request.pieces) as pieces:
        await pass_on(next(pieces) or b"")
        if request.go_on:
            await loop.sock_sendall(flow.client, request.go_on)
        flow.pumps.append(Pump(flow.upstream, flow.client, flow.buckets))
        for piece in pieces:
            while piece is None:
                async with asyncio.timeout(IDLE_SECONDS):
                    received = await loop.sock_recv(flow.client, READ_BYTES)
                piece = pieces.send(received)
            await pass_on(piece)
