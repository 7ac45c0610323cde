"""What the reconciler publishes about servers."""

from ..model.grants import Block
from ..model.records import KnownServer, Server
from ..model.serialization import read_known, write_known
from .base import Operations, readable, unavailable
from .blocks import load_blocks
from .keys import redis_key


class Servers(Operations):
    """What the reconciler publishes about servers, for the verifier and for operators."""

    def published(self) -> set[Server]:
        """All published servers."""
        prefix = redis_key("server:")
        with unavailable():
            return {Server.from_key(key.removeprefix(prefix)) for key in self._redis.scan_iter(f"{prefix}*", count=1000)}

    def known(self, server: Server) -> KnownServer | None:
        """What the reconciler published about a server, or None if it has no pod."""
        (text,) = self._read_all([f"server:{server.key}"])
        return readable(text, read_known, "server")

    def known_and_blocks(self, server: Server) -> tuple[KnownServer | None, list[Block]]:
        """What `known` and `blocks` say, in one round trip."""
        (text,), blocks = self._read([f"server:{server.key}"], with_blocks=True)
        return readable(text, read_known, "server"), load_blocks(blocks)

    def known_of(self, servers: list[Server]) -> dict[Server, KnownServer]:
        """What the reconciler published about the given servers; those without a pod are left out."""
        texts = self._read_all([f"server:{server.key}" for server in servers])
        known = {server: readable(text, read_known, "server") for server, text in zip(servers, texts, strict=True)}
        return {server: about for server, about in known.items() if about}

    def all_known(self) -> dict[Server, KnownServer]:
        """What the reconciler published about all servers."""
        return self.known_of(sorted(self.published(), key=lambda server: server.key))


class ReconcilerServers(Servers):
    """Publishes servers."""

    def publish(self, server: Server, known: KnownServer) -> None:
        """Publish a server, for the verifier and for operators."""
        with unavailable():
            self._redis.set(redis_key(f"server:{server.key}"), write_known(known))

    def forget(self, server: Server) -> None:
        """Forget a server that has no pod any more."""
        with unavailable():
            self._redis.delete(redis_key(f"server:{server.key}"))
