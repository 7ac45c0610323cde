"""`ci/bench`: only a run shows whether the functions, modules and files that its parts name exist."""

import os
import re
import subprocess

import pytest

from tests.support import TOP

SCRIPT = TOP / "ci/bench"
(PARTS,) = re.findall(r"^all=\((.*)\)$", SCRIPT.read_text(), re.MULTILINE)
MEASURED_BY_TESTS = {"hostile", "records", "scale"}
"""Parts of which another long test runs the functions, with more than the smallest numbers."""


@pytest.mark.parametrize("part", sorted(set(PARTS.split()) - MEASURED_BY_TESTS))
def test_part_runs_to_its_end(part):
    name = f"{os.environ.get('CLUSTER_NAME', 'binder-egress')}-bench"
    done = subprocess.run(
        [SCRIPT, part], capture_output=True, text=True, env=os.environ | {"BENCH_ONCE": "1", "CLUSTER_NAME": name}
    )
    assert done.returncode == 0 and re.search("[│|]", done.stdout), done.stdout + done.stderr
