"""The API keys that operators revoked."""

from .base import Operations, unavailable
from .keys import redis_key


class RevokedKeys(Operations):
    """The API keys that operators revoked."""

    def revoke_key(self, key: str) -> None:
        """Revoke an API key, by its id, and with it the passes that were issued for it. The log says who revoked it, and why."""
        with unavailable():
            # The verifier may add revocations, but neither change nor remove them.
            self._redis.hsetnx(redis_key("revoked"), key, "")

    def revoked_keys(self) -> set[str]:
        """The ids of the API keys that operators revoked. An id counts whatever its entry says, as it does for the scripts."""
        return set(self._hash("revoked"))
