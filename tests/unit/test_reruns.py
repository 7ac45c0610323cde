"""Failed tests that `ci/test` runs once more (D-374): its exit code and its summary agree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

AT_FIRST_AND_THEN = """
import pathlib
import pytest

def test_it():
    first = pathlib.Path(__file__).with_name("first")
    if not first.exists():
        first.touch()
        pytest.fail("at first")
    {then}

def test_other():
    pass
"""


@pytest.mark.parametrize(
    ("then", "code", "said"),
    [
        ("pass", 0, "1 passed, 1 flaky, 0 failed"),
        ("pytest.fail('and then')", 1, "1 passed, 0 flaky, 1 failed"),
        ("pytest.skip('and then')", 1, "1 passed, 0 flaky, 1 failed"),
    ],
)
def test_only_a_test_that_passes_then_is_flaky(tmp_path, then, code, said):
    (tmp_path / "tests/part").mkdir(parents=True)
    (tmp_path / "tests/part/test_once.py").write_text(AT_FIRST_AND_THEN.format(then=then))
    (tmp_path / "ci").symlink_to(TOP / "ci")
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "venv/bin/python").chmod(0o755)
    function = re.search(r"^tests\(\) \{.*?^\}$", (TOP / "ci/test").read_text(), re.MULTILINE | re.DOTALL)
    script = f"""
      set -euo pipefail
      top=. results=. venv=./venv python=(./venv/bin/python) files=() arguments=() alone=() parts=(part)
      {function and function.group()}
      tests part -p no:schemathesis -p no:hypothesispytest -p no:anyio || code=$?
      printf 'part\\t%d\\t0\\n' "${{code:-0}}" >parts.tsv
      venv/bin/python ci/test_summary.py . 0
      exit "${{code:-0}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, f"{said}, 0 skipped"), done.stdout + done.stderr
