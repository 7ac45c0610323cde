"""A tier's policy with as many exceptions as operators may ban, with packets."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.cluster.stage import QUICK, Stage
from tests.support.cluster.timeouts import TIER_SECONDS
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

MANY = [f"23.{number // 250}.{number % 250}.7" for number in range(2000)]


def test_two_thousand_exceptions_are_closed_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    """Some network plugins make a rule of each exception."""
    targets = stage.targets()
    banned = urlsplit(targets["public TCP"]).hostname
    values = tmp_path / "values.json"

    def install(*more: str | None) -> None:
        values.write_text(json.dumps({"bannedAddresses": {"many": [*MANY, *more]}}))
        stage.install_gate(*QUICK, f"--values={values}")

    with stage.installed():
        install(banned)
        user = stage.launch_verified()
        eventually(lambda: stage.battery(user, targets)["DNS"], TIER_SECONDS, "the tier's policy is not in force")
        assert not stage.battery(user, targets)["public TCP"]
        install()
        eventually(lambda: stage.battery(user, targets)["public TCP"], TIER_SECONDS, "what is no longer banned stays shut")
