"""The canary's metric."""

import re

from tests.support.cluster.stage import Stage


def canary(stage: Stage) -> dict[str, float]:
    """The canary's metric: target → 1 if shut."""
    return {
        found[1]: value
        for name, value in stage.metrics().items()
        if (found := re.fullmatch(r'binder_egress_canary_shut\{target="(.+)"\}', name))
    }
