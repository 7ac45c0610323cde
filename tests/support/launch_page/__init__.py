"""A double of BinderHub: its page, with the real client, its build streams, a server's page, and the verifier behind the same host.

`real.py` puts the real BinderHub in its place.
"""

import http.client
import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from tests.support import TOP
from tests.support.apps import API_TOKEN, DIRECT
from tests.support.charts import VALUES

PAGE = Path(__file__).with_name("page.js").read_text()
HEADER: dict[str, str] = VALUES["integration"]["binderhub"]["config"]["BinderHub"]["extra_header_html"]
"""The snippets that the chart puts into BinderHub's page."""

LIMIT = 100.0
"""The most seconds that the double waits for a test: longer than any wait of a test, or a gate would open by itself."""

MODULES = TOP / "frontend/node_modules"


def bundle(source: str = PAGE) -> bytes:
    """A script, by default the page's, built with the client that frontend/package.json pins."""
    command, environment = [MODULES / ".bin/esbuild", "--bundle", "--format=iife"], {**os.environ, "NODE_PATH": str(MODULES)}
    return subprocess.run(command, input=source.encode(), check=True, stdout=subprocess.PIPE, env=environment).stdout


@dataclass
class Build:
    """A build request that arrived, and the verifier's decision; `cut`: its stream ends before the server is ready."""

    spec: str
    token: str | None
    user: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    cut: bool = False
    tier: str | None = None


class Gate(threading.Event):
    """Something that a request waits for; open unless a test closes it."""

    open, close = threading.Event.set, threading.Event.clear

    def __init__(self) -> None:
        super().__init__()
        self.open()

    def pass_through(self) -> None:
        self.wait(LIMIT)


BUNDLE = "static/dist/bundle.js"
"""BinderHub's script, below its base URL."""

CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "cache-control"}
"""Headers of each of BinderHub's answers. The first is its setting cors_allow_origin, as mybinder.org sets it."""

OWN = ("connection", "content-length", "date", "server", "transfer-encoding")
"""Headers that the ingress sets itself."""


class Handler(BaseHTTPRequestHandler):
    """What the servers of the tests have in common."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", kind: str = "text/html; charset=UTF-8", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def ask(self, host: str, path: str, client: str, **more: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Forward the request of a client with its `body` to a host, as an ingress does."""
        connection = http.client.HTTPConnection(host, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("connection", "accept-encoding")}
        connection.request(self.command, path, self.body or None, headers | {"X-Forwarded-For": client} | more)
        return connection, connection.getresponse()

    def pass_on(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, **more: str) -> None:
        """Answer with what a server has answered to `ask`."""
        content = response.read()
        self.send_response(response.status)
        for name, value in (*response.getheaders(), *more.items()):
            if name.lower() not in OWN:
                self.send_header(name, value)
        if response.status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()


class BinderHub:
    """The double. `url` is its address, ending in the base URL. Without a verifier, `/egress/` is unknown."""

    def __init__(self, verifier: tuple[str, str] | None, script: bytes = b"", base: str = "/") -> None:
        self.verifier = verifier
        self.script = script
        self.base = base
        self.headers: dict[str, str] = {}  # more headers of the page
        self.header_html = dict(HEADER)
        self.page_config: dict[str, Any] = {}  # more entries of `pageConfig`
        self.stays = False  # the page stays where it is although its server is ready
        self.redirect: str | None = None  # the address of the federation's member that builds
        self.fault = ""  # of the verifier: `down` (closes), `hang`, `404`, `garbage`, or `unrouted` (BinderHub answers)
        self.fault_paths = ("",)  # the beginnings of the verifier's paths that have the fault
        self.seen: list[str] = []  # `METHOD path` of each request in order, including those for the verifier
        self.posted: dict[str, bytes] = {}  # the body of the last POST request for each path
        self.builds: list[Build] = []
        self.ready = Gate()
        self.bundle = Gate()
        self.gates: dict[str, Gate] = {name: Gate() for name in ("launch.js", "challenge", "passes", "promises", "servers")}
        self.failures = 0  # how many next build requests get a 503
        self.cuts = 0  # how many next streams are cut after the launch was announced
        self.fails = False  # builds fail
        self.refusal = 0  # in an event of an answer with status 200: 403, the repository is banned, or 429, too many launches
        self.rests = False  # BinderHub's hook does not ask the verifier
        self.at_once = False  # all events come at once, as from an ingress that buffers answers
        self.launched: Callable[[str], object] = lambda user: None  # called before `ready`; publishes the pod
        self.client = "127.0.0.1"  # the client's address, as the ingress reports it
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}{base}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        for gate in (self.ready, self.bundle, *self.gates.values()):
            gate.open()
        self.server.shutdown()
        self.server.server_close()

    def page(self, name: str = "cached") -> str:
        return f"{self.url}v2/gh/o/{name}/HEAD"

    def count(self, line: str) -> int:
        """How many requests began with this `METHOD path`."""
        return sum(seen.startswith(line) for seen in self.seen)

    def _config(self, launches: bool) -> dict[str, Any]:
        provider = {
            "id": "gh",
            "displayName": "GitHub",
            "repo": {"label": "GitHub repository name or URL", "urlEncode": False},
            "ref": {"enabled": True, "default": "HEAD"},
        }
        token = {"buildToken": "build-token"} if launches else {}
        return {"baseUrl": self.base, "repoProviders": [provider], **token, **self.page_config}

    def _html(self, launches: bool) -> bytes:
        snippets = "\n".join(self.header_html[key].strip() for key in sorted(self.header_html, key=str.lower))
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Binder</title>
  <link rel="icon" href="data:,">
  <script>
    window.pageConfig = {json.dumps(self._config(launches))};
  </script>
  {snippets}
