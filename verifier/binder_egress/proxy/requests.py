"""Requests to the proxy: `h11` reads the head of one, and the result is a host, a port, and what goes on to the host."""

import asyncio
import re
import socket
from collections.abc import Generator
from dataclasses import dataclass

import h11

from . import refusals
from .decide import PORTS, Kind
from .hosts import normal
from .refusals import Refusal

MAX_HEAD_BYTES = 16384
"""The longest head of a request, and the most that is read before the host is connected (D-389), in bytes. Clients send some
hundred; cookies may have a few thousand."""

MAX_HEADERS = 100
"""The most headers of a request: Apache's default limit (`LimitRequestFields`). Clients send some ten. Each takes more than a
hundred bytes of memory, however short it is (D-389)."""

READ_BYTES = 16384
"""The most bytes in one read of what follows the head."""

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^\[\]:@/\\?#\s]+)(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(r"(?i:http)://([^/?#]*)([/?][^#]*)?")

# Headers that belong to this connection only (RFC 9110, section 7.6.1), and those that the proxy writes itself.
_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te", b"trailer", b"upgrade",
    b"host", b"expect", b"http2-settings",
}  # fmt: skip


class RequestRefused(Exception):
    """The connection is refused.

    Args:
        refusal: the refusal that the client gets.
    """

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.sentence)
        self.refusal = refusal


class WhoAmI:
    """The client asks the proxy who it is: `GET /`."""


@dataclass
class Tunnel:
    """A request for a tunnel.

    Attributes:
        host, port: what it is for.
        early: what came with the head, until it is used.
    """

    kind = Kind.TUNNEL
    host: str
    port: int
    early: bytes = b""


@dataclass
class Plain:
    """A plain request.

    Attributes:
        host, port: what it is for.
        go_on: what the client waits for before it sends a body; empty if it does not wait.
        pieces: the request as the host gets it, head first, then the body. Instead of a piece it yields None if it must be sent
            more of what the client sends. It raises `h11.ProtocolError` if the request is not well-formed, or cannot be sent, and
            `ConnectionError` if the request breaks off. At its end, or when it is closed, nothing of the request stays in memory.
    """

    kind = Kind.PLAIN
    host: str
    port: int
    go_on: bytes
    pieces: Generator[bytes | None, bytes, None]


def _pieces(head: h11.Request, theirs: h11.Connection, host: str, path: str) -> Generator[bytes | None, bytes, None]:
    """`Plain.pieces`, with the `Host` and the path to send. The head is for one request, without headers for the proxy."""
    named = b",".join(value for name, value in head.headers if name == b"connection")
    dropped = _HOP | {name.strip().lower() for name in named.split(b",")} - {b"content-length", b"transfer-encoding"}
    kept = [(name, value) for name, value in head.headers if name not in dropped]
    headers = [(b"host", host.encode()), *kept, (b"connection", b"close")]
    ours = h11.Connection(h11.CLIENT)
    first = ours.send(h11.Request(method=head.method, target=path, headers=headers)) or b""
    if head.http_version == b"1.0":
        # The answer is passed on as it is. Toward version 1.0 a host sends none in chunks, which this client could not read.
        first = first.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    yield first
    while not isinstance(event := theirs.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            theirs.receive_data((yield None))
        elif isinstance(event, h11.Data):
            yield ours.send(event) or b""
        else:
            raise ConnectionError
    # Without trailers, which could declare another framing.
    yield ours.send(h11.EndOfMessage()) or b""


async def read_request(client: socket.socket) -> Tunnel | Plain | WhoAmI:
    """Read the head of a request.

    Raises:
        RequestRefused: it is not a request for a proxy.
        OSError: the client closed without one, or the connection broke.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    loop = asyncio.get_running_loop()
    left = MAX_HEAD_BYTES + 1  # With the last one, `h11` refuses a head that is not complete.
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            received = await loop.sock_recv(client, left)
            left -= len(received)
            connection.receive_data(received)
    except h11.RemoteProtocolError as error:
        raise RequestRefused(refusals.not_http(error.error_status_hint)) from None
    if not isinstance(event, h11.Request):
        raise ConnectionError
    return read_head(event, connection)


def read_head(head: h11.Request, connection: h11.Connection) -> Tunnel | Plain | WhoAmI:
    """The request in a head.

    Raises:
        RequestRefused: as `read_request`.
    """
    target = head.target.decode("ascii")
    if head.http_version not in (b"1.0", b"1.1"):
        raise RequestRefused(refusals.HTTP_VERSION)
    if len(head.headers) > MAX_HEADERS:
        raise RequestRefused(refusals.TOO_MANY_HEADERS)
    if head.method == b"CONNECT":
        host, port = _authority(target, None)
        # What follows is not HTTP.
        return Tunnel(host, port, connection.trailing_data[0])
    if head.method == b"GET" and target == "/":
        return WhoAmI()
    found = _ABSOLUTE.fullmatch(target)
    if not found:
        raise RequestRefused(refusals.NOT_ABSOLUTE)
    host, port = _authority(found[1], PORTS[Kind.PLAIN])
    named = [value.decode("latin-1") for name, value in head.headers if name == b"host"]
    for value in named:
        other, other_port = _authority(value, PORTS[Kind.PLAIN])
        if (normal(other) or other, other_port) != (normal(host) or host, port):
            raise RequestRefused(refusals.OTHER_HOST)
    framing = [name for name, _ in head.headers if name in (b"content-length", b"transfer-encoding")]
    if head.http_version == b"1.0" and b"transfer-encoding" in framing:
        raise RequestRefused(refusals.CHUNKS_BEFORE_HTTP_1_1)
    if len(set(framing)) > 1:
        raise RequestRefused(refusals.TWO_LENGTHS)
    path, name = found[2] or "/", normal(host) or host
    if path.startswith("?"):
        path = "/" + path
    go_on = b""
    if connection.they_are_waiting_for_100_continue:
        go_on = connection.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b""
    pieces = _pieces(head, connection, name if port == PORTS[Kind.PLAIN] else f"{name}:{port}", path)
    return Plain(name, port, go_on, pieces)


def _authority(text: str, default_port: int | None) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(text)
    if not found or not (found[2] or default_port):
        raise RequestRefused(refusals.NOT_AN_AUTHORITY)
    return found[1], int(found[2] or default_port or 0)
