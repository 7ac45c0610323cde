"""Enter a detector's report."""

from ...detections.reports import Report
from ...model.records import Detection
from .confirmation import until
from .context import ActionRefused, CommandOperators, Operators


def check_source(operators: Operators, source: str) -> None:
    """Check that the values have this source of reports; for an empty name, that they have any.

    Raises:
        ActionRefused: they have not.
    """
    known = operators.settings.detections
    if not (source in known if source else known):
        raise ActionRefused(
            "refused", f"There is no source {source!r} in detections.sources: {', '.join(sorted(known)) or 'none'}."
        )


def report(operators: CommandOperators, report: Report) -> Detection | None:
    """Queue a detector's report, and wait for the reconciler.

    Returns:
        The row of `egress detections list` about it, or None if there is none in time.

    Raises:
        ActionRefused: the report names no source, or one that the values do not have.
    """
    if not report.source:
        raise ActionRefused("refused", "The report names no source: use --source.")
    check_source(operators, report.source)
    entered = operators.store.add_report(report)
    rows: list[Detection] = []

    def done() -> bool:
        rows[:] = [row for row in operators.store.detected() if row["report"] == entered]
        return bool(rows)

    return rows[0] if until(done) else None
