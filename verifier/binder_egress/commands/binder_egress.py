"""The command `binder-egress`: what the containers of the chart, and of user pods, run.

The start guard runs in every user pod, and the probe in the canary's. Both start with the standard library alone, and the agent's
image has nothing else (D-382). The other processes are in `processes`.
"""

import sys


def main() -> None:
    """Run what the first argument names."""
    match sys.argv[1:2]:
        case ["start-guard"]:
            from ..pods.start_guard import main as run
        case ["probe"]:
            from ..gatecheck.probe import main as run
        case ["agent"]:
            from ..agent.__main__ import main as run
        case _:
            from .processes import main as run
    run()
