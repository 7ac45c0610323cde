"""Which layout an installation has: how BinderHub and JupyterHub are installed together."""

from collections.abc import Collection, Iterator, Mapping

from ..gatecheck.checklist import CHECKS
from .findings import CANNOT_SEE, DEPLOYMENTS, JSON, NOT_RECOGNISED, RECOGNISED, Finding, Given, Layout, Objects, Setting, labels_of
from .ingress import RELEASE

BINDERHUB, SERVICE, HUB = "binderhub", "binderhub-service", "jupyterhub"
"""The keys of the charts in a parent chart's values."""

OF_BINDERHUB = {
    "jupyterhub", "registry", "deployment", "imageBuilderType", "dind", "pink", "imageCleaner", "httpRoute", "initContainers",
    "lifecycle", "extraFiles", "extraPodSpec", "pdb", "hpa", "cors",
}  # fmt: skip
"""What only BinderHub's chart (b9fad995) has at the top of its values."""

OF_SERVICE = {
    "buildPodsDockerConfig", "buildPodsRegistryCredentials", "dockerApi", "extraCredentials", "podLabels", "podSecurityContext",
    "securityContext", "serviceAccount", "custom", "affinity", "nameOverride", "fullnameOverride",
}  # fmt: skip
"""What only binderhub-service (fc8bb6a) has there."""

OF_BOTH = {
    "config", "extraConfig", "extraEnv", "extraVolumes", "extraVolumeMounts", "image", "ingress", "networkPolicy", "nodeSelector",
    "podAnnotations", "rbac", "replicas", "resources", "service", "tolerations", "global", "enabled",
}  # fmt: skip

OF_HUB = {"hub", "singleuser", "proxy", "scheduling", "prePuller", "cull"}
"""What JupyterHub's chart has there, and none of the others."""

KNOWN = (
    "`egress plan` knows BinderHub's chart with JupyterHub below it, binderhub-service beside JupyterHub (--hub), and a parent "
    "chart with either. Give what `helm get values` prints for the release that has BinderHub in it"
)


class NotKnown(Exception):
    """The values are of no known layout (D-604). The message says what to do."""


def recognise(values: JSON, hub: JSON | None, objects: Objects, parent: bool) -> Layout:
    """The layout, by the values, and by what runs where they fit several.

    Args:
        values: the file that `--from` names.
        hub: the file that `--hub` names; None without one.
        objects: what was read from the cluster.
        parent: whether the values have to be a parent chart's.

    Raises:
        NotKnown: they are of none.
    """
    charts = [key for key in (BINDERHUB, SERVICE) if isinstance(values.get(key), Mapping)]
    if len(charts) > 1:
        raise NotKnown("These values have two BinderHubs, binderhub and binderhub-service: take out the one that does not run.")
    if charts:
        return _of_parent(values, charts[0], hub)
    if parent:
        raise NotKnown(f"--parent: the values have no map `{BINDERHUB}`, and none `{SERVICE}`.")
    found = _alone(values, hub, objects)
    if found.beside and hub is None:
        raise NotKnown("binderhub-service has JupyterHub beside it: name the file of `helm get values` for JupyterHub with --hub.")
    if not found.beside and hub is not None:
        raise NotKnown("BinderHub's chart has JupyterHub below it, in the same values: leave --hub out.")
    if hub and not hub.keys() & OF_HUB:
        raise NotKnown("--hub: these are not JupyterHub's values, which have `hub` or `singleuser` at the top.")
    return found


def together(values: JSON, hub: JSON | None, layout: Layout) -> JSON:
    """BinderHub's values, with JupyterHub's below `jupyterhub` in each layout. It takes what `recognise` took and returned."""
    inner: JSON = values[layout.parent] if layout.parent else values
    return {**inner, HUB: values[HUB] if layout.parent else hub} if layout.beside else inner


def _of_parent(values: JSON, chart: str, hub: JSON | None) -> Layout:
    if hub is not None:
        raise NotKnown("A parent chart's values have JupyterHub's in them: leave --hub out.")
    if chart == SERVICE and not isinstance(values.get(HUB), Mapping):
        raise NotKnown(f"These values have `{SERVICE}` and no map `{HUB}` beside it. {KNOWN}.")
    return Layout(chart == SERVICE, f"the key {chart} in the values", chart)


