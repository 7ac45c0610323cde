"""How verifier and receiver are served: gunicorn, one process, with slow strangers kept apart from everybody else.

Decisions: D-082, D-089, D-090, D-240, D-408.
"""

import io
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.http import Request, RequestParser
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import InvalidChunkSize
from gunicorn.workers.gthread import TConn, ThreadWorker

from .. import logs
from .bodies import MAX_BODY_BYTES
from .context import PLACES

RECEIVE_SECONDS = 2.0
"""How long a request to the public port may take to arrive: from the connection, or on a kept connection from its first byte. Most
ingresses send it in one go; one that passes bodies on as they arrive adds a round trip to the visitor."""

REQUEST_LIMIT_SECONDS = 15.0
"""How long a request to the public port may take, including sending the answer. The slowest normal one takes 10 s: a solution whose
captcha provider answers late (`siteverify.ASK_LIMIT_SECONDS`)."""

MAX_HEAD_BYTES = 32 * 1024
"""The most bytes of a request's headers. nginx passes on as many (`large_client_header_buffers`). gunicorn's limits allow 800 kB,
with which 500 connections would fill this container's memory (D-408)."""

MAX_CHUNKS = 1024
"""The most chunks of a body. A megabyte arrives in so many packets; each takes microseconds, and may have one byte."""

PUBLIC_CONNECTIONS = 500
"""The most connections of the public port with a request under way. gunicorn accepts 1,000 (`worker_connections`) on both ports
together."""

IN_CLUSTER_CONNECTIONS = 200
"""How many of the 1,000 connections are left for the in-cluster port. The other 300 are for those that wait for their next
request."""

REPORTS_AT_A_TIME = 2
"""The most requests that the receiver processes at a time. Each may need thirty times its body in memory while it is read."""

REPORT_CONNECTIONS = 16
"""The most connections of the receiver with a request under way. Each may have a body of `MAX_REPORT_BYTES` in memory."""

REPORT_RECEIVE_SECONDS = 10.0
"""How long a request to the receiver may take to arrive. That is longer than a stranger's may: there are few senders, and they may
be busy nodes."""

KEEPALIVE_SECONDS = 75
"""How long an open connection may wait for its next request."""

GRACEFUL_SECONDS = 10
"""How long requests under way may go on when the process is told to stop."""


