"""The launches of ci/demo, and the tables of their results."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import click
import demo_packages
import requests
from rich.console import Console
from rich.table import Table

from binder_egress.plan.files import OURS
from tests.support.cluster.installing import Operator
from tests.support.cluster.stage import OPEN, Failed, Stage

PLAN = "helm get values binder --namespace binder | egress plan --from - --namespace binder"

console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)


def step(text: str, work: Callable[[], object]) -> object:
    """Do something, and say how long it took."""
    began = time.monotonic()
    console.print(f"{time.strftime('%T')} ▶ {text}", highlight=False)
    done = work()
    console.print(f"{time.strftime('%T')} ✓ {text} ({time.monotonic() - began:.1f} s)", highlight=False)
    return done


def install(stage: Stage, *values: str) -> None:
    """Install the chart beside a BinderHub, with the values that `egress plan` writes, and wire BinderHub."""
    step("helm install BinderHub", partial(stage.install_binderhub, values=""))
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(stage, Path(folder))
        said = step("egress plan", partial(operator.run, PLAN))
        console.print(said, highlight=False, markup=False)
        step("helm install binder-egress", partial(stage.install_gate, f"--values={folder}/{OURS}", *values))
    step("helm upgrade BinderHub, with the generated values", stage.install_binderhub)


def launches(stage: Stage) -> list[tuple[str, str, bool]]:
    """Launch in each way.

    Returns:
        For each: its heading, the user, and whether its pod should have egress.
    """
    plain = step("(a) launch without a pass", stage.launch)
    token = step("    solve a challenge", stage.get_pass)
    verified = step("(b) launch with it", lambda: stage.launch(token=token))
    forged = step("(c) launch with a forged pass", lambda: stage.launch(token=token[:-6] + "forged"))
    again = step("(d) launch another repository with the pass of (b)", lambda: stage.launch("fake/other/repo/main", token=token))
    return [
        ("(a) no\npass", plain.user, False),
        ("(b) solved\nchallenge", verified.user, True),
        ("(c) forged\npass", forged.user, False),
        ("(d) pass\nused up", again.user, False),
    ]


def without_a_pass(visitor: demo_packages.Visitor) -> list[str]:
    """A column of the second table: what a server without a pass reaches through the egress proxy."""
    installed = step("    pip install in (a), from a listed host", partial(visitor.pip, demo_packages.PACKAGES))
    refused = step("    pip install in (a), from another host", partial(visitor.pip, demo_packages.DATA, retries=1))
    console.print(f"           pip says: {refused}", highlight=False, soft_wrap=True)
    found = f"{demo_packages.HUB}/egress/servers/{visitor.user}/"
    return ["–" if installed else "yes", "–" if f"No internet access: open {found}" in str(refused) else "NO SENTENCE"]


def unlocked_and_revoked(visitor: demo_packages.Visitor) -> tuple[list[str], list[str]]:
    """Two columns of the second table: the same server unlocked, and revoked in the middle of a download."""
    installed = step("    pip install in (e)", partial(visitor.pip, demo_packages.PACKAGES))
    with visitor.download() as running:
        seconds = step("(f) revoke (e) in the middle of a download", partial(visitor.revoke, running))
    console.print(f"           the download ended {seconds:.1f} s after the command began", highlight=False)
    blocked = step("    pip install in (f)", partial(visitor.pip, demo_packages.PACKAGES, retries=1))
    console.print(f"           pip says: {blocked}", highlight=False, soft_wrap=True)
    return ["–" if installed else "yes", "yes"], ["–" if "blocked" in str(blocked) else "YES", "cut"]


def show_packages(*columns: list[str]) -> bool:
    """Print the second table. Returns whether everything is as it should be."""
    table = Table(title="What each pod could reach through the egress proxy", title_justify="left")
    for heading in ("", "(a) no\npass", "(e) is (a),\nunlocked", "(f) is (e),\nrevoked"):
        table.add_column(heading, justify="center" if heading else "left")
    right = True
    for (name, expected), found in zip(demo_packages.EXPECTED.items(), zip(*columns, strict=True), strict=True):
        cells = [
            f"[green]{cell}[/]" if cell == "yes" else cell if cell == wanted else f"[bold red]{cell}![/]"
            for cell, wanted in zip(found, expected, strict=True)
        ]
        right = right and list(found) == expected
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    return right


def show(names: list[str], columns: list[tuple[str, dict[str, bool], bool]]) -> bool:
    """Print the table. Returns whether everything is as it should be.

    Args:
        names: the targets, in the order to show.
        columns: for each launch its heading, what its pod reached, and whether it should have egress.
    """
    table = Table(title="What each pod could reach, by packets sent from inside it", title_justify="left")
    table.add_column()
    for heading, _, _ in columns:
        table.add_column(heading, justify="center")
    wrong = 0
    for name in names:
        cells = []
        for _, reached, egress in columns:
            right = reached[name] == (egress and name in OPEN)
            wrong += not right
            cells.append(
                ("[green]yes[/]" if reached[name] else "–") if right else f"[bold red]{'YES' if reached[name] else 'NO'}![/]"
            )
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    return not wrong


@click.command()
@click.option("--context", help="The kubeconfig's context.")
@click.option("--keep", is_flag=True, help="Leave everything running and say what to open.")
def main(context: str | None, keep: bool) -> None:
    """Run the demo: install, launch, look, and print the tables."""
    began = time.monotonic()
    stage = Stage(context, "binder-egress-demo")
    # The package server is in the local internet.
    local = bool(os.environ.get("CLUSTER_TARGETS"))
    try:
        with demo_packages.server() if local else nullcontext() as certificate:
            right, isolated = run(stage, certificate)
        if keep:
            tell(stage, isolated)
        elif context:  # the local cluster is removed as a whole
            step("remove it all", stage.remove)
    except (Failed, AssertionError, requests.RequestException) as error:
        console.print(f"[bold red]failed:[/] {error}", highlight=False)
        sys.exit(1)
    finally:
        stage.close()
    verdict = "every pod reached what it should, and nothing else" if right else "NOT as it should be: see the table"
    console.print(f"{verdict}; {time.monotonic() - began:.0f} s from helm install to here", highlight=False)
    sys.exit(0 if right else 1)


def run(stage: Stage, certificate: str | None) -> tuple[bool, str]:
    """Install, launch and look.

    Args:
        stage: the cluster.
        certificate: the package server's; None where there is none.

    Returns:
        Whether everything is as it should be, and the user of (c).
    """
    install(stage, *(demo_packages.VALUES if certificate else ()))
    done = launches(stage)
    targets = stage.targets()
    columns = [
        (text, step(f"packets from {text[:3]}", partial(stage.battery, user, targets)), egress) for text, user, egress in done
    ]
    first = done[0][1]
    visitor = demo_packages.Visitor(stage, first, certificate) if certificate else None
    packages = [without_a_pass(visitor)] if visitor else []
    answer = step("(e) unlock (a) while it runs", lambda: stage.unlock(first))
    if answer.json().get("state") != "granted":
        raise Failed(answer.text)
    time.sleep(0.5)  # from the label to the packet filter
    columns.append(("(e) is (a),\nunlocked", step("packets from (e)", partial(stage.battery, first, targets)), True))
    if visitor:
        packages += unlocked_and_revoked(visitor)
    right = show(list(targets), columns)
    return (not packages or show_packages(*packages)) and right, done[2][1]


def tell(stage: Stage, user: str) -> None:
    """Say what to open in the cluster that was left running."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    pods = f"kubectl -n {stage.namespace} get pods -L binder-egress/tier"
    if stage.context:
        kubectl = f"kubectl --context {stage.context} -n {stage.namespace}"
        say(f"\nIt is left running in the namespace {stage.namespace}. To look at it:")
        say(f"  {kubectl} get pods -L binder-egress/tier")
        say(f"  {kubectl} port-forward service/binder-egress 8080:80      # then open http://localhost:8080/egress/servers/{user}/")
        say(f"To remove it: helm uninstall binder binder-egress, and delete the namespace {stage.namespace}.")
        return
    name = os.environ["CLUSTER_NAME"]
    say("\nIt is left running. Its network is its own; this looks into it:")
    say(f"  CLUSTER_NAME={name} ci/cluster/in {pods}")
    say(f"  CLUSTER_NAME={name} ci/cluster/in curl {stage.verifier}/servers/{user}/      # what the server of (c) is told")
    launch = f"{stage.url('binder', 80)}/build/fake/owner/repo/main"
    say(f"  CLUSTER_NAME={name} ci/cluster/in curl -N -H 'Accept: text/event-stream' {launch}      # one more launch")
    say(f"To remove it: CLUSTER_NAME={name} ci/cluster/down")


if __name__ == "__main__":
    main()
