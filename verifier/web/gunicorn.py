"""How the verifier is served: gunicorn, one process, both ports, and slow strangers kept apart from launches.

Decisions: D-082, D-089, D-090.
"""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import TConn, ThreadWorker

from .. import logs
from ..settings import VerifierSettings

REQUEST_LIMIT_SECONDS = 15.0
"""How long a request to the public port may take, sending included. The slowest that is normal takes 10 s: a solution whose captcha
provider answers late (`siteverify.ASK_LIMIT_SECONDS`)."""

PUBLIC_CONNECTIONS = 500
"""Connections of the public port with a request under way. gunicorn accepts 1,000 (`worker_connections`) on both ports together, so
as many are left for the in-cluster port and for connections that wait for their next request."""

KEEPALIVE_SECONDS = 75
"""How long an open connection may wait for its next request."""

GRACEFUL_SECONDS = 10
"""How long requests under way may go on when the process is told to stop."""


class Threads(ThreadPoolExecutor):
    """The threads of both ports: each port has its own, and a request to the public port has a time limit.

    gunicorn has one pool, no limit for a client that sends slowly, and accepts nothing on any port when it has too many
    connections. By each of these a stranger could hold up launches and probes.

    Args:
        threads: threads of each port.
        internal_port: the in-cluster port.
        limit_seconds: limit of a request to the public port.
        connections: requests to the public port at a time; further ones are turned away.
    """

    def __init__(
        self,
        threads: int,
        internal_port: int,
        limit_seconds: float = REQUEST_LIMIT_SECONDS,
        connections: int = PUBLIC_CONNECTIONS,
    ):
        super().__init__(threads)
        self._internal_port = internal_port
        self._internal = ThreadPoolExecutor(threads)
        self._turning_away = ThreadPoolExecutor(1)
        self._limit_seconds = limit_seconds
        self._connections = connections
        self._open: dict[TConn, float] = {}  # connection → when its request began
        self._lock = threading.Lock()
        threading.Thread(target=self._end_slow, name="slow", daemon=True).start()

    def submit(self, handle: Callable[[TConn], Any], conn: TConn) -> Future[Any]:  # type: ignore[override]
        """Handle a connection's next request in a thread of its port."""
        if conn.server[1] == self._internal_port:
            return self._internal.submit(handle, conn)
        with self._lock:
            full = len(self._open) >= self._connections
            if not full:
                self._open[conn] = time.monotonic()
        if full:
            _end(conn)
            return self._turning_away.submit(handle, conn)
        done = super().submit(handle, conn)
        done.add_done_callback(lambda _: self._forget(conn))
        return done

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """End all pools."""
        self._internal.shutdown(*args, **kwargs)
        self._turning_away.shutdown(*args, **kwargs)
        super().shutdown(*args, **kwargs)

    def _forget(self, conn: TConn) -> None:
        with self._lock:
            self._open.pop(conn, None)

    def _end_slow(self) -> None:
        while True:
            time.sleep(self._limit_seconds / 15)
            with self._lock:
                slow = [conn for conn, began in self._open.items() if time.monotonic() - began > self._limit_seconds]
            for conn in slow:
                _end(conn)


def _end(conn: TConn) -> None:
    # Not close(): the thread that reads must see an end of file, and closes it.
    with suppress(OSError):
        conn.sock.shutdown(socket.SHUT_RDWR)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threaded worker, with the pools of `Threads`."""

    def get_thread_pool(self) -> Threads:
        """gunicorn's hook for another pool."""
        return Threads(self.cfg.threads, self.app.settings.internal_port)


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with one worker: metrics and state stay simple, and the work is I/O and microseconds of HMAC.

    Args:
        settings: ports and threads.
        app: the WSGI application.
        begin: called when the worker starts.
    """

    def __init__(self, settings: VerifierSettings, app: object, begin: Callable[[], None]):
        self.settings = settings
        self._app = app
        self._begin = begin
        super().__init__()

    def load_config(self) -> None:
        """Give gunicorn its settings."""
        options = {
            "bind": [f"[::]:{port}" for port in (self.settings.public_port, self.settings.internal_port)],
            "worker_class": Worker,
            "threads": self.settings.threads,
            "worker_tmp_dir": "/tmp",
            "control_socket_disable": True,
            "keepalive": KEEPALIVE_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            "logconfig_dict": logs.configuration(self.settings.log_level),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> object:
        """The WSGI application. gunicorn calls this in its worker, where threads must be started: none survives a fork."""
        self._begin()
        return self._app
