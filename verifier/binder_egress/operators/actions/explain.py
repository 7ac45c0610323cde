"""Why a server has egress, or has none."""

from datetime import UTC, datetime
from typing import Literal

from ...decisions.refusals import Facts, applies
from ...model.grants import UNVERIFIED, Block, Blocked, Egress, EndedLease, Rule, block_in
from ...model.records import KnownServer, Record, Server
from .answers import Explanation, WaitingRow, block_row, server_row
from .context import Operators


def explain(operators: Operators, server: Server) -> Explanation:
    """Why a server has egress, or has none: the reason with which the reconciler published it, and what it has still to act on."""
    known = operators.known(server)
    pending, now = operators.store.pending(server, set()), operators.clock()
    blocks = [block for block in pending.blocks if applies(block, Facts.of(known), now)]
    because = _behind(operators, known, blocks) or _because(operators, known)
    if pending.stop == known.uid:
        because += " Its pod is to be stopped, but the API server has not accepted that yet: see the reconciler's log."
    launch, unlock = _waiting("launch", pending.launch), _waiting("unlock", pending.unlock)
    return {
        **server_row(server, known, now),
        "because": because,
        "reason": known.reason,
        "mode": operators.settings.mode,
        "uid": known.uid,
        "label": known.label or None,
        "waiting": launch + unlock,
        "blocks": [block_row(block) for block in blocks],
        "detections": [row for row in operators.store.detected() if row["uid"] == known.uid],
        "open_connections": _open_connections(operators, known),
        "reconciler_seen": operators.store.reconciler_state()[0],
    }


def _behind(operators: Operators, known: KnownServer, blocks: list[Block]) -> str:
    """What the reconciler has not acted on yet, in one sentence; empty: it has caught up."""
    carried = block_in(known.grant, operators.clock())
    if blocks and not carried:
        return "A block applies to it, but the reconciler has not put it on the pod yet."
    if carried and not blocks and operators.store.lifted([carried.id]):
        return "Its block was removed, but the reconciler has not taken it from the pod yet."
    if not carried and (known.label or UNVERIFIED) != known.tier:
        return f"Its label is {known.label or 'none'}, its grant says {known.tier}: the reconciler has not caught up."
    return ""


def _because(operators: Operators, known: KnownServer) -> str:
    """What a server carries and why, in one sentence."""
    grant, settings = known.grant, operators.settings
    refused = f"The rule {known.refused_by} would refuse it now, but does not act on running servers."
    match grant:
        case Blocked() if not grant.is_over(operators.clock()):
            return f"No network: blocked by {grant.origin.text or 'an operator'}: {grant.why or 'no reason given'}."
        case Egress():
            by = f" by {grant.origin.text}{f': {grant.why}' if grant.why else ''}" if grant.origin.text else ""
            parts = [f"Network of the tier {grant.tier}, by the rule {grant.rule}{by}."]
            parts += [f"Its lease ends at {_utc(grant.until)}."] if grant.until is not None else []
            parts += [refused] if known.refused_by else []
            observed = settings.mode == "observe"
            parts += ["In mode observe every server has the network that it would have without us."] if observed else []
            return " ".join(parts)
        case _ if known.refused_by:
            return f"No network: the rule {known.refused_by} refuses it."
        case EndedLease():
            stops_at = grant.stop_at if settings.mode == "captcha" else None
            ends = f" Its pod is stopped after {_utc(stops_at)}, unless somebody renews the lease." if stops_at is not None else ""
            return f"No network: its lease ended at {_utc(grant.at)}, and nobody has renewed it.{ends}"
    if settings.mode == "observe":
        return "No tier. In mode observe no policy isolates it."
    return "No network: it was launched without a pass, and nobody has unlocked it."


def _open_connections(operators: Operators, known: KnownServer) -> str | None:
    """What becomes of connections that an earlier tier opened; None: there was no such tier."""
    lowered = isinstance(known.grant, Egress) and known.grant.rule == Rule.OPERATOR
    if operators.settings.mode == "observe" or not (lowered or isinstance(known.grant, Blocked | EndedLease)):
        return None
    if known.node in (operators.store.gatecheck().get("connections") or []):
        return "those that it may not have are ended on its node"
    return "may go on: nothing that ends them was seen on its node"


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _waiting(kind: Literal["launch", "unlock"], record: Record | None) -> list[WaitingRow]:
    return [{"kind": kind, "tier": record.grant.tier, "rule": record.grant.rule, "image": record.image}] if record else []
