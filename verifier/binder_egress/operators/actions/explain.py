"""Why a server has egress, or has none."""

from datetime import UTC, datetime
from typing import Literal

from ...decisions.refusals import Facts, applies
from ...model.grants import UNVERIFIED, Egress, EndedLease, Rule, block_in
from ...model.records import KnownServer, Record, Server
from .answers import Explanation, WaitingRow, block_row, server_row
from .context import Operators


def explain(operators: Operators, server: Server) -> Explanation:
    """Why a server has egress, or has none."""
    known = operators.known(server)
    pending = operators.store.pending(server, set())
    because = _because(operators, known)
    if pending.stop == known.uid:
        because += " Its pod is to be stopped, but the API server has not accepted that yet: see the reconciler's log."
    blocks = [block for block in pending.blocks if applies(block, Facts.of(known), operators.clock())]
    launch, unlock = _waiting("launch", pending.launch), _waiting("unlock", pending.unlock)
    return {
        **server_row(server, known, operators.clock()),
        "because": because,
        "mode": operators.settings.mode,
        "uid": known.uid,
        "label": known.label or None,
        "waiting": launch + unlock,
        "blocks": [block_row(block) for block in blocks],
        "detections": [row for row in operators.store.detected() if row["uid"] == known.uid],
        "reconciler_seen": operators.store.reconciler_state()[0],
    }


def _because(operators: Operators, known: KnownServer) -> str:
    """One sentence for an operator."""
    rule, grant = operators.refusal(known), known.grant
    block = block_in(grant, operators.clock())
    if rule == Rule.BLOCKED and not block:
        return "A block applies to it, but the reconciler has not put it on the pod yet."
    if block:
        if rule != Rule.BLOCKED:
            return "Its block was removed, but the reconciler has not taken it from the pod yet."
        return f"No network: blocked by {block.origin.text or 'an operator'}: {block.why or 'no reason given'}."
    if (known.label or UNVERIFIED) != grant.tier:
        return f"Its label is {known.label or 'none'}, its grant says {grant.tier}: the reconciler has not caught up."
    if isinstance(grant, Egress):
        watches = operators.settings.mode == "observe"
        watched = " In mode observe every server has the network that it would have without us." if watches else ""
        later = f" The rule {rule} would refuse it now, but does not act on running servers." if rule else ""
        by = grant.origin.text
        who = f" by {by}{f': {grant.why}' if grant.why else ''}" if by else ""
        ends = f" Its lease ends at {_utc(grant.until)}." if grant.until is not None else ""
        return f"Network of the tier {grant.tier}, by the rule {grant.rule}{who}.{ends}{later}{watched}"
    if rule:
        return f"No network: the rule {rule} refuses it."
    if isinstance(grant, EndedLease):
        stops_at = grant.stop_at if operators.settings.mode == "captcha" else None
        ends = f" Its pod is stopped after {_utc(stops_at)}, unless somebody renews the lease." if stops_at is not None else ""
        return f"No network: its lease ended at {_utc(grant.at)}, and nobody has renewed it.{ends}"
    if operators.settings.mode == "observe":
        return "No tier. In mode observe no policy isolates it."
    return "No network: it was launched without a pass, and nobody has unlocked it."


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _waiting(kind: Literal["launch", "unlock"], record: Record | None) -> list[WaitingRow]:
    return [{"kind": kind, "tier": record.grant.tier, "rule": record.grant.rule, "image": record.image}] if record else []
