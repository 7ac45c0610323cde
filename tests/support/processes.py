"""What processes of this machine use, as its kernel counts it: processor time and memory."""

import os
import re
import time
from pathlib import Path


def children(process: int) -> list[int]:
    """The child processes that the main thread of a process has started, and that still exist."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def processor_seconds(*processes: int) -> float:
    """Processor time of processes, to the nanosecond. The clock's number is what clock_getcpuclockid(3) gives for a process."""
    return sum(time.clock_gettime(~process << 3 | 2) for process in processes)


def processor_seconds_of_ended_children(process: int) -> float:
    """Processor time of a process's children that have ended, to the hundredth (`cutime` and `cstime` of proc_pid_stat(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def memory_mib(*processes: int) -> float:
    """MiB of processes in memory. Of what several processes have together, each counts its part (`Pss` of proc_pid_smaps(5))."""
    return sum(_kib(process, "smaps_rollup", "Pss") for process in processes) / 1024


def resident_mib(*processes: int) -> float:
    """MiB of processes in memory. What they have together counts for each (`VmRSS` of proc_pid_status(5))."""
    return sum(_kib(process, "status", "VmRSS") for process in processes) / 1024


def peak_mib(*processes: int) -> float:
    """The highest `resident_mib` of each process so far, added up (`VmHWM`)."""
    return sum(_kib(process, "status", "VmHWM") for process in processes) / 1024


def _kib(process: int, file: str, field: str) -> int:
    (found,) = re.findall(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{process}/{file}").read_text(), re.MULTILINE)
    return int(found)
