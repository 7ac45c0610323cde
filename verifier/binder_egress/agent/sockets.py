"""The sockets of a pod, as `/proc/PID/net/tcp` and its like show them."""

import os
from collections.abc import Iterable
from io import FileIO
from typing import NamedTuple

MOST_BYTES = 256 << 10
"""Bytes of a table of sockets that are read: 1,700 sockets, in the order of the kernel's hashes, which is as good as random."""

SYN_SENT, LISTEN, INBOUND = b"02", b"0A", (b"03", b"0A", b"0C")
"""States of TCP sockets: include/net/tcp_states.h. The last three: a handshake that a stranger began, and a server."""

_MAPPED = b"0000000000000000FFFF0000"  # before an IPv4 address in a table of IPv6


class Socket(NamedTuple):
    """A row of a table: the own address and port, the other end's, and the state, all as the kernel writes them."""

    own: bytes
    own_port: bytes
    address: bytes
    port: bytes
    state: bytes


def read_socket(row: bytes) -> Socket:
    """The socket in a row."""
    local, remote, state = row.split(None, 4)[1:4]
    own, _, own_port = local.removeprefix(_MAPPED).rpartition(b":")
    address, _, port = remote.removeprefix(_MAPPED).rpartition(b":")
    return Socket(own, own_port, address, port, state)


def sockets(*tables: FileIO) -> tuple[list[Socket], bool]:
    """The sockets of open tables, and whether these are all."""
    found, is_whole = list[Socket](), True
    for table in tables:
        parts, size = list[bytes](), 0
        # The kernel hands out a page at a time.
        while size < MOST_BYTES and (part := os.pread(table.fileno(), MOST_BYTES - size, size)):
            parts.append(part)
            size += len(part)
        is_whole &= size < MOST_BYTES
        found += map(read_socket, whole_rows(b"".join(parts)))
    return found, is_whole


def whole_rows(text: bytes) -> Iterable[bytes]:
    """The rows of a table below its head. The last may be cut, and is left out then."""
    return text.rpartition(b"\n")[0].splitlines()[1:]


def is_loopback(address: bytes) -> bool:
    """Whether an address is 127.0.0.0/8 or ::1: 32-bit numbers of a little-endian machine."""
    return address == b"00000000000000000000000001000000" or (len(address) == 8 and address.endswith(b"7F"))
