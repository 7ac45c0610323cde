"""Proof of work: solves challenges of ALTCHA within a time limit, and can be cancelled."""

import struct
import threading
from collections.abc import Callable
from typing import Any

import altcha

LIMIT = 600.0
"""Seconds for one challenge: the default lifetime of challenges."""

MOST = {"cost": 1_000_000, "memory_cost": 32 * 1024, "parallelism": 16, "key_length": 64}
"""The largest parameters of challenges that are solved here (memory in KiB). A single try cannot be interrupted, so it must be
short. The chart does not allow more either."""

MOST_SCRYPT = 2**18
"""The largest product of cost, block size and parallelism for scrypt, as in the chart: 32 MiB."""

_DERIVE = {
    "PBKDF2": altcha.derive_key_pbkdf2,
    "SHA": altcha.derive_key_sha,
    "SCRYPT": altcha.derive_key_scrypt,
    "ARGON2ID": altcha.derive_key_argon2id,
}


class Unsolvable(Exception):
    """The challenge was not solved; the text says why."""


class Cancelled(Exception):
    """Solving was stopped."""


def solve(challenge: Any, cancelled: threading.Event, limit: float = LIMIT) -> str:
    """Solve a challenge, on one core.

    Args:
        challenge: the value of `challenge` in an offer of `GET challenge`.
        cancelled: stops the work when set.
        limit: seconds.

    Returns:
        The solution, as `POST passes` accepts it.

    Raises:
        Unsolvable: the challenge is malformed, too expensive, or took too long.
        Cancelled: the work was stopped.
    """
    try:
        asked = altcha.Challenge.from_dict(challenge)
        derive = _affordable(asked.parameters)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Unsolvable("the verifier sent a challenge that this client does not know") from None

    def or_stop(parameters: altcha.ChallengeParameters, salt: bytes, password: bytes) -> bytes:
        if cancelled.is_set():
            raise Cancelled
        return derive(parameters, salt, password)

    try:
        solution = altcha.solve_challenge(asked, or_stop, timeout=limit)
    except ImportError:
        raise Unsolvable("this site's proof of work is Argon2id: pip install 'binder-egress-client[argon2]'") from None
    except (TypeError, ValueError, AttributeError, OverflowError, MemoryError, struct.error):
        raise Unsolvable("the verifier sent a challenge that cannot be solved") from None
    if solution is None:
        raise Unsolvable(f"not solved within {limit:.0f} s")
    return altcha.Payload(asked, solution).to_base64()


def _affordable(parameters: altcha.ChallengeParameters) -> Callable[..., bytes]:
    for name, most in MOST.items():
        asked = getattr(parameters, name)
        if asked is not None and (type(asked) is not int or not 0 < asked <= most):
            raise ValueError(name)
    kind = parameters.algorithm.upper().split("/")[0].split("-")[0]
    if kind == "SCRYPT" and parameters.cost * (parameters.memory_cost or 8) * (parameters.parallelism or 1) > MOST_SCRYPT:
        raise ValueError(kind)
    return _DERIVE[kind]
