"""One connection of a pod: its sockets, its progress, and the memory of the bytes that wait in it."""

import asyncio
import socket
import struct
import time
from dataclasses import dataclass, field

from ..records import PodAddresses
from .decide import Reason
from .limits import Bucket
from .requests import Asked
from .source_ports import SourcePort
from .splice import Pump

SO_MEMINFO = 55
"""The socket option that returns the memory of a socket (Linux since 4.12, `sock_diag.h`)."""


@dataclass(eq=False)
class Flow:
    """A connection of a pod.

    Attributes:
        address: the address that it comes from.
        client: its socket.
        task: the task that serves it.
        began: when it began, in monotonic seconds.
        pod: the pod that opened it, once that is known.
        asked: the request, once that is known.
        server_name: the name in the ClientHello, and whether it was a ClientHello; None before it came. A second one has the same.
        upstream: the socket to the host, and the host's address; None before it is connected.
        source_port: the source port that this socket uses.
        buckets: the buckets that its bytes are taken from. The pumps have the same list, so a change of it counts for them.
        pumps: the pumps that move its bytes.
        sent: bytes that were moved without a pump.
        cut: the reason why it was cut; empty if it was not.
    """

    address: str
    client: socket.socket
    task: "asyncio.Task[None] | None" = None
    began: float = field(default_factory=time.monotonic)
    pod: PodAddresses | None = None
    asked: Asked | None = None
    server_name: tuple[str | None, bool] | None = None
    upstream: tuple[socket.socket, str] | None = None
    source_port: SourcePort | None = None
    buckets: list[Bucket] = field(default_factory=list)
    pumps: list[Pump] = field(default_factory=list)
    sent: int = 0
    cut: str = ""

    @property
    def moved(self) -> int:
        """Bytes moved so far, in both directions."""
        return self.sent + sum(pump.moved for pump in self.pumps)

    @property
    def sockets(self) -> list[socket.socket]:
        """Its sockets."""
        return [self.client, self.upstream[0]] if self.upstream else [self.client]

    @property
    def sending(self) -> int:
        """The memory, in bytes, of what was sent to either side and is not confirmed yet."""
        return sum(_memory(one)[1] for one in self.sockets)

    @property
    def waiting(self) -> int:
        """The memory, in bytes, of everything that was received from one side and not confirmed by the other yet, but for the
        piece of a plain request's body that is being sent, and for what is kept while hellos are judged (D-403)."""
        return sum(sum(_memory(one)) for one in self.sockets) + sum(len(pump.left) for pump in self.pumps)

    def end(self, why: Reason) -> None:
        """Cut it."""
        self.cut = why
        if self.task:
            self.task.cancel()

    def reset(self) -> None:
        """Have the kernel drop what is not delivered when the sockets are closed. Otherwise it would try for minutes."""
        for one in self.sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _memory(one: socket.socket) -> tuple[int, int]:
    """The memory, in bytes, that the kernel takes for what a socket has received, and for what it has sent and is not confirmed."""
    try:
        numbers = struct.unpack("9I", one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    except OSError:  # Where the option is unknown, nothing counts.
        return 0, 0
    return numbers[0], numbers[5]
