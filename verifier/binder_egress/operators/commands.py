"""The command `egress`: the operators' actions, in the reconciler's pod.

    kubectl exec deploy/binder-egress-reconciler -- egress --help

Exit codes: 0 done; 1 `doctor` found a problem; 2 wrong usage or settings; 3 no such server, block or key; 4 refused;
5 written, but not yet confirmed by the reconciler, or not seen to act; 6 Redis does not answer, and an action may be done in part
(D-391).
"""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import click

from .. import __version__
from ..gate.api_keys import MAX_SERVERS_PER_DAY
from ..model.grants import BLOCK_KINDS, BlockKind
from ..model.records import MAX_TIME
from ..settings import CommonSettings, InvalidSettings, load
from ..store.connection import connect
from ..store.errors import StoreUnavailable
from ..store.store import ReconcilerStore
from . import actions
from .actions import ActionRefused, CommandOperators
from .actions.answers import NotActed

EXIT_CODES = {"bad-request": 2, "no-such-server": 3, "no-such-block": 3, "no-such-key": 3, "refused": 4}
PENDING, UNAVAILABLE = 5, 6

SILENT = "The reconciler is silent, so this may be old."
"""What is said beside a list or an explanation that no reconciler keeps up to date."""


def _limit(most: int) -> Callable[[click.Context, click.Parameter, str], str]:
    """The limit of a text that becomes part of a pod's annotation. The in-cluster interface has the same (`web.bodies`)."""

    def check(_: click.Context, __: click.Parameter, text: str) -> str:
        if not text.strip() or len(text) > most:
            raise click.BadParameter(f"say it in 1 to {most} characters.")
        return text

    return check


_who = click.option(
    "--as",
    "by",
    callback=_limit(255),
    default="operator",
    envvar="BINDER_EGRESS_OPERATOR",
    show_default=True,
    help="Who you are, for the log.",
)
_why = click.option("--why", callback=_limit(1000), required=True, help="Why, for the log.")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(help="See which servers have egress and why, give it, take it away, and block.")
@click.version_option(__version__)
@click.pass_context
def egress(context: click.Context) -> None:
    settings = load(CommonSettings)
    context.obj = CommandOperators(settings, ReconcilerStore(connect(settings)))


@egress.command(help="List running servers and their tiers.")
@click.option("--user", default="", help="Only this user's; * stands for anything.")
@click.option("--tier", default="", help="Only with this tier; unverified: without a tier.")
@click.option("--repository", default="", help="Only of this repository, or of …/*.")
@click.option("--network", default="", help="Only launched from this address or CIDR.")
@as_json_option
@click.pass_obj
def grants(operators: CommandOperators, /, as_json: bool, **only: str) -> None:
    rows = actions.grants(operators, **only)
    for row in rows:
        row["tier"] = row["tier"] + (" (blocked)" if row["blocked"] and not as_json else "")
    show(rows, as_json, ["user", "server", "tier", "rule", "at", "until", "by", "client", "repository"])
    _say_if_silent(operators)


@egress.command(help="Say why a server has egress, or has none. SERVER: user, user/server, its pod, or the address of its page.")
@click.argument("server")
@as_json_option
@click.pass_obj
def explain(operators: CommandOperators, server: str, as_json: bool) -> None:
    explanation = actions.explain(operators, operators.find(server))
    if as_json:
        click.echo(json.dumps(explanation, indent=2))
        return
    click.echo(clean(explanation["because"]))
    if explanation["reconciler_seen"] is None:
        click.echo(SILENT)
    for name, value in explanation.items():
        if name != "because" and value not in ("", None, []):
            click.echo(f"  {name}: {_cell(name, value)}")


@egress.command(help="Give a running server a tier.")
@click.argument("server")
@click.option("--tier", required=True, help="The tier.")
@_who
@_why
@as_json_option
@click.pass_obj
def grant(operators: CommandOperators, server: str, tier: str, by: str, why: str, as_json: bool) -> None:
    _say(actions.grant(operators, operators.find(server), tier, by, why), f"{server} has the tier {tier}.", as_json)