def _alone(values: JSON, hub: JSON | None, objects: Objects) -> Layout:
    """The layout of values without a parent chart."""
    keys = {str(key) for key in values}
    below, beside = sorted(keys & OF_BINDERHUB), sorted(keys & OF_SERVICE)
    if below and beside:
        raise NotKnown(f"These values have keys of two charts: {_listed(below)}, and {_listed(beside)}. {KNOWN}.")
    if below or beside:
        return Layout(bool(beside), f"{_listed(below or beside)} in the values")
    if keys & OF_HUB:
        raise NotKnown("These values are JupyterHub's: give BinderHub's with --from, and these with --hub.")
    if others := sorted(keys - OF_BOTH):
        raise NotKnown(f"These values have {_listed(others)}, and no key that tells which chart they are of. {KNOWN}.")
    running = _running(objects)
    if len(running) == 1:
        return Layout(running[0], "the Deployment that runs")
    if hub is not None:
        return Layout(True, "--hub")
    if not keys or running:
        raise NotKnown(f"These values do not tell which chart they are of, and neither does the cluster. {KNOWN}.")
    return Layout()


def _listed(names: Collection[str]) -> str:
    """The first names, each in quotes: a file of anything else may have very many."""
    return ", ".join(f"`{name[:40]}`" for name in list(names)[:5])


def _running(objects: Objects) -> list[bool]:
    """For each BinderHub that runs, whether it has JupyterHub beside it; empty if none can be seen."""
    return [beside for beside in (False, True) if objects.binderhubs(beside)]


def layout(given: Given) -> Iterator[Finding]:
    """How BinderHub and JupyterHub are installed together, and which pods are BinderHub's."""
    found, running = given.layout, _running(given.objects)
    if not found.by:
        seen = f"whether this is {found}: the values fit both charts, and no Deployment of BinderHub's is seen"
        yield Finding("layout", CANNOT_SEE, seen, CHECKS["layout"].do)
    elif running and found.beside not in running:
        seen = f"the values are of {found}, by {found.by}, and another chart's BinderHub runs in {given.namespace}"
        yield Finding("layout", NOT_RECOGNISED, seen, CHECKS["layout"].do, True)
    else:
        yield Finding("layout", RECOGNISED, f"{found}, by {found.by}", settings=_peers(given))
    yield from _only_builds(given)


def _only_builds(given: Given) -> Iterator[Finding]:
    """Where BinderHub only builds, nobody announces what JupyterHub starts."""
    unset = given.layout.beside and given.value("config", "BinderHub", "enable_api_only_mode") is None
    if given.builds_only() or (unset and given.layout.parent):
        unless = ", unless the parent chart sets enable_api_only_mode to false" if unset and given.layout.parent else ""
        seen = f"BinderHub only builds{unless}: nobody announces launches, and servers get no tier"
        do = "Set config.BinderHub.enable_api_only_mode to false, if visitors launch with BinderHub's pages"
        yield Finding("layout", NOT_RECOGNISED, seen, do, True)


def _peers(given: Given) -> tuple[Setting, ...]:
    """Whom the verifier lets announce launches. binderhub-service gives its pods other labels than BinderHub's chart."""
    if not given.layout.beside:
        return ()
    name = given.value("nameOverride") or SERVICE
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "binderhub"}
    peers = {"binder": {"enabled": False}, SERVICE: {"podSelector": {"matchLabels": labels}}}
    return (Setting(("verifier", "networkPolicy", "internalFrom"), peers),)


def hubs_release(given: Given) -> tuple[str, str]:
    """The name of JupyterHub's release and the version of its chart, from its Deployment; `…` and nothing if it cannot be seen."""
    for each in given.objects.found.get(DEPLOYMENTS, []):
        labels = labels_of(each)
        chart = str(labels.get("helm.sh/chart") or labels.get("chart"))
        if labels.get("component") == "hub" and chart.startswith("jupyterhub-"):
            return (each["metadata"].get("annotations") or {}).get(RELEASE, "…"), chart.removeprefix("jupyterhub-")
    return "…", ""
