"""ALTCHA: proof of work by the client's browser, without a third party (https://altcha.org/docs/v2/).

Challenges are in *deterministic* mode: the server picks the counter, so the limits of the work are chosen here. In the default
mode the number of tries has no upper limit. Issuing a challenge costs the server one key derivation, checking a solution one HMAC.
With scrypt and Argon2id a derivation takes tens of milliseconds and tens of MiB, so only a few run at a time.

Decisions: D-019, D-020, D-055, D-210.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Final, Literal, Self

import altcha
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..model.validation import sentences
from .base import Outcome, ProofOfWork, Verdict

MAX_SOLUTION_BYTES = 4096
"""The longest payload that is decoded. For our challenges, altcha 2.3 makes payloads of 750 to 1000 bytes."""

MAX_COUNTER = 2**32 - 1
"""The counter is 4 bytes of what is hashed (`uint32`, the default of altcha's counter mode)."""

MAX_MEMORY_KIB = 32 * 1024
"""The most memory that one key derivation may take."""

DERIVATIONS = 2
"""How many derivations with scrypt or Argon2id run at a time. With `MAX_MEMORY_KIB` each they stay well below the verifier's memory
limit."""

DIGESTS = {"SHA-384": 48, "SHA-512": 64}
"""Lengths of whole digests, in bytes. A shorter key is cut in each round by npm's altcha 3.2.2, but at the end by Python's 2.3.0,
so browsers would find no solution."""

HARD = ("SCRYPT", "ARGON2ID")
"""Algorithms that need memory. Browsers run them as WebAssembly."""


class Options(BaseModel):
    """`captcha.providers.altcha` in the chart."""

    model_config = ConfigDict(extra="forbid")

    tier: str = "verified"
    order: int = Field(100, ge=0, le=1000)
    algorithm: Literal[
        "PBKDF2/SHA-256", "PBKDF2/SHA-384", "PBKDF2/SHA-512", "SHA-256", "SHA-384", "SHA-512", "SCRYPT", "ARGON2ID"
    ] = "PBKDF2/SHA-256"
    cost: int = Field(2500, ge=1, le=1_000_000)  # D-369
    memoryCost: int = Field(8, ge=1, le=MAX_MEMORY_KIB)
    parallelism: int = Field(1, ge=1, le=16)
    counterMax: int = Field(4000, ge=1, le=1_000_000)
    lifetime: int = Field(600, ge=10, le=3600)


class Altcha:
    """The provider `altcha`.

    Args:
        options: cost of a challenge, its lifetime in seconds, and the tier that its solution earns.
        keys: the signing keys, oldest first. Secrets derived from the last one sign challenges; those from any of them are
            accepted.
        use: what its secrets are derived for. A challenge for one use does not count for another.
    """

    name = "altcha"
    kind: Final = "proof-of-work"
    usable = True

    def __init__(self, options: Options, keys: list[str], use: str = "challenge"):
        self.options = options
        self.tier = options.tier
        self.order = options.order
        # (challenge secret, derived-key secret), newest first: most challenges were signed with the newest
        self._secrets = [(_derive(key, use), _derive(key, "derived key")) for key in reversed(keys)]
        self._few = threading.BoundedSemaphore(DERIVATIONS) if options.algorithm in HARD else nullcontext()

    @classmethod
    def from_options(cls, options: Mapping[str, object], keys: list[str], use: str = "challenge") -> Self:
        """Make the provider from chart values.

        Args:
            options: the values in `captcha.providers.altcha`.
            keys: the signing keys, oldest first.
            use: what its secrets are derived for. A solution counts only where this is the same.

        Raises:
            ValueError: with one sentence for each wrong option, which names the chart value.
        """
        try:
            return cls(Options.model_validate(options), keys, use)
        except ValidationError as error:
            raise ValueError("\n".join(f"{line}." for line in sentences(error, "captcha.providers.altcha"))) from None

    def challenge(self, purpose: str, network: str, price: float) -> ProofOfWork:
        """A new signed challenge.

        Args:
            purpose: `launch` or `unlock`. The solution counts only for this purpose.
            network: the client's network (`clients.client_network`). The solution counts only from there.
            price: the work, in multiples of the base work, 1 or more. On average the challenge takes `price` times `counterMax` / 2
                key derivations, in whatever order the counters are tried.
        """
        most = min(MAX_COUNTER, round(self.options.counterMax * price))
        challenge_secret, key_secret = self._secrets[0]
        hard = self.options.algorithm in HARD
        with self._few:
            now = time.time()
            made = altcha.create_challenge(
                self.options.algorithm,
                self.options.cost,
                counter=secrets.randbelow(most + 1),  # D-210
                key_length=DIGESTS.get(self.options.algorithm, 32),
                memory_cost=self.options.memoryCost if hard else None,
                parallelism=self.options.parallelism if hard else None,
                expires_at=int(now) + self.options.lifetime,
                data={"purpose": purpose, "network": network, "issued": now, "price": price},
                hmac_secret=challenge_secret,
                hmac_key_secret=key_secret,
            ).to_dict()
        return {"parameters": made["parameters"], "signature": made["signature"]}

    def csp(self) -> dict[str, list[str]]:
        """What a page, and a worker, need in their Content-Security-Policy to solve: directive → sources."""
        return {"script-src": ["'wasm-unsafe-eval'"]} if self.options.algorithm in HARD else {}

    def verify(self, solution: str, purpose: str, network: str, address: str) -> Verdict:
        """Check a solution's signature, expiry, work, purpose and network. The address is not needed."""
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
        data = parameters.data or {}
        if data.get("purpose") != purpose:
            return Verdict(Outcome.REJECTED, f"The challenge was not issued with purpose={purpose}. Ask for a new one.")
        if data.get("network") != network:
            return Verdict(Outcome.REJECTED, "The challenge was issued to another network. Ask for a new one.")
        # The nonce is signed and random; anything else in a payload can be re-encoded, and the payload still verifies.
        return Verdict(
            Outcome.OK,
            solution_id=parameters.nonce,
            expires_at=parameters.expires_at or 0,
            issued_at=data.get("issued", 0),
            price=data.get("price", 1),
            tier=self.tier,
        )


def _derive(key: str, use: str) -> str:
    return hmac.new(key.encode(), f"binder-egress altcha {use}".encode(), hashlib.sha256).hexdigest()


def _decode(solution: str) -> altcha.Payload | None:
    if len(solution) > MAX_SOLUTION_BYTES:
        return None
    try:
        return altcha.Payload.from_dict(json.loads(base64.b64decode(solution, validate=True)))
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
