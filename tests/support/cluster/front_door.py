"""An operator's ingress on localhost, for a browser: one host for BinderHub, its servers and the verifier."""

import http.client
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support.cluster.quiet_network import both_ways
from tests.support.cluster.stage import CLIENT, Stage
from tests.support.cluster.timeouts import LAUNCH_SECONDS

PORT = 8700
URL = f"http://localhost:{PORT}/"

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


class FrontDoor:
    """The ingress at `url`. The stand-in has no page, so the ingress has one, with the snippets `header`.

    Requests whose path begins with a key of `gates` wait for its event. `builds` has the passes or promises of build requests, and
    `on_build` is called before each; `cuts` is how many streams are still to be cut after their first event.
    """

    def __init__(self, stage: Stage, script: bytes, port: int = PORT) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.builds: list[str | None] = []
        self.on_build: Callable[[], object] = lambda: None
        self.cuts = 0
        self._services = {
            "egress/": stage.url("binder-egress", 80),
            "user/": stage.url("proxy-public", 80),
            "hub/": stage.url("proxy-public", 80),
            "": stage.url("binder", 80),
        }
        values = yaml.safe_load(stage.binderhub_values())
        self.header: dict[str, str] = values["config"]["BinderHub"]["extra_header_html"]
        self._script = script
        self._server = ThreadingHTTPServer(("localhost", port), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://localhost:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        for gate in self.gates.values():
            gate.set()
        self._server.shutdown()
        self._server.server_close()

    def _page(self) -> bytes:
        config = json.dumps({"baseUrl": "/", "buildToken": "none", "repoProviders": [{"id": "fake"}]})
        header = "\n".join(self.header[key] for key in sorted(self.header))
        return (
            f"<!doctype html><html lang=en><title>Binder</title><link rel=icon href='data:,'>"
            f"<script>window.pageConfig = {config}</script>{header}<body><div id=root></div></body>"
            "<script src=/stand-in.js></script></html>"
        ).encode()

    def _handler(door) -> type[BaseHTTPRequestHandler]:  # `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                path = urlsplit(self.path).path.removeprefix("/")
                for gate in [gate for prefix, gate in door.gates.items() if path.startswith(prefix)]:
                    gate.wait()
                if path == "stand-in.js":
                    self.answer(door._script, "text/javascript")
                    return
                try:
                    self.forward(next(service for prefix, service in door._services.items() if path.startswith(prefix)), path)
                except (OSError, http.client.HTTPException):
                    # Answer as an ingress whose backend is away. If the answer has begun, it is too late for that.
                    self.close_connection = True
                    self.send_error(502)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = do_GET

            def answer(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def tunnel(self, service: str) -> None:
                """A WebSocket: bytes from each side go to the other, until one side ends it."""
                self.close_connection = True
                head = [f"{self.command} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers.items())]
                where = urlsplit(service)
                with socket.create_connection((where.hostname, where.port), timeout=LAUNCH_SECONDS) as server:
                    server.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
                    both_ways(self.connection, server)

            def forward(self, service: str, path: str) -> None:
                if self.headers.get("Upgrade", "").lower() == "websocket":
                    self.tunnel(service)
                    return
                cut = False
                if path.startswith("build/"):
                    door.builds.append(parse_qs(urlsplit(self.path).query).get("egress_token", [None])[0])
                    cut, door.cuts = door.cuts > 0, max(0, door.cuts - 1)
                    door.on_build()
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                connection = http.client.HTTPConnection(urlsplit(service).netloc, timeout=LAUNCH_SECONDS)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                # The ingress replaces a client's claims about its address.
                headers |= {"X-Forwarded-For": CLIENT, "X-Real-IP": CLIENT, "X-Forwarded-Proto": "http"}
                connection.request(self.command, self.path, body or None, headers)
                got = connection.getresponse()
                if got.status == 404 and (path.startswith("v2/") or not path):
                    got.read()
                    self.answer(door._page(), "text/html; charset=utf-8")
                    return
                self.send_response(got.status)
                for name, value in got.getheaders():
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                if path.startswith("build/") and not got.getheader("Access-Control-Allow-Origin"):
                    # As BinderHub with cors_allow_origin: "*"; the stand-in sends no such header.
                    self.send_header("Access-Control-Allow-Origin", "*")
                if self.command == "HEAD" or got.status in (204, 304):
                    self.end_headers()
                    return
                self.send_header("Connection", "close")
                self.close_connection = True
                self.end_headers()
                while chunk := got.read1(65536):
                    self.wfile.write(chunk)
                    if cut:
                        break
                connection.close()

        return Handler
