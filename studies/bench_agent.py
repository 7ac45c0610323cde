"""The agent in figures: the real process on a made-up node with the processes of 100 user pods, beside an idle one.

Each pod is three processes with programs of their own inodes, as in containers: a copy of Python that runs a script, a shell with
another, and `sleep`. The agent finds them in a folder of links into the real `/proc`.

Connections are measured apart, in this process: without any, and while all pods open some, so that the sockets of each are to be
looked at.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path

from once import unless_once
from processes import memory_mib, processor_seconds, processor_seconds_of_ended_children
from rich.console import Console
from rich.table import Table

from binder_egress.agent.__main__ import SCANS_SECONDS
from binder_egress.agent.scans import LOOKED_AT_FROM, Scans, Unusual
from binder_egress.agent.uses import Open, Uses
from tests.support.doc_examples import section
from tests.support.ports import free_port
from tests.support.processes import children

console = Console(width=None if sys.stdout.isatty() else 120)

PODS, ROUNDS = unless_once(100, 2), unless_once(10, 1)
"""User pods, and rounds that are measured after the first."""

SETTLING_ROUNDS, SCANS_ROUNDS = unless_once(20, 3), unless_once(20, 2)
"""Rounds of looking for scans: those in which pods are found, and the time is used that looking at sockets may take at once; and
those that are measured."""

AGENT = """
import pathlib, sys
import binder_egress.agent.__main__ as process
from binder_egress.agent.processes import Processes
root = pathlib.Path(sys.argv[1])
class Node(Processes):
    def __init__(self):
        super().__init__(root / "proc", pod_of=lambda text: "00000000-0000-0000-0000-000000000000")
process.Processes = Node
process.run(process.Settings("127.0.0.1", int(sys.argv[2]), admin_port=int(sys.argv[3]), lists=(root / "lists",)), 1.0)
"""


def main() -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "lists").mkdir()
        (folder / "proc").mkdir()
        (rules,) = section("docs/agent.md", "YARA rules", "yara")
        (folder / "lists/examples.yar").write_text(rules)
        (folder / "lists/sums.sha256").write_text("".join(f"{number:064x}  program {number}\n" for number in range(1000)))
        running = [process for number in range(PODS) for process in _pod(folder, number)]
        try:
            for process in running:
                (folder / "proc" / str(process.pid)).symlink_to(f"/proc/{process.pid}")
            first, rest, memory, highest = _measure(folder)
            quiet, busy = _measure_scans(folder, [process.pid for process in running])
        finally:
            for process in running:
                process.kill()
                process.wait()
    table = Table(title=f"The agent, with {PODS} user pods ({len(running)} processes), a round each 30 s")
    for column in ("", "measured", "at most"):
        table.add_column(column)
    share = rest / 30 * 100
    table.add_row("processor time of a round", f"{rest * 1000:.0f} ms, {share:.2f} % of a core", "1 %")
    table.add_row("until everything new was read, once", f"{first:.2f} s", "")
    table.add_row("memory between rounds", f"{memory:.0f} MiB", "64 MiB")
    table.add_row("memory meanwhile, both processes", f"{highest:.0f} MiB", "")
    table.add_row("processor time of looking for scans, and at what pods used", f"{quiet * 100:.2f} % of a core", "1.5 %")
    table.add_row("while all pods open ten connections each second", f"{busy * 100:.2f} % of a core", "1.5 %")
    console.print(table)
    # A few rounds are too few to measure a share.
    heaviest = max(share, quiet / 0.015, busy / 0.015)
    if heaviest >= unless_once(1.0, 100.0) or memory >= 64:
        sys.exit("The agent is heavier than docs/agent.md says.")


def _pod(folder: Path, number: int) -> list["subprocess.Popen[bytes]"]:
    own = folder / f"pod-{number}"
    own.mkdir()
    for path in ("/bin/sh", "/bin/sleep", os.path.realpath("/usr/bin/python3")):
        shutil.copy(path, own / Path(path).name)
    # It waits for a line that never comes. A child, such as `sleep`, would outlive it and hold our output.
    (own / "script").write_text("read -r line\n")
    (own / "script.py").write_text(f"import time\ntime.sleep(600)  # {number}\n")
    python = own / Path(os.path.realpath("/usr/bin/python3")).name
    commands = ([own / "sh", "script"], [own / "sleep", "600"], [python, "-S", "-E", "script.py"])
    return [subprocess.Popen(command, cwd=own, stdin=subprocess.PIPE, env={"PYTHONHOME": "/usr"}) for command in commands]


def _measure(folder: Path) -> tuple[float, float, float, float]:
    """Processor seconds until nothing waits and of a later round, MiB between rounds, and the most MiB before the first ended."""
    port = free_port()
    command = [sys.executable, "-c", AGENT, folder, str(free_port()), str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as agent:
        try:
            highest = 0.0
            while _rounds(port) < 1:
                with suppress(OSError):  # A child may just have ended.
                    highest = max(highest, memory_mib(agent.pid, *children(agent.pid)))
                time.sleep(0.02)
            while not _idle(port):
                time.sleep(0.1)
            first, began = _seconds(agent.pid), _rounds(port)
            while _rounds(port) < began + ROUNDS:
                time.sleep(0.1)
            rest = (_seconds(agent.pid) - first) / (_rounds(port) - began)
            return first, rest, memory_mib(agent.pid), highest
        finally:
            agent.kill()


def _measure_scans(folder: Path, processes: list[int]) -> tuple[float, float]:
    """The share of a core that looking for scans takes, without connections and with, over `SCANS_ROUNDS` seconds each."""
    uids = [str(uuid.uuid4()) for _ in range(PODS)]
    for number, process in enumerate(processes):
        own = folder / "nodes" / str(process)
        own.mkdir(parents=True)
        (own / "cgroup").write_text(f"0::/kubepods/pod{uids[number * PODS // len(processes)]}/container\n")
        for name in ("stat", "status", "net"):
            (own / name).symlink_to(f"/proc/{process}/{name}")
    uses = Uses(Open(), folder / "nodes")
    scans, shares = Scans(Unusual(), folder / "nodes", uses=uses), []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for opened in (0, LOOKED_AT_FROM):
            took = []
            for _ in range(SETTLING_ROUNDS + SCANS_ROUNDS):
                for _ in range(opened):
                    with socket.create_connection(server.getsockname()):
                        server.accept()[0].close()
                before = time.thread_time()
                scans.round()
                took.append(time.thread_time() - before)
                time.sleep(SCANS_SECONDS)
            assert len(scans.pods) == PODS
            shares.append(sum(took[SETTLING_ROUNDS:]) / SCANS_ROUNDS / SCANS_SECONDS)
    quiet, busy = shares
    return quiet, busy


def _metrics(port: int) -> dict[str, float]:
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        return {}
    return {row.rpartition(" ")[0]: float(row.rpartition(" ")[2]) for row in text.splitlines() if row and row[0] != "#"}


def _rounds(port: int) -> int:
    return int(_metrics(port).get("binder_egress_agent_rounds_total", 0))


def _idle(port: int) -> bool:
    return _metrics(port).get("binder_egress_agent_waiting_files") == 0


def _seconds(pid: int) -> float:
    """Processor seconds of a process and of its children that have ended."""
    return processor_seconds(pid) + processor_seconds_of_ended_children(pid)


if __name__ == "__main__":
    main()
