"""The proxy's own answers: refusals, and who a client is."""

import asyncio
import json
import socket

import h11

from ..model.records import PodAddresses
from .refusals import Refusal
from .requests import READ_BYTES

LINGER_SECONDS = 1.0
"""Seconds that a client has for reading a refusal before the connection closes."""

LINGER_BYTES = 262_144
"""Bytes of a refused request that are read and dropped. Closing with unread bytes would keep the refusal from reaching the
client."""

NAME = "binder-egress"
"""The proxy's name in `Proxy-Status`."""


async def refuse(client: socket.socket, refusal: Refusal) -> None:
    """Send a refusal, if it has a status."""
    if not refusal.status:
        return
    detail = refusal.sentence.replace("\\", "").replace('"', "'")
    status = f'{NAME}; error={refusal.error}; details="{detail}"'
    await _answer(client, refusal.status, refusal.sentence, "text/plain", f"{refusal.sentence}\n", ("Proxy-Status", status))


async def who_am_i(client: socket.socket, address: str, pod: PodAddresses | None) -> None:
    """Send which pod has the client's address; None: unknown."""
    known = {"uid": pod.uid, "user": pod.user, "server": pod.server, "tier": pod.tier} if pod else {}
    text = json.dumps({"address": address, **known})
    await _answer(client, 200 if pod else 503, "OK" if pod else "Unknown", "application/json", f"{text}\n")


async def _answer(client: socket.socket, status: int, phrase: str, kind: str, body: str, *headers: tuple[str, str]) -> None:
    content = body.encode("ascii", "replace")
    answer = h11.Response(
        status_code=status,
        reason=phrase.encode("ascii", "replace"),
        headers=[("Content-Type", kind), ("Content-Length", str(len(content))), ("Connection", "close"), *headers],
    )
    # A new h11 connection: the one whose request could not be read no longer sends anything.
    out = (h11.Connection(h11.SERVER).send(answer) or b"") + content
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            await loop.sock_sendall(client, out)
            client.shutdown(socket.SHUT_WR)
            dropped = 0
            while dropped < LINGER_BYTES and (more := len(await loop.sock_recv(client, READ_BYTES))):
                dropped += more
    except (OSError, TimeoutError):
        pass