@egress.command(help="Take a running server's tier away and block it. Open connections may stay open; --stop ends them.")
@click.argument("server")
@click.option("--stop", is_flag=True, help="Delete its pod too (reconciler.mayStopPods).")
@_who
@_why
@as_json_option
@click.pass_obj
def revoke(operators: CommandOperators, server: str, stop: bool, by: str, why: str, as_json: bool) -> None:
    done = actions.revoke(operators, operators.find(server), by, why, stop)
    _say(done, f"{server} is blocked{' and stops' if stop else ''}.", as_json)


@egress.command(help="Block a server, a repository (host/owner/name, or host/owner/*) or a network of clients (CIDR).")
@click.argument("kind", type=click.Choice(BLOCK_KINDS))
@click.argument("what")
@click.option("--for", "duration", default="", help="Duration: 90m, 12h, 7d. Without it, until you remove the block.")
@_who
@_why
@as_json_option
@click.pass_obj
def block(operators: CommandOperators, kind: BlockKind, what: str, duration: str, by: str, why: str, as_json: bool) -> None:
    until = time.time() + seconds_of(duration) if duration else None
    done = actions.block(operators, kind, what, by, why, until)
    _say(
        done,
        f"Blocked: {done['what']}, as {done['block']}. Running servers that lost network, or are kept from it: {done['servers']}.",
        as_json,
        f"written as {done['block']} (running servers that it applies to: {done['servers']})",
    )


@egress.command("unblock", help="Remove a block. BLOCK: its id, or a server that has a block of its own.")
@click.argument("block")
@_who
@click.option("--why", default="", help="Why, for the log.")
@as_json_option
@click.pass_obj
def unblock(operators: CommandOperators, block: str, by: str, why: str, as_json: bool) -> None:
    _say(
        actions.unblock(operators, block, by, why),
        "The block is removed. What it took away does not come back; servers that nothing else blocks can be unlocked.",
        as_json,
    )


@egress.command(help="List all blocks.")
@as_json_option
@click.pass_obj
def blocks(operators: CommandOperators, as_json: bool) -> None:
    show(actions.blocks(operators), as_json, ["id", "kind", "what", "at", "until", "by", "why"])
    _say_if_silent(operators)


@egress.group("keys", help="Make, list and revoke the API keys of courses and services.")
def api_keys() -> None:
    pass


@api_keys.command("list", help="List the API keys that the verifiers have read, and their servers of the last 24 hours.")
@as_json_option
@click.pass_obj
def list_keys(operators: CommandOperators, as_json: bool) -> None:
    columns = ["name", "state", "used", "servers_per_day", "tier", "expires", "id", "origins", "repositories"]
    show(actions.keys(operators), as_json, columns)


@api_keys.command("create", help="Make an API key. It is printed once, and takes effect when its entry is in the chart's values.")
@click.option("--name", required=True, help="Its name: lower-case letters, digits and dashes.")
@click.option("--tier", required=True, help="The tier of its servers.")
@click.option("--servers-per-day", required=True, type=click.IntRange(1, MAX_SERVERS_PER_DAY), help="Servers in any 24 hours.")
@click.option("--expires", required=True, help="The last day on which it is valid: 2027-01-31, or 90d from now.")
@click.option("--origin", "origins", multiple=True, help="Where pages may send it from: https://example.org. Default: anywhere.")
@click.option("--repository", "repositories", multiple=True, help="host/owner/name or host/owner/*. Default: any repository.")
@_who
@click.option("--why", default="", help="Its purpose, for the log.")
@as_json_option
@click.pass_obj
def create_key(
    operators: CommandOperators, /, as_json: bool, origins: tuple[str, ...], repositories: tuple[str, ...], **values: Any
) -> None:
    made = actions.create_key(operators, origins=list(origins), repositories=list(repositories), **values)
    if as_json:
        click.echo(json.dumps(made, indent=2))
        return
    click.echo("The key. It is shown this once and stored nowhere:\n")
    click.echo(f"  {made['key']}\n")
    click.echo("Add this to the chart's values; it is no secret. The key takes effect a minute or two after `helm upgrade`:\n")
    click.echo("apiKeys:\n  keys:")
    click.echo(f"    {made['name']}:")
    for name, value in made["values"]["apiKeys"]["keys"][made["name"]].items():
        click.echo(f"      {name}: {json.dumps(value)}")


