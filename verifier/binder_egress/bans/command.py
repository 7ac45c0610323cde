"""The command `egress propose-bans`. It reads and prints, and bans nobody.

Exit codes: 0 done, whether or not there is a proposal; 2 wrong usage, or a file that cannot be read; 4 refused.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import click

from ..model import repositories
from .proposals import Ban, ban_networks, banned_specs, bans, shown
from .reading import DAY_SECONDS, Traffic, ask
from .score import POINTS, PROPOSED_FROM, Score, scores
from .values_file import decoded, patch, with_bans

MAX_ALERTED = 20
"""The most repositories in the line for an alert: chats cut off longer messages."""


class Report:
    """Everything that is printed, in its different forms.

    Args:
        traffic: the data that was read.
        ranking: all scores, the largest first.
        left_out: parts of the score that could not be judged → the reason.
        where: the path of BinderHub's configuration in values.
    """

    def __init__(self, traffic: Traffic, ranking: list[Score], left_out: dict[str, str], where: str):
        self.traffic, self.left_out, self.where = traffic, left_out, where
        self.ranking = [score for score in ranking if not score.spared]
        self.bans: list[Ban] = bans(ranking)
        self.specs = banned_specs(self.bans)
        self.networks = ban_networks(traffic, ranking)
        self.blocks = [line for ban in self.bans if (line := ban.block)]

    def sentences(self) -> Iterable[str]:
        """Sentences on what was read and what was not."""
        lines, launches = self.traffic.lines, sum(score.repository.launches for score in self.ranking)
        yield f"{launches} launches of {len(self.ranking)} repositories, {_day(self.traffic.since)} to {_day(self.traffic.until)}."
        yield (
            f"Lines: {lines['decision']} decisions, {lines['archive']} of the archive, {lines['detection']} detections, "
            f"{lines['outside']} of another time, {lines['other']} of another kind, {lines['broken']} that cannot be read."
        )
        if self.traffic.untied:
            yield f"{self.traffic.untied} detections and revocations belong to no repository that was launched here."
        yield from self.traffic.notes
        for part, why in self.left_out.items():
            yield f"Left out: {part}: {why}."
        if not self.ranking and self.traffic.latest:
            yield f"The latest line is of {_day(self.traffic.latest)}: see --until and --days."

    def text(self, top: int) -> str:
        """The report for people."""
        lines = [*self.sentences(), ""]
        for score in self.ranking[:top]:
            mark = "*" if score.proposed else " "
            lines.append(f"{mark} {score.points:5.1f}  {shown(score.repository.name)}  ({score.repository.launches} launches)")
            lines += [f"         {part.points:4.1f} of {POINTS[name]:g}  {name}: {part.why}" for name, part in _given(score)]
        lines += ["", f"Proposed, marked *, from a score of {PROPOSED_FROM:g}: {len(self.bans)}. Nobody is banned by this."]
        if self.bans:
            lines += ["", with_bans("", self.where, self.specs, self.networks).rstrip(), "", *self.blocks]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The whole report for programs."""
        return {
            "since": self.traffic.since,
            "until": self.traffic.until,
            "read": list(self.sentences()),
            "left_out": self.left_out,
            "repositories": [
                {
                    "repository": score.repository.name,
                    "launches": score.repository.launches,
                    "score": score.points,
                    "proposed": score.proposed,
                    "parts": {name: {"points": round(part.points, 1), "why": part.why} for name, part in score.parts.items()},
                }
                for score in self.ranking
            ],
            "banned_specs": self.specs,
            "ban_networks": self.networks,
            "egress_block": self.blocks,
        }

    def alert(self) -> str:
        """One line of JSON for alerts on logs; `""` without a proposal."""
        names = [shown(ban.name) for ban in self.bans]
        return json.dumps({"action": "ban-proposed", "number": len(names), "names": names[:MAX_ALERTED]}) if names else ""

    def markdown(self) -> str:
        """The text of a pull request."""
        rows = [
            f"| `{shown(score.repository.name)}` | {score.repository.launches} | {score.points:g} | "
            + "; ".join(f"{name} {part.points:.0f} ({part.why})" for name, part in _given(score))
            + " |"
            for ban in self.bans
            for score in ban.scores
        ]
        table = ["| repository | launches | score | why |", "|---|---|---|---|", *rows]
        look = "Anybody can launch a repository and run a miner in it: look at its files before you merge."
        return "\n".join(["Made by `egress propose-bans`; a later run replaces it.", look, "", *self.sentences(), "", *table, ""])


