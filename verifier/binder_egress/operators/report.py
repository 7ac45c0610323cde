"""The command `egress report`: which servers would lose something when the gate is shut, and what would save them."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

import click
from typing_extensions import TypedDict

from ..model.records import CAME, ReportedLaunch
from ..model.repositories import covers, exact, name
from . import actions
from .actions import ActionRefused, CommandOperators
from .actions.context import pattern_of
from .commands import as_json_option, clean, seconds_of, show

ROWS = 10
"""The number of repositories that are listed, those with most servers that used the network first."""

MINUTE_SECONDS = 60

WEB = {"tcp/443", "tcp/80", "udp/443", "tcp/53", "udp/53", "udp"}
"""Ports of which the egress proxy can take the place: of the web, and of names, which the proxy asks for itself."""

WHYS = {
    "between looks": "a connection began and ended between two looks of the agent",
    "start guard": "the start guard's own packets are in the counters",
    "agent ended": "the agent, or the receiver of its reports, was away when the server ended",
    "no agent": "no agent saw the server: none runs on its node, the server ended too soon, or it runs as another user",
}
"""Why it is not known what a server did."""


class Way(TypedDict):
    """Launches that came in one way, or all. All but the first two numbers are of those that never had a tier."""

    came: str
    launches: int
    with_tier: int
    used: int
    first_minute: int
    later: int
    not_used: int
    not_known: int


class RepositoryRow(TypedDict):
    """A repository whose servers would lose something: how many, when and where they used the network, and what would save them."""

    repository: str
    used: int
    first_minute: int
    later: int
    ports: list[str]
    hosts: list[str]
    saved_by: str


class Report(TypedDict):
    """The report: since when launches are in it (Unix time in seconds; None: there is none), why of some nothing is known, and a
    proposal: values, and how many servers they would save."""

    since: float | None
    ways: list[Way]
    repositories: list[RepositoryRow]
    not_known: dict[str, int]
    values: dict[str, object]
    saved: int


def report(operators: CommandOperators, seconds: float, repository: str = "") -> Report:
    """What is known of the launches whose servers ended in the last seconds.

    Args:
        operators: who asks.
        seconds: how far back.
        repository: only launches of this repository or pattern.

    Raises:
        ActionRefused: launches are not kept.
    """
    if not operators.settings.report_days:
        raise ActionRefused("refused", "Launches are not kept: set agent.enabled and agent.report.enabled, and wait for some days.")
    pattern = pattern_of(repository) if repository else ""
    kept = operators.store.launches(operators.clock() - seconds)
    launches = [launch for launch in kept if not pattern or (launch.repository and covers(pattern, launch.repository))]
    without = [launch for launch in launches if not launch.had_tier]
    ways = [_way(came, [launch for launch in launches if launch.came == came]) for came in CAME]
    by_repository: defaultdict[str, list[ReportedLaunch]] = defaultdict(list)
    for launch in without:
        if launch.use == "used":
            by_repository[launch.repository].append(launch)
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for row in actions.wanted_hosts(operators):
        wanted[name(row["repository"]) or ""].append(row["host"])
    tiers = operators.settings.tiers
    tier = "verified" if "verified" in tiers else min(tiers)
    rows = [_row(of, used, wanted[of]) for of, used in sorted(by_repository.items(), key=lambda found: (-len(found[1]), found[0]))]
    return {
        "since": min((launch.at for launch in launches), default=None),
        "ways": [*(way for way in ways if way["launches"]), _way("all", launches)],
        "repositories": rows[:ROWS],
        "not_known": dict(Counter(launch.why for launch in without if launch.use == "not known")),
        "values": _values(rows[:ROWS], tier),
        "saved": sum(row["used"] for row in rows[:ROWS] if row["saved_by"] in ("rule", "host list")),
    }


def _way(came: str, launches: Collection[ReportedLaunch]) -> Way:
    without = [launch for launch in launches if not launch.had_tier]
    uses = Counter(launch.use for launch in without)
    first, later = _when(without)
    return {
        "came": came,
        "launches": len(launches),
        "with_tier": len(launches) - len(without),
        "used": uses["used"],
        "first_minute": first,
        "later": later,
        "not_used": uses["not used"],
        "not_known": uses["not known"],
    }


def _when(launches: Iterable[ReportedLaunch]) -> tuple[int, int]:
    """How many used the network in their first minute, and how many first later. Of others the time is not known."""
    times = [launch.first for launch in launches if launch.first is not None]
    first = sum(time <= MINUTE_SECONDS for time in times)
    return first, len(times) - first


def _row(repository: str, used: list[ReportedLaunch], hosts: list[str]) -> RepositoryRow:
    ports = Counter(port for launch in used for port in launch.ports)
    programs = sum(launch.came in ("script", "client") for launch in used)
    saved_by = "nothing"
    if exact(f"https://{repository}"):
        saved_by = "host list" if hosts and ports.keys() <= WEB else "API key" if 2 * programs > len(used) else "rule"
    first, later = _when(used)
    return {
        "repository": repository,
        "used": len(used),
        "first_minute": first,
        "later": later,
        "ports": [port for port, _ in ports.most_common(5)],
        "hosts": hosts[:5],
        "saved_by": saved_by,
    }


def _values(rows: Iterable[RepositoryRow], tier: str) -> dict[str, object]:
    """Values that would save the servers of these repositories."""
    hosts = {host: True for row in rows if row["saved_by"] == "host list" for host in row["hosts"]}
    trusted = {row["repository"]: tier for row in rows if row["saved_by"] == "rule"}
    values: dict[str, object] = {"unverified": {"hosts": hosts}} if hosts else {}
    return values | ({"rules": {"trustedRepositories": trusted}} if trusted else {})


def _print_values(values: Mapping[str, object], indent: str = "") -> None:
    for key, value in values.items():
        shown = json.dumps(key, ensure_ascii=False) if "." in key else key
        click.echo(clean(f"{indent}{shown}:" + ("" if isinstance(value, dict) else f" {json.dumps(value)}")))
        if isinstance(value, dict):
            _print_values(value, f"{indent}  ")


@click.command("report", help="Say which servers would lose something when the gate is shut, and what would save them.")
@click.option("--since", default="7d", show_default=True, help="How far back: 90m, 12h, 7d.")
@click.option("--repository", default="", help="Only of this repository, or of …/*.")
@as_json_option
@click.pass_obj
def report_command(operators: CommandOperators, since: str, repository: str, as_json: bool) -> None:
    found = report(operators, seconds_of(since, "--since"), repository)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    began = datetime.fromtimestamp(found["since"], UTC).strftime("%Y-%m-%d %H:%M UTC") if found["since"] else ""
    click.echo(f"Launches whose servers have ended, the first of {began}:\n" if began else "No server has ended yet.")
    show(found["ways"], False, list(Way.__annotations__))
    if found["repositories"]:
        click.echo("\nRepositories whose servers used the network without a tier:\n")
        rows = [row | {name: " ".join(row[name]) for name in ("ports", "hosts")} for row in found["repositories"]]
        show(rows, False, list(RepositoryRow.__annotations__))
    _say_how_sure(found, operators.settings.mode)
    if found["values"]:
        click.echo(
            f"\nThese values would save {found['saved']} of them. A rule gives its tier to whoever launches the repository:\n"
        )
        _print_values(found["values"])


def _say_how_sure(found: Report, mode: str) -> None:
    everything = found["ways"][-1]
    used, launches, not_known = everything["used"], everything["launches"], everything["not_known"]
    click.echo(f"\nWith the gate shut, {used} of {launches} servers ({used / (launches or 1):.0%}) would have lost something.")
    click.echo(f"Of {not_known} more it is not known{':' if not_known else '.'}")
    for why, number in found["not_known"].items():
        click.echo(clean(f"  {number}: {WHYS.get(why, why)}"))
    if mode == "observe":
        click.echo("In mode observe no server goes through the egress proxy, so ports are known, and hosts are not.")
