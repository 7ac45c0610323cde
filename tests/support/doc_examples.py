"""The examples of a document, unchanged, for tests that run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.support import TOP

HUB = "https://hub.example.org"
FEDERATION = "https://federation.example.org"
REPOSITORY = "gh/binder-examples/requirements/HEAD"
EXAMPLE_SECONDS = 400
"""Limit of one example. Some launch, and wait until the server is ready."""

SIGNED_IN = "JUPYTERHUB_TOKEN"
"""The environment variable with the token, in examples for users who sign in."""


def examples(document: str) -> list[ParameterSet]:
    """All blocks of shell and Python of a document, as parameters of a test: language and text."""
    text = (TOP / document).read_text()
    blocks = [
        (match[1], match[2], text[: match.start()].count("\n") + 1)
        for match in re.finditer(r"```(sh|python)\n(.*?)```", text, re.S)
    ]
    return [pytest.param(language, code, id=f"{Path(document).stem} {line}") for language, code, line in blocks]


def section(document: str, heading: str, language: str = "sh") -> list[str]:
    """The blocks of a language below a heading of a document, up to the next heading of any level."""
    (text,) = re.findall(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", (TOP / document).read_text(), re.S | re.M)
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.S | re.M)


def run_example(
    language: str, code: str, folder: Path, hub: str, repository: str = REPOSITORY, federation: str = "", **environment: str
) -> str:
    """Run an example in an empty folder, against another hub, with our client on the PATH. Returns its output.

    `hub`, `repository` and `federation` (by default the hub) replace `HUB`, `REPOSITORY` and `FEDERATION`.
    """
    command = folder / "bin/binder-egress-client"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m binder_egress_client "$@"\n')
    command.chmod(0o755)
    code = code.replace(HUB, hub.rstrip("/")).replace(FEDERATION, (federation or hub).rstrip("/")).replace(REPOSITORY, repository)
    assert HUB not in code
    environment = {
        **os.environ,
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(TOP / "client"),
        # Examples without a sign-in ignore it.
        SIGNED_IN: "token",
        **environment,
    }
    interpreter = ["bash", "-euc"] if language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*interpreter, code], cwd=folder, env=environment, capture_output=True, text=True, timeout=EXAMPLE_SECONDS, check=False
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout
