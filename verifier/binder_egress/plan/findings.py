"""What a check of `egress plan` gets, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..model.labels import JSON as JSON

RECOGNISED, NOT_RECOGNISED, CANNOT_SEE = "recognised", "not recognised", "cannot see"
"""The states of a finding. None of them says that anything is enforced: only packets do (`doctor`, `helm test`)."""

MAX_SHOWN = 300
"""The most characters of a text that are shown or written into a comment."""


SYSTEM = "kube-system"
"""The namespace that each cluster has from the beginning, and in which no tenant creates anything."""


DEPLOYMENTS = "BinderHub's Deployment"
"""The name in `cluster.PATHS` of the Deployments of BinderHub's namespace."""


class CannotSee(Exception):
    """Something that a check needs cannot be read. The message is the reason."""


@dataclass(frozen=True)
class Setting:
    """A value of our chart that differs from its default.

    Attributes:
        path: where it is, `("dns", "cidrs")`.
        value: the value, of the types that JSON has.
    """

    path: tuple[str, ...]
    value: Any


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        id: the check, in `gatecheck/checklist.py`.
        state: `RECOGNISED`, `NOT_RECOGNISED` or `CANNOT_SEE`.
        seen: what was seen, a sentence. It has everything that the settings depend on, because `--check` compares it.
        do: what to do, or who can tell; empty: nothing.
        stops: whether the gate would stay open, or the setting would not work, until somebody does it.
        settings: the values that follow.
    """

    id: str
    state: str
    seen: str
    do: str = ""
    stops: bool = False
    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True)
class Objects:
    """What was read from the API server, by the names in `cluster.PATHS`.

    Attributes:
        found: the objects of each name.
        unseen: names that could not be read, with the reason.
    """

    found: Mapping[str, list[JSON]] = field(default_factory=dict)
    unseen: Mapping[str, str] = field(default_factory=dict)

    def see(self, name: str) -> list[JSON]:
        """The objects of a name.

        Raises:
            CannotSee: they could not be read.
        """
        if name in self.found:
            return self.found[name]
        raise CannotSee(f"{name}: {self.unseen.get(name, 'not read')}")

    def within(self, name: str, *namespaces: str) -> list[JSON]:
        """The objects of a name in these namespaces. Anywhere else a tenant may have created them (D-510).

        Raises:
            CannotSee: they could not be read.
        """
        return [each for each in self.see(name) if each["metadata"].get("namespace") in namespaces]

    def binderhubs(self, beside: bool) -> list[JSON]:
        """The Deployments of BinderHub's chart, or of binderhub-service, which has no other; none if they could not be read.

        `nameOverride` leaves the label of binderhub-service as it is.
        """
        label, start = ("helm.sh/chart", "binderhub-service-") if beside else ("component", "binder")
        found = [(each, str(labels_of(each).get(label))) for each in self.found.get(DEPLOYMENTS, [])]
        return [each for each, text in found if (text.startswith(start) if beside else text == start)]


def labels_of(one: JSON) -> JSON:
    """The labels of an object."""
    return one["metadata"].get("labels") or {}


@dataclass(frozen=True)
class Layout:
    """How BinderHub and JupyterHub are installed together.

    Attributes:
        beside: whether JupyterHub is beside binderhub-service; otherwise it is below BinderHub in BinderHub's chart.
        by: by what it was recognised; empty: taken for this one, because nothing says otherwise.
        parent: the key of BinderHub's chart in a parent chart's values; empty without a parent.
    """

    beside: bool = False
    by: str = ""
    parent: str = ""

    def __str__(self) -> str:
        """What it is called in findings."""
        chart = "binderhub-service beside JupyterHub" if self.beside else "BinderHub's chart with JupyterHub below it"
        return f"a parent chart with {chart}" if self.parent else chart


@dataclass(frozen=True)
class Given:
    """Everything that checks may look at.

    Attributes:
        values: the values of BinderHub's chart, with JupyterHub's below `jupyterhub` in each layout.
        objects: what was read from the cluster.
        release: the name of BinderHub's release.
        namespace: BinderHub's namespace.
        setting: `open`, `balanced` or `strict`.
        parent: the values of the parent chart that has BinderHub as a dependency; empty without one.
        layout: how BinderHub and JupyterHub are installed together.
    """

    values: JSON
    objects: Objects = field(default_factory=Objects)
    release: str = "binder"
    namespace: str = "binder"
    setting: str = "open"
    parent: JSON = field(default_factory=dict)
    layout: Layout = Layout()

    def value(self, *path: str) -> Any:
        """A value of BinderHub's; None if it is not set."""
        return _at(self.values, path)

    def of_parent(self, *path: str) -> Any:
        """A value of the parent chart's; None if it is not set."""
        return _at(self.parent, path)

    def of_binderhub(self, name: str) -> Any:
        """A setting of `config.BinderHub`; None if it is not set.

        Raises:
            CannotSee: it is not set, and a parent chart may have a default for it, which `helm get values` does not print.
        """
        found = self.value("config", "BinderHub", name)
        if found is None and self.layout.parent:
            raise CannotSee(f"config.BinderHub.{name}: the values do not have it, and the parent chart may have a default")
        return found

    def builds_only(self) -> bool:
        """Whether BinderHub only builds images, so that JupyterHub starts all servers. It is the default of binderhub-service."""
        set_to = self.value("config", "BinderHub", "enable_api_only_mode")
        return bool(self.layout.beside and not self.layout.parent if set_to is None else set_to)

    def deployments(self) -> list[JSON]:
        """BinderHub's Deployments; none if they could not be read."""
        return self.objects.binderhubs(self.layout.beside)


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def name_of(one: JSON) -> str:
    """The namespace and the name of an object, `kube-system/coredns`."""
    return f"{one['metadata']['namespace']}/{one['metadata']['name']}"


def shown(text: object) -> str:
    """A text of a stranger's in one line of printable characters, for terminals and comments."""
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "?" for character in line)[:MAX_SHOWN]
