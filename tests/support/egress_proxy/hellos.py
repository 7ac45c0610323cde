"""ClientHellos, well-formed and not (RFC 8446, section 4.1.2)."""

import os
import struct


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
    """A ClientHello.

    Args:
        extensions: in addition to those that every server expects.
        padding: bytes of the extension padding.
        record: bytes of each TLS record; 0: one record for all.
        after: bytes after it in the same record.
    """
    common = extension(10, b"\0\x04\0\x1d\0\x17") + extension(11, b"\x01\0") + extension(13, b"\0\x04\x04\x03\x08\x04")
    listed = b"".join(extensions) + common + extension(0xFF01, b"\0") + (extension(21, bytes(padding)) if padding else b"")
    body = b"\x03\x03" + os.urandom(32) + b"\0\0\x04\xc0\x2b\xc0\x2c\x01\0" + struct.pack(">H", len(listed)) + listed
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body + after
    size = record or len(message)
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in parts)


def hello_for(name: str) -> bytes:
    """A ClientHello that names one host."""
    return hello(server_name(name))
