"""The server of the egress proxy: what a pod with too many connections costs."""

import asyncio
import socket

from tests.support.ports import free_port
from verifier.proxy import limits, server
from verifier.proxy.decide import Policy
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.process import listen
from verifier.proxy.resolve import Resolver


def test_connections_beyond_a_limit_are_not_all_answered():
    """Each answer waits a moment for its reader. Of those who do not read only so many wait at a time, and the log has as many."""
    most = int(server.LIMIT_ANSWERS_PER_SECOND * limits.BURST_SECONDS)

    async def main():
        now = [100.0]
        proxy = server.Proxy(Policy({}), Limits(connections=1, new_per_second=10_000), Resolver(), Metrics(), clock=lambda: now[0])
        port = free_port()
        listener = listen(port, "127.0.0.1")
        serving = asyncio.create_task(proxy.serve(listener))
        pod = [socket.create_connection(("127.0.0.1", port)) for _ in range(most + 50)]
        loop = asyncio.get_running_loop()
        for connection in pod:
            connection.setblocking(False)
        # The first one is within the limit; the last 49 get nothing.
        said = [await asyncio.wait_for(loop.sock_recv(connection, 12), 5) for connection in pod[1:]]
        assert said == [b"HTTP/1.1 429"] * most + [b""] * 49
        assert proxy.open <= most + 1
        serving.cancel()
        listener.close()
        for connection in pod:
            connection.close()
        await proxy.drain(5)

    asyncio.run(main())