</head>
<body>
<div id="root"></div>
</body>
<script src="{self.base}static/dist/bundle.js"></script>
</html>
""".encode()

    def events_of(self, build: Build) -> Iterator[dict[str, Any]]:
        spec = build.spec.partition("/")[2]
        if self.refusal == 429:
            yield {"phase": "failed", "status_code": 429, "message": "Rate limit exceeded. Try again in 3600 seconds.\n"}
            return
        if self.refusal:
            yield {"phase": "failed", "message": f"Sorry, {spec} is not allowed to launch. Please contact admins for more info!"}
            return
        if self.fails:
            yield {"phase": "waiting", "message": "Waiting for build to start...\n"}
            yield {"phase": "building", "message": "Building\n"}
            yield {"phase": "failed", "message": "Error during build: no such file\n"}
            return
        yield {"phase": "built", "message": "Found built image, launching...\n", "imageName": "image:1"}
        yield {"phase": "launching", "message": "Launching server...\n"}
        build.tier = self._announce(build)
        self.launched(build.user)
        yield {"phase": "launching", "message": "Server requested\n"}
        if build.cut:
            return
        self.ready.pass_through()
        yield {"phase": "launching", "message": "Server ready\n"}
        repository = f"https://example.com/{build.spec}"
        yield {
            "phase": "ready",
            "message": f"server running at {self.url}user/{build.user}/\n",
            "url": f"{self.url}user/{build.user}/",
            "token": "server-token",
            "image": "image:1",
            "repo_url": repository,
            "binder_ref_url": repository,
            "binder_launch_host": self.url,
            "binder_request": f"v2/{build.spec}",
            "binder_persistent_request": f"v2/{build.spec}",
            "binder_client_ip": self.client,
        }

    def _announce(self, build: Build) -> str | None:
        """Report the launch and its pass or promise to the verifier, as BinderHub's hook does. Returns the tier."""
        if self.verifier is None or self.rests:
            return None
        launch = {
            "user": build.user,
            "server": "",
            "image": "image:1",
            "repository": f"https://example.com/{build.spec}",
            "token": build.token,
            "client_address": self.client,
            "requested_at": time.time(),
            "context": True,
        }
        return json.loads(self.report(json.dumps(launch).encode(), f"Bearer {API_TOKEN}"))["tier"]

    def report(self, launch: bytes, authorization: str) -> bytes:
        """Send a launch to the verifier. Returns the decision."""
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        with DIRECT.open(urllib.request.Request(f"{self.verifier[1]}/api/launches", launch, headers), timeout=60) as answer:
            return answer.read()

    def _stream(self, handler: Any, build: Build) -> tuple[dict[str, str], Iterator[bytes]]:
        """The headers of the answer to a build request, and its events."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **CORS}
        return headers, (f"data: {json.dumps(event)}\n\n".encode() for event in self.events_of(build))

    def _own(self, handler: Any, inside: str) -> None:
        """Answer a request for BinderHub itself: its script, or its page, which it sends for every unknown path."""
        if inside == BUNDLE:
            handler.answer(200, self.script, "text/javascript")
        elif handler.command == "GET":
            handler.answer(200, self._html(inside.startswith("v2/gh/")), **handler.cors(), **self.headers)
        elif handler.command == "OPTIONS":
            handler.answer(200, **handler.cors())
        else:
            handler.answer(405, b"<html><title>405: Method Not Allowed</title></html>", **handler.cors())

    def _handler(hub) -> type[Handler]:  # `self` is the handler's
        class Ingress(Handler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                # The body is read once: a second read would wait for the next request.
                self.body = self.read_body()
                with hub._lock:
                    if self.command == "POST":
                        hub.posted[path] = self.body
                    hub.seen.append(f"{self.command} {path}")
                inside = path.removeprefix(hub.base)
                if inside.startswith("egress/"):
                    self.forward(inside.removeprefix("egress/"))
                elif inside.startswith("build/"):
                    self.build(inside.removeprefix("build/"))
                elif inside.startswith("user/") and "/api/" in inside:
                    self.api(inside.partition("/api/")[2])
                elif inside.startswith("user/") and hub.stays:
                    # The browser stays on the page that it has.
                    self.answer(204)
                elif inside.startswith("user/"):
                    title = f"Server of {inside.split('/')[1]}"
                    body = f"<!doctype html><html lang=en><title>{title}</title><link rel=icon href='data:,'><h1>{title}</h1>"
                    self.answer(200, body.encode())
                else:
                    if inside == BUNDLE:
                        hub.bundle.pass_through()
                    hub._own(self, inside)

            do_POST = do_GET
            do_OPTIONS = do_GET

            def api(self, name: str) -> None:
                """The part of a user's Jupyter server's API that thebe needs before it starts a kernel. It starts no sessions."""
                cors = self.cors() | {
                    "Access_Control_Allow_Headers": "authorization, content-type",
                    "Access_Control_Allow_Methods": "*",
                }
                known = {"kernels": [], "kernelspecs": {"default": "python3", "kernelspecs": {}}, "sessions": [], "status": {}}
                if self.command == "OPTIONS":
                    self.answer(204, **cors)
                elif self.command == "GET" and name in known:
                    self.answer(200, json.dumps(known[name]).encode(), "application/json", **cors)
                else:
                    self.answer(404, b"{}", "application/json", **cors)

            def forward(self, path: str) -> None:
                """Forward a request to the verifier, as an ingress does."""
                name = path.split("/")[0]
                if name in hub.gates:
                    hub.gates[name].pass_through()
                fault = hub.fault if any(path.startswith(start) for start in hub.fault_paths) else ""
                if fault == "hang":
                    hub.stopping.wait(LIMIT)
                if fault in ("hang", "down"):
                    self.close_connection = True
                elif fault == "unrouted" or hub.verifier is None:
                    hub._own(self, urlsplit(self.path).path.removeprefix(hub.base))
                elif fault == "404":
                    self.answer(404, b"<h1>Not Found</h1>")
                elif fault == "garbage":
                    self.answer(200, b"<h1>Welcome to our Wi-Fi</h1>")
                else:
                    query = urlsplit(self.path).query
                    target = f"/egress/{quote(path, safe='/%')}" + (f"?{query}" if query else "")
                    self.pass_on(*self.ask(urlsplit(hub.verifier[0]).netloc, target, hub.client))

            def build(self, spec: str) -> None:
                query = parse_qs(urlsplit(self.path).query)
                if hub.redirect:
                    self.answer(307, Location=hub.redirect + self.path.removeprefix(hub.base), **self.cors())
                    return
                with hub._lock:
                    user = f"user-{len(hub.builds) + 1}"
                    made = Build(spec, query.get("egress_token", [None])[0], user, query, dict(self.headers))
                    hub.builds.append(made)
                    failing, hub.failures = hub.failures > 0, max(0, hub.failures - 1)
                    if not failing:
                        made.cut, hub.cuts = hub.cuts > 0, max(0, hub.cuts - 1)
                if failing:
                    self.answer(503, b"busy", "text/plain", **self.cors())
                    return
                headers, parts = hub._stream(self, made)
                self.send_response(200)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                text = b""
                for part in parts:
                    text += part
                    if not hub.at_once:
                        self.wfile.write(text)
                        text = b""
                self.wfile.write(text)

            def cors(self) -> dict[str, str]:
                return {name.replace("-", "_"): value for name, value in CORS.items()}

        return Ingress
