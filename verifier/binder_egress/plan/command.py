"""The command `egress plan`. It reads BinderHub's and JupyterHub's values and the cluster, writes files, and changes nothing else.

Exit codes: 0 done; 1 something must be changed before the gate can be shut, or `--check` found a difference; 2 wrong usage, or a
file that cannot be read.
"""

import shlex
import sys
from pathlib import Path
from typing import IO

import click
from ruamel.yaml import YAML

from .. import __version__
from ..operators_yaml import NotYaml, load
from . import files
from .binderhub import VERSION, rewritten, version_of
from .checks import examine
from .findings import CANNOT_SEE, JSON, NOT_RECOGNISED, RECOGNISED, CannotSee, Finding, Given, Layout, Objects, Setting, shown
from .layouts import HUB, SERVICE, NotKnown, hubs_release, recognise, together

COLOURS = {RECOGNISED: "green", NOT_RECOGNISED: "yellow", CANNOT_SEE: "cyan"}

OURS = "binder-egress"
"""The key of our chart in a parent chart's values."""


def _values(file: IO[str]) -> JSON:
    """The values, as `helm get values` prints them.

    Raises:
        UsageError: they are no YAML map, or have the chart's defaults in them (D-486).
    """
    try:
        text = file.read()
    except ValueError:
        raise click.UsageError("The values are not UTF-8.") from None
    if text.startswith("COMPUTED VALUES:"):
        raise click.UsageError("These are the chart's defaults too: run `helm get values` without --all.")
    try:
        values = load(YAML(typ="safe", pure=True), text.removeprefix("USER-SUPPLIED VALUES:"))
    except NotYaml as error:
        raise click.UsageError(f"The values are no YAML{error}.") from None
    if not isinstance(values or {}, dict):
        raise click.UsageError("The values are no map.")
    return values or {}


@click.command("plan", help="Read BinderHub's values and the cluster, and write the values of an installation.")
@click.option("--from", "source", type=click.File(encoding="utf-8"), required=True, help="`helm get values binder`; - is a pipe.")
@click.option("--hub", type=click.File(encoding="utf-8"), help="`helm get values` of JupyterHub, beside binderhub-service.")
@click.option("--namespace", default="binder", show_default=True, help="BinderHub's namespace.")
@click.option("--release", default="binder", show_default=True, help="BinderHub's release.")
@click.option("--context", help="Context of the kubeconfig; its current one by default.")
@click.option("--no-cluster", is_flag=True, help="Look at the values alone.")
@click.option(
    "--setting", type=click.Choice(["open", "balanced", "strict"]), default="open", show_default=True, help="Who gets what."
)
@click.option("--parent", is_flag=True, help="Refuse any values but a parent chart's, which has BinderHub in it.")
@click.option("--image", help="Name of the verifier's image, without the tag.")
@click.option("--output", type=click.Path(file_okay=False, exists=True, path_type=Path), default=".", help="Folder of the files.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--check", is_flag=True, help="Write nothing, and say what has changed since the files were written.")
def plan(
    source: IO[str],
    hub: IO[str] | None,
    namespace: str,
    release: str,
    context: str | None,
    no_cluster: bool,
    setting: str,
    parent: bool,
    image: str | None,
    output: Path,
    overwrite: bool,
    check: bool,
) -> None:
    # Not at the top: no other command needs the Kubernetes client.
    from kubernetes.config import ConfigException

    from . import cluster

    values, hubs = _values(source), _values(hub) if hub else None
    try:
        objects = Objects() if no_cluster else cluster.look(cluster.connect(context), namespace)
        layout = recognise(values, hubs, objects, parent)
    except ConfigException as error:
        raise click.UsageError(f"{shown(error)} Name a --context, or look at the values alone: --no-cluster.") from None
    except NotKnown as error:
        raise click.UsageError(str(error)) from None
    given = Given(together(values, hubs, layout), objects, release, namespace, setting, values if layout.parent else {}, layout)
    findings = examine(given)
    _show(findings)
    if check:
        differences = files.changes(_read(output / files.OURS), findings)
        click.echo("\n".join(differences or ["Nothing has changed."]))
        sys.exit(1 if differences or any(finding.stops for finding in findings) else 0)
    try:
        ours = files.our_values(findings, _fixed(image, layout), OURS if layout.parent else "")
        written = {files.OURS: ours} | {name: files.their_values(each) for name, each in _theirs(given).items()}
    except (AttributeError, KeyError, RecursionError, TypeError):
        raise click.UsageError("The values have a form that Helm does not take: variables in extraEnv have names.") from None
    if there := [name for name in written if (output / name).exists() and not overwrite]:
        raise click.UsageError(f"{' and '.join(there)} exist: --overwrite replaces them, --output names another folder.")
    try:
        files.write(output, written)
    except OSError as error:
        raise click.UsageError(f"{output}: {error.strerror}") from None
    click.echo(f"Written: {', '.join(str(output / name) for name in written)}")
    click.echo("\n".join(["Next:", *(f"  {command}" for command in _commands(given, namespace))]))
    sys.exit(1 if any(finding.stops for finding in findings) else 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path}: {shown(error)}") from None


