"""Child processes, and the memory of processes, as the machine's kernel counts it. `studies/processes.py` measures more."""

import re
from pathlib import Path


def children(process: int) -> list[int]:
    """The child processes that the main thread of a process has started, and that still exist."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def resident_mib(*processes: int) -> float:
    """MiB of processes in memory. What they have together counts for each (`VmRSS` of proc_pid_status(5))."""
    return sum(kib(process, "status", "VmRSS") for process in processes) / 1024


def peak_mib(*processes: int) -> float:
    """The highest `resident_mib` of each process so far, added up (`VmHWM`)."""
    return sum(kib(process, "status", "VmHWM") for process in processes) / 1024


def kib(process: int, file: str, field: str) -> int:
    (found,) = re.findall(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{process}/{file}").read_text(), re.MULTILINE)
    return int(found)
