"""User pods as Kubernetes sees them: objects, our label and annotation, the start guard's container, and labels that pods share."""

from collections.abc import Mapping
from typing import Any

TIER_LABEL = "binder-egress/tier"
"""The label that the tiers' NetworkPolicies select. The reconciler sets it once the pod is there (D-620)."""

GRANT_ANNOTATION = "binder-egress/grant"
"""The annotation that holds the grant as JSON. It is the only copy of the grant that lasts."""

GATECHECK_LABEL = "binder-egress/gatecheck"
"""The label of pods that stand in for a user's: `canary` or `test`."""

START_GUARD_CONTAINER = "binder-egress-start-guard"
"""The init container that waits for the pod's isolation (`pods.start_guard`)."""

USERNAME_LABEL = "hub.jupyter.org/username"
"""The label that KubeSpawner gives every user pod, whatever its configuration is, since 1.0.0 (D-545)."""

LABELS_PER_POD = frozenset({USERNAME_LABEL, "hub.jupyter.org/servername"})
"""Labels whose value differs from user pod to user pod."""

LabelSet = frozenset[tuple[str, str | None]]
"""Labels with their values. None: the value differs from pod to pod."""

JSON = Mapping[str, Any]
"""An object that Kubernetes' API server has checked, or the values of a chart. Whoever reads it knows its form."""


def shared_labels(labels: Mapping[str, str]) -> LabelSet:
    """A user pod's labels without its tier and without values that are its own. Thousands of pods share a few such sets."""
    return frozenset((key, None if key in LABELS_PER_POD else value) for key, value in labels.items() if key != TIER_LABEL)


def differing_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Those labels of a user pod that keep our policies from selecting it.

    Args:
        labels: the pod's labels.
        wanted: the labels that our policies select.

    Returns:
        `component=x`, or `no component`; empty if our policies select the pod: it is covered.
    """
    other = sorted(key for key, value in wanted.items() if labels.get(key) != value)
    return ", ".join(f"{key}={labels[key]}" if key in labels else f"no {key}" for key in other)
