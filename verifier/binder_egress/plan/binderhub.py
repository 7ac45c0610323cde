"""Checks of BinderHub's values: its version, who signs in, paths, variables and labels."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..gatecheck.checklist import CHECKS
from .findings import DEPLOYMENTS, JSON, NOT_RECOGNISED, RECOGNISED, CannotSee, Finding, Given, Setting, shown

Path = tuple[str, ...]

OWN_VARIABLES: Path = ("extraEnv",)
"""BinderHub's variables. Its chart accepts a list in place of a map, and binderhub-service a list alone."""

VARIABLES: tuple[Path, ...] = (OWN_VARIABLES, ("jupyterhub", "singleuser", "extraEnv"))

MAPS: tuple[Path, ...] = (
    *VARIABLES,
    ("extraConfig",),
    ("config", "BinderHub", "extra_header_html"),
    ("jupyterhub", "hub", "extraConfig"),
    ("jupyterhub", "custom"),
)
"""The maps to which our wiring adds entries. Helm merges maps alone: of a list and a map, the later file's wins."""

OURS_IN_LIST: list[JSON] = [
    {"name": "BINDER_EGRESS_API", "value": "http://binder-egress:8081"},
    {
        "name": "BINDER_EGRESS_API_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "binder-egress", "key": "api-token", "optional": True}},
    },
]
"""The wiring's own variables (`integration.binderhub.extraEnv`), for a list, which Helm cannot add them to."""

AUTH_VARIABLE = "JUPYTERHUB_OAUTH_CALLBACK_URL"
"""What BinderHub's chart sets in its pod with `auth_enabled` alone (templates/deployment.yaml)."""

COMPONENT_LABEL, DEFAULT_LABEL = "component_label", "singleuser-server"
"""KubeSpawner's setting, and its default."""

VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*")


def version_of(given: Given) -> str:
    """The version of BinderHub's chart, from the tag of its image; empty if the tag is no version.

    Raises:
        CannotSee: its Deployment cannot be read.
    """
    given.objects.see(DEPLOYMENTS)
    for container in _containers(given):
        tag = str(container.get("image", "")).rpartition(":")[2]
        if VERSION.fullmatch(tag):
            return tag
    return ""


def version(given: Given) -> Iterator[Finding]:
    """The version of BinderHub's chart, which `helm upgrade` needs: it is a development version."""
    found = version_of(given)
    if found:
        yield Finding("BinderHub's version", RECOGNISED, f"the tag of BinderHub's image is {found}, as the version of its chart")
    else:
        seen = "no Deployment of BinderHub's has an image whose tag is a version"
        yield Finding("BinderHub's version", NOT_RECOGNISED, seen, CHECKS["BinderHub's version"].do)


def rewritten(given: Given) -> JSON:
    """BinderHub's values with variables as maps, and without what our wiring adds to them (`integration.binderhub`).

    Beside JupyterHub, BinderHub's variables are a list, and have ours in them (D-605).
    """
    found, own = dict(given.values), given.value(*OWN_VARIABLES)
    is_beside = given.layout.beside
    for path in VARIABLES:
        listed = _at(found, path)
        if isinstance(listed, list):
            _at(found, path[:-1])[path[-1]] = _as_map(listed)
    found = _without_wiring(found) if _is_wired(found) else found
    if is_beside:
        ours = {one["name"] for one in OURS_IN_LIST}
        listed = own if isinstance(own, list) else [{"name": name, "value": value} for name, value in (own or {}).items()]
        found["extraEnv"] = [*(one for one in listed if one["name"] not in ours), *OURS_IN_LIST]
    return found


def _at(values: Any, path: Path) -> Any:
    """A value; None if it is not set. Maps on the way are copied, so that they can be changed."""
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return None
        if isinstance(values[key], Mapping):
            values[key] = dict(values[key])
        values = values[key]
    return values


def _is_wired(values: Mapping[str, Any]) -> bool:
    return "BINDER_EGRESS_API" in (values.get("extraEnv") or {})


def _without_wiring(values: dict[str, Any]) -> dict[str, Any]:
    """Our entries are known by their names, or by what they refer to. Maps that are empty without them go."""
    for path in MAPS:
        found = _at(values, path)
        for key, value in list(found.items()) if isinstance(found, dict) else ():
            named = str(key).startswith(("BINDER_EGRESS_", "zz-binder-egress", "binder-egress", "binderEgress"))
            if named or (path in VARIABLES and ("binder-egress-" in str(value) or "BINDER_EGRESS_" in str(value))):
                del found[key]
    policy = _at(values, ("jupyterhub", "singleuser", "networkPolicy"))
    if isinstance(policy, dict) and policy.get("enabled") is False:
        del policy["enabled"]
    return _pruned(values)


