"""ALTCHA: proof of work that the client's browser does, without a third party (https://altcha.org/docs/v2/).

Challenges are in *deterministic* mode: the server picks the counter, so the work is bounded and its spread is chosen here; in the
default mode the number of tries has no upper limit. A challenge costs the server one key derivation, a check one HMAC.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from typing import Any, Literal, Self

import altcha
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .base import Outcome, Verdict

MAX_SOLUTION = 4096
"""Bytes. Payloads of altcha 2.3 with our challenges are 750 to 1000 bytes long."""

MAX_COUNTER = 2**32 - 1
"""The counter is 4 bytes of what is hashed (`uint32`, the default of altcha's counter mode)."""


class Options(BaseModel):
    """`captcha.providers.altcha` in the chart."""

    model_config = ConfigDict(extra="forbid")

    tier: str = "verified"
    algorithm: Literal["PBKDF2/SHA-256", "PBKDF2/SHA-384", "PBKDF2/SHA-512", "SHA-256", "SHA-384", "SHA-512"] = "PBKDF2/SHA-256"
    cost: int = Field(5000, ge=1, le=1_000_000)
    counterMin: int = Field(500, ge=0, le=1_000_000)
    counterMax: int = Field(1500, ge=1, le=1_000_000)
    lifetime: int = Field(600, ge=10, le=3600)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.counterMin > self.counterMax:
            raise ValueError("counterMin must not be above counterMax")
        return self


class Altcha:
    """The provider `altcha`.

    Args:
        options: cost of a challenge, its lifetime in seconds, and the tier its solution earns.
        keys: the signing keys, oldest first. Challenges are signed with secrets derived from the last and accepted from all.
    """

    name = "altcha"

    def __init__(self, options: Options, keys: list[str]):
        self.options = options
        self.tier = options.tier
        # (challenge secret, derived-key secret), newest first: most solutions were made with the newest
        self._secrets = [(_derive(key, "challenge"), _derive(key, "derived key")) for key in reversed(keys)]

    @classmethod
    def from_options(cls, options: dict[str, Any], keys: list[str]) -> Self:
        """Make the provider from chart values.

        Raises:
            ValueError: with one sentence for each wrong option, which names the chart value.
        """
        try:
            return cls(Options(**options), keys)
        except ValidationError as error:
            raise ValueError(
                "\n".join(f"captcha.providers.altcha.{'.'.join(map(str, e['loc']))}: {e['msg']}." for e in error.errors())
            ) from None

    def challenge(self, purpose: str, network: str, price: float) -> dict[str, Any]:
        """A new signed challenge, bound to a purpose and a client network. The work grows with the price."""
        least, most = (min(MAX_COUNTER, round(bound * price)) for bound in (self.options.counterMin, self.options.counterMax))
        challenge_secret, key_secret = self._secrets[0]
        now = time.time()
        return altcha.create_challenge(
            self.options.algorithm,
            self.options.cost,
            counter=least + secrets.randbelow(most - least + 1),
            expires_at=int(now) + self.options.lifetime,
            data={"purpose": purpose, "network": network, "issued": now, "price": price},
            hmac_secret=challenge_secret,
            hmac_key_secret=key_secret,
        ).to_dict()

    def verify(self, solution: str, purpose: str, network: str) -> Verdict:
        """Check a solution's signature, expiry, work, purpose and network."""
        payload = _decode(solution)
        if payload is None:
            return Verdict(Outcome.REJECTED, "This is not an ALTCHA payload: base64 of JSON with challenge and solution.")
        for challenge_secret, key_secret in self._secrets:
            result = altcha.verify_solution(payload, challenge_secret, hmac_key_secret=key_secret)
            if not result.invalid_signature:
                break
        if result.expired:
            return Verdict(Outcome.REJECTED, "The challenge has expired. Ask for a new one.")
        if not result.verified:
            return Verdict(Outcome.REJECTED, "The solution is wrong or its challenge was not issued here. Ask for a new one.")
        parameters = payload.challenge.parameters
        if parameters.data.get("purpose") != purpose:
            return Verdict(Outcome.REJECTED, f"The challenge was not issued with purpose={purpose}. Ask for a new one.")
        if parameters.data.get("network") != network:
            return Verdict(Outcome.REJECTED, "The challenge was issued to another network. Ask for a new one.")
        # The nonce is signed and random; everything else in a payload can be re-encoded and still verifies.
        return Verdict(
            Outcome.OK,
            solution_id=parameters.nonce,
            expires_at=parameters.expires_at,
            issued_at=parameters.data.get("issued", 0),
            price=parameters.data.get("price", 1),
        )


def _derive(key: str, use: str) -> str:
    return hmac.new(key.encode(), f"binder-egress altcha {use}".encode(), hashlib.sha256).hexdigest()


def _decode(solution: str) -> altcha.Payload | None:
    if len(solution) > MAX_SOLUTION:
        return None
    try:
        return altcha.Payload.from_dict(json.loads(base64.b64decode(solution, validate=True)))
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
