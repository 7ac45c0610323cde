"""The server of the egress proxy on loopback, in the event loop of a test. Its only pod, alice's, is this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from binder_egress.model.records import AddressChange, AddressVersion, PodAddresses
from binder_egress.proxy.connections import Proxy
from binder_egress.proxy.process import listen


def publish(proxy: Proxy, tier: str, **more: Any) -> None:
    """Publish the pod with a tier, and what else a test says of it."""
    proxy.identities.load(AddressVersion(), {"alice/": [PodAddresses("uid-1", "alice", "", ("127.0.0.1",), tier, **more)]})
    proxy.identities.apply(AddressChange(AddressVersion()))


@asynccontextmanager
async def served(proxy: Proxy, drain_seconds: float = 60.0) -> AsyncIterator[tuple[str, int]]:
    """The proxy accepts connections until the end of the block, and drains then. Yields its address."""
    listener = listen(0, "127.0.0.1")
    serving = asyncio.create_task(proxy.serve(listener))
    try:
        async with asyncio.timeout(120):
            yield listener.getsockname()[:2]
    finally:
        serving.cancel()
        listener.close()
        await proxy.drain(drain_seconds)