def _theirs(given: Given) -> dict[str, JSON]:
    """The values of others that are written anew, by the file's name: one for each release."""
    wanted, parent = dict(rewritten(given)), given.layout.parent
    if not given.layout.beside:
        return {files.BINDERHUBS: {**given.parent, parent: wanted} if parent else wanted}
    hub = wanted.pop(HUB, {})
    if parent:
        return {files.BINDERHUBS: {**given.parent, parent: wanted, HUB: hub}}
    return {files.BINDERHUBS: wanted, files.HUBS: hub}


def _fixed(image: str | None, layout: Layout) -> list[tuple[Setting, str]]:
    """The settings that follow from the command line."""
    if not layout.parent:
        return [(Setting(("image", "name"), image), "--image")] if image else []
    hub = (HUB,) if layout.beside else (layout.parent, HUB)
    custom = (*hub, "custom", "binderEgress")
    later = "take this out to shut the gate: chart/README.md"
    settings = [
        (Setting((OURS, "enabled"), True), "in a parent chart"),
        (Setting((OURS, "mode"), "observe"), later),
        (Setting((*custom, "closePing"), False), later),
    ]
    if image:
        settings.append((Setting((OURS, "image", "name"), image), "--image"))
        settings.append((Setting((*custom, "startGuard", "image"), f"{image}:{__version__}"), "--image, for user pods"))
    return settings


def _show(findings: list[Finding]) -> None:
    """Print all findings, and then those that must be dealt with first."""
    width = max(len(finding.id) for finding in findings)
    for finding in findings:
        state = click.style(finding.state.ljust(len(NOT_RECOGNISED)), fg=COLOURS[finding.state])
        click.echo(f"{state}  {finding.id.ljust(width)}  {shown(finding.seen)}")
        if finding.do:
            click.echo(f"{' ' * (len(NOT_RECOGNISED) + width + 4)}{shown(finding.do)}")
    for finding in findings:
        if finding.stops:
            click.secho(f"Change this before you shut the gate: {shown(finding.seen)}. {shown(finding.do)}.", fg="red")


def _commands(given: Given, namespace: str) -> list[str]:
    """The commands to run next."""
    where = f"--namespace {shlex.quote(namespace)}"
    doctor = f"kubectl exec {where} deploy/binder-egress-reconciler -- egress doctor"
    if given.layout.parent:
        both = f"--values {files.BINDERHUBS} --values {files.OURS} --wait"
        return [
            "helm dependency update your-chart/    # with the entry of binder-egress: chart/README.md",
            f"helm upgrade {shlex.quote(given.release)} your-chart/ {where} {both}",
            doctor,
        ]
    setting = "" if given.setting == "open" else f" --values chart/settings/{given.setting}.yaml"
    install = f"helm install binder-egress chart/ {where}{setting} --values {files.OURS} --set mode=observe --wait"
    try:
        found = version_of(given)
    except CannotSee:
        found = ""
    of_ours = (given.release, found)
    if not given.layout.beside:
        wire = [_wire(where, "values", "binder-egress.yaml", files.BINDERHUBS, "jupyterhub/binderhub", *of_ours)]
    else:
        binderhub, hub = "binder-egress-binderhub.yaml", "binder-egress-jupyterhub.yaml"
        wire = [
            _wire(where, "binderhub", binderhub, files.BINDERHUBS, f"{SERVICE}/{SERVICE}", *of_ours),
            _wire(where, "jupyterhub", hub, files.HUBS, "jupyterhub/jupyterhub", *hubs_release(given)),
        ]
    return [install, *wire, doctor]


def _wire(where: str, document: str, wiring: str, theirs: str, chart: str, release: str, version: str) -> str:
    """The command that adds a document of the wiring to a release."""
    values = f"kubectl get configmap binder-egress-binderhub-values {where} -o jsonpath='{{.data.{document}\\.yaml}}'"
    what = f"{shlex.quote(release)} {chart} {where} --version {version if VERSION.fullmatch(version) else '…'}"
    return f"{values} > {wiring} && helm upgrade {what} --values {theirs} --values {wiring} --wait"
