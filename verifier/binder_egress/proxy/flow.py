"""The phases of a pod's connection: accepted, asked, allowed, connected. Each has what the phase before had, and what is new."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from ..model.records import PodAddresses
from .hello import Hello
from .limits import Bucket
from .refusals import Reason
from .requests import Plain, Tunnel
from .splice import Pump

SO_MEMINFO = 55
"""The socket option that returns the memory of a socket (Linux since 4.12, `sock_diag.h`)."""


@dataclass(eq=False)
class Flow:
    """A connection that was accepted.

    Attributes:
        address: the address that it comes from.
        client: its socket.
        task: the task that serves it.
        began: when it began, in monotonic seconds.
        cut: the reason why it was cut; None if it was not.
    """

    address: str
    client: socket.socket
    task: "asyncio.Task[None]" = field(init=False)
    began: float = field(default_factory=time.monotonic)
    cut: Reason | None = None

    def end(self, why: Reason) -> None:
        """Cut it."""
        self.cut = why
        self.task.cancel()


@dataclass(eq=False)
class Asked:
    """A connection whose request was read.

    Attributes:
        flow: the connection.
        request: the request.
        pod: the pod that opened it; None: unknown.
    """

    flow: Flow
    request: Tunnel | Plain
    pod: PodAddresses | None

    @property
    def client(self) -> socket.socket:
        """The socket of the pod."""
        return self.flow.client


@dataclass(eq=False)
class Allowed(Asked):
    """A connection whose host's name is allowed. From now on, a change to its pod can cut it."""

    pod: PodAddresses

    @property
    def waiting(self) -> int:
        """The memory, in bytes, of everything that was received from one side and not confirmed by the other yet, but for the
        piece of a plain request's body that is being sent, and for what is kept while hellos are judged (D-403)."""
        return sum(_memory(self.client))


@dataclass(eq=False)
class Connected(Allowed, AbstractContextManager["Connected"]):
    """A connection whose host is connected. As a context, it closes the host's socket at the end.

    Attributes:
        upstream: the socket to the host.
        address: the host's address.
        give_back: gives the source port of that socket back.
        buckets: the buckets that its bytes are taken from. The pumps have the same list, so a change of it counts for them.
        hello: the last ClientHello; not complete before it came.
        pumps: the pumps that move its bytes.
        sent: bytes that were moved without a pump.
    """

    upstream: socket.socket
    address: str
    give_back: Callable[[], None]
    buckets: list[Bucket]
    hello: Hello = field(default_factory=lambda: Hello(False))
    pumps: list[Pump] = field(default_factory=list)
    sent: int = 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for pump in self.pumps:
            pump.stop()
        if self.flow.cut or kind is TimeoutError:
            drop_unsent(self.upstream)
        self.upstream.close()
        self.give_back()

    @property
    def moved(self) -> int:
        """Bytes moved so far, in both directions."""
        return self.sent + sum(pump.moved for pump in self.pumps)

    @property
    def sending(self) -> int:
        """The memory, in bytes, of what was sent to either side and is not confirmed yet."""
        return _memory(self.client)[1] + _memory(self.upstream)[1]

    @property
    def waiting(self) -> int:
        """The memory, in bytes, of what was received from either side and not confirmed by the other yet."""
        return super().waiting + sum(_memory(self.upstream)) + sum(len(pump.left) for pump in self.pumps)


def drop_unsent(one: socket.socket) -> None:
    """Have the kernel drop what is not delivered when the socket is closed. Otherwise it would try for minutes."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _memory(one: socket.socket) -> tuple[int, int]:
    """The memory, in bytes, that the kernel takes for what a socket has received, and for what it has sent and is not confirmed."""
    try:
        numbers = struct.unpack("9I", one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    except OSError:  # Where the option is unknown, nothing counts.
        return 0, 0
    return numbers[0], numbers[5]
