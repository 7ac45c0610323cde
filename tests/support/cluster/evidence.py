"""What a failed test leaves: the logs of all pods and of the cluster's components, and the events.

Kubernetes removes a container's log with its pod, so in a local cluster each log file gets a second name (a hard link).
"""

import os
import re
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

EVERY_SECONDS = 0.3
"""How often new log files are looked for."""

MOST_BYTES = 2_000_000
"""The most that is kept of the end of each log file."""


class Evidence:
    """Keeps logs while tests run, in the folder `results` if there is one. A context manager."""

    def __init__(self, results: Path | None, context: str | None) -> None:
        self._results, self._context = results, context
        config = os.environ.get("KUBECONFIG") if os.environ.get("CLUSTER_TARGETS") else None
        self._cluster = Path(config).parents[1] if config else None
        self._kept = self._cluster / "kept-logs" if self._cluster else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._seen: set[int] = set()

    def __enter__(self) -> "Evidence":
        if self._kept:
            shutil.rmtree(self._kept, ignore_errors=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._kept:
            self._thread.join()
            shutil.rmtree(self._kept, ignore_errors=True)

    def save(self, test: str, error: BaseException, text: str) -> None:
        """Save the evidence and pytest's report for a failed test. A failed set-up counts once, however many tests it fails."""
        if not self._results or id(error) in self._seen:
            return
        self._seen.add(id(error))
        folder = self._results / re.sub(r"[^\w.-]+", "-", test.removeprefix("tests/cluster/"))[:120]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure.txt").write_text(text)
        for name, command in {
            "pods.txt": ("get", "pods", "-A", "-o", "wide"),
            "pods.yaml": ("get", "pods", "-A", "-o", "yaml"),
            "events.txt": ("get", "events", "-A", "--sort-by=.metadata.creationTimestamp"),
            "networkpolicies.yaml": ("get", "networkpolicies", "-A", "-o", "yaml"),
        }.items():
            (folder / name).write_text(self._kubectl(*command))
        if self._cluster and self._kept:
            self._link()
            for file in self._kept.rglob("*.log"):
                _copy_end(file, folder / "pods" / file.relative_to(self._kept))
            for file in self._cluster.glob("node*/log/*.log"):
                _copy_end(file, folder / file.parts[-3] / file.name)
        else:
            pods = self._kubectl("get", "pods", "-A", "--no-headers", "-o", "custom-columns=:metadata.namespace,:metadata.name")
            for namespace, pod in (line.split() for line in pods.splitlines()):
                log = self._kubectl("--namespace", namespace, "logs", pod, "--all-containers", "--prefix", "--tail=2000")
                (folder / f"{namespace}_{pod}.log").write_text(log)

    def lines(self, namespace: str, pods: str) -> list[str]:
        """The logs of a namespace's pods whose names begin so; in the local cluster also of pods that are gone."""
        if not self._kept:
            names = self._kubectl("--namespace", namespace, "get", "pods", "-o", "name").split()
            texts = [self._kubectl("--namespace", namespace, "logs", name) for name in names if name.startswith(f"pod/{pods}")]
        else:
            self._link()
            texts = [file.read_text(errors="replace") for file in sorted(self._kept.glob(f"{namespace}_{pods}*/*/*.log"))]
        return [line for text in texts for line in text.splitlines()]

    def _kubectl(self, *args: str) -> str:
        context = ["--context", self._context] if self._context else []
        try:
            done = subprocess.run(["kubectl", *context, *args], capture_output=True, text=True, timeout=30, check=False)
        except subprocess.TimeoutExpired as error:
            return str(error)
        return done.stdout + done.stderr

    def _keep(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self._link()

    def _link(self) -> None:
        assert self._cluster and self._kept
        # A file or folder may just have gone, or another thread may have been first. The next look finds what was missed.
        with suppress(FileNotFoundError, FileExistsError):
            for file in self._cluster.glob("node*/log/pods/*/*/*.log"):
                other = self._kept.joinpath(*file.parts[-3:])
                if not other.exists():
                    other.parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, other)


def _copy_end(source: Path, target: Path) -> None:
    if data := source.read_bytes()[-MOST_BYTES:]:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
