"""Processes and the files that they run, read from `/proc` with no more rights than the user pods' own uid.

The kernel shows the links in `/proc/PID` only to readers that may read the process (ptrace(2), PTRACE_MODE_READ_FSCREDS): all its
uids and gids are the reader's, it is dumpable, and it has no capability that the reader lacks. Decisions: D-330, D-331.
"""

import os
import random
import re
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path

from .cgroups import pod_uid

CMDLINE_BYTES = 65536
"""How many bytes of a command line are read."""

ARGUMENTS = 32
"""How many of an interpreter's arguments are checked for a file."""

SCRIPTS = 4
"""How many of the files among an interpreter's arguments are looked at. Files of options may come before the script."""

MAX_LINKS = 40
"""The most symbolic links on the way to a file, as in the kernel (path_resolution(7))."""

MAX_PARTS = 256
"""The most parts of a path still to be followed, including those from links."""

MAX_STEPS = 512
"""The most parts that are followed for one process, for all its arguments together, at some 4 µs each. A pod may have thousands of
processes."""

POD_ARGUMENT_SECONDS = 0.5
"""How long the arguments of one pod's interpreters are looked at in a round, in seconds of processor time (D-398). An
ordinary script's take some 50 µs, the longest 2 ms."""

POD_WAIT_SECONDS = 5.0
"""The same by the clock on the wall: a pod can make the kernel wait at each step, which costs no processor time."""

ALL_WAIT_SECONDS = 60.0
"""How long the arguments of all pods together are looked at, in seconds by the clock. A round that takes five minutes
ends the agent."""

OPEN_SECONDS = 2.5
"""How long the way to a script is followed when it is opened, in seconds. The pod can make the kernel wait at each step."""

OTHER_USER, OTHER_GROUP, HIDDEN, CROWDED, LATE = "other-user", "other-group", "hidden", "crowded", "late"
"""Why a process cannot be read: its uid or its gid differs, or it has hidden itself (prctl(2), PR_SET_DUMPABLE) or made its program
unreadable. Crowded and late: an interpreter, whose arguments are not looked at, because the arguments of other interpreters of its
pod, or of all pods, took too long."""

THREAD_TRIES = 3
"""How often a thread of a process is looked for to open a file: one that is found may end before it is used."""

# Programs that run a file from their arguments: interpreters, and the dynamic loader, which does so for programs. The name may be
# followed by a version, as in python3.11, or by the rest of ld-linux-x86-64.so.2.
_INTERPRETER = re.compile(
    r"(?:python|pypy|perl|ruby|node|nodejs|deno|bun|bash|sh|dash|ash|ksh|zsh|fish|busybox|toybox|php|lua|luajit|R|Rscript|julia"
    r"|java|tclsh|awk|gawk|mawk|guile|racket|erl|mono|dotnet|qemu-\w+|ld)[-0-9._]*(?:-[\w.-]+)?"
)
_OPTION = ("-", "+")  # of a shell, the second switches off
_DELETED = " (deleted)"

