"""The egress proxy's feed without the proxy."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from binder_egress.proxy.feed import Feed
from binder_egress.proxy.identities import Identities
from binder_egress.settings import CommonSettings
from binder_egress.store.connection import connect
from tests.support.store import Store


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
