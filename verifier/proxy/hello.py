"""The TLS ClientHello (RFC 8446, section 4.1.2): which host it names.

A tunnel is opened for one host. Anything that could name another one or hide it counts as no name at all: two names, an extension
that comes twice, Encrypted Client Hello (extension 0xfe0d), lengths that do not fit.
"""

from dataclasses import dataclass

MAX_HELLO_BYTES = 16384
"""The longest ClientHello that is read. Browsers with post-quantum keys send 2 kB; one TLS record may have 16 KiB."""

MAX_RECORDS = 4
"""The most records in a ClientHello. Clients send one or two, and each arriving byte means reading all of them again."""

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ENCRYPTED_CLIENT_HELLO = 0, 0xFE0D
_HOST_NAME = 0


@dataclass(frozen=True)
class Hello:
    """The result of reading.

    Attributes:
        complete: whether the result is final; False: more bytes are needed.
        name: the one host that it names, in lower case; None if it names none, or more than one may be meant.
        is_tls: whether it is a ClientHello at all.
    """

    complete: bool
    name: str | None = None
    is_tls: bool = False


class _Malformed(Exception):
    pass


class _Reader:
    """Takes fields from bytes. Every method raises `_Malformed` if there are too few."""

    def __init__(self, content: bytes):
        self._content, self._at = content, 0

    def __bool__(self) -> bool:
        return self._at < len(self._content)

    def take(self, number: int) -> bytes:
        end = self._at + number
        if end > len(self._content):
            raise _Malformed
        found, self._at = self._content[self._at : end], end
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> "_Reader":
        """A part that follows its own length, which takes `size` bytes."""
        return _Reader(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self.take(len(self._content) - self._at)

    def end(self) -> None:
        if self:
            raise _Malformed


def read_hello(received: bytes) -> Hello:
    """Read the first bytes that a client sent into a tunnel.

    Args:
        received: all bytes so far.
    """
    if len(received) > MAX_HELLO_BYTES:
        return Hello(True)
    message = b""
    at = 0
    for _ in range(MAX_RECORDS):
        if at >= len(received):
            return Hello(False)
        if received[at] != _HANDSHAKE or received[at + 1 : at + 2] not in (b"", b"\x03"):
            return Hello(True)
        length = int.from_bytes(received[at + 3 : at + 5], "big")
        if at + 5 <= len(received) and not length:
            return Hello(True)  # An empty record of this kind is forbidden (RFC 8446, section 5.1).
        message += received[at + 5 : at + 5 + length]
        if message[:1] not in (b"", bytes([_CLIENT_HELLO])):
            return Hello(True)
        end = 4 + int.from_bytes(message[1:4], "big")
        if len(message) >= 4 and len(message) >= end:
            # Nothing may follow in the same record: a server could read another message there.
            return Hello(True, _name(message[4:end]) if len(message) == end else None, True)
        at += 5 + length
    return Hello(at <= len(received))  # The last record may still be arriving.


def _name(body: bytes) -> str | None:
    try:
        reader = _Reader(body)
        reader.take(2 + 32)  # legacy_version, random
        reader.vector(1)  # legacy_session_id
        reader.vector(2)  # cipher_suites
        reader.vector(1)  # legacy_compression_methods
        extensions = reader.vector(2)
        reader.end()
        found: dict[int, _Reader] = {}
        while extensions:
            kind = extensions.number(2)
            if kind in found or kind == _ENCRYPTED_CLIENT_HELLO:
                return None
            found[kind] = extensions.vector(2)
        if _SERVER_NAME not in found:
            return None
        names = found[_SERVER_NAME].vector(2)
        found[_SERVER_NAME].end()
        if names.number(1) != _HOST_NAME:
            return None
        name = names.vector(2)
        names.end()  # a second name
        return name.rest().decode("ascii").lower() or None
    except (_Malformed, UnicodeDecodeError):
        return None
