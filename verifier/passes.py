"""Passes: what a client gets for a solution and sends with a launch.

A pass says how many servers may have which tier, and until when it may be presented. It is signed, not stored; which servers used
it is in Redis (`store`).

Decisions: D-016, D-017.
"""

import hashlib
import secrets
from dataclasses import asdict, dataclass

from itsdangerous import BadSignature, URLSafeSerializer

LEEWAY_SECONDS = 60
"""Seconds by which clocks of members of a federation, and of client and server, may differ."""

MAX_TOKEN = 1024
"""Characters. A token of ours has about 200; it travels in a query string."""


class BadPass(Exception):
    """A token that is no pass, or no longer. `outcome` is one word for logs and metrics."""

    def __init__(self, outcome: str, detail: str):
        super().__init__(detail)
        self.outcome = outcome


@dataclass(frozen=True)
class Pass:
    """What a token says.

    Attributes:
        id: random, names the pass in Redis.
        tier: the tier that its servers get.
        servers: how many servers may hold a use of it.
        iat: Unix time in seconds when it was issued, by Redis' clock.
        exp: Unix time in seconds after which it is refused.
        key: the id of the API key that it was issued for; empty for a solution.
    """

    id: str
    tier: str
    servers: int
    iat: float
    exp: float
    key: str = ""


class Passes:
    """Signs passes and reads tokens.

    The plain serializer of itsdangerous is used, with `exp` inside: the timed one refuses a token from a clock 2 s ahead.

    Args:
        keys: the signing keys, oldest first; the last one signs, all are accepted.
    """

    def __init__(self, keys: list[str]):
        self._serializer = URLSafeSerializer(
            keys, salt="binder-egress pass", signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )

    @staticmethod
    def new(tier: str, servers: int, issued_at: float, lifetime: float, key: str = "") -> Pass:
        """A new pass, good for `lifetime` seconds from `issued_at`."""
        return Pass(secrets.token_urlsafe(12), tier, servers, issued_at, issued_at + lifetime, key)

    def sign(self, issued: Pass) -> str:
        """The token of a pass: URL-safe text."""
        said = asdict(issued)
        if not issued.key:
            del said["key"]  # Members of a federation whose version does not know keys accept it, then.
        return self._serializer.dumps(said)

    def read(self, token: str, presented_at: float) -> Pass:
        """Read a token.

        Args:
            token: what the client sent.
            presented_at: Unix time in seconds at which the client sent it; a build may lie between that and now.

        Returns:
            The pass, which may still be used up.

        Raises:
            BadPass: not signed by one of our keys, expired, or from the future by more than `LEEWAY_SECONDS`.
        """
        if len(token) > MAX_TOKEN:
            raise BadPass("invalid", "This is not a pass: it is too long.")
        try:
            found = Pass(**self._serializer.loads(token))
        except (BadSignature, TypeError, ValueError):  # ValueError: characters that no encoding has
            raise BadPass("invalid", "This is not a pass of this service. Solve a challenge to get one.") from None
        if presented_at > found.exp + LEEWAY_SECONDS:
            raise BadPass("expired", "The pass has expired. Solve a challenge to get a new one.")
        if found.iat > presented_at + LEEWAY_SECONDS:
            raise BadPass("invalid", "The pass was issued in the future: check the clocks of this service.")
        return found