@api_keys.command("revoke", help="Revoke a key and the passes issued for it, at once. KEY: its name, its id, or the key itself.")
@click.argument("key")
@click.option("--servers", is_flag=True, help="Take its tier from running servers, too. They may be unlocked.")
@_who
@_why
@as_json_option
@click.pass_obj
def revoke_key(operators: CommandOperators, key: str, servers: bool, by: str, why: str, as_json: bool) -> None:
    done = actions.revoke_key(operators, key, by, why, servers)
    lost = f"Grants withdrawn: {done['withdrawn']}." if done["withdrawn"] else ""
    remove = f"Now remove {', '.join(done['remove'])} from the values: after a wipe of Redis it would be valid again."
    slip = "The id is revoked, but no verifier has a key with it: is it the right one?"
    said = " ".join(filter(None, ["Revoked." if done["remove"] else slip, lost, remove if done["remove"] else ""]))
    _say(done, said, as_json)


def seconds_of(duration: str, option: str = "--for") -> float:
    """The seconds in a text such as `12h`, which is the value of an option."""
    parts = re.fullmatch(r"(\d{1,6})([mhd])", duration)
    if not parts:
        raise click.BadParameter("say 90m, 12h or 7d.", param_hint=option)
    return int(parts[1]) * {"m": 60, "h": 3600, "d": 86400}[parts[2]]


def _say(done: Mapping[str, object], sentence: str, as_json: bool, recorded: str = "written") -> None:
    """Print what was done. Exits with `PENDING` if the reconciler has not confirmed it, or if it is not seen to act."""
    pending = done["state"] != "done"
    if as_json:
        click.echo(json.dumps(done))
    elif rows := cast(list[NotActed], done.get("not_acted")):
        say_not_acted(rows, recorded)
    elif pending:
        click.echo(f"It is {recorded}, but the reconciler has not confirmed it yet: see `egress explain`.", err=True)
    else:
        click.echo(sentence)
    if pending:
        sys.exit(PENDING)


def say_not_acted(rows: list[NotActed], recorded: str = "written") -> None:
    """Print to standard error which servers may still open connections, and why."""
    for row in rows:
        servers = clean(", ".join(row["servers"]))
        click.echo(f"{servers}: {recorded}; {row['why']}: `egress revoke SERVER --stop` ends a pod.", err=True)


def _say_if_silent(operators: CommandOperators) -> None:
    """Print `SILENT` to standard error if the reconciler is silent: after a wipe of Redis even an empty list may be wrong."""
    if operators.reconciler_is_silent():
        click.echo(SILENT, err=True)


def show(rows: Sequence[Mapping[str, object]], as_json: bool, columns: list[str]) -> None:
    """Print a table as kubectl does. The output may be piped into other commands, so it does not depend on a terminal's width.

    Args:
        rows: the rows, each with all columns.
        as_json: whether to print all fields of the rows as one JSON list instead.
        columns: the fields that become columns, in their order.
    """
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    lines = [[name.upper() for name in columns], *([_cell(name, row[name]) or "-" for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(name: str, value: object) -> str:
    if name in ("at", "until", "last", "reconciler_seen") and isinstance(value, int | float) and 0 < value <= MAX_TIME:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return clean("" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def clean(text: str) -> str:
    """A text without control characters: strangers choose the names of users and repositories, and operators print them."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def main() -> None:
    """Run the command. A refused action ends it with one sentence and an exit code."""
    try:
        egress()
    except InvalidSettings as error:
        sentence, code = str(error), 2
    except ActionRefused as error:
        sentence, code = str(error), EXIT_CODES[error.kind]
    except StoreUnavailable as error:
        sentence, code = str(error), UNAVAILABLE
    else:
        return
    click.echo(clean(sentence), err=True)
    if code == UNAVAILABLE:
        click.echo("If this was an action, it may be done in part: see `egress blocks` and `egress explain`.", err=True)
    sys.exit(code)
