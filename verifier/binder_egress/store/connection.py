"""The connection to Redis, or to the one that its sentinels name."""

from typing import Any

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from ..settings import CommonSettings

TIMEOUT_SECONDS = 0.5
"""Seconds for connecting and for each answer. BinderHub's hook waits 1 s in all."""


def connect(settings: CommonSettings) -> redis.Redis:
    """A client for the Redis of the settings, or for the one that its sentinels name.

    A pooled connection may have died with the Redis at its other end, so a failed call is tried once more on a new connection.
    After a time-out there is no second try, which would double the wait. With sentinels, the new connection goes to the Redis that
    they name at that time.
    """
    options: dict[str, Any] = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    tls = settings.redis_url.startswith("rediss:")
    if tls and settings.redis_ca:
        options["ssl_ca_certs"] = settings.redis_ca
    own = _clear(settings.redis_user_password)
    common = options | {
        "username": settings.redis_user if own else None,
        "password": own or _clear(settings.redis_password),
        "decode_responses": True,
        # A text that is no UTF-8 is read as another text, and stops nobody (D-387).
        "encoding_errors": "replace",
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    }
    if not settings.redis_sentinels:
        return redis.Redis.from_url(settings.redis_url, **common)
    sentinels = [(host, int(port)) for host, _, port in (one.rpartition(":") for one in settings.redis_sentinels)]
    # No second try: after a failure the next sentinel is asked.
    asking = options | {"password": _clear(settings.redis_sentinel_password), "retry": Retry(NoBackoff(), 0), "ssl": tls}
    database = parse_url(settings.redis_url).get("db", 0)  # type: ignore[no-untyped-call]
    sentinel = Sentinel(sentinels, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    name, options = settings.redis_sentinel_master, {"db": database, "ssl": tls, **common}
    client: redis.Redis = sentinel.master_for(name, **options)  # type: ignore[no-untyped-call]
    return client


def _clear(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
