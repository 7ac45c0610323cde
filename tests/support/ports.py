"""Ports on loopback for servers that tests start."""

import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FIRST, LAST = 20_000, 29_999
"""They are below the ports of Kubernetes Services (from 30000) and the ports of outgoing connections in Linux (32768 to 60999)."""

BLOCK = 200
"""Ports of one test process."""

FOLDER = Path(tempfile.gettempdir()) / f"binder-egress-ports-{os.getuid()}"
"""One lock file for each block."""

_lock: IO[str] | None = None
_ports: Iterator[int] = iter(())


def free_port() -> int:
    """A port on which nobody listens. The next call returns another port.

    A port that the kernel chooses for `bind` would be free only at that moment: until the server has started, an outgoing
    connection or another test process may get the same one. So each process has a block of ports to itself, outside the range that
    the kernel chooses from.

    Raises:
        AssertionError: all blocks belong to other processes, or somebody listens on every port of the block.
    """
    global _lock, _ports
    if _lock is None:
        _lock, first = _lock_block()
        _ports = itertools.cycle(range(first, first + BLOCK))
    for port in itertools.islice(_ports, BLOCK):
        if _is_free(port):
            return port
    raise AssertionError(f"somebody listens on each of {BLOCK} ports")


def _lock_block() -> tuple[IO[str], int]:
    """Lock a block of ports until this process ends, in whatever way. Returns the lock and the first port."""
    FOLDER.mkdir(exist_ok=True)
    for first in range(FIRST, LAST, BLOCK):
        lock = (FOLDER / str(first)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return lock, first
    raise AssertionError(f"other processes have all ports from {FIRST} to {LAST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # The same option as servers use: lingering connections of an earlier server do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
