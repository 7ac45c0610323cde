"""The hint inside user servers, chart/integration/hint_*: what bash and IPython print, and that nothing else changes."""

import os
import pty
import re
import shutil
import subprocess
import sys

import pytest

from tests.support import TOP
from tests.support.charts import VALUES

CHART = TOP / "chart"
TERMINAL = (CHART / "integration/hint_terminal.sh").read_text()
STARTUP = (CHART / "integration/hint_ipython.py").read_text()
FILES = VALUES["integration"]["hint"]["jupyterhub"]["singleuser"]["extraFiles"]
URL = "https://hub.example.org/egress/servers/alice/"
SAID = f"{URL}#unlock"


# -- the terminal


def in_terminal(command: list[str], typed: str = "exit\n", **variables: str) -> str:
    """Returns the output of a command in a new terminal."""
    controller, terminal = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", **variables}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True)
    os.close(terminal)
    os.write(controller, typed.encode())
    written = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # the last process closed the terminal
            break
        if not part:
            break
        written += part
    os.close(controller)
    assert process.wait(timeout=60) == 0
    return written.decode().replace("\r\n", "\n")


@pytest.fixture
def profile(tmp_path):
    """A file that reads the hint, as a login shell's profile does."""
    script = tmp_path / "zz-binder-egress.sh"
    script.write_text(TERMINAL)
    return script


def shells():
    return [shell for shell in ("bash", "dash") if shutil.which(shell)]


def test_terminal_file_is_where_login_shells_look():
    assert FILES["binder-egress-terminal"]["mountPath"] == "/etc/profile.d/zz-binder-egress.sh"


@pytest.mark.parametrize("shell", shells())
def test_terminal_prints_the_address_of_the_page(shell, profile):
    # An interactive dash reads ENV. Without root, that is the closest to a profile.
    command = ["bash", "--noprofile", "--rcfile", profile, "-i"] if shell == "bash" else ["dash", "-i"]
    written = in_terminal(command, BINDER_EGRESS_URL=URL, ENV=str(profile))
    assert written.count(SAID) == 1
    assert "This server may have no internet access, or only packages." in written


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
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("curl", "git"):
        (programs / name).write_text('#!/bin/sh\n[ "$1" = --version ]\n')
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    command = ["bash", "--noprofile", "--rcfile", profile, "-i"]
    written = in_terminal(command, f"{typed}\ntrue\nexit\n", BINDER_EGRESS_URL=URL, PATH=path, HOME=str(tmp_path))
    assert written.count(AFTER) == times, written


def test_prompt_of_the_image_still_sees_the_status(profile, tmp_path):
    own = tmp_path / "own"
    own.write_text(f"PROMPT_COMMAND='echo status $?'\n. {profile}\n")
    command = ["bash", "--noprofile", "--rcfile", own, "-i"]
    written = in_terminal(command, "(exit 7)\ntrue\nexit\n", BINDER_EGRESS_URL=URL, HOME=str(tmp_path))
    assert "status 7\n" in written and "status 0\n" in written


def test_terminal_hint_runs_no_program(profile):
    command = [shutil.which("bash"), "--noprofile", "--rcfile", profile, "-i"]
    written = in_terminal(command, BINDER_EGRESS_URL=URL, PATH="/nonexistent")
    assert SAID in written and "not found" not in written


def test_terminal_without_an_address_prints_nothing(profile):
    for variables in ({}, {"BINDER_EGRESS_URL": ""}):
        written = in_terminal(["bash", "--noprofile", "--rcfile", profile, "-i"], **variables)
        assert "internet" not in written and "unlock" not in written


def test_address_is_not_executed(profile):
    address = "%s$(touch pwned)`id`;\\n"
    written = in_terminal(["bash", "--noprofile", "--rcfile", profile, "-i"], BINDER_EGRESS_URL=address)
    assert f"  {address}#unlock\n" in written


@pytest.mark.parametrize("shell", shells())
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

    def run(*cells: str, **variables: str) -> tuple[str, str]:
        environment = {"PATH": os.environ["PATH"], "IPYTHONDIR": str(tmp_path), "HOME": str(tmp_path), **variables}
        command = [sys.executable, "-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-confirm-exit", "--no-banner"]
        result = subprocess.run(command, input="\n".join(cells) + "\n", capture_output=True, text=True, env=environment, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout, result.stderr

    return run


def test_ipython_file_is_in_the_folder_that_ipython_reads():
    from IPython.core.application import SYSTEM_CONFIG_DIRS

    folder, name = FILES["binder-egress-ipython"]["mountPath"].split("/startup/")
    assert folder in SYSTEM_CONFIG_DIRS and name.endswith(".py")


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


def test_other_errors_are_not_explained(ipython):
    names = "[name for name in dir() if 'binder' in name.lower()]"
    cells = ["1 / 0", "print('fine')", "raise ConnectionRefusedError(111, 'no database')", "raise TimeoutError", "1 +", ODD]
    written, errors = ipython(*cells, names, "6 * 7", BINDER_EGRESS_URL=URL)
    assert "42" in written and "[]" in written
    assert "internet" not in written + errors


def test_ipython_without_an_address_is_not_changed(ipython):
    written, errors = ipython(FAILURES["socket"], "6 * 7")
    assert "42" in written
    assert "internet" not in written + errors


def test_startup_file_does_nothing_outside_ipython():
    result = subprocess.run([sys.executable, "-c", STARTUP], capture_output=True, text=True, env={"BINDER_EGRESS_URL": URL})
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_files_do_not_use_the_network():
    """An unverified server has no egress, so a request would make its user wait."""
    assert not [
        word
        for word in ("curl", "wget", "connect(", "urlopen", "getaddrinfo", "/dev/tcp")
        for text in (TERMINAL, STARTUP)
        if word in re.sub(r'\*" [a-z3 -]+ "\*', "", text)  # without the commands that bash looks for
    ]
