"""`python3 -m binder_egress.agent`, the agent's process: its settings, its rounds, and a port for probes and Prometheus."""

import logging.config
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .. import logs
from .metrics import Metrics
from .processes import Processes
from .reporting import Reporter
from .rounds import Watcher
from .scans import Scans, Unusual
from .uses import Open, Uses

INTERVAL_SECONDS = 30.0
"""Seconds between two rounds. A program that runs for less may be missed."""

SCANS_SECONDS = 1.0
"""Seconds between two looks at the connections of user pods."""

STUCK_SECONDS = 300
"""Seconds without a round after which the process ends itself to be restarted: a file system may not answer."""

LISTS = (Path("/etc/binder-egress/agent/configmap"), Path("/etc/binder-egress/agent/secret"))
"""Where the chart mounts the lists."""

ADMIN_PORT = 8083

log = logging.getLogger("binder-egress")


class InvalidSetting(Exception):
    """A setting is missing or wrong. The text says which chart value to change."""


@dataclass(frozen=True)
class Settings:
    """The agent's settings, from the environment. It does not use `binder_egress.settings`, because its image has no pydantic.

    Attributes:
        host: the address of the receiver's Service.
        port: its port.
        log_level: `debug`, `info`, `warning` or `error`.
        admin_port: the port for probes and Prometheus.
        lists: the folders of the lists.
        scans: which connections are reported; None: nobody looks at them.
        uses: what the base policy opens; None: nobody asks what pods used.
    """

    host: str
    port: int
    log_level: str = "info"
    admin_port: int = ADMIN_PORT
    lists: tuple[Path, ...] = LISTS
    scans: Unusual | None = None
    uses: Open | None = None

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings.

        Raises:
            InvalidSetting: a setting is missing or wrong.
        """
        host = environment.get("BINDER_EGRESS_AGENT_HOST", "")
        # The kubelet leaves unknown variables as they are.
        if not host or host.startswith("$("):
            raise InvalidSetting(
                "The receiver's Service is not there (BINDER_EGRESS_AGENT_HOST): it must exist before this starts."
            )
        level = environment.get("BINDER_EGRESS_LOG_LEVEL", "info")
        if level not in ("debug", "info", "warning", "error"):
            raise InvalidSetting(
                f"logLevel: {level!r} is not debug, info, warning or error (environment variable BINDER_EGRESS_LOG_LEVEL)."
            )
        try:
            port = int(environment.get("BINDER_EGRESS_AGENT_PORT", "8081"))
            admin = int(environment.get("BINDER_EGRESS_AGENT_ADMIN_PORT", str(ADMIN_PORT)))
        except ValueError:
            raise InvalidSetting("BINDER_EGRESS_AGENT_PORT and BINDER_EGRESS_AGENT_ADMIN_PORT are numbers.") from None
        scans = environment.get("BINDER_EGRESS_AGENT_SCANS", "")
        try:
            unusual = Unusual.load(scans) if scans else None
        except ValueError as error:
            raise InvalidSetting(f"agent.scans (environment variable BINDER_EGRESS_AGENT_SCANS): {error}.") from None
        uses = environment.get("BINDER_EGRESS_AGENT_USES", "")
        try:
            opened = Open.load(uses) if uses else None
        except ValueError as error:
            raise InvalidSetting(f"agent.report (environment variable BINDER_EGRESS_AGENT_USES): {error}.") from None
        folders = environment.get("BINDER_EGRESS_AGENT_LISTS", "")
        return cls(host, port, level, admin, tuple(map(Path, folders.split(":"))) if folders else LISTS, unusual, opened)


def run(settings: Settings, interval_seconds: float = INTERVAL_SECONDS) -> None:
    """Look, round by round, until SIGTERM or SIGINT.

    Args:
        settings: where the lists are, and where reports go.
        interval_seconds: the pause between two rounds.
    """
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    metrics = Metrics()
    server = _serve(settings.admin_port, metrics)
    watcher, reporter = Watcher(Processes(), settings.lists), Reporter(settings.host, settings.port)
    fields = {"uid": os.getuid(), "gid": os.getgid(), "port": settings.admin_port}
    log.info("agent", extra={"fields": fields})
    if settings.scans or settings.uses:
        # Each pod has some ten open files.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        uses = Uses(settings.uses) if settings.uses else None
        looking = (Scans(settings.scans, uses=uses), uses, Reporter(settings.host, settings.port), metrics, stopped)
        threading.Thread(target=_look_for_scans, args=looking, name="scans", daemon=True).start()
    while not stopped.is_set():
        # Without a handler, the signal ends the process.
        signal.alarm(STUCK_SECONDS)
        began = time.monotonic()
        done = watcher.round()
        reports = reporter.report(done.found, done.pods)
        took = time.monotonic() - began
        metrics.note(done, reports, watcher.lists, took)
        stopped.wait(max(1.0, interval_seconds - took))
    server.shutdown()


def _look_for_scans(scans: Scans, uses: Uses | None, reporter: Reporter, metrics: Metrics, stopped: threading.Event) -> None:
    while not stopped.wait(SCANS_SECONDS):
        try:
            found = scans.round()
            sent = reporter.report(found, scans.pods)
            metrics.note_scans(len(scans.pods), sent + reporter.tell(uses) if uses else sent)
        except Exception:
            log.exception("fault while looking for scans")


def _serve(port: int, metrics: Metrics) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            pages = {"/healthz": b"ok\n", "/metrics": metrics.text()}
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: one line for each probe would help nobody."""

    dual = socket.has_dualstack_ipv6()

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if dual else socket.AF_INET

        def server_bind(self) -> None:
            if dual:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    server = Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="admin", daemon=True).start()
    return server


def main() -> None:
    """Run the agent; a wrong setting ends it with one sentence and exit code 2."""
    try:
        settings = Settings.load(os.environ)
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logging.config.dictConfig(logs.configuration(settings.log_level))
    run(settings)


if __name__ == "__main__":
    main()
