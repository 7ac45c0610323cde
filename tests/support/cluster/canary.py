"""The canary's result."""

from binder_egress.gatecheck.check import Canary, canary_of
from tests.support.cluster.stage import Stage
from tests.support.cluster.timeouts import CANARY_SECONDS
from tests.support.waiting import eventually


def canary(stage: Stage) -> Canary:
    """The canary, read from its pod, as the reconciler reads it."""
    return canary_of(stage.get("pods", "-l", "binder-egress/gatecheck=canary")["items"])


def await_canary(stage: Stage, target: str, shut: bool) -> None:
    """Wait until the canary has found a target shut, or open."""
    eventually(lambda: canary(stage).targets.get(target) is shut, CANARY_SECONDS, lambda: canary(stage))
