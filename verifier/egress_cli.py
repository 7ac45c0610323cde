"""The command `egress`: the operators' commands, and `doctor`.

It is put together here because `doctor` is a part of the gate check, which operators' actions do not use.
"""

import sys

import click

from .operators.commands import egress, main

__all__ = ["doctor", "egress", "main"]


@egress.command(help="Check the whole installation and say what to do. Exit code 1 if there is a problem.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    # Not at the top: no other command needs the Kubernetes client.
    from .gatecheck.doctor import show

    sys.exit(0 if show(as_json) else 1)
