"""User pods as Kubernetes has them: the label and the annotation that we write, and which of their labels many pods share."""

from collections.abc import Mapping

LABEL = "binder-egress/tier"
"""The label that the tiers' NetworkPolicies select."""

PER_POD = frozenset({"hub.jupyter.org/username", "hub.jupyter.org/servername"})
"""Labels whose value differs from user pod to user pod."""


def kind_of(labels: Mapping[str, str]) -> frozenset[tuple[str, str | None]]:
    """A user pod's labels without what is of this pod alone, so that thousands of pods are a few kinds."""
    return frozenset((key, None if key in PER_POD else value) for key, value in labels.items() if key != LABEL)


ANNOTATION = "binder-egress/grant"
"""The annotation that holds the grant, and is the grant."""
