"""The addresses of pods, which the reconciler publishes for the egress proxy."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import redis

from ..model.records import AddressChange, AddressVersion, PodAddresses, Server
from ..model.serialization import read_change, read_pods, read_version, write_pods
from .base import Operations, as_text, as_texts, readable, unavailable
from .connection import TIMEOUT_SECONDS
from .errors import StoreUnavailable
from .keys import redis_key


class ProxyAddresses(Operations):
    """Reads the addresses of the pods of all servers."""

    def addresses(self) -> tuple[AddressVersion, dict[str, list[PodAddresses]]]:
        """The version of the addresses, and the pods of all servers, by the server's key. Only the reconciler may write them."""
        with unavailable():
            pipe = self._redis.pipeline()
            pipe.get(redis_key("changes"))
            pipe.hgetall(redis_key("addresses"))
            version, stored = pipe.execute()
        pods = {server: readable(text, read_pods, "addresses") for server, text in as_texts(stored).items()}
        return read_version(as_text(version)), {server: of for server, of in pods.items() if of is not None}

    @contextmanager
    def address_changes(self) -> "Iterator[Callable[[float], AddressChange | None]]":
        """Subscribe to the changes of addresses.

        Yields:
            A function that waits up to the given number of seconds for the next change, and returns None if none came.
        """
        with unavailable(), self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(redis_key("addresses"))
            if not subscription.get_message(timeout=TIMEOUT_SECONDS):
                raise redis.TimeoutError("no answer to SUBSCRIBE")

            def following(seconds: float) -> AddressChange | None:
                with unavailable():
                    message = subscription.get_message(timeout=seconds)
                if message and message["type"] != "message":
                    raise StoreUnavailable("Redis: subscribed anew, messages may be missing")
                # A message that cannot be read is missing, which the next one shows.
                return readable(message["data"], read_change, "addresses") if message else None

            yield following


class ReconcilerAddresses(Operations):
    """Publishes the addresses of pods."""

    def publish_addresses(self, server: Server, pods: Iterable[PodAddresses]) -> None:
        """Publish the addresses of a server's pods for the egress proxy; without pods, forget them."""
        self._publish(server.key, pods, self._redis)

    def publish_many_addresses(self, pods: Mapping[Server, Iterable[PodAddresses]]) -> None:
        """Publish the pods of many servers, in two round trips."""
        with unavailable():
            pipe = self._redis.pipeline(transaction=False)
            for server, listed in pods.items():
                self._publish(server.key, listed, pipe)
            pipe.execute()

    def beat_addresses(self) -> None:
        """Confirm to the egress proxy that the published addresses are still current."""
        self._publish("", (), self._redis)

    def _publish(self, server: str, pods: Iterable[PodAddresses], client: redis.Redis) -> None:
        listed = list(pods)
        text = write_pods(listed) if listed else ""
        with unavailable():
            channel = redis_key("addresses")
            self._run(
                "publish_addresses",
                keys=[redis_key("addresses"), redis_key("changes")],
                args=[channel, server, text],
                client=client,
            )

    def published_addresses(self) -> set[Server]:
        """All servers whose addresses are published."""
        with unavailable():
            return {Server.from_key(str(key)) for key in self._redis.hkeys(redis_key("addresses"))}
