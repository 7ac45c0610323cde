"""`ci/bench`: the parts that name functions, modules and files of the front end. Only a run shows whether these exist."""

import os
import subprocess
import sys

import pytest

from tests.support import TOP


@pytest.mark.parametrize(
    ("command", "titles"),
    [
        (("bench_browser.py", "weight", "solve"), ("What browsers load", "Default proof of work")),
        (("bench_parts.py", "2"), ("of ALTCHA's pass", "signature", "line of log", "metrics")),
    ],
)
def test_parts_run(command, titles):
    environment = {**os.environ, "PYTHONPATH": f"{TOP}:{TOP}/verifier", "BENCH_CHALLENGES": "1"}
    script, *arguments = command
    run = [sys.executable, TOP / "studies" / script, *arguments]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not [title for title in titles if title not in done.stdout], done.stdout
