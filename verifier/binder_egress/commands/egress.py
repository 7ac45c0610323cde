"""The command `egress`: the operators' commands, and `doctor`.

It is put together here because `doctor` is a part of the gate check, and `hosts` a part of the egress proxy; the operators'
actions use neither.
"""

import json
import sys
from importlib.util import find_spec

import click

from ..model.host_groups import HOST_GROUPS
from ..operators import actions
from ..operators.actions import CommandOperators
from ..operators.commands import egress, main, show
from ..operators.detections import detect, detections
from ..operators.report import report_command
from ..proxy.hosts import groups

__all__ = ["doctor", "egress", "hosts", "main"]

egress.add_command(detect)
egress.add_command(detections)
egress.add_command(report_command)

if find_spec("github"):  # The extra `bans`, which the image does not have (D-280).
    from ..bans.command import propose_bans

    egress.add_command(propose_bans)

if find_spec("ruamel"):  # The extra `plan`, which the image does not have either.
    from ..plan.command import plan

    egress.add_command(plan)


@egress.command(help="Check the whole installation and say what to do. Exit code 1 if there is a problem.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    # Not at the top: no other command needs the Kubernetes client.
    from ..gatecheck.doctor import show

    sys.exit(0 if show(as_json) else 1)


@egress.group(help="The host lists of the egress proxy.")
def hosts() -> None:
    pass


@hosts.command("list", help="List the groups of hosts that tiers may name, and which tool needs each host.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_hosts(as_json: bool) -> None:
    found = groups()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for group, names in found.items():
        click.echo(f"{group}{'  (anybody can put files there: a slow way out)' if HOST_GROUPS[group].uploads else ''}")
        if not names:
            click.echo("  (this image has none)")
        for host, tool in names.items():
            click.echo(f"  {host}  {tool}")


@hosts.command(
    "wanted",
    help="List the hosts that the proxy refused to unverified servers, by repository, since its pods started, for a day at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def wanted_hosts(operators: CommandOperators, as_json: bool) -> None:
    show(actions.wanted_hosts(operators), as_json, ["repository", "host", "times", "last"])
