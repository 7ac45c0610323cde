"""The parsers of untrusted text, under a coverage-guided fuzzer (`parsers`)."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = 60_000
"""Texts to try: about 100 s of one core."""


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no build for this machine or this Python")
@pytest.mark.timeout(3600)
def test_parsers_survive_and_reject_hostile_text(tmp_path):
    program = str(Path(__file__).parent / "parsers.py")
    command = [sys.executable, program, str(tmp_path), f"-runs={RUNS}", "-seed=1", "-max_len=8192", "-timeout=60"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    (lines,) = re.findall(r"DONE +cov: (\d+)", done.stderr)
    print(f"{RUNS} texts, {lines} edges of the code")
    # The seeds alone reach about 130.
    assert int(lines) > 180
