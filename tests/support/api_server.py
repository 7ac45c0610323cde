"""A Kubernetes API server on loopback. A test decides its answers and its faults."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

from binder_egress.kubernetes_api import client_for


class ApiServer:
    """An API server whose `answer` a test sets: method, path, query and body → status and body. `asked` has every request, and
    `bodies` has what requests brought."""

    def __init__(self) -> None:
        self.answer: Callable[[str, str, dict[str, str], Any], tuple[int, object]] = lambda *_: (500, {})
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[Any] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def date_time_string(self, timestamp: float | None = None) -> str:
                return api.headers.get("Date") or super().date_time_string(timestamp)

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
                api.asked.append((self.command, parts.path, query))
                api.bodies.extend([body] if body is not None else [])
                status, content = api.answer(self.command, parts.path, query, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

            do_PATCH = do_DELETE = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def client(self) -> client.ApiClient:
        return client_for(client.Configuration(host=self.url))
