"""Requests to the proxy: `h11` reads the head of one, and the result is a host, a port and a kind."""

import asyncio
import re
import socket
from dataclasses import dataclass

import h11

from .decide import PORTS, Kind, Reason, Refusal
from .hosts import normal

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


class Refused(Exception):
    """The connection is refused.

    Args:
        refusal: the refusal that the client gets.
    """

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.sentence)
        self.refusal = refusal


class WhoAmI(Exception):
    """The client asks the proxy who it is: `GET /`."""


@dataclass
class Asked:
    """A request whose head was read.

    Attributes:
        host, port, kind: what the request is for.
        early: what came into a tunnel with the head.
        head: the head of a plain request as `h11` read it.
        connection: the state of `h11` for a plain request, which holds any bytes after the head.
        path: path and query of a plain request.
    """

    host: str
    port: int
    kind: Kind
    early: bytes = b""
    head: h11.Request | None = None
    connection: h11.Connection | None = None
    path: bytes = b""

    def forget_head(self) -> None:
        """Free the memory of a request that has gone on."""
        self.head = self.connection = None

    def upstream_head(self, connection: h11.Connection) -> bytes:
        """The head to send to the host: one per connection, with the host that was judged, without headers for the proxy.

        Args:
            connection: the connection to the host.

        Raises:
            h11.ProtocolError: it cannot be sent.
        """
        assert self.head
        named = b",".join(value for name, value in self.head.headers if name == b"connection")
        dropped = _HOP | {name.strip().lower() for name in named.split(b",")} - {b"content-length", b"transfer-encoding"}
        kept = [(name, value) for name, value in self.head.headers if name not in dropped]
        host = self.host if self.port == PORTS[self.kind] else f"{self.host}:{self.port}"
        headers = [(b"host", host.encode()), *kept, (b"connection", b"close")]
        head = connection.send(h11.Request(method=self.head.method, target=self.path or b"/", headers=headers)) or b""
        if self.head.http_version == b"1.0":
            # The answer is passed on as it is. Toward version 1.0 a host sends none in chunks, which this client could not read.
            head = head.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
        return head


def bad(sentence: str) -> Refused:
    """A refusal of a request that is not well-formed."""
    return Refused(Refusal(Reason.REQUEST, 400, sentence, "http_request_error"))


async def read_request(client: socket.socket) -> Asked | None:
    """Read the head of a request.

    Returns:
        The request; None if the client closed without one.

    Raises:
        Refused: it is not a request for a proxy.
        WhoAmI: it asks the proxy who the client is.
        OSError: the connection broke.
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
        raise Refused(
            Refusal(Reason.REQUEST, error.error_status_hint, "The request is not well-formed", "http_request_error")
        ) from None
    return read_head(event, connection) if isinstance(event, h11.Request) else None


def read_head(head: h11.Request, connection: h11.Connection) -> Asked:
    """The request in a head.

    Raises:
        Refused: as `read_request`.
    """
    target = head.target.decode("ascii")
    if head.http_version not in (b"1.0", b"1.1"):
        raise bad("The egress proxy speaks HTTP/1.1")
    if len(head.headers) > MAX_HEADERS:
        raise Refused(Refusal(Reason.REQUEST, 431, "The request has too many headers", "http_request_error"))
    if head.method == b"CONNECT":
        host, port = _authority(target, None)
        # What follows is not HTTP.
        return Asked(host, port, Kind.TUNNEL, early=connection.trailing_data[0])
    if head.method == b"GET" and target == "/":
        raise WhoAmI
    found = _ABSOLUTE.fullmatch(target)
    if not found:
        raise bad("Use an absolute http:// address, or CONNECT for https")
    host, port = _authority(found[1], PORTS[Kind.PLAIN])
    named = [value.decode("latin-1") for name, value in head.headers if name == b"host"]
    for value in named:
        other, other_port = _authority(value, PORTS[Kind.PLAIN])
        if (normal(other) or other, other_port) != (normal(host) or host, port):
            raise bad("The Host header names another host than the address")
    framing = [name for name, _ in head.headers if name in (b"content-length", b"transfer-encoding")]
    if head.http_version == b"1.0" and b"transfer-encoding" in framing:
        raise bad("HTTP/1.0 has no Transfer-Encoding")
    if len(set(framing)) > 1:
        raise bad("Content-Length and Transfer-Encoding exclude each other")
    path = (found[2] or "/").encode()
    if path.startswith(b"?"):
        path = b"/" + path
    return Asked(normal(host) or host, port, Kind.PLAIN, head=head, connection=connection, path=path)


def _authority(text: str, default_port: int | None) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(text)
    if not found or not (found[2] or default_port):
        raise bad("The address is not host:port")
    return found[1], int(found[2] or default_port or 0)
