"""The end of a connection: when its bytes have moved, and when both sides have them."""

import asyncio
import select
import socket

from .flow import Connected

IDLE_SECONDS = 3600.0
"""Seconds without a byte after which a connection ends."""

LEFT_SECONDS = 60.0
"""Seconds without a byte after which a connection ends whose client has ended its side."""

LAST_BYTES = 4096
"""The memory of unconfirmed bytes up to which a connection closes without waiting: its last packet has that much, or its end."""

LONGEST_PAUSE_SECONDS = 1.0
"""The longest pause between two looks at what is not confirmed."""


async def until_ended(flow: Connected) -> None:
    """Wait until all pumps have ended.

    Raises:
        OSError: the connection broke, or nothing has moved for too long.
    """
    waiting = {pump.ended for pump in flow.pumps}
    moved, quiet_seconds = flow.moved, 0.0
    while waiting:
        done, waiting = await asyncio.wait(waiting, timeout=LEFT_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        for pump in done:
            pump.result()
        quiet_seconds = 0.0 if done or moved != flow.moved else quiet_seconds + LEFT_SECONDS
        if quiet_seconds >= _patience(flow.client):
            raise TimeoutError
        moved = flow.moved


async def deliver(flow: Connected) -> None:
    """Wait until both sides have taken the last bytes. If the connection ended earlier, the kernel would keep these bytes for
    minutes, and nothing would count them. Bytes that a limit holds back after the host has ended would be lost.

    Raises:
        TimeoutError: nothing has moved for too long.
    """
    pause, quiet_seconds, before = 0.005, 0.0, (-1, -1)
    while (left := (flow.sending, flow.moved))[0] > LAST_BYTES or _is_answering(flow):
        quiet_seconds = quiet_seconds + pause if left == before else 0.0
        if quiet_seconds >= _patience(flow.client):
            raise TimeoutError
        before, pause = left, min(2 * pause, LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(pause)


def has_ended(one: socket.socket) -> bool:
    """Whether the other end of a socket has ended its side, or the connection is broken."""
    poll = select.poll()
    poll.register(one, select.POLLRDHUP)
    return bool(poll.poll(0))


def _is_answering(flow: Connected) -> bool:
    """Whether the host has ended, and the pump toward the client, always the last one, is not done with what it sent."""
    return bool(flow.pumps) and not flow.pumps[-1].ended.done() and has_ended(flow.upstream)


def _patience(client: socket.socket) -> float:
    """Seconds for which a connection may be quiet: fewer if the client has ended its side, or the connection is broken."""
    return LEFT_SECONDS if has_ended(client) else IDLE_SECONDS
