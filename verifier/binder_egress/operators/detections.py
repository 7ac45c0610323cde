"""The commands for reports of detectors: `egress detect` and `egress detections`."""

import json
import sys
import time
from dataclasses import replace
from typing import TextIO

import click

from ..detections import reporters
from ..detections.reports import AGENT, MAX_LINE_CHARACTERS, SOURCE, Unreadable, escaped, read
from ..model.records import Server
from . import actions
from .actions import ActionRefused, CommandOperators
from .commands import PENDING, say_not_acted, show

COLUMNS = ["at", "source", "list", "label", "outcome", "pod", "user", "server"]


@click.command(
    help="Enter lines of detectors (cryptnono, minesweeper, Falco) as if they had sent them, and say what became of each."
)
@click.option("--from", "lines", required=True, type=click.File("r", errors="replace"), help="A file of lines; -: standard input.")
@click.option("--source", default="", help="The source in the values. Default: as the lines say.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
@click.pass_obj
def detect(operators: CommandOperators, lines: TextIO, source: str, as_json: bool) -> None:
    lines.reconfigure(newline="\n")  # type: ignore[attr-defined]  # Nothing else ends a line (D-320).
    actions.check_source(operators, source)
    pending = unreadable = others = 0
    cut_off: list[Server] = []
    number = 0
    while line := lines.readline(MAX_LINE_CHARACTERS + 2):
        number += 1
        while not line.endswith("\n") and (rest := lines.readline(MAX_LINE_CHARACTERS)):
            # Too long to be read, and the rest is not a line of its own.
            line = line[: MAX_LINE_CHARACTERS + 1] + rest[-1:]
        if not line.strip():
            continue
        try:
            report = read(line, time.time())
            row = actions.report(operators, replace(report, source=source or report.source)) if report else None
        except (Unreadable, ActionRefused) as error:  # A stranger may have written the line, and must not stop the others.
            unreadable += 1
            if unreadable <= reporters.KEPT_UNREADABLE:
                click.echo(f"Line {number}: {error} {escaped(line.rstrip()[:80])}", err=True)
            continue
        if report is None:
            others += 1
            continue
        pending += row is None
        cut_off += [Server(row["user"], row["server"])] if row and row["outcome"] == "revoked" else []
        if as_json:
            click.echo(json.dumps(row or {"outcome": "pending", "about": report.about}))
        else:
            click.echo(f"{escaped((row and row['pod']) or report.about)}: {row['outcome'] if row else 'pending'}")
    if unreadable or others:
        click.echo(f"Lines that report nothing: {others}. Lines that cannot be read: {unreadable}.", err=True)
    if pending:
        click.echo("What is pending is recorded: see `egress detections list`.", err=True)
    if not_acted := actions.await_acted(operators, cut_off):
        say_not_acted(not_acted)
    if pending or not_acted:
        sys.exit(PENDING)


@click.group(help="What detectors reported, and their tokens.")
def detections() -> None:
    pass


@detections.command("list", help="List the last reports and what became of each, the latest first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_detections(operators: CommandOperators, as_json: bool) -> None:
    show(operators.store.detected(), as_json, COLUMNS)


@detections.command("unreadable", help="List the last lines of each source that could not be read, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_unreadable(operators: CommandOperators, as_json: bool) -> None:
    show(actions.unreadable(operators), as_json, ["at", "source", "why", "line"])


@detections.command(
    "create-token", help="Make a token for a source. It is printed once, and takes effect when its hash is in the values."
)
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create_token(source: str, as_json: bool) -> None:
    if not SOURCE.fullmatch(source) or source == AGENT:
        raise ActionRefused("bad-request", "source: only lower-case letters, digits and dashes, 40 at most; agents have no token.")
    token, hashed = reporters.create()
    if as_json:
        click.echo(json.dumps({"token": token, "values": {"detections": {"sources": {source: {"tokenHash": hashed}}}}}, indent=2))
        return
    click.echo(f"The token. It is shown this once and stored nowhere:\n\n  {token}\n")
    click.echo("Add this to the chart's values; it is no secret. The token takes effect a minute or two after `helm upgrade`:\n")
    click.echo(f'detections:\n  sources:\n    {source}:\n      tokenHash: "{hashed}"')