class Threads(ThreadPoolExecutor):
    """The threads of both ports. A connection to the public port has its own thread, and takes one of the `threads` places only
    while the application works for it: not while its request arrives or its answer is sent (D-240).

    gunicorn has one pool, no limit for a client that sends slowly, and accepts nothing on any port if it has too many connections.
    Through each of these, a stranger could hold up launches, probes and other visitors.

    Args:
        threads: the number of requests that the application works for at a time, for each port.
        internal_port: the in-cluster port, which has no limits; 0: there is none.
        receive_seconds: time limit for the arrival of a request to the public port.
        limit_seconds: time limit for such a request, from its beginning to the end of its answer.
        connections: the most connections of the public port at a time. One more ends the one that has waited longest for its
            client; if none waits for its client, the new one is ended.
        max_body: how many bytes of a body the public port receives. The application refuses a longer body.
    """

    def __init__(
        self,
        threads: int,
        internal_port: int,
        receive_seconds: float = RECEIVE_SECONDS,
        limit_seconds: float = REQUEST_LIMIT_SECONDS,
        connections: int = PUBLIC_CONNECTIONS,
        max_body: int = MAX_BODY_BYTES,
    ):
        # Twice as many threads as connections: a connection that was ended takes a moment to go away.
        super().__init__(2 * connections)
        self._internal_port = internal_port
        self._internal = ThreadPoolExecutor(threads)
        self._places = threading.Semaphore(threads)
        self._receive_seconds = receive_seconds
        self._limit_seconds = limit_seconds
        self._connections = connections
        self._max_body = max_body
        self._open: dict[socket.socket, _Request] = {}  # in the order in which they began
        self._lock = threading.Lock()
        threading.Thread(target=self._end_slow, name="slow", daemon=True).start()

    def submit(self, handle: Callable[[TConn], Any], conn: TConn) -> Future[Any]:  # type: ignore[override]
        """Handle a connection's next request in a thread for its port."""
        if conn.server[1] == self._internal_port:
            return self._internal.submit(handle, conn)
        with self._lock:
            if len(self._open) >= self._connections:
                self._end_one(conn.sock)
            self._open[conn.sock] = _Request()
        done = super().submit(handle, conn)
        done.add_done_callback(lambda _: self._forget(conn.sock))
        return done

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """End both pools."""
        self._internal.shutdown(*args, **kwargs)
        super().shutdown(*args, **kwargs)

    def whole_requests(self, app: WSGIApplication) -> WSGIApplication:
        """The WSGI application, called for a request to the public port once its body has arrived and a place is free."""

        def receive_first(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            if environ["SERVER_PORT"] == str(self._internal_port):
                return app(environ, start_response)
            length = int(environ.get("CONTENT_LENGTH") or 0)
            # A body whose declared length is too long is refused unread.
            body = b""
            if length <= self._max_body:
                body = environ["wsgi.input"].read(self._max_body + 1)
                environ["wsgi.input"] = io.BytesIO(body)
            request = self._open.get(environ["gunicorn.socket"])
            if request is None or len(body) < length <= self._max_body:
                start_response("408 Request Timeout", [("Connection", "close"), ("Content-Length", "0")])
                return []
            environ[PLACES] = self._places
            with request.at_work(), self._places:
                answer = app(environ, start_response)
                try:
                    return list(answer)
                finally:
                    if close := getattr(answer, "close", None):
                        close()

        return receive_first

    def _forget(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.pop(sock, None)

    def _end_one(self, newest: socket.socket) -> None:
        """End the connection that has waited longest for its client; the newest one if none waits."""
        sock = next((sock for sock, request in self._open.items() if request.waits_for_client), newest)
        self._open.pop(sock, None)
        _end(sock, socket.SHUT_RDWR)

    def _end_slow(self) -> None:
        while True:
            time.sleep(self._receive_seconds / 10)
            now = time.monotonic()
            with self._lock:
                requests = list(self._open.items())
            for sock, request in requests:
                if now - request.began > self._limit_seconds:
                    _end(sock, socket.SHUT_RDWR)
                elif not request.arrived and now - request.began > self._receive_seconds and not _has_bytes(sock):
                    # Shut down only for reading, so that it can still be answered.
                    _end(sock, socket.SHUT_RD)


class _Request:
    """A request to the public port that is under way."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.arrived = False
        self.waits_for_client = True

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.arrived, self.waits_for_client = True, False
        try:
            yield
        finally:
            self.waits_for_client = True


def _has_bytes(sock: socket.socket) -> bool:
    # Bytes that have arrived and are not read yet: this process is slow, not the client.
    poll = select.poll()
    try:
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return False


def _end(sock: socket.socket, how: int) -> None:
    # Not close(): the thread that reads must see the end of the file, and then closes it.
    with suppress(OSError):
        sock.shutdown(how)


class _Head(Request):  # type: ignore[misc]  # gunicorn has no types
    def parse(self, unreader: Any) -> Any:
        self.max_buffer_headers = MAX_HEAD_BYTES
        return super().parse(unreader)

    def set_body_reader(self) -> None:
        super().set_body_reader()
        if isinstance(self.body.reader, ChunkedReader):
            self.body.reader.parser = _few(self.body.reader.parser)


def _few(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for number, chunk in enumerate(chunks):
        if number == MAX_CHUNKS:
            raise InvalidChunkSize(b"send fewer and longer chunks")
        yield chunk


class _Parser(RequestParser):  # type: ignore[misc]  # gunicorn has no types
    mesg_class = _Head


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threaded worker, with the pools of `Threads`."""

    wsgi: WSGIApplication

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_keepalived = self.worker_connections - PUBLIC_CONNECTIONS - IN_CLUSTER_CONNECTIONS

    def get_thread_pool(self) -> Threads:
        """gunicorn's hook for a custom pool."""
        made: Threads = self.app.make_threads()
        return made

    def load_wsgi(self) -> None:
        """gunicorn's hook for the application."""
        super().load_wsgi()
        self.wsgi = self.tpool.whole_requests(self.wsgi)

    def handle(self, conn: TConn) -> Any:
        """Handle a request, and close its connection if it is to be closed.

        gunicorn closes it in the thread that accepts connections, and waits there up to 2 s for the client to close it too.
        """
        if conn.parser is None:
            conn.parser = _Parser(conn.cfg, conn.sock, conn.client)
        kept = super().handle(conn)
        if kept is False:
            conn.close(graceful=True)
            conn.close = lambda graceful=False: None
        return kept


class NoAccessLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log without a line for each request.

    One line for each decision is enough, and access lines would store addresses that nobody needs.
    gunicorn makes them as soon as it has a `logconfig_dict`. Making and dropping a line took a tenth of the time of a small
    request.
    """

    access_log_enabled = False


class PortServer(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with one worker: that keeps metrics and state simple, and the work is I/O and microseconds of HMAC.

    Args:
        app: the WSGI application.
        ports: the TCP ports, on all addresses: IPv4 and IPv6, or only IPv4 if the machine has no IPv6.
        log_level: the lowest level that it logs.
        make_threads: makes its threads, called in the worker.
        begin: called when the worker starts.
    """

    def __init__(
        self,
        app: object,
        ports: Sequence[int],
        log_level: str,
        make_threads: Callable[[], Threads],
        begin: Callable[[], None] = lambda: None,
    ):
        self._app = app
        self._ports = ports
        self._log_level = log_level
        self.make_threads = make_threads
        self._begin = begin
        super().__init__()

    def run(self) -> None:
        """Serve until the process is told to stop."""
        # A connection that has sent nothing yet takes two files (gunicorn's `wait_for_data`), and a container's soft limit may be
        # 1,024. Without a file for a new connection, gunicorn's worker ends.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        super().run()

    def load_config(self) -> None:
        """Give gunicorn its settings."""
        # A kernel without IPv6 refuses the socket, and gunicorn would end.
        every = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"
        options = {
            "bind": [f"{every}:{port}" for port in self._ports],
            "worker_class": Worker,
            "worker_tmp_dir": "/tmp",
            "control_socket_disable": True,
            "keepalive": KEEPALIVE_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            "logconfig_dict": logs.configuration(self._log_level),
            "logger_class": NoAccessLog,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> object:
        """The WSGI application. gunicorn calls this in its worker, where threads must be started: they do not survive a fork."""
        self._begin()
        return self._app
