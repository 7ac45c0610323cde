"""ClientHellos, well-formed and not, and what hosts answer (RFC 8446, section 4.1)."""

import os
import struct

CHANGE_CIPHER_SPEC = b"\x14\x03\x03\0\1\1"
"""What both sides send between the messages for the sake of old machines on the way (appendix D.4)."""

RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random of a ServerHello that is a HelloRetryRequest (section 4.1.3)."""


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def server_name(*names: str, kind: int = 0) -> bytes:
    """The extension server_name (RFC 6066)."""
    listed = b"".join(struct.pack(">BH", kind, len(name)) + name for name in map(str.encode, names))
    return extension(0, struct.pack(">H", len(listed)) + listed)


def encrypted_client_hello() -> bytes:
    """As browsers send it, also if they know no key ("GREASE")."""
    return extension(0xFE0D, b"\0\0\x01\0\x01\x07\0\x20" + os.urandom(32) + b"\0\x90" + os.urandom(144))


def hello(*extensions: bytes, padding: int = 0, record: int = 0, after: bytes = b"") -> bytes:
    """A ClientHello with these extensions and the usual ones, in TLS records of that many bytes (0: one), and bytes `after` it."""
    common = extension(10, b"\0\x04\0\x1d\0\x17") + extension(11, b"\x01\0") + extension(13, b"\0\x04\x04\x03\x08\x04")
    listed = b"".join(extensions) + common + extension(0xFF01, b"\0") + (extension(21, bytes(padding)) if padding else b"")
    body = b"\x03\x03" + os.urandom(32) + b"\0\0\x06\x13\x01\xc0\x2b\xc0\x2c\x01\0" + struct.pack(">H", len(listed)) + listed
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body + after
    return records(message, record)


def records(message: bytes, size: int = 0) -> bytes:
    """A handshake message in TLS records of that many bytes; 0: one record for all."""
    size = size or len(message)
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in parts)


def hello_for(name: str) -> bytes:
    """A ClientHello that names one host."""
    return hello(server_name(name))


def hello_1_3(*names: str, has_key: bool = True) -> bytes:
    """A ClientHello of TLS 1.3 that names hosts. Without a key, a server asks for another one (HelloRetryRequest)."""
    key = b"\0\x1d\0\x20" + os.urandom(32) if has_key else b""
    shared = extension(51, struct.pack(">H", len(key)) + key)
    return hello(*([server_name(*names)] if names else []), extension(43, b"\x02\x03\x04"), shared)


def server_hello(random: bytes = b"", record: int = 0, after: bytes = b"") -> bytes:
    """A ServerHello, or with `RETRY` as its random, a HelloRetryRequest that asks for a key of X25519."""
    listed = extension(43, b"\x03\x04") + extension(51, b"\0\x1d")
    body = b"\x03\x03" + (random or os.urandom(32)) + b"\0\x13\x01\0" + struct.pack(">H", len(listed)) + listed
    return records(b"\x02" + struct.pack(">I", len(body))[1:] + body + after, record)
