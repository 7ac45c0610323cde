"""The hint inside user servers, chart/integration/hint_*: what bash and IPython print, and that nothing else changes."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from IPython.core.application import SYSTEM_CONFIG_DIRS

from tests.support import TOP
from tests.support.charts import VALUES

CHART = TOP / "chart"
TERMINAL = (CHART / "integration/hint_terminal.sh").read_text()
STARTUP = (CHART / "integration/hint_ipython.py").read_text()
FILES = VALUES["integration"]["hint"]["jupyterhub"]["singleuser"]["extraFiles"]
URL = "https://hub.example.org/egress/servers/alice/"
SAID = f"{URL}#unlock"


# -- the terminal


def in_terminal(command, typed="exit\n", **variables):
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", **variables}
    run = [shutil.which("script"), "--quiet", "--return", "--command", shlex.join(map(str, command)), "/dev/null"]
    return subprocess.run(run, input=typed, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def profile(tmp_path):
    """A file that reads the hint, as a login shell's profile does."""
    script = tmp_path / "zz-binder-egress.sh"
    script.write_text(TERMINAL)
    return script


def in_bash(profile, typed="exit\n", **variables):
    return in_terminal([shutil.which("bash"), "--noprofile", "--rcfile", profile, "-i"], typed, **variables)


def test_terminal_prints_the_address_of_the_page_and_executes_nothing(profile):
    """Without an address, it prints nothing. An interactive dash reads ENV; without root, that is the closest to a profile."""
    assert FILES["binder-egress-terminal"]["mountPath"] == "/etc/profile.d/zz-binder-egress.sh"
    in_dash = in_terminal(["dash", "-i"], BINDER_EGRESS_URL=URL, ENV=str(profile))
    for written in (in_dash, in_bash(profile, BINDER_EGRESS_URL=URL, PATH="/nonexistent")):
        assert written.count(SAID) == 1 and "not found" not in written
        assert "This server may have no internet access, or only packages." in written
    address = "%s$(touch pwned)`id`;\\n"
    assert f"  {address}#unlock\n" in in_bash(profile, BINDER_EGRESS_URL=address)
    for variables in ({}, {"BINDER_EGRESS_URL": ""}):
        written = in_bash(profile, **variables)
        assert "internet" not in written and "unlock" not in written


AFTER = f"If internet access is missing, open {SAID}"


@pytest.mark.parametrize(
    ("typed", "times"),
    [
        ("curl http://nowhere.invalid/", 1),
        ("git clone http://nowhere.invalid/a 2>/dev/null", 1),
        # An empty line is no command. The second command is one.
        ("curl http://nowhere.invalid/\n\n\ncurl http://nowhere.invalid/b", 2),
        ("curl --version >/dev/null", 0),
        ("ls /nonexistent", 0),
        ("(exit 130) # curl ", 0),
    ],
)
def test_bash_says_it_after_a_command_that_failed(typed, times, profile, tmp_path):
    """The prompt of the image still sees the status."""
    programs, own = tmp_path / "bin", tmp_path / "own"
    programs.mkdir()
    for name in ("curl", "git"):
        (programs / name).write_text('#!/bin/sh\n[ "$1" = --version ]\n')
        (programs / name).chmod(0o755)
    own.write_text(f"PROMPT_COMMAND='echo status $?'\n. {profile}\n")
    path = f"{programs}:{os.environ['PATH']}"
    written = in_bash(own, f"{typed}\n(exit 7)\ntrue\nexit\n", BINDER_EGRESS_URL=URL, PATH=path, HOME=str(tmp_path))
    assert written.count(AFTER) == times, written
    assert "status 7\n" in written and "status 0\n" in written


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_scripts_are_not_changed(shell, profile):
    """Nor is an interactive shell that writes to a file."""
    for options in (["-eu"], [], ["-i"]):
        for variables in ({}, {"BINDER_EGRESS_URL": URL}):
            environment = {"PATH": os.environ["PATH"], **variables}
            command = [shell, *options, "-c", f". {profile}; echo done $?"]
            assert subprocess.run(command, capture_output=True, text=True, env=environment).stdout == "done 0\n"
    written = in_terminal([shell, "-c", f". {profile}; echo done"], BINDER_EGRESS_URL=URL)
    assert "done" in written and "unlock" not in written


# -- IPython


@pytest.fixture
def ipython(tmp_path):
    """A function that runs cells in a real IPython with the startup file, and returns stdout and stderr."""
    startup = tmp_path / "profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "zz-binder-egress.py").write_text(STARTUP)
    folder, name = FILES["binder-egress-ipython"]["mountPath"].split("/startup/")
    assert folder in SYSTEM_CONFIG_DIRS and name.endswith(".py")

    def run(*cells: str, **variables: str) -> tuple[str, str]:
        environment = {"PATH": os.environ["PATH"], "IPYTHONDIR": str(tmp_path), "HOME": str(tmp_path), **variables}
        command = [sys.executable, "-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-confirm-exit", "--no-banner"]
        result = subprocess.run(command, input="\n".join(cells) + "\n", capture_output=True, text=True, env=environment, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout, result.stderr

    return run


# Errors of libraries if a name does not resolve or the network is unreachable.
FAILURES = {
    "socket": "import socket; raise socket.gaierror(-3, 'Temporary failure in name resolution')",
    "urllib": "import socket, urllib.error; raise urllib.error.URLError(socket.gaierror(-3, 'Temporary failure'))",
    "unreachable": "raise OSError(101, 'Network is unreachable')",
    "wrapped": "import socket\ntry: raise socket.gaierror(-3, 'x')\nexcept OSError as e: raise RuntimeError('download') from e\n",
    "requests": "import socket, requests\ndef fail(*a, **k): raise socket.gaierror(-3, 'x')\n\nsocket.getaddrinfo = fail\n"
    "requests.get('http://name.invalid')",
}


def test_network_error_of_a_cell_is_explained(ipython):
    _, errors = ipython(*FAILURES.values(), BINDER_EGRESS_URL=URL)
    said = f"This server may have no internet access, or only packages. To see, and to get it, open {SAID}"
    assert errors.count(said) == len(FAILURES)


ODD = "class Odd(Exception):\n    @property\n    def reason(self): raise ValueError('odd')\n\nraise Odd"


def test_other_errors_are_not_explained_and_none_without_an_address(ipython):
    names = "[name for name in dir() if 'binder' in name.lower()]"
    cells = ["1 / 0", "print('fine')", "raise ConnectionRefusedError(111, 'no database')", "raise TimeoutError", "1 +", ODD]
    for written, errors in (ipython(*cells, names, "6 * 7", BINDER_EGRESS_URL=URL), ipython(FAILURES["socket"], names, "6 * 7")):
        assert "42" in written and "[]" in written
        assert "internet" not in written + errors
