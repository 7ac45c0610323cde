"""Processor time and memory of processes of this machine, as its kernel counts them."""

import os
import time
from pathlib import Path

from tests.support.processes import kib


def processor_seconds(*processes: int) -> float:
    """Processor time of processes, to the nanosecond. The clock's number is what clock_getcpuclockid(3) gives for a process."""
    return sum(time.clock_gettime(~process << 3 | 2) for process in processes)


def processor_seconds_of_ended_children(process: int) -> float:
    """Processor time of a process's children that have ended, to the hundredth (`cutime` and `cstime` of proc_pid_stat(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def memory_mib(*processes: int) -> float:
    """MiB of processes in memory. Of what several processes have together, each counts its part (`Pss` of proc_pid_smaps(5))."""
    return sum(kib(process, "smaps_rollup", "Pss") for process in processes) / 1024
