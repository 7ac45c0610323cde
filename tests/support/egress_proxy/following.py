"""The egress proxy's feed without the proxy."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.store import Store
from verifier.proxy.feed import Feed
from verifier.proxy.identities import Identities
from verifier.settings import CommonSettings
from verifier.store.connection import connect


@contextmanager
def following(settings: CommonSettings) -> Iterator[Identities]:
    """The feed on the event loop of its own thread. Yields its identities."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    identities = Identities()
    client = connect(settings)
    feed = Feed(Store(client), identities, loop)
    feed.start()
    try:
        yield identities
    finally:
        feed.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        client.close()
