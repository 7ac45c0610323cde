"""Passes: a client gets one for a solution and sends it with a launch.

A pass names a tier, a number of servers, and the time until which it may be presented. It is signed, not stored. The servers that
used it are in Redis: `store/lua/redeem.lua` decides who gets a use on a retry (D-015).

Decisions: D-016, D-017, D-393.
"""

import hashlib
import math
import secrets
from dataclasses import replace
from typing import Annotated

from itsdangerous import BadData, URLSafeSerializer
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from .records import PassOutcome

LEEWAY_SECONDS = 60
"""Seconds by which the clocks of two members of a federation, or of client and server, may differ."""

MAX_TOKEN_CHARACTERS = 1024
"""The longest token that is read. A token has about 200 characters and travels in a query string."""


class BadPass(Exception):
    """A token that is not a pass that counts here."""

    def __init__(self, outcome: PassOutcome, detail: str):
        super().__init__(detail)
        self.outcome = outcome


@dataclass(frozen=True, config=ConfigDict(allow_inf_nan=False, extra="forbid", strict=True))
class Pass:
    """The content of a token. Types are checked, because another member of a federation may have signed anything.

    Attributes:
        id: random URL-safe text; it names the pass in Redis.
        tier: the tier of its servers.
        servers: the number of servers that may hold a use of it.
        iat: Unix time in seconds when it was issued, by Redis' clock.
        exp: Unix time in seconds after which it is rejected.
        key: the id of the API key that it was issued for; empty for a solution.
    """

    id: Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
    tier: str
    servers: int
    iat: float
    exp: float
    key: str = ""


def serializer(keys: list[str]) -> URLSafeSerializer:
    """The serializer that signs the content of tokens, and reads it again.

    Args:
        keys: the signing keys, oldest first; the last one signs, all are accepted.
    """
    return URLSafeSerializer(
        keys, salt="binder-egress pass", signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )


class Passes:
    """Signs passes and reads tokens.

    The token contains `exp` itself, because the timed serializer of itsdangerous rejects a token from a clock that is 2 s ahead.

    Args:
        keys: the signing keys, as for `serializer`.
    """

    def __init__(self, keys: list[str]):
        self._serializer = serializer(keys)

    @staticmethod
    def new(tier: str, servers: int, issued_at: float, lifetime: float, key: str = "") -> Pass:
        """A new pass.

        Args:
            tier: the tier that it gives.
            servers: the number of servers that it is good for.
            issued_at: Unix time in seconds, by Redis' clock.
            lifetime: the seconds after `issued_at` for which it is valid.
            key: the id of the API key that it is issued for; empty: none.
        """
        return Pass(secrets.token_urlsafe(12), tier, servers, issued_at, issued_at + lifetime, key)

    def sign(self, issued: Pass) -> str:
        """The token of a pass: URL-safe text."""
        said = dict(vars(issued))
        if not issued.key:
            del said["key"]  # so that a member of a federation with an older version accepts it
        return self._serializer.dumps(said)

    def read(self, token: str, presented_at: float, lifetime: float = math.inf, now: float | None = None) -> Pass:
        """Read a token.

        Args:
            token: the text that the client sent.
            presented_at: Unix time in seconds at which the client sent it, perhaps before a build.
            lifetime: the most seconds after `iat` for which a pass is valid, no matter which member of a federation issued it.
            now: Unix time in seconds by this process' clock; None: it was presented just now.

        Returns:
            The pass. It may have no uses left.

        Raises:
            BadPass: it is not signed by one of the keys, has expired, or was issued more than `LEEWAY_SECONDS` in the future.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise BadPass(PassOutcome.INVALID, "This is not a pass: it is too long.")
        try:
            found = Pass(**self._serializer.loads(token))
        except (BadData, TypeError, ValueError):  # ValueError: characters that cannot be encoded, or a field of another type
            raise BadPass(PassOutcome.INVALID, "This is not a pass of this service. Solve a challenge to get one.") from None
        found = replace(found, exp=min(found.iat + lifetime, found.exp))
        if presented_at > found.exp + LEEWAY_SECONDS:
            raise BadPass(PassOutcome.EXPIRED, "The pass has expired. Solve a challenge to get a new one.")
        if found.iat > (presented_at if now is None else now) + LEEWAY_SECONDS:  # not BinderHub's clock (D-016)
            raise BadPass(PassOutcome.INVALID, "The pass was issued in the future: check the clocks of this service.")
        return found
