"""The agent's metrics. Written by hand: Prometheus' client would double the memory of a process that runs on every node (D-334)."""

import threading
from collections import Counter
from collections.abc import Mapping

from .lists import Lists
from .processes import CROWDED, HIDDEN, LATE, OTHER_GROUP, OTHER_USER
from .rounds import Round

_FILES = ("hashed", "scanned", "large", "gone", "scan-timeout", "scan-crashed", "scan-failed")
_UNSEEN = (OTHER_USER, OTHER_GROUP, HIDDEN, CROWDED, LATE)
_HELP = {
    "processes": ("gauge", "Processes of pods whose program was seen in the last round."),
    "unseen_processes": (
        "gauge",
        "Processes of pods that were not seen in the last round. other-user, other-group: they run as another user or group, which "
        "most pods of the cluster do; hidden: they run as user pods do, and hid themselves or their program; crowded: not all of "
        "their files were looked at, because their pod runs too many; late: those that an interpreter was given were not, because "
        "all pods together have too many such processes.",
    ),
    "watched_pods": ("gauge", "User pods whose connections are watched for scans."),
    "waiting_files": ("gauge", "New files that are left for the next round."),
    "files_total": (
        "counter",
        "Files by what became of them. hashed, scanned: compared with hashes, with rules; large: too large for a hash; gone: ended "
        "or changed meanwhile; scan-timeout, scan-crashed, scan-failed: not compared with rules.",
    ),
    "read_bytes_total": ("counter", "Bytes of files that were read."),
    "reports_total": ("counter", "Reports. failed: the receiver did not take them; they are sent again."),
    "broken_list_entries": ("gauge", "Lines and rules of the lists that do not count, by list. The log has them."),
    "rounds_total": ("counter", "Rounds."),
    "round_seconds": ("gauge", "How long the last round took."),
}


class Metrics:
    """The results of the rounds, for Prometheus. Any thread may call all methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: Counter[str] = Counter()
        self._reports: Counter[str] = Counter()
        self._text = b""
        self._rounds = self._watched = 0

    def note_scans(self, pods: int, reports: Mapping[str, int]) -> None:
        """Note how many pods are watched for scans, and the number of reports by outcome."""
        with self._lock:
            self._watched = pods
            self._reports.update(reports)

    def note(self, done: Round, reports: Mapping[str, int], lists: Lists, seconds: float) -> None:
        """Note a round: its results, the number of its reports by outcome, the lists, and how many seconds it took."""
        self._rounds += 1
        self._files.update(done.counts)
        with self._lock:
            self._reports.update(reports)
            watched, told = self._watched, dict(self._reports)
        rows: dict[str, dict[str, float]] = {
            "processes": {"": done.processes},
            "unseen_processes": {f'reason="{reason}"': done.unseen[reason] for reason in _UNSEEN},
            "watched_pods": {"": watched},
            "waiting_files": {"": done.waiting},
            "files_total": {f'outcome="{outcome}"': self._files[outcome] for outcome in _FILES},
            "read_bytes_total": {"": self._files["bytes"]},
            "reports_total": {f'outcome="{outcome}"': told.get(outcome, 0) for outcome in ("sent", "failed")},
            "broken_list_entries": {f'list="{_escaped(name)}"': len(problems) for name, problems in lists.broken.items()},
            "rounds_total": {"": self._rounds},
            "round_seconds": {"": round(seconds, 4)},
        }
        lines = []
        for name, values in rows.items():
            kind, words = _HELP[name]
            full = f"binder_egress_agent_{name}"
            lines += [f"# HELP {full} {words}", f"# TYPE {full} {kind}"]
            lines += [f"{full}{{{labels}}} {value}" if labels else f"{full} {value}" for labels, value in values.items()]
        with self._lock:
            self._text = ("\n".join(lines) + "\n").encode()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        with self._lock:
            return self._text


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