def _pruned(values: dict[str, Any]) -> dict[str, Any]:
    plain = {key: _pruned(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in plain.items() if value != {}}


def _as_map(listed: list[Any]) -> dict[str, Any]:
    """Kubernetes' list of variables as a map: name to text, or to what stands beside the name."""
    return {
        item["name"]: item.get("value", "") if set(item) <= {"name", "value"} else {k: v for k, v in item.items() if k != "name"}
        for item in listed
    }


def maps(given: Given) -> Iterator[Finding]:
    """Whether the maps that our wiring adds to are maps, and BinderHub's variables a list where its chart takes nothing else."""
    is_beside = given.layout.beside
    paths = [path for path in MAPS if not (is_beside and path == OWN_VARIABLES)]
    if is_beside and isinstance(given.value(*OWN_VARIABLES) or [], list):
        do = "your-values.yaml has it with the wiring's variables"
        yield Finding("maps", RECOGNISED, "extraEnv of binderhub-service is a list, which Helm merges with nothing", do)
    elif is_beside:
        yield Finding("maps", NOT_RECOGNISED, "extraEnv is no list, which binderhub-service refuses", "Write it as a list", True)
    for path in paths:
        value, name = given.value(*path), ".".join(path)
        if path in VARIABLES and isinstance(value, list):
            names = ", ".join(_as_map(value)) or "nothing"
            more = ". One refers to another with $( ): Kubernetes needs the other first, and a map is in order of the names"
            text = f"{name} is a list ({names}), with which Helm cannot merge our map"
            refers = any("$(" in str(item.get("value")) for item in value)
            yield Finding("maps", RECOGNISED, text, f"your-values.yaml has it as a map{more if refers else ''}")
        elif value is not None and not isinstance(value, Mapping):
            yield Finding("maps", NOT_RECOGNISED, f"{name} is neither a map nor a list", "Write it as a map, or it is lost", True)
    if all(given.value(*path) is None or isinstance(given.value(*path), Mapping) for path in paths):
        yield Finding("maps", RECOGNISED, f"everything {'else ' if is_beside else ''}that the wiring adds to is a map")


def sign_in(given: Given) -> Iterator[Finding]:
    """Whether people sign in: user servers then ask the hub who a visitor is, and exit if they cannot."""
    only_hub = given.builds_only()
    if only_hub or _has_auth(given):
        settings = Setting(("base", "allowHub"), True), Setting(("base", "allowDns"), True)
        who = "JupyterHub starts the servers" if only_hub else "BinderHub has auth_enabled"
        text = f"{who}, so user servers need the hub's API, and DNS to find it"
        do = "Every server then reaches both, and DNS can carry a slow tunnel"
        yield Finding("sign-in", RECOGNISED, text, do, settings=settings)
        return
    nobody = (Setting(("rules", "authenticatedUsers"), {"*": False}),) if given.setting == "strict" else ()
    yield Finding("sign-in", RECOGNISED, "nobody signs in to BinderHub (auth_enabled is off)", settings=nobody)


def base_url(given: Given) -> Iterator[Finding]:
    """The path of BinderHub's pages, below which the verifier's path must be."""
    base = base_url_of(given)
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", base):
        yield Finding("base URL", NOT_RECOGNISED, "BinderHub's base_url is no plain path", CHECKS["base URL"].do)
        return
    path = f"{base.rstrip('/')}/egress/"
    settings = (Setting(("ingress", "path"), path),) if path != "/egress/" else ()
    yield Finding("base URL", RECOGNISED, f"BinderHub's base_url is {base}", settings=settings)


def _has_auth(given: Given) -> bool:
    """Whether BinderHub has `auth_enabled`. Its own chart gives its pod a variable for it, which shows a parent chart's default.

    Raises:
        CannotSee: neither says so.
    """
    is_unset = given.value("config", "BinderHub", "auth_enabled") is None
    containers = _containers(given) if is_unset and given.layout.parent and not given.layout.beside else []
    if containers:
        return any(one.get("name") == AUTH_VARIABLE for each in containers for one in each.get("env") or [])
    return bool(given.of_binderhub("auth_enabled"))


def base_url_of(given: Given) -> str:
    """The path of BinderHub's pages: from the values, or from the probe of its Deployment, as both charts write it.

    Raises:
        CannotSee: neither says so, and a parent chart may have a default.
    """
    if given.value("config", "BinderHub", "base_url") is None:
        for probe in (each[name] for each in _containers(given) for name in ("startupProbe", "readinessProbe") if each.get(name)):
            if (path := str((probe.get("httpGet") or {}).get("path"))).endswith("/versions"):
                return path.removesuffix("versions")
    return given.of_binderhub("base_url") or "/"


def _containers(given: Given) -> list[JSON]:
    """The containers of BinderHub's pod; none if its Deployment could not be read."""
    return [each for one in given.deployments() for each in one["spec"]["template"]["spec"]["containers"]]


def user_labels(given: Given) -> Iterator[Finding]:
    """Which `component` label user pods have. KubeSpawner's `component_label` is a value, or set by code, which only pods show."""
    hub = _at(rewritten(given), ("jupyterhub", "hub")) or {}
    by_code = COMPONENT_LABEL in str(hub.get("extraConfig"))
    named = [_at(hub, ("config", section, COMPONENT_LABEL)) for section in ("BinderSpawner", "KubeSpawner")]
    label = next(filter(None, named), None)
    try:
        labels = [pod["metadata"].get("labels") or {} for pod in given.objects.see("user pods")]
    except CannotSee:
        labels = []
    if label is None or by_code:
        if not labels:
            why = "code in hub.extraConfig sets it" if by_code else f"the values name no {COMPONENT_LABEL}"
            raise CannotSee(f"which component user pods have: {why}, and no user pod can be seen")
        label = labels[0].get("component")
    without = [each for each in labels if each.get("component") != label]
    if without or not label:
        text = f"user pods run without the label component={shown(label or DEFAULT_LABEL)}, so our policies would not select them"
        yield Finding("user labels", NOT_RECOGNISED, text, CHECKS["user labels"].do, True)
        return
    settings = () if label == DEFAULT_LABEL else (Setting(("userPods", "labels"), {"component": label}),)
    yield Finding("user labels", RECOGNISED, f"user pods have the label component={shown(label)}", settings=settings)


def user_proxy(given: Given) -> Iterator[Finding]:
    """Proxies in the environment of user servers."""
    path = VARIABLES[1]
    variables = given.value(*path)
    variables = _as_map(variables) if isinstance(variables, list) else variables or {}
    ours = "BINDER_EGRESS_URL" in variables  # The wiring is there already, and has these names.
    if names := [name for name in sorted(variables) if name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") and not ours]:
        text = f"user servers have {', '.join(names)}, which the wiring replaces"
        do = "Name them again in a values file after binder-egress.yaml, and open that proxy in tiers.verified.extraEgress"
        yield Finding("user proxy", RECOGNISED, text, do)


def ports(given: Given) -> Iterator[Finding]:
    """The list of ports that mybinder.org's chart keeps among BinderHub's values. A tier without a list opens all."""
    listed = given.value("networkPolicy", "egress", "tcpPorts")
    if listed:
        tiers = ["verified", *(["signed-in"] if given.setting == "strict" else [])]
        settings = tuple(Setting(("tiers", tier, "ports", "tcp"), {int(port): True for port in listed}) for tier in tiers)
        text = f"networkPolicy.egress.tcpPorts opens the TCP ports {', '.join(map(str, listed))}"
        yield Finding("ports", RECOGNISED, text, "The tiers open the same ports, and no others", settings=settings)


def provider(given: Given) -> Iterator[Finding]:
    """Whether the captcha that the setting *strict* needs is in the parent chart's values; elsewhere it is in a file of ours."""
    if given.setting != "strict":
        return
    providers = given.of_parent("binder-egress", "captcha", "providers") or {}
    names = sorted(name for name, provider in providers.items() if name != "altcha" and provider.get("enabled"))
    if names:
        yield Finding("provider", RECOGNISED, f"the captcha of strict is {', '.join(names)}")
    else:
        do = "Choose one in captcha.providers, with keys of yours (docs/captcha-providers.md): without it, Helm refuses to install"
        seen = "strict needs a captcha provider, and these values name none"
        yield Finding("provider", NOT_RECOGNISED, seen, do, stops=bool(given.parent))
