"""Moves the bytes of a connection: from socket to socket inside the kernel, with `splice(2)` and a pipe (D-251)."""

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Callable

from .limits import Bucket

PIPE_BYTES = 256 * 1024
"""The most bytes that one step moves. Linux allows unprivileged processes pipes of up to 1 MiB."""

SHORTEST_PAUSE_SECONDS = 0.01
"""The shortest pause for the limits of bytes, in seconds. A shorter one is not worth a timer."""

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

LEAST_FREE = 1 / 4
"""The free share of the target's buffer below which a pump waits. Linux calls a TCP socket writable when a third is free
(`sk_stream_is_writeable`), so the wait ends in time."""

LEAST_BYTES = 4096
"""The bytes that are moved when the kernel calls the target writable, whatever its buffer says."""

SPARED = 1 / 8
"""The share of the target's buffer that a step leaves free, because the kernel's own records of the bytes count too."""

_spare: list[tuple[int, int]] = []
"""Empty pipes for the next step. A pump holds one only during a step, so a tunnel that waits costs only its two sockets."""


def _pipe() -> tuple[int, int]:
    if _spare:
        return _spare.pop()
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # This user may not have larger pipes, so the steps are smaller.
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read, write


def take(buckets: list[Bucket], number: int) -> float:
    """Take bytes from buckets. Returns the seconds to wait before the next ones; 0 if the wait is not worth a timer."""
    pause = max(bucket.take(number) for bucket in buckets)
    return pause if pause > SHORTEST_PAUSE_SECONDS else 0.0


class Pump:
    """One direction of a connection.

    It takes from the source only what the target has room for, and holds no pipe while it waits. Linux gives the pipes of one user
    64 MiB together, and after that new pipes of 8 KiB, so pipes that hold bytes which nobody takes would slow everybody down.

    Args:
        source, target: non-blocking sockets on which nothing else waits for this direction.
        buckets: the buckets from which the bytes are taken.

    Attributes:
        moved: bytes moved so far.
        left: bytes that it took from the source and could not give to the target yet.
        ended: done when the source has ended and the target has everything; it has an `OSError` if the connection broke.
    """

    def __init__(self, source: socket.socket, target: socket.socket, buckets: list[Bucket]):
        # Numbers, not sockets: for a socket that it does not watch, each lookup in the loop's selector formats a text about it.
        self._source, self._target, self._buckets = source.fileno(), target.fileno(), buckets
        self._from, self._to = source, target
        self._loop = asyncio.get_running_loop()
        self._held: tuple[int, int] | None = None
        self._inside = 0
        self._timer: asyncio.TimerHandle | None = None
        self.moved = 0
        self.left = b""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._source, self._read)
        # A server that opens a new connection for every few bytes waits for the debt of the earlier ones.
        self._rest(0)

    def stop(self) -> None:
        """Stop moving bytes. Must be called once for each pump, before its sockets are closed."""
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)
        if self._timer:
            self._timer.cancel()
        # Also if it is done: if the other pump failed first, nobody asks for this one's failure, and asyncio would log that.
        self.ended.cancel()

    def _room(self) -> int:
        """Bytes that the next step may move; 0: the target must take some first."""
        size = self._to.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        unconfirmed = int.from_bytes(fcntl.ioctl(self._target, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        free = size - unconfirmed
        return 0 if free < size * LEAST_FREE else min(PIPE_BYTES, int(free - size * SPARED))

    def _read(self) -> None:
        self._step(0)

    def _step(self, least: int) -> None:
        """Move what the target has room for, but no fewer than the given bytes."""
        try:
            room = max(least, self._room())
            if not room:
                self._wait(self._go_on)
                return
            self._held = self._held or _pipe()
            number = os.splice(self._source, self._held[1], room, flags=_FLAGS)
        except BlockingIOError:
            number = 0
        except OSError as error:
            self._end(error)
            return
        if not number:
            self._release()
            self._receive()
            return
        self._inside += number
        self.moved += number
        if self._write():
            self._rest(number)
        elif not self.ended.done():
            self._wait(self._drain, number)

    def _receive(self) -> None:
        """Move a few bytes without a pipe, or end if there will be none.

        `splice` stops before an urgent byte of TCP, and the source stays readable, so the loop would ask for steps without end.
        Reading passes over that byte, as it does in programs that do not look for it.
        """
        try:
            self.left = self._from.recv(LEAST_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if not self.left:
            self._end()
            return
        self.moved += len(self.left)
        self._wait(self._drain, len(self.left))

    def _wait(self, then: Callable[..., None], *arguments: int) -> None:
        """Call a method when the target accepts bytes again."""
        self._loop.remove_reader(self._source)
        self._loop.add_writer(self._target, then, *arguments)

    def _resume(self) -> None:
        self._loop.remove_writer(self._target)
        self._loop.add_reader(self._source, self._read)

    def _go_on(self) -> None:
        """Continue after a wait for room."""
        self._resume()
        # A few bytes in any case: the buffer of a connection that was reset stays full, but writing to it fails.
        self._step(LEAST_BYTES)

    def _drain(self, number: int) -> None:
        """Continue with what is left of a step."""
        try:
            self.left = self.left[self._to.send(self.left) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if not self.left:
            self._resume()
            self._rest(number)

    def _write(self) -> bool:
        """Empty the pipe into the target. Returns whether the target took everything."""
        try:
            while self._inside and self._held:
                self._inside -= os.splice(self._held[0], self._target, self._inside, flags=_FLAGS)
        except BlockingIOError:
            # There was less room than it seemed: small packets take more of the buffer than they have bytes.
            assert self._held
            self.left = os.read(self._held[0], self._inside)
            self._inside -= len(self.left)
        except OSError as error:
            self._end(error)
            return False
        self._release()
        return not self.left

    def _rest(self, number: int) -> None:
        """Wait as long as the limits of bytes require."""
        pause = take(self._buckets, number)
        if pause:
            self._loop.remove_reader(self._source)
            self._timer = self._loop.call_later(pause, self._loop.add_reader, self._source, self._read)

    def _release(self) -> None:
        if self._held and not self._inside:
            _spare.append(self._held)
            self._held = None

    def _end(self, error: OSError | None = None) -> None:
        if self.ended.done():
            return
        self._loop.remove_reader(self._source)
        if error:
            self._loop.remove_writer(self._target)
            if self._held:  # It may hold bytes of this connection, so no other pump may reuse it.
                os.close(self._held[0])
                os.close(self._held[1])
                self._held = None
            self.ended.set_exception(error)
            return
        with contextlib.suppress(OSError):
            self._to.shutdown(socket.SHUT_WR)
        self.ended.set_result(None)
