"""`ci/bench`: the parts that name modules and files of the front end. Only a run shows whether these exist."""

import os
import subprocess
import sys

from tests.support import TOP


def test_parts_that_need_the_front_end_run():
    environment = {**os.environ, "PYTHONPATH": f"{TOP}:{TOP}/verifier", "BENCH_CHALLENGES": "1"}
    command = [sys.executable, TOP / "studies/bench_browser.py", "weight", "solve"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "What browsers load" in done.stdout and "Default proof of work" in done.stdout
