"""The beginning of TLS (RFC 8446, section 4.1): which host a ClientHello names, and whether the host asks for a second one.

A tunnel is opened for one host. Anything in a ClientHello that could name another one or hide it counts as no name at all: two
names, an extension that comes twice, Encrypted Client Hello (extension 0xfe0d), lengths that do not fit. A second ClientHello,
after a HelloRetryRequest, names a host again, and servers go by that name, so it is read and judged as well (D-403).
"""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_HELLO_BYTES = 16384
"""The longest ClientHello that is read, and the longest HelloRetryRequest, with all that comes before. Browsers with post-quantum
keys send 2 kB; one TLS record may have 16 KiB."""

MAX_RECORDS = 4
"""The most records that are read of one side. Clients send one or two, and each arriving byte means reading all of them again."""

HEADER_BYTES = 5
"""The bytes of a record before its content: kind, version and length (RFC 8446, section 5.1)."""

_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _APPLICATION_DATA = 20, 21, 22, 23
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SERVER_NAME, _ENCRYPTED_CLIENT_HELLO = 0, 0xFE0D
_HOST_NAME = 0
_FATAL = b"\x02"

_RANDOM = slice(6, 38)
"""Where a ServerHello has its random: after the message's kind and length, and legacy_version."""

_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random of a ServerHello that is a HelloRetryRequest (RFC 8446, section 4.1.3)."""


@dataclass(frozen=True)
class Hello:
    """The result of reading what a client sent.

    Attributes:
        complete: whether the result is final; False: more bytes are needed.
        name: the one host that it names, in lower case; None if it names none, or more than one may be meant.
        is_tls: whether it is a ClientHello at all.
        end: where its last record ends in the received bytes, if it is a ClientHello.
    """

    complete: bool
    name: str | None = None
    is_tls: bool = False
    end: int = 0


@dataclass(frozen=True)
class HelloAnswer:
    """The result of reading a host's answer to a ClientHello.

    Attributes:
        complete: whether the result is final; False: more bytes are needed.
        is_tls: whether a TLS server answers like this.
        retry_end: where a HelloRetryRequest ends in the received bytes; 0: the host does not ask for a second ClientHello.
    """

    complete: bool
    is_tls: bool = False
    retry_end: int = 0


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


def read_hello(received: bytes, again: bool = False) -> Hello:
    """Read the first bytes that a client sent into a tunnel, or those that follow a HelloRetryRequest.

    Args:
        received: all bytes so far.
        again: whether it is the second ClientHello. A ChangeCipherSpec may come before it, and the early data that the client sent
            before it knew of the HelloRetryRequest; servers skip both (RFC 8446, sections 4.2.10 and D.4).
    """
    message = b""
    try:
        for kind, content, end in _records(received):
            if again and not message and kind in (_CHANGE_CIPHER_SPEC, _APPLICATION_DATA):
                continue
            message += content
            if kind != _HANDSHAKE or message[:1] not in (b"", bytes([_CLIENT_HELLO])) or end > MAX_HELLO_BYTES:
                return Hello(True)
            size = _size(message)
            if len(message) >= size and len(received) >= end:
                # Nothing may follow in the same record: a server could read another message there.
                return Hello(True, _name(message[4:size]) if len(message) == size else None, True, end)
    except _Malformed:
        return Hello(True)
    return Hello(False)


def read_answer(received: bytes) -> HelloAnswer:
    """Read the first bytes that a host sent after a ClientHello.

    Args:
        received: all bytes so far.
    """
    message = b""
    try:
        for kind, content, end in _records(received):
            if kind == _ALERT and content[:1] == _FATAL:
                return HelloAnswer(True, True)  # Nothing comes after it.
            # Servers warn before a ServerHello that they do not know a name, and send a ChangeCipherSpec after a HelloRetryRequest.
            if not message and kind in (_ALERT, _CHANGE_CIPHER_SPEC):
                continue
            message += content
            if kind != _HANDSHAKE or message[:1] not in (b"", bytes([_SERVER_HELLO])):
                return HelloAnswer(True)
            if len(message) < _RANDOM.stop:
                continue
            if message[_RANDOM] != _RETRY:
                return HelloAnswer(True, True)
            size = _size(message)
            if len(message) > size or end > MAX_HELLO_BYTES:
                return HelloAnswer(True)
            if len(message) == size and len(received) >= end:
                return HelloAnswer(True, True, end)
    except _Malformed:
        return HelloAnswer(True)
    return HelloAnswer(False)


def _records(received: bytes) -> Iterator[tuple[int, bytes, int]]:
    """The records, of which the last one may still be arriving: the kind, the content so far, and where the record ends.

    Raises:
        _Malformed: they are not TLS, or too many or too long to be a hello.
    """
    at = 0
    for _ in range(MAX_RECORDS):
        if at >= len(received):
            return
        kind, content = received[at], at + HEADER_BYTES
        end = content + int.from_bytes(received[at + 3 : content], "big")
        if received[at + 1 : at + 2] not in (b"", b"\x03") or (kind != _HANDSHAKE and end > MAX_HELLO_BYTES):
            raise _Malformed
        if end == content <= len(received):
            raise _Malformed  # An empty record of these kinds is forbidden, or useless (RFC 8446, section 5.1).
        yield kind, received[content:end], end
        at = end
    if at <= len(received):
        raise _Malformed


def _size(message: bytes) -> int:
    """The bytes of a handshake message, as its beginning says."""
    return 4 + int.from_bytes(message[1:4], "big")


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