def _given(score: Score) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in score.parts.items() if part.points >= 0.05]


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%MZ")


def _patterns(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[str]:
    found = [repositories.block_pattern(value) for value in values]
    if not all(found):
        raise click.BadParameter("say host/owner/name or host/owner/*.")
    return [name for name in found if name]


def _address(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        if value and not (urlsplit(value).hostname and value.startswith(("http://", "https://"))):
            raise ValueError
    except ValueError:
        raise click.BadParameter("say http://… or https://….") from None
    return value


@click.command("propose-bans", help="Say which repositories stand out in logs, and propose bans. FILES: JSON lines; - is a pipe.")
@click.argument("files", nargs=-1, type=click.File(encoding="utf-8", errors="replace"))
@click.option("--prometheus", envvar="PROMETHEUS_URL", callback=_address, help="Address of a Prometheus that knows the hub.")
@click.option("--days", type=click.FloatRange(0.01, 366), default=7.0, show_default=True, help="How many days are judged.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="The end of these days, UTC; now by default.")
@click.option("--except", "spared", multiple=True, callback=_patterns, help="Never propose this: host/owner/name or host/owner/*.")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="How many repositories the text shows.")
@click.option("--at", "where", default="config", show_default=True, help="Where BinderHub's configuration is in the values.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--alert", is_flag=True, help="Print one line of JSON if there is a proposal, else nothing.")
@click.option("--values", help="Print a patch of this values file, for git apply.")
@click.option("--pull-request", "repository", help="Open a pull request in this private repository; --values is then a path in it.")
def propose_bans(
    files: tuple[IO[str], ...],
    prometheus: str | None,
    days: float,
    until: datetime | None,
    spared: list[str],
    top: int,
    where: str,
    as_json: bool,
    alert: bool,
    values: str | None,
    repository: str | None,
) -> None:
    if not files and not prometheus:
        raise click.UsageError("There is nothing to read: name files, - for a pipe, or --prometheus.")
    if as_json + alert + bool(values) > 1 or (repository and not values):
        raise click.UsageError("Choose one of --json, --alert and --values; --pull-request needs --values.")
    end = until.replace(tzinfo=UTC).timestamp() if until else time.time()
    traffic = Traffic(end - days * DAY_SECONDS, end)
    for file in files:
        traffic.read(file)
    if prometheus:
        ask(traffic, prometheus)
    traffic.settle()
    ranking, left_out = scores(traffic)
    ranking = [replace(one, spared=any(repositories.covers(pattern, one.repository.name) for pattern in spared)) for one in ranking]
    report = Report(traffic, ranking, left_out, where)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    elif alert:
        click.echo(report.alert(), nl=bool(report.bans))
    elif values is None:
        click.echo(report.text(top))
    elif repository:
        if report.bans:
            from .pull_request import propose  # Not at the top: nothing else needs the forge's client.

            click.echo(propose(repository, values, where, report.specs, report.networks, report.markdown()))
        else:
            click.echo("There is nothing to propose.")
    else:
        try:
            before = decoded(Path(values).read_bytes())
        except OSError as error:
            raise click.UsageError(f"{values}: {error.strerror}") from error
        click.echo(patch(values, before, with_bans(before, where, report.specs, report.networks)), nl=False)
