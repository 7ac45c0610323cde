"""What a client has to pay for a pass: used solutions, charges of networks and API keys, and rejections."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from ..gate.fairness import REJECTIONS_WINDOW_SECONDS, Charge
from ..model.grants import Rule
from ..model.passes import LEEWAY_SECONDS
from .base import Operations, as_number, unavailable
from .blocks import Blocks, Judge
from .errors import BlocksChanged, BudgetSpent, ClientRefused, KeyRevoked, PriceRisen, Replayed
from .keys import redis_key


class Charges(Operations):
    """The charges of networks and API keys."""

    def charges(self, networks: Sequence[str], window: int) -> list[int]:
        """The charges of networks in the window, in one round trip.

        Args:
            networks: client networks. `""`, a client without a known network, is never charged.
            window: seconds for which a charge counts.
        """
        with unavailable():
            numbers = self._run(
                "read_charges", keys=[redis_key("epoch"), *(redis_key(f"charges:{network}") for network in networks)], args=[window]
            )
        return [int(number) for number in numbers]


class Issuing(Charges, Blocks):
    """What the verifier asks and writes before it issues a pass."""

    def rejections(self, network: str) -> tuple[int, int]:
        """The number of rejected solutions of a client network, and the seconds until they are forgotten."""
        with unavailable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.getrange(redis_key(f"rejected:{network}"), 0, 9)
            pipe.ttl(redis_key(f"rejected:{network}"))
            number, seconds = pipe.execute()
        return int(as_number(number or None, "rejected") or 0), max(1, seconds)

    def note_rejection(self, network: str) -> None:
        """Count one more rejected solution of a client network."""
        with unavailable():
            self._run("reject", keys=[redis_key(f"rejected:{network}")], args=[REJECTIONS_WINDOW_SECONDS])

    def refusal(self, judge: Judge) -> Rule | None:
        """The rule by which blocks refuse a client, checked before its solution.

        Redis is asked only if the blocks that this process last saw refuse the client, since they may be gone. `use_solution` and
        `use_key` judge by the blocks at the time of their call (D-368).
        """
        return judge(self.seen_blocks.blocks) and judge(self.blocks())

    def use_solution(
        self,
        provider: str,
        solution_id: str,
        issued_at: float,
        lifetime: float,
        judge: Judge,
        charges: Sequence[Charge] = (),
        expires_at: float | None = None,
    ) -> float:
        """Mark a solution as used, and charge the client's networks for it, unless blocks refuse the client.

        Args:
            provider: the provider's name.
            solution_id: `Verdict.solution_id`.
            issued_at: Unix time in seconds when its challenge was issued.
            lifetime: seconds for which the solution could be presented again.
            judge: decides whether blocks refuse the client.
            charges: the networks to charge, each with its limits. All have one window.
            expires_at: Unix time in seconds at which its challenge expires, which then counts instead of `lifetime`.

        Returns:
            Unix time in seconds by Redis' clock.

        Raises:
            ClientRefused: a block refuses the client.
            Replayed: the solution was used before, or may have been: before Redis was wiped, or so long ago that it is forgotten.
            PriceRisen: a network has so many charges by now that the challenge was too cheap.
            BudgetSpent: a network has used its budget.
        """
        request: dict[str, object] = {
            "issued": issued_at,
            "ttl": max(1, int(lifetime) + LEEWAY_SECONDS) if expires_at is None else LEEWAY_SECONDS,
            "word": secrets.token_hex(8),
            "window": charges[0].window if charges else 0,
            "limits": [{"most": charge.most, "budget": charge.budget} for charge in charges],
        }
        if expires_at is not None:
            request["expires"] = expires_at
        charged = [redis_key(f"charges:{charge.network}") for charge in charges]
        outcome, *more = self._use_and_charge([redis_key(f"solution:{provider}:{solution_id}"), *charged], request, judge)
        if outcome in ("replayed", "before-epoch"):
            raise Replayed(outcome)
        if outcome == "price-risen":
            raise PriceRisen(outcome)
        if outcome == "budget-spent":
            raise BudgetSpent(more[0])
        return float(outcome)

    def use_key(self, key: str, budget: int, window: int, judge: Judge) -> float:
        """Charge an API key for a pass that is good for one server, unless blocks refuse the client.

        Args:
            key: its id.
            budget: how many passes it may have in the window.
            window: seconds.
            judge: decides whether blocks refuse the client.

        Returns:
            Unix time in seconds by Redis' clock.

        Raises:
            ClientRefused: a block refuses the client.
            KeyRevoked: an operator revoked it.
            BudgetSpent: it has used its budget.
        """
        word = secrets.token_hex(8)
        request = {
            "key": key,
            "ttl": LEEWAY_SECONDS,
            "word": word,
            "window": window,
            "limits": [{"budget": budget}],
        }
        outcome, *more = self._use_and_charge([redis_key(f"solution:key:{word}"), redis_key(f"charges:key:{key}")], request, judge)
        if outcome == "key-revoked":
            raise KeyRevoked(key)
        if outcome == "budget-spent":
            raise BudgetSpent(more[0])
        return float(outcome)

    def _use_and_charge(self, names: list[str], request: dict[str, object], judge: Judge) -> list[Any]:
        """What `use_and_charge.lua` returns for a client that the current blocks do not refuse."""
        seen = self.seen_blocks  # Read once: other threads replace it.
        judged_by = None if judge(seen.blocks) else seen.version
        while True:
            with unavailable():
                answer: list[Any] = self._run(
                    "use_and_charge",
                    keys=[redis_key("epoch"), *names],
                    args=[json.dumps(request | {"judged_by": judged_by})],
                )
            try:
                return self._unless_changed(answer)
            except BlocksChanged:
                seen = self.seen_blocks
            if rule := judge(seen.blocks):
                raise ClientRefused(rule)
            judged_by = seen.version
