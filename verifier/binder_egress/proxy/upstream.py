"""Connects to hosts."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from . import refusals
from .new_hosts import NEW_ADDRESSES, NewHosts
from .requests import RequestRefused
from .source_ports import SourcePorts

CONNECT_SECONDS = 10.0
"""Time limit for connecting to the host, for all of its addresses together, in seconds."""


async def connect(
    ports: SourcePorts, new_hosts: NewHosts, name: str, addresses: list[str], port: int, server: str, verified: bool
) -> tuple[socket.socket, str, Callable[[], None]]:
    """Connect to the first address that answers, among the few that the server may try and that may have more connections.

    Args:
        ports: counts the source ports.
        new_hosts: counts the addresses that the server tries.
        name: the name of the host.
        addresses: the addresses of the host.
        port: the host's port.
        server: the server that asks.
        verified: whether it has a tier.

    Returns:
        The socket, the host's address, and what must be called at the end, which gives the source port back.

    Raises:
        RequestRefused: no address answers, all of them have too many connections, or the server has tried too many addresses.
    """
    full = late = False
    few = new_hosts.choose(server, verified, name, addresses)
    try:
        async with asyncio.timeout(CONNECT_SECONDS) as limit:
            for number, address in enumerate(few, 1):
                pause = new_hosts.wait(server, verified, name, address)
                if pause is None:
                    late = True
                    continue
                if pause:
                    limit.reschedule((limit.when() or 0) + pause)
                    await asyncio.sleep(pause)
                taken = ports.take(address, port, server, verified)
                if not taken:
                    full = True
                    continue
                try:
                    connection = await _connected(address, port, CONNECT_SECONDS / NEW_ADDRESSES if number < len(few) else None)
                except BaseException as error:
                    ports.give_back(taken, connected=False)
                    new_hosts.fail(server, address)
                    if not isinstance(error, OSError):
                        raise
                else:
                    return connection, address, partial(ports.give_back, taken, connected=True)
    except TimeoutError:
        pass
    if late:
        raise RequestRefused(refusals.NEW_HOSTS)
    raise RequestRefused(refusals.HOST_LIMIT if full else refusals.UNREACHABLE)


async def _connected(address: str, port: int, seconds: float | None) -> socket.socket:
    """A socket, connected within the given seconds; None: no limit."""
    upstream = socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(upstream, (address, port))
    except BaseException:
        upstream.close()
        raise
    return upstream
