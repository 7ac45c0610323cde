"""The command `egress`, in the test's own process: each start of Python would take half a second."""

import io
import os
import sys

import pytest

from binder_egress.commands.egress import main


def run_egress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, lines: str = "", **settings: str
) -> tuple[int, str, str]:
    """Run it with these settings (variables) and standard input alone. Returns exit code, standard output and standard error."""
    capsys.readouterr()
    code = 0
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("BINDER_EGRESS_")]:
            patch.delenv(name)
        for name, text in settings.items():
            patch.setenv(name, text)
        patch.setattr(sys, "argv", ["egress", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return code, *capsys.readouterr()
