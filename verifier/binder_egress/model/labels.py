"""User pods as Kubernetes sees them: objects, our label and annotation, the start guard's container, and labels that pods share."""

from collections.abc import Mapping
from typing import Any

TIER_LABEL = "binder-egress/tier"
"""The label that the tiers' NetworkPolicies select."""

GRANT_ANNOTATION = "binder-egress/grant"
"""The annotation that holds the grant as JSON. It is the only copy of the grant that lasts."""

GATECHECK_LABEL = "binder-egress/gatecheck"
"""The label of pods that stand in for a user's: `canary` or `test`."""

START_GUARD_CONTAINER = "binder-egress-start-guard"
"""The init container that waits for the pod's isolation (`pods.start_guard`)."""

LABELS_PER_POD = frozenset({"hub.jupyter.org/username", "hub.jupyter.org/servername"})
"""Labels whose value differs from user pod to user pod."""

LabelSet = frozenset[tuple[str, str | None]]
"""Labels with their values. None: the value differs from pod to pod."""

JSON = Mapping[str, Any]
"""An object that Kubernetes' API server has checked, or the values of a chart. Whoever reads it knows its form."""


def shared_labels(labels: Mapping[str, str]) -> LabelSet:
    """A user pod's labels without its tier and without values that are its own. Thousands of pods share a few such sets."""
    return frozenset((key, None if key in LABELS_PER_POD else value) for key, value in labels.items() if key != TIER_LABEL)
