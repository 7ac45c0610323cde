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


@dataclass(frozen=True)
class Given:
    """Everything that checks may look at.

    Attributes:
        values: the values of BinderHub's chart.
        objects: what was read from the cluster.
        release: the name of BinderHub's release.
        namespace: BinderHub's namespace.
        setting: `open`, `balanced` or `strict`.
        parent: the values of the parent chart that has BinderHub as a dependency; empty without one.
    """

    values: JSON
    objects: Objects = field(default_factory=Objects)
    release: str = "binder"
    namespace: str = "binder"
    setting: str = "open"
    parent: JSON = field(default_factory=dict)

    def value(self, *path: str) -> Any:
        """A value of BinderHub's; None if it is not set."""
        return _at(self.values, path)

    def of_parent(self, *path: str) -> Any:
        """A value of the parent chart's; None if it is not set."""
        return _at(self.parent, path)


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
