"""The operators' command line, run in the reconciler's pod as the documentation says."""

import json
import re

import pytest

from tests.support.cluster.stage import Failed, Stage
from tests.support.cluster.timeouts import ROLLOUT_SECONDS

UNCONFIRMED = 'egress "$@" --json || [ $? = 5 ]'
"""Exit code 5 is not a failure: on a busy machine, the reconciler takes longer than the command waits for its confirmation."""


def egress(stage: Stage, *args: str) -> dict | list:
    """Run a command as the documentation says. Returns the JSON that it prints. Its effect may come a moment later."""
    command = ("exec", "deploy/binder-egress-reconciler", "--", "sh", "-c", UNCONFIRMED, "egress", *args)
    return json.loads(stage.kubectl(*command))


def refused(stage: Stage, *args: str) -> str:
    """Run a command that must fail. Returns its message."""
    with pytest.raises(Failed) as caught:
        stage.kubectl("exec", "deploy/binder-egress-reconciler", "--", "egress", *args)
    return str(caught.value)


def keys(stage: Stage, *args: str) -> dict | list:
    """Run `egress keys` as the documentation says. Returns the JSON that it prints."""
    return egress(stage, "keys", *args)


def doctor(stage: Stage) -> dict[str, list[tuple[str, str]]]:
    """The lines of `doctor`: name → state and text."""
    command = ("exec", "deploy/binder-egress-reconciler", "--", "sh", "-c", "egress doctor --json; true")
    found: dict[str, list[tuple[str, str]]] = {}
    for check in json.loads(stage.kubectl(*command)):
        found.setdefault(check["name"], []).append((check["state"], check["text"]))
    return found


def helm_test(stage: Stage) -> tuple[bool, str]:
    """Run `helm test`. Returns whether it passed, and its table."""
    try:
        stage.helm("test", "binder-egress", f"--timeout={ROLLOUT_SECONDS}s")
        passed = True
    except Failed:
        passed = False
    table = stage.kubectl("logs", "binder-egress-test")
    stage.kubectl("delete", "pods", "-l", "binder-egress/gatecheck=test")
    stage.kubectl("delete", "pod", "binder-egress-test")
    return passed, table


def cells(table: str) -> dict[tuple[str, str], str]:
    """The table of `helm test`: pod and target → the observation and the verdict."""
    found = (re.split(r"\s{2,}", line) for line in table.splitlines()[1:])
    return {(cell[0], cell[1]): " ".join(cell[2:]) for cell in found if len(cell) >= 4}