# With these flags, opening never waits, whatever the file has become, and never acquires a terminal.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FileKey:
    """The key by which a file is recognised. Its owner can set the modification time, but not the change time.

    Attributes:
        device, inode, size: as in stat(2), bytes.
        modified, changed: nanoseconds.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> "FileKey":
        """The key of a file, from its stat."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file that a process runs.

    Attributes:
        key: the key by which it is recognised.
        open: opens it for reading, and returns the descriptor; raises OSError. By then it may be another file.
        is_program: whether it is the process' own program, and not a file that an interpreter was given.
    """

    key: FileKey
    open: Callable[[], int]
    is_program: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """A process in a pod.

    Attributes:
        pod: the pod's uid.
        unseen: why it could not be read; empty if it could.
        files: its program, and for an interpreter also the files that it was given; only its program if it is `CROWDED` or `LATE`.
    """

    pod: str
    unseen: str = ""
    files: tuple[RunFile, ...] = ()


@dataclass
class _Spent:
    """How long the arguments of interpreters were looked at in a round, in seconds (D-398).

    Attributes:
        processor, wall: processor time, and time by the clock, of each pod.
        all: the latter of all pods.
    """

    processor: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    all: float = 0.0


class Processes:
    """The processes of all pods on a node.

    Args:
        root: the path of `/proc`.
        pod_of: returns the pod that a process is in, from the content of its `cgroup`.
        clock: processor time of this thread in seconds.
        wall: time in seconds.
    """

    def __init__(
        self,
        root: Path = Path("/proc"),
        pod_of: Callable[[str], str | None] = pod_uid,
        clock: Callable[[], float] = time.thread_time,
        wall: Callable[[], float] = time.monotonic,
    ):
        self._root, self._pod_of, self._clock, self._wall = root, pod_of, clock, wall
        self._uid, self._gid = os.getuid(), os.getgid()

    def all(self) -> Iterator[Process]:
        """Every process in a pod. Processes that end meanwhile are left out."""
        names = os.listdir(self._root)
        # So that no process of a crowded pod can come last on purpose.
        random.shuffle(names)
        spent = _Spent()
        for name in names:
            if name.isdigit():
                # Everything is read through the open folder, because a moment later the number may be another process's.
                with suppress(OSError), _opened(self._root / name, _FOLDER) as process:
                    thread = _thread(process)
                    with _opened(thread, _FOLDER, process) as folder:
                        pod = self._pod_of(_text(folder, "cgroup", CMDLINE_BYTES))
                        if pod and (found := self._process(pod, self._root / name, thread, folder, spent)):
                            yield found

    def _process(self, pod: str, path: Path, thread: str, folder: int, spent: _Spent) -> Process | None:
        try:
            program = FileKey.of(os.stat("exe", dir_fd=folder))
            name = os.path.basename(os.readlink("exe", dir_fd=folder)).removesuffix(_DELETED)
        except PermissionError:
            return Process(pod, self._unseen(_text(folder, "status", 4096)))
        except OSError:  # it has just ended
            return None
        files = [RunFile(program, partial(self._open_program, path, pod), is_program=True)]
        if _INTERPRETER.fullmatch(name):
            if spent.processor[pod] > POD_ARGUMENT_SECONDS or spent.wall[pod] > POD_WAIT_SECONDS:
                return Process(pod, CROWDED, tuple(files))
            if spent.all > ALL_WAIT_SECONDS:
                return Process(pod, LATE, tuple(files))
            began, began_wall = self._clock(), self._wall()
            ends = began_wall + POD_WAIT_SECONDS - spent.wall[pod]
            files += _scripts(path, thread, folder, takewhile(lambda _: self._wall() <= ends, range(MAX_STEPS)))
            took = self._wall() - began_wall
            spent.processor[pod] += self._clock() - began
            spent.wall[pod] += took
            spent.all += took
            # Its arguments may have ended with the time, in front of the script.
            if spent.wall[pod] > POD_WAIT_SECONDS:
                return Process(pod, CROWDED, tuple(files))
        return Process(pod, files=tuple(files))

    def _open_program(self, path: Path, pod: str) -> int:
        """Open the program of a process of this pod. Raises PermissionError only if the pod has made it unreadable."""
        try:
            return _open_by_thread(path, _open_program)
        except PermissionError:
            # By now the number may be another process's, which may be unreadable for other reasons.
            with _opened(path, _FOLDER) as process, _opened(_thread(process), _FOLDER, process) as folder:
                same_pod = self._pod_of(_text(folder, "cgroup", CMDLINE_BYTES)) == pod
                if same_pod and self._unseen(_text(folder, "status", 4096)) == HIDDEN:
                    raise
            raise FileNotFoundError("another process") from None

    def _unseen(self, status: str) -> str:
        ids = dict(re.findall(r"^(Uid|Gid):\t([0-9\t]+)$", status, re.M))
        if set(ids.get("Uid", "").split()) != {str(self._uid)}:
            return OTHER_USER
        return OTHER_GROUP if set(ids.get("Gid", "").split()) != {str(self._gid)} else HIDDEN


def _thread(process: int) -> str:
    """The folder of a thread that runs, below its process' folder: mostly the first thread, which has the process' own folder.

    The first thread can end while others go on. It then shows no program, no command line and no folders, as a zombie, and with
    cgroups of version 1 no cgroup either.

    Raises:
        OSError: all have ended.
    """
    if _has_program(process, "."):
        return "."
    with _opened("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, process) as folder, os.scandir(folder) as threads:
        # No limit: other threads than the first leave nothing behind, unless a tracer keeps each of them, as a process of its own.
        for thread in threads:
            if _has_program(folder, thread.name):
                return f"task/{thread.name}"
    raise FileNotFoundError("a zombie")


def _has_program(folder: int, thread: str) -> bool:
    try:
        os.readlink(f"{thread}/exe", dir_fd=folder)
    except PermissionError:  # nobody may see which
        return True
    except OSError:
        return False
    return True


def _text(folder: int, name: str, most: int) -> str:
    with _opened(name, _READ, folder) as file:
        return os.read(file, most).decode(errors="surrogateescape")


def _open_program(thread: Path) -> int:
    return os.open(thread / "exe", _READ)


def _open_by_thread(process: Path, open_file: Callable[[Path], int]) -> int:
    """Open a file of a process by any of its threads: the one by which it was found may have ended."""
    for _ in range(THREAD_TRIES - 1):
        with suppress(FileNotFoundError, ProcessLookupError):
            return open_file(process / _thread_of(process))
    return open_file(process / _thread_of(process))


def _thread_of(process: Path) -> str:
    with _opened(process, _FOLDER) as folder:
        return _thread(folder)


def _scripts(process: Path, thread: str, folder: int, steps: Iterator[int]) -> list[RunFile]:
    """The arguments of an interpreter that are files, in the pod's own file system, up to the first that is no option's: that is
    the script, and what follows is mostly its data."""
    found: dict[FileKey, RunFile] = {}
    # The first argument is the interpreter's own name. With busybox and toybox, the name of the shell comes after it.
    arguments = _text(folder, "cmdline", CMDLINE_BYTES).split("\0", ARGUMENTS + 1)[: ARGUMENTS + 1]
    if os.path.basename(arguments[0]) in ("busybox", "toybox"):
        arguments[0] = "-"
    for before, argument in pairwise(arguments):
        # R is given `--file=name`.
        name = argument.partition("=")[2] if argument.startswith("-") else argument
        if name and (key := _key_in(process / thread, name, steps)):
            found[key] = RunFile(key, partial(_open_by_thread, process, partial(open_in, name=name)))
            if len(found) == SCRIPTS or not (argument.startswith(_OPTION) or before.startswith(_OPTION)):
                break
    return list(found.values())


def _key_in(path: Path, name: str, steps: Iterator[int]) -> FileKey | None:
    try:
        with _way(path, name, steps) as file:
            return FileKey.of(os.fstat(file))
    except OSError:
        return None


def open_in(process: Path, name: str) -> int:
    """Open a regular file for reading, as a process would under that name.

    Links do not lead out of the process's own root, and only regular files are opened.

    Args:
        process: its folder in `/proc`.
        name: the path, absolute or relative to its current folder.

    Raises:
        OSError: there is no such file, or it may not be read.
    """
    ends = time.monotonic() + OPEN_SECONDS
    with _way(process, name, takewhile(lambda _: time.monotonic() <= ends, range(MAX_STEPS))) as file:
        # The descriptor already belongs to a regular file, so this opens nothing else and does not wait.
        return os.open(f"/proc/self/fd/{file}", _READ)


@contextmanager
def _way(process: Path, name: str, steps: Iterator[int]) -> Iterator[int]:
    """Go to a file step by step. The last descriptor belongs to a regular file, and cannot be used for reading."""
    with _opened(process / "root", _FOLDER) as root, _opened(process / "cwd", _FOLDER) as here:
        top = os.stat(root)
        at, links = os.dup(root if name.startswith("/") else here), 0
        try:
            parts = name.split("/")[::-1]
            while parts:
                part = parts.pop()
                if next(steps, None) is None or len(parts) > MAX_PARTS:
                    raise OSError("too many parts")
                if part in ("", ".") or (part == ".." and os.path.samestat(os.stat(at), top)):
                    continue
                following = os.open(part, _STEP, dir_fd=at)
                kind = os.fstat(following).st_mode
                if stat.S_ISLNK(kind):
                    links += 1
                    try:
                        target = os.readlink("", dir_fd=following)
                    finally:
                        os.close(following)
                    if links > MAX_LINKS:
                        raise OSError("too many links")
                    parts += target.split("/")[::-1]
                    following = os.dup(root if target.startswith("/") else at)
                os.close(at)
                at = following
            if not stat.S_ISREG(os.fstat(at).st_mode):
                raise OSError("no regular file")
            yield at
        finally:
            os.close(at)


@contextmanager
def _opened(path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
    file = os.open(path, flags, dir_fd=folder)
    try:
        yield file
    finally:
        os.close(file)
