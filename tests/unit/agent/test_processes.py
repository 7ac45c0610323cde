"""The agent's view of real processes."""

import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from binder_egress.agent import processes
from binder_egress.agent.processes import FileKey, Processes, open_in
from binder_egress.agent.rounds import UNSEEN
from tests.support import TOP, made_up_miner
from tests.support.waiting import eventually

POD = "7c2a4bd3-1a2b-4c3d-9e8f-0a1b2c3d4e5f"

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=[600]).start()
ctypes.CDLL(None).pthread_exit(None)
"""
"""A program whose first thread ends, while another goes on."""

THREADS_TAKE_TURNS = """
import ctypes, sys, threading, time
def second():
    print("next", flush=True)
    time.sleep(600)
def first():
    sys.stdin.readline()
    threading.Thread(target=second).start()
threading.Thread(target=first).start()
ctypes.CDLL(None).pthread_exit(None)
"""
"""A program whose first thread ends, and whose second ends after a line of input, when a third goes on."""


@contextmanager
def running(*command, **more):
    """A process, when it has begun to run its program."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **more) as process:
        try:
            # The kernel changes the command line last.
            last = str(command[-1]).encode() + b"\0"
            eventually(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().endswith(last))
            yield process
        finally:
            process.kill()


@pytest.fixture
def look(tmp_path):
    """Read some processes as if they were one pod's. Returns what the agent sees."""

    def look(*processes):
        root = Path(tempfile.mkdtemp(dir=tmp_path))
        for process in processes:
            (root / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        return list(Processes(root, pod_of=lambda text: POD).all())

    return look


def sums(process):
    """The SHA-256 of each file that a process runs."""
    found = []
    for file in process.files:
        descriptor = file.open()
        with os.fdopen(descriptor, "rb") as opened:
            assert FileKey.of(os.fstat(descriptor)) == file.key
            found.append(hashlib.sha256(opened.read()).hexdigest())
    return found


def sum_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_program_is_seen_also_when_it_is_deleted_or_in_memory(look, tmp_path):
    made = made_up_miner.build(tmp_path / "miner")
    memory = os.memfd_create("miner", 0)
    os.write(memory, (tmp_path / "miner").read_bytes())
    with running(tmp_path / "miner", "60") as process:
        (seen,) = look(process)
        assert (seen.pod, seen.unseen, sums(seen)) == (POD, "", [made])
        (tmp_path / "miner").unlink()
        assert sums(look(process)[0]) == [made]
    # A file in memory never had a name.
    with running(f"/proc/self/fd/{memory}", "60", pass_fds=[memory]) as process:
        os.close(memory)
        assert os.readlink(f"/proc/{process.pid}/exe").startswith("/memfd:")
        assert sums(look(process)[0]) == [made]


LOADER = str(next(path for path in Path("/").glob("lib*/**/ld-linux*.so.*")))
NUMBERS = [str(number) for number in range(processes.SCRIPTS + 1)]
FOR_LONG = "sleep 60; true"


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (["/bin/sh", "-e", "./run.sh"], ["run.sh"]),
        # The loader runs the program, so it is not a program to the kernel.
        ([LOADER, "./miner", "60"], ["miner"]),
        # The form of R: `--file=script.R`.
        (["/bin/sh", "-c", FOR_LONG, "--file=a file"], ["a file"]),
        # A script behind the file of an option, many times, or behind a word that is also a file.
        (["/bin/bash", *["--rcfile", "rc"] * processes.SCRIPTS, "./run.sh"], ["rc", "run.sh"]),
        (["/bin/bash", "+O", "extglob", "./run.sh"], ["extglob", "run.sh"]),
        # Another shell that has the name of busybox, to which the first word is the script.
        (["./busybox", "sh", "./run.sh"], ["sh", "run.sh"]),
        # Only the first files of options.
        (["/bin/sh", "-c", FOR_LONG, *itertools.chain(*(("-x", name) for name in NUMBERS))], NUMBERS[:-1]),
        # The data of a script are not read, but `-e` may be an option with a file, so that one more file is looked at.
        (["/bin/sh", "-e", "run.sh", "data", "rc"], ["run.sh", "data"]),
        (["/bin/sh", "run.sh", "data"], ["run.sh"]),
        # Nor are the arguments of other programs.
        ([shutil.which("tail"), "-f", "data"], []),
    ],
)
def test_files_of_a_command_line_are_seen(look, tmp_path, command, files):
    for name in ("run.sh", "a file", "rc", "extglob", "sh", "data", *NUMBERS):
        (tmp_path / name).write_text(f"{made_up_miner.SCRIPT}# {name}\n")
    shutil.copy("/bin/sh", tmp_path / "busybox")
    made_up_miner.build(tmp_path / "miner")
    with running(*command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        assert sums(look(process)[0]) == [sum_of(tmp_path / name) for name in (command[0], *files)]


def test_process_that_has_ended_or_is_of_no_pod_is_left_out(look):
    assert list(Processes(pod_of=lambda text: None).all()) == []
    ended = subprocess.Popen(["/bin/true"])
    eventually(lambda: "Z" in Path(f"/proc/{ended.pid}/stat").read_text().rsplit(")", 1)[1])
    assert look(ended) == []
    ended.wait()
    assert look(ended) == []


@pytest.fixture
def inside(tmp_path):
    """A made-up folder of `/proc` for a process whose root and current folder are in `tmp_path`."""
    (tmp_path / "root/home/jovyan").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/root").symlink_to(tmp_path / "root")
    (tmp_path / "proc/cwd").symlink_to(tmp_path / "root/home/jovyan")
    (tmp_path / "outside").write_text("outside")
    (tmp_path / "root/inside").write_text("inside")
    return tmp_path


def read(inside, name):
    with os.fdopen(open_in(inside / "proc", name), "rb") as file:
        return file.read().decode()


@pytest.mark.parametrize(
    "name", ["/inside", "../../inside", "../../../../../inside", "/../../inside", "link", "/up", "./../jovyan//link", "chain"]
)
def test_file_is_found_as_the_process_would(inside, name):
    """Links and `..` lead no further than the process's root, as in chroot(2)."""
    (inside / "root/home/jovyan/link").symlink_to("/inside")
    (inside / "root/up").symlink_to("../../../inside")
    (inside / "root/home/jovyan/chain").symlink_to("link")
    assert read(inside, name) == "inside"


@pytest.mark.parametrize("name", ["/outside", "../../../outside", "link", "folder/outside", "none", "", "/", "inside/x"])
def test_file_outside_is_not_opened(inside, name):
    (inside / "root/home/jovyan/link").symlink_to(inside / "outside")
    (inside / "root/home/jovyan/folder").symlink_to("../../..")
    with pytest.raises(OSError):
        read(inside, name)


def test_nothing_but_a_file_is_opened(inside):
    """None of these files may make the agent wait, or do anything."""
    work = inside / "root/home/jovyan"
    os.mkfifo(work / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(work)
        bound.bind("socket")
        os.chdir(TOP)
    (work / "loop").symlink_to("loop")
    (work / "device").symlink_to("/dev/zero")
    (inside / "root/dev").mkdir()
    for name in ("fifo", "socket", "loop", "device", ".", "x/" * 5000, "a" * 5000):
        with pytest.raises((OSError, ValueError)):
            read(inside, name)


def test_link_that_cannot_be_read_leaves_no_descriptor_open():
    """A pod can have any number of them: `bash <(…)` goes by `/proc/self`, which leads nowhere from another pod."""
    with subprocess.Popen(["true"]) as ended:
        link = f"/proc/{ended.pid}/exe"
        eventually(lambda: not os.path.exists(link))
        assert os.path.lexists(link)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError):
            open_in(Path("/proc/self"), link)
        assert os.listdir("/proc/self/fd") == before


def test_arguments_of_a_process_cost_a_bounded_number_of_steps(look, tmp_path, monkeypatch):
    """A stranger chooses the paths, and may have thousands of processes."""
    (tmp_path / "a").mkdir()
    long = "/".join(["a", ".."] * 120)
    command = [sys.executable, "-c", "import time; time.sleep(600)", *[f"{long}/{number}" for number in range(31)]]
    with running(*command, cwd=tmp_path) as process:
        opened, real = [], os.open
        monkeypatch.setattr(os, "open", lambda *given, **more: opened.append(given) or real(*given, **more))
        (found,) = look(process)
        assert len(found.files) == 1
        assert 100 < len(opened) < processes.MAX_STEPS + 200


NO_TIME = itertools.repeat(0.0)
CROWD = [*[("crowded", "", 2)] * 2, *[("crowded", "crowded", 1)] * 2, ("other", "", 2), ("third", "", 2)]
"""Of the first pod, only the programs are seen when its arguments have taken too long."""


@pytest.mark.parametrize(
    ("clocks", "seen"),
    [
        ([itertools.count(step=processes.POD_ARGUMENT_SECONDS)], CROWD),
        ([NO_TIME, itertools.count(step=processes.POD_WAIT_SECONDS / 7)], CROWD),
        # One process can have hundreds of steps, and a script behind them.
        ([NO_TIME, itertools.chain([0.0], itertools.repeat(processes.POD_WAIT_SECONDS + 1))], [("slow", "crowded", 1)]),
        # Pods that are slow together end a round. The interpreters of innocent pods are then counted, and not accused.
        ([NO_TIME, itertools.count(step=processes.ALL_WAIT_SECONDS)],
            [("first", "crowded", 1), ("second", "late", 1), ("third", "late", 1)]),
    ],
    ids=["processor time", "waiting", "one process", "slow together"],
)  # fmt: skip
def test_pod_with_many_or_slow_scripts_keeps_those_of_no_other_out(tmp_path, clocks, seen):
    (tmp_path / "run.sh").write_text(made_up_miner.SCRIPT)
    (tmp_path / "proc").mkdir()
    turns = iter([pod for pod, *_ in seen])
    with ExitStack() as stack:
        for _ in seen:
            process = stack.enter_context(running("/bin/sh", "./run.sh", cwd=tmp_path))
            (tmp_path / "proc" / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        found = list(Processes(tmp_path / "proc", lambda text: next(turns), *(clock.__next__ for clock in clocks)).all())
    assert [(process.pod, process.unseen, len(process.files)) for process in found] == seen
    assert processes.LATE not in UNSEEN


def test_program_is_opened_by_a_thread_that_runs(look, tmp_path):
    """The process looks like one that has ended, and the thread that was found while processes were listed has ended since."""
    (tmp_path / "run.py").write_text(THREADS_TAKE_TURNS)
    with subprocess.Popen([sys.executable, "./run.py"], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            eventually(lambda: ") Z " in Path(f"/proc/{process.pid}/stat").read_text())
            (seen,) = look(process)
            assert (seen.pod, seen.unseen) == (POD, "")
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"next\n"
            eventually(lambda: len(os.listdir(f"/proc/{process.pid}/task")) == 2)
            assert sums(seen) == [sum_of(os.path.realpath(sys.executable)), sum_of(tmp_path / "run.py")]
        finally:
            process.kill()


def test_unreadable_program_is_that_of_its_pod_alone(tmp_path, monkeypatch):
    """By the time that it is opened, the number may belong to a process in another pod, or of another user."""
    pods, opened = [POD], os.open

    def refuse(path, *arguments, **more):
        if str(path).endswith("/exe"):
            raise PermissionError
        return opened(path, *arguments, **more)

    with running("/bin/sleep", "600") as process:
        (tmp_path / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        ((program,),) = (found.files for found in Processes(tmp_path, pod_of=lambda text: pods[0]).all())
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(PermissionError):
            program.open()
        pods[0] = "another"
        with pytest.raises(FileNotFoundError):
            program.open()


def test_processes_come_in_another_order_each_time(look):
    """A process cannot be the one that is always left out."""
    with ExitStack() as stack:
        sleeps = [stack.enter_context(running("/bin/sleep", str(600 + number))) for number in range(9)]
        first = {os.readlink(process.files[0].open.args[0]) for process in (look(*sleeps)[0] for _ in range(50))}
        assert len(first) > 1


LOOK = """
import collections, json, pathlib, sys
from binder_egress.agent.processes import Processes
print(json.dumps({p.name: [[s.unseen, len(s.files)] for s in Processes(p, pod_of=lambda text: "a").all()]
                  for p in map(pathlib.Path, sys.argv[1:])}))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="starts processes of several users")
def test_same_user_without_capabilities_sees_its_own_kind_alone():
    """The agent has only the uid and gid of user pods. It also needs no package: this Python has none."""
    hide = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0); print(flush=True)"
    codes = {"hidden": f"{hide}; time.sleep(600)", "thread": FIRST_THREAD_ENDS, "hidden thread": hide + FIRST_THREAD_ENDS}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "binder_egress").mkdir()
        (Path(folder) / "binder_egress/__init__.py").write_text("")
        shutil.copytree(TOP / "verifier/binder_egress/agent", Path(folder) / "binder_egress/agent")
        users = {"same": (1000, 1000), "group": (1000, 100), "user": (1001, 1000), "root": (0, 0)}
        users |= dict.fromkeys(codes, (1000, 1000))
        processes = {}
        try:
            for name, (uid, gid) in users.items():
                command = ["/usr/bin/python3", "-c", codes[name]] if name in codes else ["/bin/sleep", "600"]
                process = subprocess.Popen(
                    command, user=uid, group=gid, extra_groups=[], cwd="/", stdout=subprocess.PIPE, text=True
                )
                processes[name] = process
                state = Path(f"/proc/{process.pid}/stat")
                if "thread" in name:
                    eventually(lambda state=state: ") Z " in state.read_text())
                elif name in codes:
                    process.stdout.readline()
                else:
                    eventually(lambda state=state: "(sleep)" in state.read_text())
                (Path(folder) / name).mkdir()
                (Path(folder) / name / str(process.pid)).symlink_to(f"/proc/{process.pid}")
            rights = ["--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
            done = subprocess.run(
                ["setpriv", *rights, "/usr/bin/python3", "-c", LOOK, *(f"{folder}/{name}" for name in users)],
                cwd=folder, check=True, capture_output=True, text=True,
            )  # fmt: skip
        finally:
            for process in processes.values():
                process.kill()
                process.communicate()
    assert json.loads(done.stdout) == {
        "same": [["", 1]],
        "hidden": [["hidden", 0]],
        "thread": [["", 1]],
        "hidden thread": [["hidden", 0]],
        "group": [["other-group", 0]],
        "user": [["other-user", 0]],
        "root": [["other-user", 0]],
    }
