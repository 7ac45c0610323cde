"""A DNS server that answers the egress proxy's resolver late or not at all.

`seen` runs both, with the resolver of the system between them, in the lab's network namespace.
"""

import asyncio
import itertools
import socket
import threading
import time

from binder_egress.proxy.resolve import Resolver
from tests.support.egress_proxy import lab
from tests.support.egress_proxy.internet import answer

SERVER = "10.42.255.1"
"""The address of the DNS server."""

LATE_SECONDS = 1.5
"""Seconds until a late answer."""

SERVER_FAILURE = 2
"""The response code of a DNS server that cannot answer (RFC 1035, section 4.1.1), in the fourth byte of its answer."""

KINDS = ("late", "lost", "failed", "never")


def seen() -> dict[str, list]:
    """The addresses of a name of each kind and the seconds that they took, and whether `never` has one once its server answers."""
    return lab.in_namespace(__spec__.name, resolver=SERVER)


class Dns:
    """A DNS server. Names with `never` are not answered before `awake` is set, those with `late` after a while, and those with
    `lost` when they are asked for again. It fails for names with `failed`."""

    def __init__(self) -> None:
        self.awake = threading.Event()
        self._lost: set[bytes] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((SERVER, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        turn = itertools.count()
        while True:
            question, client = self._socket.recvfrom(4096)
            if b"never" in question and not self.awake.is_set():
                continue
            # The first two bytes are the number of the question.
            if b"lost" in question and question[2:] not in self._lost:
                self._lost.add(question[2:])
                continue
            reply = answer(question, turn)
            if b"failed" in question:
                reply = reply[:3] + bytes([reply[3] | SERVER_FAILURE]) + reply[4:]
            late = LATE_SECONDS if b"late" in question else 0
            threading.Timer(late, self._socket.sendto, (reply, client)).start()


async def look_up(dns: Dns) -> dict[str, list]:
    """Look up a name of each kind at once, and `never` again once it is answered."""
    resolver = Resolver()

    async def timed(kind: str) -> list:
        began = time.monotonic()
        return [await resolver.addresses(f"{kind}.example"), time.monotonic() - began]

    found = dict(zip(KINDS, await asyncio.gather(*map(timed, KINDS)), strict=True))
    dns.awake.set()
    async with asyncio.timeout(lab.WAIT_SECONDS):
        while not (again := await resolver.addresses("never.example")):
            await asyncio.sleep(0.1)
    return {**found, "again": again}


if __name__ == "__main__":
    lab.end(asyncio.run(look_up(Dns())))
